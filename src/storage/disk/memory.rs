//! A disk in memory that forgets what was not synced, tears it, or fails, on demand: for tests and simulation.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::{Disk, Error};

const SECTOR_BYTES: usize = 512;

/// What a call meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// An I/O error; nothing is done. A sync that fails so takes what it has not written for written, as systems do.
    Io,
    /// No space; nothing is done.
    Full,
    /// The machine stops before this call: it and every later one fail.
    Stop,
}

#[derive(Clone, Default)]
struct Contents {
    synced: Vec<u8>,
    now: Vec<u8>,
    /// Sectors written since the last sync.
    dirty: BTreeSet<usize>,
    /// Sectors that a failed sync did not write and takes for written: no later sync writes them, unless they are
    /// written anew.
    forgotten: BTreeSet<usize>,
}

impl Contents {
    /// What was written into a sector is on the platter.
    fn settle(&mut self, sector: usize) {
        let end = ((sector + 1) * SECTOR_BYTES).min(self.synced.len());
        let start = (sector * SECTOR_BYTES).min(end);
        self.synced[start..end].copy_from_slice(&self.now[start..end]);
    }
}

/// What a crash finds under a name that is durable.
#[derive(Clone)]
enum Durable {
    /// The file that is called so now; nothing when there is none.
    Called(String),
    /// What another file was renamed onto.
    Replaced(Contents),
}

#[derive(Default)]
struct State {
    files: BTreeMap<String, Contents>,
    /// The names that a crash finds: as they were when the directory was synced.
    durable: BTreeMap<String, Durable>,
    calls: u64,
    fail_at: Option<(u64, Fault)>,
    stopped: bool,
    /// What the call that met the last fault would have done, and to which file.
    failed_call: Option<(&'static str, String)>,
    /// The next sync is one that takes its time.
    sync_takes_time: bool,
    /// As it was when a sync began that is not over.
    before_sync: Option<(BTreeMap<String, Contents>, BTreeMap<String, Durable>)>,
}

impl State {
    /// All names are durable as they are.
    fn settle_names(&mut self) {
        let called = |name: &String| (name.clone(), Durable::Called(name.clone()));
        self.durable = self.files.keys().map(called).collect();
    }

    /// Every change of a name since the directory was synced is forgotten.
    fn forget_names(&mut self) {
        let mut found = BTreeMap::new();
        for (name, durable) in std::mem::take(&mut self.durable) {
            let contents = match durable {
                Durable::Called(now_called) => self.files.get(&now_called).cloned(),
                Durable::Replaced(contents) => Some(contents),
            };
            found.extend(contents.map(|contents| (name, contents)));
        }
        self.files = found;
    }
}

/// See the module. Cheap to clone; all clones are the same disk.
#[derive(Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<State>>);

impl MemoryDisk {
    /// The call with this number from now on, counted from 0, meets a fault.
    pub fn fail_at(&self, call: u64, fault: Fault) {
        let mut state = self.0.lock();
        state.fail_at = Some((state.calls + call, fault));
    }

    /// What the call that met a fault since the last crash would have done, and to which file.
    pub fn failed_call(&self) -> Option<(&'static str, String)> {
        self.0.lock().failed_call.clone()
    }

    /// Calls that may fail, so far.
    pub fn calls(&self) -> u64 {
        self.0.lock().calls
    }

    /// Whether the next sync takes its time: it and every later call then come to nothing if the machine crashes before
    /// `end_sync`. Whoever asked must not go on before that.
    pub fn slow_down(&self, takes_time: bool) {
        self.0.lock().sync_takes_time = takes_time;
    }

    /// A sync has begun that is not over.
    pub fn is_syncing(&self) -> bool {
        self.0.lock().before_sync.is_some()
    }

    /// The sync that took its time is over.
    pub fn end_sync(&self) {
        self.0.lock().before_sync = None;
    }

    /// The power goes and comes back: of each file, every sector written since its last sync is there or not, as
    /// the seed has it. Names are as at the last sync of the directory, or as now, as the seed has it.
    pub fn crash(&self, seed: u64) {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut state = self.0.lock();
        if let Some((files, durable)) = state.before_sync.take() {
            (state.files, state.durable) = (files, durable);
        }
        state.sync_takes_time = false;
        if random.random() {
            state.forget_names();
        }
        for contents in state.files.values_mut() {
            let mut left = contents.synced.clone();
            contents.forgotten.clear();
            for sector in std::mem::take(&mut contents.dirty) {
                if random.random() {
                    let end = ((sector + 1) * SECTOR_BYTES).min(left.len());
                    let start = (sector * SECTOR_BYTES).min(end);
                    left[start..end].copy_from_slice(&contents.now[start..end]);
                }
            }
            contents.now.clone_from(&left);
            contents.synced = left;
        }
        state.settle_names();
        state.stopped = false;
        state.fail_at = None;
        state.failed_call = None;
    }

    /// The process ends and begins again; the machine goes on, and shows what it has not synced.
    pub fn restart(&self) {
        let mut state = self.0.lock();
        (state.stopped, state.fail_at, state.failed_call) = (false, None, None);
    }

    /// A copy that goes its own way.
    pub fn copy(&self) -> Self {
        let state = self.0.lock();
        let copy = State { files: state.files.clone(), durable: state.durable.clone(), ..State::default() };
        Self(Arc::new(Mutex::new(copy)))
    }

    /// Turns one bit over, on the platter as it were.
    pub fn flip(&self, name: &str, byte: usize, bit: u8) {
        let mut state = self.0.lock();
        let contents = state.files.get_mut(name).expect("the file is there");
        contents.now[byte] ^= 1 << bit;
        contents.synced[byte] ^= 1 << bit;
    }

    /// Puts other contents into a file, or a new file, behind the log's back.
    pub fn replace(&self, name: &str, contents: Vec<u8>) {
        let mut state = self.0.lock();
        let contents = Contents { synced: contents.clone(), now: contents, ..Contents::default() };
        state.files.insert(name.to_owned(), contents);
        state.settle_names();
    }

    /// Counts a call and says whether it fails.
    fn call(&self, what: &'static str, name: &str) -> Result<parking_lot::MutexGuard<'_, State>, Error> {
        let mut state = self.0.lock();
        let path = format!("memory/{name}");
        let stopped = |path| Err(Error::Io { path, source: io::Error::other("the machine has stopped") });
        if state.stopped {
            return stopped(path);
        }
        if what.starts_with("sync") && state.sync_takes_time && state.before_sync.is_none() {
            state.before_sync = Some((state.files.clone(), state.durable.clone()));
        }
        let number = state.calls;
        state.calls += 1;
        let fault = state.fail_at.filter(|(at, _)| *at == number);
        if fault.is_some() {
            state.failed_call = Some((what, name.to_owned()));
        }
        match fault {
            Some((_, Fault::Io)) => Err(Error::Io { path, source: io::Error::other("made to fail") }),
            Some((_, Fault::Full)) => Err(Error::Full { path }),
            Some((_, Fault::Stop)) => {
                state.stopped = true;
                stopped(path)
            }
            None => Ok(state),
        }
    }
}

fn missing(name: &str) -> Error {
    Error::Io { path: format!("memory/{name}"), source: io::ErrorKind::NotFound.into() }
}

impl Disk for MemoryDisk {
    fn place(&self) -> String {
        "memory".to_owned()
    }

    fn list(&self) -> Result<Vec<String>, Error> {
        Ok(self.0.lock().files.keys().cloned().collect())
    }

    fn create(&self, name: &str, bytes: u64) -> Result<(), Error> {
        let zeros = vec![0; usize::try_from(bytes).expect("tests are small")];
        let contents = Contents { synced: zeros.clone(), now: zeros, ..Contents::default() };
        self.call("create", name)?.files.insert(name.to_owned(), contents);
        Ok(())
    }

    fn allocate(&self, name: &str, bytes: u64) -> Result<(), Error> {
        self.create(name, bytes)
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, Error> {
        self.0.lock().files.get(name).map(|contents| contents.now.clone()).ok_or_else(|| missing(name))
    }

    fn length(&self, name: &str) -> Result<u64, Error> {
        self.read(name).map(|bytes| bytes.len() as u64)
    }

    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let mut state = self.call("write", name)?;
        let contents = state.files.get_mut(name).ok_or_else(|| missing(name))?;
        let start = usize::try_from(offset).expect("tests are small");
        contents.now[start..start + bytes.len()].copy_from_slice(bytes);
        let sectors = start / SECTOR_BYTES..(start + bytes.len()).div_ceil(SECTOR_BYTES);
        contents.forgotten.retain(|sector| !sectors.contains(sector));
        contents.dirty.extend(sectors);
        Ok(())
    }

    fn sync(&self, name: &str) -> Result<(), Error> {
        let called = self.call("sync", name).map(drop);
        let mut state = self.0.lock();
        let stopped = state.stopped;
        let contents = state.files.get_mut(name).ok_or_else(|| missing(name))?;
        let dirty = std::mem::take(&mut contents.dirty);
        match called {
            // Sectors in `dirty` are none that were forgotten.
            Ok(()) => dirty.into_iter().for_each(|sector| contents.settle(sector)),
            Err(_) if stopped => contents.dirty = dirty,
            Err(_) => contents.forgotten.extend(dirty),
        }
        called
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        let mut state = self.call("rename", from)?;
        let contents = state.files.remove(from).ok_or_else(|| missing(from))?;
        let replaced = state.files.insert(to.to_owned(), contents);
        for durable in state.durable.values_mut() {
            match (&mut *durable, &replaced) {
                (Durable::Called(now_called), Some(replaced)) if now_called == to => {
                    *durable = Durable::Replaced(replaced.clone());
                }
                (Durable::Called(now_called), _) if now_called == from => to.clone_into(now_called),
                _ => {}
            }
        }
        Ok(())
    }

    /// What is removed is gone also after a crash that forgets the removal; the log removes nothing it needs.
    fn remove(&self, name: &str) -> Result<(), Error> {
        self.call("remove", name)?.files.remove(name).map(drop).ok_or_else(|| missing(name))
    }

    fn sync_directory(&self) -> Result<(), Error> {
        self.call("sync the directory", "")?.settle_names();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk_with(files: [&str; 3]) -> MemoryDisk {
        let disk = MemoryDisk::default();
        for name in files {
            disk.create(name, name.len() as u64).expect("made");
            disk.write(name, 0, name.as_bytes()).expect("written");
            disk.sync(name).expect("synced");
        }
        disk.sync_directory().expect("synced");
        disk
    }

    /// Every name with what was written under it first.
    fn found_after_a_crash(disk: &MemoryDisk, seed: u64) -> Vec<String> {
        let disk = disk.copy();
        disk.crash(seed);
        let contents = |name: &String| String::from_utf8(disk.read(name).expect("it is there"));
        let names = disk.list().expect("listed");
        names.iter().map(|name| format!("{name}: {}", contents(name).expect("text"))).collect()
    }

    /// It lost the old file, too.
    #[test]
    fn a_rename_that_a_crash_forgets_leaves_what_it_replaced() {
        let disk = disk_with(["first", "second", "third"]);
        disk.rename("second", "first").expect("renamed");
        disk.rename("third", "first").expect("renamed");
        let found = |disk: &MemoryDisk| -> BTreeSet<Vec<String>> {
            (0..20).map(|seed| found_after_a_crash(disk, seed)).collect()
        };
        let before = ["first: first", "second: second", "third: third"].map(str::to_owned).to_vec();
        let after = vec!["first: third".to_owned()];
        assert_eq!(found(&disk), BTreeSet::from([before, after.clone()]));
        disk.sync_directory().expect("synced");
        assert_eq!(found(&disk), BTreeSet::from([after]));
    }
}

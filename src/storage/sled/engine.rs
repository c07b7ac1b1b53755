//! sled itself: one tree, batches, its files. Owns which directory is the live one; a panic of sled on damaged
//! files comes out of here as an error.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use sled::IVec;

use super::super::Error;
use super::super::disk::{make_directory, of_io};
use super::current::{CURRENT, database, read_current, refuse_foreign, remove_others, write_current};
use super::database::{Database, Live, SEGMENT_BYTES, of_sled, settle};
use super::room::{self, Ballast, OPENING_BYTES, Share, with_room};
use super::rows::{self, Applied};

/// sled looks at how much its cache holds once per 64 accesses in a shard of it, and it has 256 shards: pages of
/// blocks, read once each, would pile up to gigabytes. So a row that is read is asked for some times more. Alone it
/// counts for itself; in turn, it has neighbours in its page (8 to 17) that do so, too.
const TOUCHES_ALONE: usize = 15;
const TOUCHES_IN_TURN: usize = 4;

/// Rows to put and to remove, in order.
#[derive(Default)]
pub(super) struct Ops {
    rows: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    put_bytes: u64,
    /// Of the rows that go: what stands beside them is written anew, sooner or later.
    removed_bytes: u64,
}

impl Ops {
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.put_bytes += (key.len() + value.len()) as u64;
        self.rows.push((key, Some(value)));
    }

    /// A row of about so many bytes.
    pub fn remove(&mut self, key: Vec<u8>, bytes: usize) {
        self.removed_bytes += (key.len() + bytes) as u64;
        self.rows.push((key, None));
    }

    /// What sled's file may grow by when it is given them.
    fn needed(&self) -> u64 {
        room::needed(self.put_bytes, self.removed_bytes)
    }

    /// Those whose key `holds`, as sled takes them.
    fn batch(&self, holds: impl Fn(&[u8]) -> bool) -> sled::Batch {
        let mut batch = sled::Batch::default();
        for (key, value) in self.rows.iter().filter(|(key, _)| holds(key)) {
            match value {
                Some(value) => batch.insert(key.as_slice(), value.as_slice()),
                None => batch.remove(key.as_slice()),
            }
        }
        batch
    }
}

/// What is done with a row's key and value.
pub(super) type Visit<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), Error> + 'a;

/// See the module.
pub(super) struct Engine {
    pub(super) directory: PathBuf,
    cache_bytes: u64,
    pub(super) live: ArcSwap<Live>,
    writing: Mutex<Writing>,
    ballast: Ballast,
    /// It stands beside the live database, which the ballast is for.
    is_beside: AtomicBool,
    /// Through where the live database's file is taken; 0 when that is not known.
    taken: AtomicU64,
    /// By how many bytes it has outgrown that, at most.
    pub(super) overgrown: AtomicU64,
}

/// Held for a batch, a flush, or a slice of a defragmentation.
#[derive(Default)]
struct Writing {
    copying: Option<Copying>,
    /// A batch was written since the last flush.
    is_unflushed: bool,
}

/// A defragmentation under way: every row below `next` stands in the copy, too.
struct Copying {
    db: Database,
    number: u64,
    next: Vec<u8>,
}

fn touch(db: &sled::Db, key: &[u8], times: usize) -> sled::Result<()> {
    for _ in 0..times {
        db.contains_key(key)?;
    }
    Ok(())
}

impl Engine {
    pub fn open(directory: &Path, cache_bytes: u64) -> Result<Self, Error> {
        make_directory(directory).map_err(|source| of_io(directory, source))?;
        let ballast = Ballast::of(directory);
        let live = match read_current(directory)? {
            Some(number) => {
                // Before the live one, which may need the room of what was not finished.
                remove_others(directory, number)?;
                let path = database(directory, number);
                let database = with_room(&ballast, Share::Opening, || open_again(&path, cache_bytes))?;
                Live::new(database, number)
            }
            None => create(directory, cache_bytes)?,
        };
        let engine = Self::over(directory, live, cache_bytes);
        engine.is_beside.store(false, Ordering::Release);
        if engine.get(rows::APPLIED)?.is_none() {
            let place = database(directory, engine.live.load().number).display().to_string();
            return Err(Error::Damaged {
                place,
                detail: "it does not say which entry it stands for".to_owned(),
            });
        }
        if let Err(error) = engine.check_space(0) {
            tracing::warn!(%error, "the store has no room to grow");
        }
        Ok(engine)
    }

    /// One that stands beside the live one, until `is_live`.
    pub(super) fn over(directory: &Path, live: Live, cache_bytes: u64) -> Self {
        Self {
            directory: directory.to_owned(),
            cache_bytes,
            live: ArcSwap::from_pointee(live),
            writing: Mutex::default(),
            ballast: Ballast::of(directory),
            is_beside: AtomicBool::new(true),
            taken: AtomicU64::new(0),
            overgrown: AtomicU64::new(0),
        }
    }

    pub(super) fn is_live(&self) {
        self.is_beside.store(false, Ordering::Release);
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<IVec>, Error> {
        self.get_and_touch(key, 0, |_| true)
    }

    /// A row of a large page, one here and one there. After a write that failed, one that is not wanted is no better than none:
    /// it may be what that write left in memory alone.
    pub fn get_alone(&self, key: &[u8], is_wanted: impl Fn(&[u8]) -> bool) -> Result<Option<IVec>, Error> {
        self.get_and_touch(key, TOUCHES_ALONE, is_wanted)
    }

    /// The same for rows of large pages, one after the other.
    pub fn get_in_turn(&self, key: &[u8], is_wanted: impl Fn(&[u8]) -> bool) -> Result<Option<IVec>, Error> {
        self.get_and_touch(key, TOUCHES_IN_TURN, is_wanted)
    }

    fn get_and_touch(
        &self,
        key: &[u8],
        touches: usize,
        is_wanted: impl Fn(&[u8]) -> bool,
    ) -> Result<Option<IVec>, Error> {
        let is_found = |found: &Option<IVec>| found.as_deref().is_some_and(&is_wanted);
        self.live.load().read(&self.directory, is_found, |db| {
            let found = db.get(key)?;
            touch(db, key, touches).map(|()| found)
        })
    }

    /// Visits the rows whose key begins with `prefix`, in order.
    pub fn scan(&self, prefix: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        let live = self.live.load_full();
        live.read_once(&self.directory, |db| {
            for row in db.scan_prefix(prefix) {
                let (key, value) = row.map_err(|error| of_sled(&self.directory, error))?;
                touch(db, &key, TOUCHES_IN_TURN).map_err(|error| of_sled(&self.directory, error))?;
                visit(&key, &value)?;
            }
            Ok(())
        })
    }

    /// Writes a batch. The one before must be durable first: once a batch is written, sled takes the space of what it
    /// replaced for the next, and a power cut would leave neither.
    ///
    /// # Errors
    /// `Full`: when `mend` says so, it is not known whether the batch was written. Faults of the disk.
    pub fn apply(&self, ops: &Ops, share: Share) -> Result<(), Error> {
        let mut writing = self.writing.lock();
        let live = self.live.load_full();
        if writing.is_unflushed {
            self.flush_live(&live)?;
            writing.is_unflushed = false;
        }
        self.take_room(live.number, ops.needed(), share)?;
        writing.is_unflushed = true;
        live.write(&self.directory, |db| db.apply_batch(ops.batch(|_| true)))?;
        if let Some(copying) = &writing.copying {
            let batch = ops.batch(|key| key < copying.next.as_slice());
            if let Err(error) = copying.db.write(|db| db.apply_batch(batch)) {
                tracing::warn!(%error, "the copy of a defragmentation is begun anew");
                writing.copying = None;
            }
        }
        Ok(())
    }

    pub fn flush(&self) -> Result<(), Error> {
        let mut writing = self.writing.lock();
        let live = self.live.load_full();
        self.flush_live(&live)?;
        if self.is_beside.load(Ordering::Acquire) {
            settle(&database(&self.directory, live.number))?;
        }
        writing.is_unflushed = false;
        Ok(())
    }

    /// Whether a write has failed, after which nothing is written before `mend`.
    pub fn has_failed(&self) -> bool {
        self.live.load().has_failed()
    }

    /// Opens the database anew when a write of it has failed for want of room, and returns what `exchange` did; nothing when
    /// none has failed. `exchange` comes when it is open, before it is there for readers. Of the last batch that was not
    /// flushed, all or nothing is there.
    ///
    /// # Errors
    /// `Full`: nothing works before there is room. Faults of the disk.
    pub fn mend<T>(&self, exchange: impl Fn() -> T) -> Result<Option<T>, Error> {
        let mut writing = self.writing.lock();
        let live = self.live.load_full();
        if !live.has_failed() {
            return Ok(None);
        }
        writing.copying = None;
        self.remove_copies(live.number)?;
        let path = database(&self.directory, live.number);
        // While there is no room, what can be read of it goes on being read.
        with_room(&self.ballast, Share::Opening, || room::probe(&self.directory, OPENING_BYTES))?;
        let exchanged = with_room(&self.ballast, Share::Opening, || {
            live.reopen(|| open_again(&path, self.cache_bytes), &exchange)
        })?;
        writing.is_unflushed = false;
        self.taken.store(0, Ordering::Relaxed);
        tracing::info!("the store was opened anew after a write that found no room");
        Ok(Some(exchanged))
    }

    /// sled hands its writes to the device but syncs neither its cache nor the file's length: done here. One that stands
    /// beside counts for nothing before all of it is durable.
    fn flush_live(&self, live: &Live) -> Result<(), Error> {
        live.write(&self.directory, |db| db.flush())?;
        if self.is_beside.load(Ordering::Acquire) {
            return Ok(());
        }
        let path = database(&self.directory, live.number).join("db");
        let synced = fs::File::open(&path).and_then(|file| file.sync_data());
        synced.map_err(|source| of_io(&path, source))
    }

    /// Bytes of the files. What cannot be looked at counts as nothing.
    pub fn size_on_disk(&self) -> u64 {
        fn size(path: &Path) -> u64 {
            let Ok(entries) = fs::read_dir(path) else {
                return 0;
            };
            let sizes = entries.flatten().map(|entry| match entry.metadata() {
                Ok(found) if found.is_dir() => size(&entry.path()),
                Ok(found) => found.len(),
                Err(_) => 0,
            });
            sizes.sum()
        }
        size(&database(&self.directory, self.live.load().number))
    }

    /// Takes room for so many bytes more, besides the ballast. For a whole store, received beside, it is only looked at.
    ///
    /// # Errors
    /// `Full` when the file system has none; faults of the disk.
    pub fn check_space(&self, bytes: u64) -> Result<(), Error> {
        if self.is_beside.load(Ordering::Acquire) {
            return room::look(&self.directory, bytes.saturating_add(SEGMENT_BYTES));
        }
        self.ballast.refill()?;
        self.take(self.live.load().number, room::needed(bytes, 0))
    }

    pub fn is_nearly_full(&self) -> bool {
        room::is_nearly_full(&self.directory)
    }

    fn take(&self, number: u64, needed: u64) -> Result<(), Error> {
        let length = room::take(&database(&self.directory, number).join("db"), needed)?;
        if number == self.live.load().number {
            let before = self.taken.fetch_max(room::end_of(length, needed), Ordering::Relaxed);
            if before > 0 && length > before {
                let bytes = length - before;
                tracing::warn!(bytes, "the store's file outgrew the room that was made sure of");
                self.overgrown.fetch_max(bytes, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    /// Room for what has been accepted: the ballast is there for it. Nothing is written that could fail without room to
    /// open the database anew.
    fn take_room(&self, number: u64, needed: u64, share: Share) -> Result<(), Error> {
        let taken = self.take(number, needed);
        if self.is_beside.load(Ordering::Acquire) {
            return taken;
        }
        let taken = match taken {
            Err(Error::Full { .. }) => {
                self.ballast.give(needed + SEGMENT_BYTES, share)?;
                self.take(number, needed)
            }
            taken => taken,
        };
        taken.and_then(|()| self.ballast.check(share))
    }

    /// Copies some rows into a fresh database; `false` when it has taken the old one's place.
    ///
    /// # Errors
    /// `Full`: the copy has been given up. Faults of the disk.
    pub fn defragment(&self, rows: usize) -> Result<bool, Error> {
        let mut writing = self.writing.lock();
        let live = self.live.load_full();
        let copy = match writing.copying.take() {
            Some(copy) => Ok(copy),
            None => self.begin_copy(live.number),
        };
        match copy.and_then(|copy| self.copy_slice(&live, copy, rows)) {
            Ok((copy, true)) => {
                writing.copying = Some(copy);
                return Ok(true);
            }
            Ok((copy, false)) => {
                write_current(&self.directory, copy.number)?;
                self.live.store(Arc::new(Live::new(copy.db, copy.number)));
                self.taken.store(0, Ordering::Relaxed);
                writing.is_unflushed = false;
            }
            Err(error) => {
                self.remove_copies(live.number)?;
                return Err(error);
            }
        }
        drop(live);
        // Readers may still hold the old one; its files go when they let go of it.
        self.remove_copies(self.live.load().number)?;
        Ok(false)
    }

    /// # Errors
    /// `Damaged` when another is named as the live one, because what followed its naming has failed.
    fn remove_copies(&self, live: u64) -> Result<(), Error> {
        if read_current(&self.directory)? != Some(live) {
            let place = self.directory.join(CURRENT).display().to_string();
            return Err(Error::Damaged { place, detail: "it names another store than this".to_owned() });
        }
        remove_others(&self.directory, live)
    }

    /// Copies some rows; `true` when there may be more.
    fn copy_slice(&self, live: &Live, mut copy: Copying, rows: usize) -> Result<(Copying, bool), Error> {
        let mut batch = sled::Batch::default();
        let (mut copied, mut bytes, mut last) = (0, 0, None);
        live.read_once(&self.directory, |db| {
            let wrong = |error| of_sled(&self.directory, error);
            for row in db.range(copy.next.as_slice()..).take(rows) {
                let (key, value) = row.map_err(wrong)?;
                touch(db, &key, TOUCHES_IN_TURN).map_err(wrong)?;
                bytes += (key.len() + value.len()) as u64;
                batch.insert(&key, value);
                copied += 1;
                last = Some(key);
            }
            Ok(())
        })?;
        self.take_room(copy.number, room::needed(bytes, 0), Share::Copy)?;
        // With each slice: what sled has written twice it uses again only after a flush.
        copy.db.write(|db| db.apply_batch(batch).and_then(|()| db.flush()))?;
        if let Some(last) = last {
            copy.next = [&last, &[0][..]].concat();
        }
        let has_more = copied == rows;
        if !has_more {
            settle(&database(&self.directory, copy.number))?;
        }
        Ok((copy, has_more))
    }

    fn begin_copy(&self, live: u64) -> Result<Copying, Error> {
        let number = live + 1;
        // What a copy that failed has left.
        self.remove_copies(live)?;
        let path = database(&self.directory, number);
        let db = with_room(&self.ballast, Share::Copy, || Database::begin(&path, self.cache_bytes))?;
        Ok(Copying { db, number, next: Vec::new() })
    }
}

/// The first database of a directory, named as the live one when it is whole: one that is named and not there was removed.
fn create(directory: &Path, cache_bytes: u64) -> Result<Live, Error> {
    const FIRST: u64 = 1;
    refuse_foreign(directory)?;
    let live = begin_database(directory, FIRST, cache_bytes)?;
    settle(&database(directory, FIRST))?;
    write_current(directory, FIRST)?;
    Ok(live)
}

/// An empty database that is not named yet, nor durable.
pub(super) fn begin_database(directory: &Path, number: u64, cache_bytes: u64) -> Result<Live, Error> {
    let path = database(directory, number);
    if path.exists() {
        fs::remove_dir_all(&path).map_err(|source| of_io(&path, source))?;
    }
    let db = Database::begin(&path, cache_bytes)?;
    db.write(|db| {
        db.insert(rows::APPLIED, rows::encode_applied(Applied::default()))?;
        db.flush()
    })?;
    Ok(Live::new(db, number))
}

/// Opens a database that has been in use.
pub(super) fn open_again(path: &Path, cache_bytes: u64) -> Result<Database, Error> {
    let is_there = fs::metadata(path.join("db")).is_ok_and(|found| found.len() > 0);
    if !is_there {
        let place = path.display().to_string();
        let detail = "it is missing: the store was removed, or is not whole".to_owned();
        return Err(Error::Damaged { place, detail });
    }
    remove_unfinished(path).map_err(|source| of_io(path, source))?;
    // Recovery gives away the space of what is old. What makes it so may have been written and not flushed.
    let file = path.join("db");
    fs::File::open(&file).and_then(|file| file.sync_all()).map_err(|source| of_io(&file, source))?;
    Database::open(path, cache_bytes)
}

/// sled takes a snapshot that it was writing when the process ended for a whole one, and then for a damaged one.
/// It needs none: it reads more of its log instead.
fn remove_unfinished(database: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(database)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "generating") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

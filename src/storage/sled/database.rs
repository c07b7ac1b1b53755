//! One open sled database and what sled does not do for it: a panic on damaged files becomes an error; the last sync may
//! fail; after a write that failed, who waits for sled is woken, and readers wait for the database that is opened instead.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex, MutexGuard, RwLock, RwLockWriteGuard};
use rustix::fs::IFlags;

use super::super::disk::{make_directory, of_io, sync_names};
use super::super::{Error, guarded, guarded_open};

/// sled writes a page above a quarter of this to a file of its own, which it never syncs. A page holds up to 17
/// rows, and a row is below 50 KiB: none is that large.
pub(super) const SEGMENT_BYTES: u64 = 4 << 20;
/// How soon it is seen that a write under way has failed.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);
/// How long a reader waits for a database that is opened anew.
const READ_PATIENCE: Duration = Duration::from_secs(5);
/// How long sled's own threads may hold the file of a database that was let go of.
const CLOSE_PATIENCE: Duration = Duration::from_secs(10);

/// An open database. sled syncs it once more when it is let go of, and panics when that fails. What counts was flushed
/// before; and a disk that fails is found by the next flush.
pub(super) struct Database {
    db: Option<sled::Db>,
    path: PathBuf,
    watched: Arc<Watched>,
    watch: Option<JoinHandle<()>>,
}

/// What the thread is told that looks after a write: sled does not wake everybody when one has failed.
#[derive(Default)]
struct Watched {
    state: Mutex<WatchState>,
    changed: Condvar,
}

#[derive(Default)]
struct WatchState {
    is_writing: bool,
    has_ended: bool,
}

impl Watched {
    fn set(&self, change: impl FnOnce(&mut WatchState)) {
        change(&mut self.state.lock());
        self.changed.notify_one();
    }

    fn run(&self, db: &sled::Db, path: &Path) {
        let mut state = self.state.lock();
        while !state.has_ended {
            if !state.is_writing {
                self.changed.wait(&mut state);
                continue;
            }
            self.changed.wait_for(&mut state, LOOK_INTERVAL);
            if state.is_writing && failure(db).is_some() {
                MutexGuard::unlocked(&mut state, || wake(db, path));
            }
        }
    }
}

impl Database {
    pub fn open(path: &Path, cache_bytes: u64) -> Result<Self, Error> {
        make_directory(path).map_err(|source| of_io(path, source))?;
        write_through(path);
        // Before sled clears up in it: in a file that was copied here, that would not be synchronous.
        let file = path.join("db");
        if file.exists() {
            write_through(&file);
        }
        let opened = Self::open_as_it_is(path, cache_bytes)?;
        write_through(&file);
        // sled syncs neither its settings nor the names of its files, nor its own.
        let synced = fs::File::open(path.join("conf")).and_then(|file| file.sync_all());
        let synced =
            synced.and_then(|()| sync_names(path)).and_then(|()| sync_names(path.parent().unwrap_or(path)));
        synced.map_err(|source| of_io(path, source))?;
        Ok(opened)
    }

    /// An empty one that nothing counts on before `settle`: its writes need not wait for the device one by one, nor do others wait
    /// for them. After a power cut it is removed. What sled writes beside its file, when it likes, is synchronous all the same.
    pub fn begin(path: &Path, cache_bytes: u64) -> Result<Self, Error> {
        make_directory(path).map_err(|source| of_io(path, source))?;
        write_through(path);
        let begun = Self::open_as_it_is(path, cache_bytes)?;
        write_at_leisure(&path.join("db"));
        Ok(begun)
    }

    fn open_as_it_is(path: &Path, cache_bytes: u64) -> Result<Self, Error> {
        let config = sled::Config::new()
            .path(path)
            .mode(sled::Mode::HighThroughput)
            .cache_capacity(cache_bytes)
            .segment_size(usize::try_from(SEGMENT_BYTES).expect("it fits"))
            .flush_every_ms(None);
        let db = guarded_open(path, || config.open())?.map_err(|error| of_sled(path, error))?;
        let watched = Arc::new(Watched::default());
        let watch = std::thread::Builder::new().name("store-watch".to_owned()).spawn({
            let (db, path, watched) = (db.clone(), path.to_owned(), watched.clone());
            move || watched.run(&db, &path)
        });
        let watch = Some(watch.map_err(|source| of_io(path, source))?);
        Ok(Self { db: Some(db), path: path.to_owned(), watched, watch })
    }

    /// A call that may write. The first error is that of the write that failed, whichever call meets it.
    pub fn write<T>(&self, call: impl FnOnce(&sled::Db) -> sled::Result<T>) -> Result<T, Error> {
        let db = self.db();
        self.watched.set(|state| state.is_writing = true);
        let done = guarded(&self.path, || call(db));
        self.watched.set(|state| state.is_writing = false);
        match failure(db) {
            Some(error) => Err(of_sled(&self.path, error)),
            None => done?.map_err(|error| of_sled(&self.path, error)),
        }
    }

    fn db(&self) -> &sled::Db {
        self.db.as_ref().expect("it is there until the drop")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.watched.set(|state| state.has_ended = true);
        if self.watch.take().is_some_and(|watch| watch.join().is_err()) {
            tracing::warn!("the thread that looks after a database has panicked");
        }
        let db = self.db.take();
        if let Err(error) = guarded(&self.path, || drop(db)) {
            tracing::warn!(%error, "a database that was let go of could not be synced");
        }
    }
}

/// Makes a database durable that was only begun: what was flushed, and the names of its files. From here on it is like one that was
/// opened.
///
/// # Errors
/// Faults of the disk.
pub(super) fn settle(path: &Path) -> Result<(), Error> {
    write_through(&path.join("db"));
    let settle = || {
        for entry in fs::read_dir(path)? {
            fs::File::open(entry?.path())?.sync_all()?;
        }
        sync_names(path)?;
        sync_names(path.parent().unwrap_or(path))
    };
    settle().map_err(|source| of_io(path, source))
}

/// A database that may be opened anew. Between, and after a write that failed, readers wait.
pub(super) struct Live {
    slot: RwLock<Option<Database>>,
    /// Told when there is another; a lock of its own, because a condition needs one.
    opened: (Mutex<()>, Condvar),
    pub number: u64,
}

impl Live {
    pub fn new(db: Database, number: u64) -> Self {
        Self { slot: RwLock::new(Some(db)), opened: Default::default(), number }
    }

    /// A call that only reads. What a database finds in which a write has failed is believed; what it does not find is not.
    pub fn read<T>(
        &self,
        directory: &Path,
        is_found: impl Fn(&T) -> bool,
        call: impl Fn(&sled::Db) -> sled::Result<T>,
    ) -> Result<T, Error> {
        let deadline = Instant::now() + READ_PATIENCE;
        loop {
            let slot = self.slot.read();
            let error = match &*slot {
                Some(database) => {
                    let found = guarded(directory, || call(database.db()));
                    match (failure(database.db()), found) {
                        (None, found) => return found?.map_err(|error| of_sled(directory, error)),
                        (Some(_), Ok(Ok(found))) if is_found(&found) => return Ok(found),
                        (Some(failure), _) => of_sled(directory, failure),
                    }
                }
                None => Error::Full { path: directory.display().to_string() },
            };
            drop(slot);
            if Instant::now() >= deadline {
                return Err(error);
            }
            self.opened.1.wait_for(&mut self.opened.0.lock(), LOOK_INTERVAL);
        }
    }

    /// A call that reads many rows, tried once.
    pub fn read_once<T>(
        &self,
        directory: &Path,
        call: impl FnOnce(&sled::Db) -> Result<T, Error>,
    ) -> Result<T, Error> {
        match &*self.slot.read() {
            Some(database) => guarded(directory, || call(database.db()))?,
            None => Err(Error::Full { path: directory.display().to_string() }),
        }
    }

    /// # Errors
    /// `Full` also when the database could not be opened anew; faults of the disk. Nothing works before `reopen`.
    pub fn write<T>(
        &self,
        directory: &Path,
        call: impl FnOnce(&sled::Db) -> sled::Result<T>,
    ) -> Result<T, Error> {
        match &*self.slot.read() {
            Some(database) => database.write(call),
            None => Err(Error::Full { path: directory.display().to_string() }),
        }
    }

    /// Whether a write has failed, so that it takes nothing any more.
    pub fn has_failed(&self) -> bool {
        self.slot.read().as_ref().is_none_or(|database| failure(database.db()).is_some())
    }

    /// Lets go of the database in which a write has failed, and opens it anew with `open`. Then calls `exchange`, before the
    /// first reader can look into it, and returns what that did.
    ///
    /// # Errors
    /// What `open` meets; then readers wait for the next try.
    pub fn reopen<T>(
        &self,
        open: impl Fn() -> Result<Database, Error>,
        exchange: impl Fn() -> T,
    ) -> Result<T, Error> {
        let mut slot = self.lock_slot();
        *slot = None;
        let deadline = Instant::now() + CLOSE_PATIENCE;
        let opened = loop {
            match open() {
                // By sled's threads, which end their work.
                Err(Error::Locked { .. }) if Instant::now() < deadline => {
                    std::thread::park_timeout(LOOK_INTERVAL / 10);
                }
                opened => break opened,
            }
        };
        let opened = opened?;
        let exchanged = exchange();
        *slot = Some(opened);
        drop(slot);
        drop(self.opened.0.lock());
        self.opened.1.notify_all();
        Ok(exchanged)
    }

    /// When nobody reads; a reader may wait for what sled will never write.
    fn lock_slot(&self) -> RwLockWriteGuard<'_, Option<Database>> {
        loop {
            if let Some(slot) = self.slot.try_write_for(LOOK_INTERVAL) {
                return slot;
            }
            if let Some(database) = &*self.slot.read() {
                wake(database.db(), &database.path);
            }
        }
    }
}

/// The error of a write that failed.
fn failure(db: &sled::Db) -> Option<sled::Error> {
    db.context.global_error().err()
}

/// Wakes who waits for a write that failed: sled wakes all when it refuses another. To be called after a failure only.
fn wake(db: &sled::Db, path: &Path) {
    match guarded(path, || db.open_tree("refused")) {
        Ok(Err(error)) => tracing::debug!(%error, "a write of the store has failed"),
        Ok(Ok(_)) => tracing::error!("the engine goes on writing after a failure"),
        Err(error) => tracing::debug!(%error, "a write of the store has failed"),
    }
}

/// Makes every write to a file wait for the device, and every change of a name in a directory; files made there take
/// it over. sled uses parts of its file again as soon as it has handed on what replaces them, and when it opens, it clears
/// parts that only the list of pages before needed as soon as it has named the next list. Without this, a power cut can
/// take what replaces them and leave what overwrote them.
fn write_through(path: &Path) {
    if let Err(error) = set_flags(path, |flags| flags | IFlags::SYNC) {
        tracing::warn!(%error, path = %path.display(), "this file system has no synchronous files (chattr +S): \
            a power cut can damage the store");
    }
}

/// The opposite: writes to a file wait for nothing.
fn write_at_leisure(path: &Path) {
    if let Err(error) = set_flags(path, |flags| flags - IFlags::SYNC) {
        tracing::debug!(%error, path = %path.display(), "the writes of this file may be synchronous");
    }
}

fn set_flags(path: &Path, change: impl FnOnce(IFlags) -> IFlags) -> std::io::Result<()> {
    let file = fs::File::open(path)?;
    let flags = rustix::fs::ioctl_getflags(&file)?;
    Ok(rustix::fs::ioctl_setflags(&file, change(flags))?)
}

pub(super) fn of_sled(path: &Path, error: sled::Error) -> Error {
    match error {
        // sled tells a lock that is held in words alone.
        sled::Error::Io(source) if source.to_string().contains("could not acquire lock") => {
            Error::Locked { path: path.display().to_string() }
        }
        sled::Error::Io(source) => of_io(path, source),
        error => Error::Damaged { place: path.display().to_string(), detail: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::{FlockOperation, flock};

    use super::super::super::{Round, Store, StoredChange};
    use super::super::{SledOptions, SledStore, current};
    use super::*;
    use crate::ids::{FullRevision, LogIndex, LogPosition, Term};

    /// Readers waited for the index of blocks all the while.
    #[test]
    fn what_is_in_memory_is_read_while_the_database_is_opened_anew() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = SledStore::open(directory.path(), &SledOptions::default()).expect("opened");
        let applied = LogPosition { index: LogIndex(1), term: Term(1) };
        let at = FullRevision::new(2, 0);
        let changes = vec![StoredChange { at, tombstone: false, pair: vec![7; 100].into() }];
        store.write(&Round { applied, changes, tables: Vec::new() }).expect("written");
        store.flush().expect("flushed");
        let is_read = || store.read(at).expect("read").is_some();
        assert!(is_read());
        let live = store.engine.live.load_full();
        let full = || Err(Error::Full { path: String::new() });
        assert!(live.reopen(full, || ()).is_err());
        // While somebody holds its file, it is tried again and again.
        let file = current::database(directory.path(), live.number).join("db");
        let file = fs::File::open(file).expect("it is there");
        flock(&file, FlockOperation::LockExclusive).expect("sled has let go of it");
        let is_opening = || live.slot.try_read().is_none();
        std::thread::scope(|scope| {
            let mending = scope.spawn(|| store.flush());
            let deadline = Instant::now() + Duration::from_secs(60);
            while !is_opening() {
                assert!(Instant::now() < deadline, "it is not opened anew");
                std::thread::yield_now();
            }
            assert!(is_read());
            assert!(is_opening(), "it was read only afterwards");
            flock(&file, FlockOperation::Unlock).expect("let go of");
            assert_eq!(mending.join().expect("no panic").expect("opened anew"), applied);
        });
        store.cache.clear();
        assert!(is_read());
    }
}

//! sled itself: one tree, batches, its files. Owns which directory is the live one; a panic of sled on damaged
//! files comes out of here as an error.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use sled::IVec;

use super::super::Error;
use super::super::disk::{make_directory, of_io};
use super::beside::generation;
use super::database::{Database, Live, SEGMENT_BYTES, of_sled};
use super::room::{self, Ballast, OPENING_BYTES, with_room};
use super::rows::{self, Applied};

/// Names the live directory; replaced as a whole.
const CURRENT: &str = "CURRENT";
const MAGIC: &str = "decklog store 1 ";
/// sled looks at how much its cache holds once per 64 accesses in a shard of it, and it has 256 shards: pages of
/// blocks, read once each, would pile up to gigabytes. So a row that is read is asked for some times more. Alone it
/// counts for itself; in turn, it has neighbours in its page (8 to 17) that do so, too.
const TOUCHES_ALONE: usize = 15;
const TOUCHES_IN_TURN: usize = 4;

/// Rows to put and to remove, in order.
#[derive(Default)]
pub(super) struct Ops(Vec<(Vec<u8>, Option<Vec<u8>>)>);

impl Ops {
    pub fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.0.push((key, Some(value)));
    }

    pub fn remove(&mut self, key: Vec<u8>) {
        self.0.push((key, None));
    }

    fn bytes(&self) -> u64 {
        self.0.iter().map(|(key, value)| (key.len() + value.as_ref().map_or(0, Vec::len)) as u64).sum()
    }

    /// Those whose key `holds`, as sled takes them.
    fn batch(&self, holds: impl Fn(&[u8]) -> bool) -> sled::Batch {
        let mut batch = sled::Batch::default();
        for (key, value) in self.0.iter().filter(|(key, _)| holds(key)) {
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

pub(super) fn database(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("db-{number}"))
}

/// The number of a database's directory.
pub(super) fn number_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("db-")?.parse().ok()
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
                let database = with_room(&ballast, || open_again(&path, cache_bytes))?;
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
        }
    }

    pub(super) fn is_live(&self) {
        self.is_beside.store(false, Ordering::Release);
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<IVec>, Error> {
        self.get_and_touch(key, 0)
    }

    /// A row of a large page, one here and one there.
    pub fn get_alone(&self, key: &[u8]) -> Result<Option<IVec>, Error> {
        self.get_and_touch(key, TOUCHES_ALONE)
    }

    /// A row of a large page, one after the other.
    pub fn get_in_turn(&self, key: &[u8]) -> Result<Option<IVec>, Error> {
        self.get_and_touch(key, TOUCHES_IN_TURN)
    }

    fn get_and_touch(&self, key: &[u8], touches: usize) -> Result<Option<IVec>, Error> {
        self.live.load().read(&self.directory, Option::is_some, |db| {
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
    pub fn apply(&self, ops: &Ops) -> Result<(), Error> {
        let mut writing = self.writing.lock();
        let live = self.live.load_full();
        if writing.is_unflushed {
            self.flush_live(&live)?;
            writing.is_unflushed = false;
        }
        self.take_room(&live, ops.bytes())?;
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
        writing.is_unflushed = false;
        Ok(())
    }

    /// Opens the database anew when a write of it has failed for want of room; whether it did. Of the last batch that was
    /// not flushed, all or nothing is there.
    ///
    /// # Errors
    /// `Full`: nothing works before there is room. Faults of the disk.
    pub fn mend(&self) -> Result<bool, Error> {
        let mut writing = self.writing.lock();
        let live = self.live.load_full();
        if !live.has_failed() {
            return Ok(false);
        }
        writing.copying = None;
        self.remove_copies(live.number)?;
        let path = database(&self.directory, live.number);
        // While there is no room, what can be read of it goes on being read.
        with_room(&self.ballast, || room::probe(&self.directory, OPENING_BYTES))?;
        with_room(&self.ballast, || live.reopen(|| open_again(&path, self.cache_bytes)))?;
        writing.is_unflushed = false;
        tracing::info!("the store was opened anew after a write that found no room");
        Ok(true)
    }

    fn flush_live(&self, live: &Live) -> Result<(), Error> {
        live.write(&self.directory, |db| db.flush())?;
        self.sync(live.number)
    }

    /// sled hands its writes to the device but syncs neither its cache nor the file's length: done here.
    fn sync(&self, number: u64) -> Result<(), Error> {
        let path = database(&self.directory, number).join("db");
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
        self.take(self.live.load().number, bytes)
    }

    pub fn is_nearly_full(&self) -> bool {
        room::is_nearly_full(&self.directory)
    }

    fn take(&self, number: u64, bytes: u64) -> Result<(), Error> {
        let needed = room::needed(bytes, SEGMENT_BYTES);
        room::take(&database(&self.directory, number).join("db"), needed, SEGMENT_BYTES)
    }

    /// For what has been accepted: the ballast is there for it.
    fn take_room(&self, live: &Live, bytes: u64) -> Result<(), Error> {
        self.take_or_give(live.number, bytes, OPENING_BYTES)
    }

    fn take_or_give(&self, number: u64, bytes: u64, keep: u64) -> Result<(), Error> {
        match self.take(number, bytes) {
            Err(Error::Full { .. }) if !self.is_beside.load(Ordering::Acquire) => {
                let needed = room::needed(bytes, SEGMENT_BYTES) + SEGMENT_BYTES;
                self.ballast.give(needed, keep)?;
                self.take(number, bytes)
            }
            taken => taken,
        }
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
        // All of it: when something is to be opened, the copy goes.
        self.take_or_give(copy.number, bytes, 0)?;
        copy.db.write(|db| db.apply_batch(batch).and_then(|()| db.flush()))?;
        // With each slice: what sled has written twice it uses again only after a flush.
        self.sync(copy.number)?;
        if let Some(last) = last {
            copy.next = [&last, &[0][..]].concat();
        }
        Ok((copy, copied == rows))
    }

    fn begin_copy(&self, live: u64) -> Result<Copying, Error> {
        let number = live + 1;
        // What a copy that failed has left.
        self.remove_copies(live)?;
        let path = database(&self.directory, number);
        let db = with_room(&self.ballast, || Database::open(&path, self.cache_bytes))?;
        Ok(Copying { db, number, next: Vec::new() })
    }
}

/// The first database of a directory, named as the live one when it is whole: one that is named and not there was removed.
fn create(directory: &Path, cache_bytes: u64) -> Result<Live, Error> {
    const FIRST: u64 = 1;
    refuse_foreign(directory)?;
    let live = create_database(directory, FIRST, cache_bytes)?;
    write_current(directory, FIRST)?;
    Ok(live)
}

/// An empty database that is not named yet.
pub(super) fn create_database(directory: &Path, number: u64, cache_bytes: u64) -> Result<Live, Error> {
    let path = database(directory, number);
    if path.exists() {
        fs::remove_dir_all(&path).map_err(|source| of_io(&path, source))?;
    }
    let db = Database::open(&path, cache_bytes)?;
    db.write(|db| {
        db.insert(rows::APPLIED, rows::encode_applied(Applied::default()))?;
        db.flush()
    })?;
    let file = path.join("db");
    fs::File::open(&file).and_then(|file| file.sync_all()).map_err(|source| of_io(&file, source))?;
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

/// The number of the live database; `None` in a directory that has none yet.
pub(super) fn read_current(directory: &Path) -> Result<Option<u64>, Error> {
    let path = directory.join(CURRENT);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(of_io(&path, source)),
    };
    match parse_current(&text) {
        Some(number) => Ok(Some(number)),
        None => {
            let place = path.display().to_string();
            Err(Error::Damaged { place, detail: "it does not name a store of this version".to_owned() })
        }
    }
}

/// The number of the live database and the checksum of it: another that is there, too, would be as good, and wrong.
pub(super) fn current(number: u64) -> String {
    format!("{MAGIC}{:08x} {number}\n", crc32c::crc32c(&number.to_be_bytes()))
}

/// The number in a text that `current` made; nothing else will do.
pub(super) fn parse_current(text: &[u8]) -> Option<u64> {
    let numbers = str::from_utf8(text).ok()?.strip_prefix(MAGIC)?;
    let number = numbers.trim_end().split(' ').next_back()?.parse().ok()?;
    (current(number).as_bytes() == text && number < u64::MAX).then_some(number)
}

/// A directory with anything but an unfinished first database and no `CURRENT` is not a new one.
fn refuse_foreign(directory: &Path) -> Result<(), Error> {
    let mut entries = fs::read_dir(directory).map_err(|source| of_io(directory, source))?;
    let unfinished = ["db-1", "CURRENT.new"];
    if entries.all(|entry| entry.is_ok_and(|entry| unfinished.iter().any(|name| entry.file_name() == *name)))
    {
        return Ok(());
    }
    let place = directory.display().to_string();
    Err(Error::Damaged { place, detail: format!("it holds files, but no {CURRENT}") })
}

pub(super) fn write_current(directory: &Path, number: u64) -> Result<(), Error> {
    let (path, temporary) = (directory.join(CURRENT), directory.join("CURRENT.new"));
    let write = || {
        let mut file = fs::File::create(&temporary)?;
        file.write_all(current(number).as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        fs::File::open(directory)?.sync_all()
    };
    write().map_err(|source| of_io(&path, source))
}

/// Removes databases that are not the live one: copies that were not finished, and the one that was replaced. What is being
/// received beside them is not theirs.
pub(super) fn remove_others(directory: &Path, number: u64) -> Result<(), Error> {
    for entry in fs::read_dir(directory).map_err(|source| of_io(directory, source))? {
        let path = entry.map_err(|source| of_io(directory, source))?.path();
        let is_database = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("db-"));
        let is_later = number_of(&path).is_some_and(|other| generation(other) > generation(number));
        if is_database && !is_later && path != database(directory, number) {
            fs::remove_dir_all(&path).map_err(|source| of_io(&path, source))?;
        }
    }
    Ok(())
}

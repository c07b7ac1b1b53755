//! sled itself: one tree, batches, its files. Owns which directory is the live one; a panic of sled on damaged
//! files comes out of here as an error.

use std::fs;
use std::io::Write;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use sled::IVec;

use super::super::disk::{make_directory, of_io, sync_names};
use super::super::{Error, guarded, guarded_open};
use super::beside::generation;
use super::rows::{self, Applied};

/// Names the live directory; replaced as a whole.
const CURRENT: &str = "CURRENT";
const MAGIC: &str = "decklog store 1 ";
/// sled writes a page above a quarter of this to a file of its own, which it never syncs. A page holds up to 17
/// rows, and a row is below 50 KiB: none is that large.
const SEGMENT_BYTES: usize = 4 << 20;
/// sled looks at how much its cache holds once per 64 accesses in a shard of it, and it has 256 shards: pages of
/// blocks, read once each, would pile up to gigabytes. So a row that is read is asked for some times more. Alone it
/// counts for itself; in turn, it has neighbours in its page (8 to 17) that do so, too.
const TOUCHES_ALONE: usize = 15;
const TOUCHES_IN_TURN: usize = 4;
/// Space that must be left besides what a round needs.
const SPARE_BYTES: u64 = 16 << 20;
/// How many bytes of its file sled may take for one that it is given: up to two and a half were seen.
const FILE_BYTES_PER_BYTE: u64 = 3;

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
    pub(super) cache_bytes: u64,
    pub(super) live: ArcSwap<Live>,
    pub(super) writing: Mutex<Writing>,
}

/// Held for a batch, a flush, or a slice of a defragmentation.
#[derive(Default)]
pub(super) struct Writing {
    copying: Option<Copying>,
    /// A batch was written since the last flush.
    is_unflushed: bool,
}

/// An open database. sled syncs it once more when it is let go of, and panics when that fails. What counts was flushed
/// before; and a disk that fails is found by the next flush.
struct Database {
    db: Option<sled::Db>,
    path: PathBuf,
}

impl Deref for Database {
    type Target = sled::Db;

    fn deref(&self) -> &sled::Db {
        self.db.as_ref().expect("it is there until the drop")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let db = self.db.take();
        if let Err(error) = guarded(&self.path, || drop(db)) {
            tracing::warn!(%error, "a database that was let go of could not be synced");
        }
    }
}

pub(super) struct Live {
    db: Database,
    pub(super) number: u64,
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

fn open_database(path: &Path, cache_bytes: u64) -> Result<Database, Error> {
    make_directory(path).map_err(|source| of_io(path, source))?;
    write_through(path);
    let config = sled::Config::new()
        .path(path)
        .mode(sled::Mode::HighThroughput)
        .cache_capacity(cache_bytes)
        .segment_size(SEGMENT_BYTES)
        .flush_every_ms(None);
    let db = guarded_open(path, || config.open())?.map_err(|error| of_sled(path, error))?;
    write_through(&path.join("db"));
    // sled syncs neither its settings nor the names of its files, nor its own.
    let synced = fs::File::open(path.join("conf")).and_then(|file| file.sync_all());
    let synced =
        synced.and_then(|()| sync_names(path)).and_then(|()| sync_names(path.parent().unwrap_or(path)));
    synced.map_err(|source| of_io(path, source))?;
    Ok(Database { db: Some(db), path: path.to_owned() })
}

/// Makes every write to a file wait for the device; files made in a directory take it over. sled uses parts of its
/// file again as soon as it has handed on what replaces them. Without this, a power cut can take what replaces
/// them and leave what overwrote them.
fn write_through(path: &Path) {
    let set = || {
        let file = fs::File::open(path)?;
        let flags = rustix::fs::ioctl_getflags(&file)?;
        rustix::fs::ioctl_setflags(&file, flags | rustix::fs::IFlags::SYNC)?;
        Ok::<(), std::io::Error>(())
    };
    if let Err(error) = set() {
        tracing::warn!(%error, path = %path.display(), "this file system has no synchronous files (chattr +S): \
            a power cut can damage the store");
    }
}

fn touch(db: &sled::Db, key: &[u8], times: usize) -> sled::Result<()> {
    for _ in 0..times {
        db.contains_key(key)?;
    }
    Ok(())
}

fn of_sled(path: &Path, error: sled::Error) -> Error {
    match error {
        // sled tells a lock that is held in words alone.
        sled::Error::Io(source) if source.to_string().contains("could not acquire lock") => {
            Error::Locked { path: path.display().to_string() }
        }
        // Never `Full`: sled takes nothing any more after a write of its own has failed.
        sled::Error::Io(source) => Error::Io { path: path.display().to_string(), source },
        error => Error::Damaged { place: path.display().to_string(), detail: error.to_string() },
    }
}

impl Engine {
    pub fn open(directory: &Path, cache_bytes: u64) -> Result<Self, Error> {
        make_directory(directory).map_err(|source| of_io(directory, source))?;
        let live = match read_current(directory)? {
            Some(number) => reopen(directory, number, cache_bytes)?,
            None => create(directory, cache_bytes)?,
        };
        remove_others(directory, live.number)?;
        let path = database(directory, live.number);
        let live = ArcSwap::from_pointee(live);
        let engine = Self { directory: directory.to_owned(), cache_bytes, live, writing: Mutex::default() };
        if engine.get(rows::APPLIED)?.is_none() {
            let place = path.display().to_string();
            return Err(Error::Damaged {
                place,
                detail: "it does not say which entry it stands for".to_owned(),
            });
        }
        Ok(engine)
    }

    fn fault(&self, error: sled::Error) -> Error {
        of_sled(&self.directory, error)
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<IVec>, Error> {
        let live = self.live.load();
        let found = guarded(&self.directory, || live.db.get(key))?;
        found.map_err(|error| self.fault(error))
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
        let live = self.live.load();
        let found = guarded(&self.directory, || {
            let found = live.db.get(key)?;
            touch(&live.db, key, touches).map(|()| found)
        })?;
        found.map_err(|error| self.fault(error))
    }

    /// Visits the rows whose key begins with `prefix`, in order.
    pub fn scan(&self, prefix: &[u8], visit: &mut Visit<'_>) -> Result<(), Error> {
        let live = self.live.load_full();
        guarded(&self.directory, || {
            for row in live.db.scan_prefix(prefix) {
                let (key, value) = row.map_err(|error| self.fault(error))?;
                touch(&live.db, &key, TOUCHES_IN_TURN).map_err(|error| self.fault(error))?;
                visit(&key, &value)?;
            }
            Ok(())
        })?
    }

    /// Writes a batch. The one before must be durable first: once a batch is written, sled takes the space of what it
    /// replaced for the next, and a power cut would leave neither.
    pub fn apply(&self, ops: &Ops) -> Result<(), Error> {
        let mut writing = self.writing.lock();
        let live = self.live.load_full();
        if writing.is_unflushed {
            self.flush_database(&live.db, live.number)?;
        }
        writing.is_unflushed = true;
        let apply = |db: &sled::Db, batch| {
            guarded(&self.directory, || db.apply_batch(batch))?.map_err(|error| self.fault(error))
        };
        apply(&live.db, ops.batch(|_| true))?;
        if let Some(copying) = &writing.copying
            && let Err(error) = apply(&copying.db, ops.batch(|key| key < copying.next.as_slice()))
        {
            tracing::warn!(%error, "the copy of a defragmentation is begun anew");
            writing.copying = None;
        }
        Ok(())
    }

    pub fn flush(&self) -> Result<(), Error> {
        let mut writing = self.writing.lock();
        let live = self.live.load_full();
        self.flush_database(&live.db, live.number)?;
        writing.is_unflushed = false;
        Ok(())
    }

    /// sled hands its writes to the device but syncs neither its cache nor the file's length: done here.
    fn flush_database(&self, db: &sled::Db, number: u64) -> Result<(), Error> {
        guarded(&self.directory, || db.flush())?.map_err(|error| self.fault(error))?;
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

    /// # Errors
    /// `Full` when the file system has no room for so many bytes more.
    pub fn check_space(&self, bytes: u64) -> Result<(), Error> {
        let found =
            rustix::fs::statvfs(&self.directory).map_err(|error| of_io(&self.directory, error.into()))?;
        let free = found.f_bavail.saturating_mul(found.f_frsize);
        if free < bytes.saturating_mul(FILE_BYTES_PER_BYTE).saturating_add(SPARE_BYTES) {
            return Err(Error::Full { path: self.directory.display().to_string() });
        }
        Ok(())
    }

    /// Copies some rows into a fresh database; `false` when it has taken the old one's place.
    pub fn defragment(&self, rows: usize) -> Result<bool, Error> {
        let mut writing = self.writing.lock();
        let mut copy = match writing.copying.take() {
            Some(copy) => copy,
            None => self.begin_copy()?,
        };
        self.check_space(SPARE_BYTES)?;
        let live = self.live.load_full();
        let mut batch = sled::Batch::default();
        let (mut copied, mut last) = (0, None);
        let from = copy.next.clone();
        guarded(&self.directory, || {
            for row in live.db.range(from..).take(rows) {
                let (key, value) = row?;
                touch(&live.db, &key, TOUCHES_IN_TURN)?;
                batch.insert(&key, value);
                copied += 1;
                last = Some(key);
            }
            copy.db.apply_batch(batch)
        })?
        .map_err(|error| self.fault(error))?;
        // With each slice: what sled has written twice it uses again only after a flush.
        self.flush_database(&copy.db, copy.number)?;
        if let Some(last) = last {
            copy.next = [&last, &[0][..]].concat();
        }
        if copied == rows {
            writing.copying = Some(copy);
            return Ok(true);
        }
        write_current(&self.directory, copy.number)?;
        self.live.store(Arc::new(Live { db: copy.db, number: copy.number }));
        writing.is_unflushed = false;
        drop(live);
        // Readers may still hold the old one; its files go when they let go of it.
        remove_others(&self.directory, copy.number)?;
        Ok(false)
    }

    fn begin_copy(&self) -> Result<Copying, Error> {
        let number = self.live.load().number + 1;
        // What a copy that failed has left.
        remove_others(&self.directory, number - 1)?;
        let db = open_database(&database(&self.directory, number), self.cache_bytes)?;
        Ok(Copying { db, number, next: Vec::new() })
    }
}

/// The first database of a directory. Named as the live one when it is whole: one that is named and not there was
/// removed.
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
    let db = open_database(&path, cache_bytes)?;
    let written = guarded(directory, || {
        db.insert(rows::APPLIED, rows::encode_applied(Applied::default()))?;
        db.flush()
    })?;
    written.map_err(|error| of_sled(&path, error))?;
    let file = path.join("db");
    fs::File::open(&file).and_then(|file| file.sync_all()).map_err(|source| of_io(&file, source))?;
    Ok(Live { db, number })
}

pub(super) fn reopen(directory: &Path, number: u64, cache_bytes: u64) -> Result<Live, Error> {
    let path = database(directory, number);
    let is_there = fs::metadata(path.join("db")).is_ok_and(|found| found.len() > 0);
    if !is_there {
        let place = path.display().to_string();
        let detail = "it is missing: the store was removed, or is not whole".to_owned();
        return Err(Error::Damaged { place, detail });
    }
    remove_unfinished(&path).map_err(|source| of_io(&path, source))?;
    // Recovery gives away the space of what is old. What makes it so may have been written and not flushed.
    let file = path.join("db");
    fs::File::open(&file).and_then(|file| file.sync_all()).map_err(|source| of_io(&file, source))?;
    Ok(Live { db: open_database(&path, cache_bytes)?, number })
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

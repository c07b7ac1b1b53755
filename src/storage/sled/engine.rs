//! sled itself: one tree, batches, its files. Owns which directory is the live one; a panic of sled on damaged
//! files comes out of here as an error.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use sled::IVec;

use super::super::disk::{make_directory, of_io, sync_names};
use super::super::{Error, guarded};

/// Names the live directory; replaced as a whole.
const CURRENT: &str = "CURRENT";
const MAGIC: &str = "decklog store 1 ";
/// Space that must be left besides what a round needs: sled writes more than it is given.
const SPARE_BYTES: u64 = 16 << 20;

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

/// See the module.
pub(super) struct Engine {
    directory: PathBuf,
    cache_bytes: u64,
    live: ArcSwap<Live>,
    copying: Mutex<Option<Copying>>,
}

struct Live {
    db: sled::Db,
    number: u64,
}

/// A defragmentation under way: every row below `next` stands in the copy, too.
struct Copying {
    db: sled::Db,
    number: u64,
    next: Vec<u8>,
}

fn database(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("db-{number}"))
}

fn open_database(path: &Path, cache_bytes: u64) -> Result<sled::Db, Error> {
    let config = sled::Config::new()
        .path(path)
        .mode(sled::Mode::HighThroughput)
        .cache_capacity(cache_bytes)
        .flush_every_ms(None);
    let db = guarded(path, || config.open())?.map_err(|error| of_sled(path, error))?;
    // The names of its files, and its own.
    let synced = sync_names(path).and_then(|()| sync_names(path.parent().unwrap_or(path)));
    synced.map_err(|source| of_io(path, source))?;
    Ok(db)
}

/// Makes everything written durable. sled's own flush ends with `sync_file_range`, which leaves out the file's new
/// length and what the disk's cache holds, and it never syncs what it puts into files of their own.
fn flush_database(db: &sled::Db, path: &Path) -> Result<(), Error> {
    guarded(path, || db.flush())?.map_err(|error| of_sled(path, error))?;
    let blobs = path.join("blobs");
    let sync = || {
        let mut any = false;
        for blob in fs::read_dir(&blobs)? {
            match fs::File::open(blob?.path()) {
                Ok(blob) => blob.sync_all()?,
                // Removed meanwhile: what it held is nowhere named any more.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
            any = true;
        }
        if any {
            sync_names(&blobs)?;
        }
        fs::File::open(path.join("db"))?.sync_data()
    };
    sync().map_err(|source| of_io(path, source))
}

fn of_sled(path: &Path, error: sled::Error) -> Error {
    match error {
        // sled tells a lock that is held in words alone.
        sled::Error::Io(source) if source.to_string().contains("could not acquire lock") => {
            Error::Locked { path: path.display().to_string() }
        }
        sled::Error::Io(source) => of_io(path, source),
        error => Error::Damaged { place: path.display().to_string(), detail: error.to_string() },
    }
}

impl Engine {
    pub fn open(directory: &Path, cache_bytes: u64) -> Result<Self, Error> {
        make_directory(directory).map_err(|source| of_io(directory, source))?;
        let number = match read_current(directory)? {
            Some(number) => number,
            None => {
                refuse_foreign(directory)?;
                write_current(directory, 1)?;
                1
            }
        };
        remove_others(directory, number)?;
        let path = database(directory, number);
        if number > 1 && !path.is_dir() {
            let place = path.display().to_string();
            return Err(Error::Damaged { place, detail: "it is missing".to_owned() });
        }
        let db = open_database(&path, cache_bytes)?;
        let live = ArcSwap::from_pointee(Live { db, number });
        Ok(Self { directory: directory.to_owned(), cache_bytes, live, copying: Mutex::new(None) })
    }

    fn fault(&self, error: sled::Error) -> Error {
        of_sled(&self.directory, error)
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<IVec>, Error> {
        let live = self.live.load();
        let found = guarded(&self.directory, || live.db.get(key))?;
        found.map_err(|error| self.fault(error))
    }

    /// Visits the rows whose key begins with `prefix`, in order.
    pub fn scan(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let live = self.live.load_full();
        guarded(&self.directory, || {
            for row in live.db.scan_prefix(prefix) {
                let (key, value) = row.map_err(|error| self.fault(error))?;
                visit(&key, &value)?;
            }
            Ok(())
        })?
    }

    pub fn scan_keys(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&[u8]) -> Result<(), Error>,
    ) -> Result<(), Error> {
        self.scan(prefix, &mut |key, _| visit(key))
    }

    pub fn apply(&self, ops: &Ops) -> Result<(), Error> {
        let live = self.live.load_full();
        let apply = |db: &sled::Db, batch| {
            guarded(&self.directory, || db.apply_batch(batch))?.map_err(|error| self.fault(error))
        };
        apply(&live.db, ops.batch(|_| true))?;
        if let Some(copying) = &*self.copying.lock() {
            apply(&copying.db, ops.batch(|key| key < copying.next.as_slice()))?;
        }
        Ok(())
    }

    pub fn flush(&self) -> Result<(), Error> {
        let live = self.live.load_full();
        flush_database(&live.db, &database(&self.directory, live.number))
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
        if free < bytes.saturating_mul(2).saturating_add(SPARE_BYTES) {
            return Err(Error::Full { path: self.directory.display().to_string() });
        }
        Ok(())
    }

    /// Copies some rows into a fresh database; `false` when it has taken the old one's place.
    pub fn defragment(&self, rows: usize) -> Result<bool, Error> {
        let mut copying = self.copying.lock();
        let mut copy = match copying.take() {
            Some(copy) => copy,
            None => self.begin_copy()?,
        };
        self.check_space(SPARE_BYTES)?;
        let live = self.live.load_full();
        let mut batch = sled::Batch::default();
        let (mut copied, mut last) = (0, None);
        for row in live.db.range(copy.next.clone()..).take(rows) {
            let (key, value) = row.map_err(|error| self.fault(error))?;
            batch.insert(&key, value);
            copied += 1;
            last = Some(key);
        }
        copy.db.apply_batch(batch).map_err(|error| self.fault(error))?;
        if let Some(last) = last {
            copy.next = [&last, &[0][..]].concat();
        }
        if copied == rows {
            *copying = Some(copy);
            return Ok(true);
        }
        flush_database(&copy.db, &database(&self.directory, copy.number))?;
        write_current(&self.directory, copy.number)?;
        self.live.store(Arc::new(Live { db: copy.db, number: copy.number }));
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

/// The number of the live database; `None` in a directory that has none yet.
fn read_current(directory: &Path) -> Result<Option<u64>, Error> {
    let path = directory.join(CURRENT);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(of_io(&path, source)),
    };
    let number = text.strip_prefix(MAGIC).and_then(|number| number.trim_end().parse().ok());
    match number {
        Some(number) => Ok(Some(number)),
        None => {
            let place = path.display().to_string();
            Err(Error::Damaged { place, detail: "it does not name a store of this version".to_owned() })
        }
    }
}

/// A directory with a database but no `CURRENT` is not a new one.
fn refuse_foreign(directory: &Path) -> Result<(), Error> {
    let mut entries = fs::read_dir(directory).map_err(|source| of_io(directory, source))?;
    if entries.next().is_none() {
        return Ok(());
    }
    let place = directory.display().to_string();
    Err(Error::Damaged { place, detail: format!("it holds files, but no {CURRENT}") })
}

fn write_current(directory: &Path, number: u64) -> Result<(), Error> {
    let (path, temporary) = (directory.join(CURRENT), directory.join("CURRENT.new"));
    let write = || {
        let mut file = fs::File::create(&temporary)?;
        writeln!(file, "{MAGIC}{number}")?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        sync_names(directory)
    };
    write().map_err(|source| of_io(&path, source))
}

/// Removes databases that are not the live one: copies that were not finished, and the one that was replaced.
fn remove_others(directory: &Path, number: u64) -> Result<(), Error> {
    for entry in fs::read_dir(directory).map_err(|source| of_io(directory, source))? {
        let path = entry.map_err(|source| of_io(directory, source))?.path();
        let is_database = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("db-"));
        if is_database && path != database(directory, number) {
            fs::remove_dir_all(&path).map_err(|source| of_io(&path, source))?;
        }
    }
    Ok(())
}

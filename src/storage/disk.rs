//! One directory of files as the log needs it: real, or in memory with faults on demand.
//! Owns paths and file handles; knows nothing of what stands in the files.

mod memory;

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::FallocateFlags;

use super::Error;

pub use memory::{Fault, MemoryDisk};

/// Zeros are written in pieces of so many bytes.
const ZERO_BYTES: usize = 1 << 20;

/// A flat directory. Names hold no separators. A write is durable after `sync` of its file; a file's name after
/// `sync_directory`.
pub trait Disk: Send + Sync + 'static {
    /// What errors call the directory.
    fn place(&self) -> String;

    fn list(&self) -> Result<Vec<String>, Error>;

    /// Makes a file of so many zeros, allocated and synced; nothing is left of it after an error.
    fn create(&self, name: &str, bytes: u64) -> Result<(), Error>;

    /// The same, but the zeros need not be written: it has its room, and the first write to a part of it costs more.
    fn allocate(&self, name: &str, bytes: u64) -> Result<(), Error>;

    fn read(&self, name: &str) -> Result<Vec<u8>, Error>;

    fn length(&self, name: &str) -> Result<u64, Error>;

    /// Writes inside the file's length.
    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), Error>;

    fn sync(&self, name: &str) -> Result<(), Error>;

    fn rename(&self, from: &str, to: &str) -> Result<(), Error>;

    fn remove(&self, name: &str) -> Result<(), Error>;

    fn sync_directory(&self) -> Result<(), Error>;
}

/// Files of the operating system.
pub struct RealDisk {
    directory: PathBuf,
    /// Open files by name. A lock, because the trait is shared; one thread writes.
    files: Mutex<HashMap<String, Arc<File>>>,
}

impl RealDisk {
    /// The directory is made when it is missing, for its owner alone.
    ///
    /// # Errors
    /// A fault of the disk.
    pub fn new(directory: &Path) -> Result<Self, Error> {
        make_directory(directory).map_err(|source| of_io(directory, source))?;
        Ok(Self { directory: directory.to_owned(), files: Mutex::default() })
    }

    /// A directory that is only looked at.
    pub fn existing(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), files: Mutex::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    fn file(&self, name: &str) -> Result<Arc<File>, Error> {
        let mut files = self.files.lock();
        if let Some(file) = files.get(name) {
            return Ok(file.clone());
        }
        let path = self.path(name);
        let opened = OpenOptions::new().read(true).write(true).open(&path);
        let file = Arc::new(opened.map_err(|source| of_io(&path, source))?);
        files.insert(name.to_owned(), file.clone());
        Ok(file)
    }

    /// A synced file with what `fill` puts into it; nothing is left of it after an error.
    fn make(&self, name: &str, fill: impl FnOnce(&File) -> io::Result<()>) -> Result<(), Error> {
        let path = self.path(name);
        let make = || {
            let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
            fill(&file)?;
            file.sync_all()
        };
        let made = make().map_err(|source| of_io(&path, source));
        if made.is_err()
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::warn!(%error, name, "cannot remove a half-made file");
        }
        made
    }
}

impl Disk for RealDisk {
    fn place(&self) -> String {
        self.directory.display().to_string()
    }

    fn list(&self) -> Result<Vec<String>, Error> {
        let list = || -> io::Result<Vec<String>> {
            let mut names = Vec::new();
            for entry in fs::read_dir(&self.directory)? {
                names.push(entry?.file_name().to_string_lossy().into_owned());
            }
            Ok(names)
        };
        list().map_err(|source| of_io(&self.directory, source))
    }

    fn create(&self, name: &str, bytes: u64) -> Result<(), Error> {
        self.make(name, |file| fill(file, bytes))
    }

    fn allocate(&self, name: &str, bytes: u64) -> Result<(), Error> {
        self.make(name, |file| {
            // Room first and then the length: a process that ends between leaves no file that says it has what it has not.
            match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, 0, bytes) {
                Err(rustix::io::Errno::OPNOTSUPP) => fill(file, bytes),
                allocated => Ok(allocated.map(|()| file.set_len(bytes))??),
            }
        })
    }

    fn read(&self, name: &str) -> Result<Vec<u8>, Error> {
        let path = self.path(name);
        fs::read(&path).map_err(|source| of_io(&path, source))
    }

    fn length(&self, name: &str) -> Result<u64, Error> {
        let path = self.path(name);
        fs::metadata(&path).map(|found| found.len()).map_err(|source| of_io(&path, source))
    }

    fn write(&self, name: &str, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let written = self.file(name)?.write_all_at(bytes, offset);
        written.map_err(|source| of_io(&self.path(name), source))
    }

    fn sync(&self, name: &str) -> Result<(), Error> {
        self.file(name)?.sync_data().map_err(|source| of_io(&self.path(name), source))
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), Error> {
        let mut files = self.files.lock();
        files.remove(to);
        if let Some(file) = files.remove(from) {
            files.insert(to.to_owned(), file);
        }
        fs::rename(self.path(from), self.path(to)).map_err(|source| of_io(&self.path(from), source))
    }

    fn remove(&self, name: &str) -> Result<(), Error> {
        self.files.lock().remove(name);
        let path = self.path(name);
        fs::remove_file(&path).map_err(|source| of_io(&path, source))
    }

    fn sync_directory(&self) -> Result<(), Error> {
        sync_names(&self.directory).map_err(|source| of_io(&self.directory, source))
    }
}

fn fill(file: &File, bytes: u64) -> io::Result<()> {
    let zeros = vec![0; ZERO_BYTES];
    let mut offset = 0;
    while offset < bytes {
        let length = usize::try_from(bytes - offset).unwrap_or(ZERO_BYTES).min(ZERO_BYTES);
        file.write_all_at(&zeros[..length], offset)?;
        offset += length as u64;
    }
    Ok(())
}

/// Makes a directory and those above it that are missing, for their owner alone; their names are durable.
///
/// # Errors
/// Faults of the disk.
pub fn make_directory(path: &Path) -> io::Result<()> {
    let missing = path.ancestors().take_while(|path| !path.exists()).count();
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    // Also when it was there: an earlier start may have been stopped between making and syncing it.
    for made in path.ancestors().take(missing.max(1)) {
        let above = made.parent().unwrap_or(made);
        sync_names(if above.as_os_str().is_empty() { Path::new(".") } else { above })?;
    }
    Ok(())
}

/// Makes the names in a directory durable.
pub(super) fn sync_names(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// An I/O error with its path; a full disk stands apart.
pub(super) fn of_io(path: &Path, source: io::Error) -> Error {
    let path = path.display().to_string();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Error::Full { path },
        _ => Error::Io { path, source },
    }
}

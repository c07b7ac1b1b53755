//! Room on the file system. Owns the ballast, a file that holds room for what must go on when there is none, and says what
//! sled's file needs before it is written. Nothing is ever written into the ballast.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, StatVfs};

use super::super::Error;
use super::super::disk::of_io;
use super::database::SEGMENT_BYTES;

/// Bytes of the ballast.
const BALLAST_BYTES: u64 = 40 << 20;
/// Below so many bytes of ballast, what would only fill the disk further is refused.
const LOW_BYTES: u64 = 28 << 20;
/// Kept for opening: sled ends the segment that it was writing (4 MiB) and lists its pages in a new file.
pub(super) const OPENING_BYTES: u64 = 8 << 20;
/// Kept for a compaction besides, which rounds that wait before it could not make up for.
const COMPACTION_BYTES: u64 = 12 << 20;
/// With less free, rounds and slices of a compaction must stay small, so that they find room in the ballast.
const NEARLY_FULL_BYTES: u64 = 256 << 20;
/// How many bytes of its file sled may take for one that it is given, and for one that it is to remove: up to 3.2 and 1.5
/// were seen (`tests::a_file_grows_into_what_was_taken_for_it`).
const PER_BYTE_PUT: u64 = 4;
const PER_BYTE_REMOVED: u64 = 2;

/// What the ballast may give its room to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Share {
    /// Rounds that had been accepted before the disk was found full, and those that make room.
    Round,
    Compaction,
    /// A copy of a defragmentation. It would give its room back should something have to be opened, but others may be
    /// quicker to take that.
    Copy,
    /// Opening the live database: without it nothing goes on.
    Opening,
}

impl Share {
    /// Bytes of the ballast that are for others.
    fn keeps(self) -> u64 {
        match self {
            Self::Round => OPENING_BYTES + COMPACTION_BYTES,
            Self::Compaction | Self::Copy => OPENING_BYTES,
            Self::Opening => 0,
        }
    }
}

/// See the module.
pub(super) struct Ballast {
    path: PathBuf,
}

impl Ballast {
    pub fn of(directory: &Path) -> Self {
        Self { path: directory.join("ballast") }
    }

    /// Bytes that it holds.
    pub fn held(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |found| found.len())
    }

    /// Makes it whole, if there is room for that.
    ///
    /// # Errors
    /// `Full` when less is left of it than what must stay; faults of the disk.
    pub fn refill(&self) -> Result<(), Error> {
        let held = self.held();
        match self.resize(held, BALLAST_BYTES) {
            Err(Error::Full { .. }) if held >= LOW_BYTES => Ok(()),
            resized => resized,
        }
    }

    /// Gives up to so many bytes of a share back to the file system; how many were given.
    ///
    /// # Errors
    /// Faults of the disk.
    pub fn give(&self, bytes: u64, share: Share) -> Result<u64, Error> {
        let held = self.held();
        let given = bytes.min(held.saturating_sub(share.keeps()));
        if given > 0 {
            self.resize(held, held - given)?;
        }
        Ok(given)
    }

    /// Whether there is enough left to open the database, should what is done now fail.
    ///
    /// # Errors
    /// `Full`.
    pub fn check(&self, share: Share) -> Result<(), Error> {
        if self.held() < share.keeps().min(OPENING_BYTES) {
            return Err(Error::Full { path: self.path.display().to_string() });
        }
        Ok(())
    }

    fn resize(&self, held: u64, bytes: u64) -> Result<(), Error> {
        if held == bytes {
            return Ok(());
        }
        let resize = || -> io::Result<()> {
            let file = OpenOptions::new().write(true).create(true).truncate(false).open(&self.path)?;
            // First the room and then the length: the process may end between, and what it says that it holds is there.
            let allocated = if bytes > held { allocate(&file, held, bytes - held) } else { Ok(()) };
            // What was found of room before there was none is given back.
            file.set_len(if allocated.is_ok() { bytes } else { held })?;
            allocated
        };
        resize().map_err(|source| of_io(&self.path, source))
    }
}

/// Does what needs a little room of the file system, and gives it some of the ballast while it finds none.
pub(super) fn with_room<T>(
    ballast: &Ballast,
    share: Share,
    mut attempt: impl FnMut() -> Result<T, Error>,
) -> Result<T, Error> {
    loop {
        match attempt() {
            Err(Error::Full { .. }) if ballast.give(OPENING_BYTES, share)? > 0 => {}
            done => return done,
        }
    }
}

/// What sled's file may grow by when it is given so many bytes, and removes so many. It grows by whole segments.
pub(super) fn needed(put: u64, removed: u64) -> u64 {
    let bytes = put.saturating_mul(PER_BYTE_PUT).saturating_add(removed.saturating_mul(PER_BYTE_REMOVED));
    bytes.saturating_add(SEGMENT_BYTES)
}

/// Takes room behind the end of a file, so that it can grow by so many bytes whatever others write. What is there already
/// counts; the file's length, which is returned, stays.
///
/// # Errors
/// `Full`; faults of the disk.
pub(super) fn take(path: &Path, bytes: u64) -> Result<u64, Error> {
    let take = || -> io::Result<u64> {
        let file = OpenOptions::new().write(true).open(path)?;
        let length = file.metadata()?.len();
        allocate(&file, length, end_of(length, bytes) - length)?;
        Ok(length)
    };
    take().map_err(|source| of_io(path, source))
}

/// Through where a file of this length is taken for so many bytes.
pub(super) fn end_of(length: u64, bytes: u64) -> u64 {
    length.next_multiple_of(SEGMENT_BYTES).saturating_add(bytes)
}

/// The blocks of a part of a file, or of what may become one.
fn allocate(file: &File, from: u64, bytes: u64) -> io::Result<()> {
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, from, bytes) {
        // More than a file can ever hold.
        Err(rustix::io::Errno::FBIG) => Err(io::ErrorKind::StorageFull.into()),
        // This file system cannot promise room: then it is looked at.
        Err(rustix::io::Errno::OPNOTSUPP) => check_free(rustix::fs::fstatvfs(file)?, bytes),
        allocated => Ok(allocated?),
    }
}

pub(super) fn is_nearly_full(directory: &Path) -> bool {
    matches!(look(directory, NEARLY_FULL_BYTES), Err(Error::Full { .. }))
}

/// Looks whether so many bytes are free, and takes nothing.
///
/// # Errors
/// `Full`; faults of the disk.
pub(super) fn look(directory: &Path, bytes: u64) -> Result<(), Error> {
    let found = rustix::fs::statvfs(directory).map_err(std::io::Error::from);
    found.and_then(|found| check_free(found, bytes)).map_err(|source| of_io(directory, source))
}

/// Looks whether so many bytes can be written now, by doing what needs them.
///
/// # Errors
/// `Full`; faults of the disk.
pub(super) fn probe(directory: &Path, bytes: u64) -> Result<(), Error> {
    let path = directory.join("probe");
    let probe = || -> io::Result<()> {
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&path)?;
        allocate(&file, 0, bytes)?;
        file.write_all_at(&[0; 1 << 12], 0)
    };
    let probed = probe();
    let removed = fs::remove_file(&path);
    probed.and(removed).map_err(|source| of_io(&path, source))
}

fn check_free(found: StatVfs, bytes: u64) -> io::Result<()> {
    if found.f_bavail.saturating_mul(found.f_frsize) < bytes {
        return Err(io::ErrorKind::StorageFull.into());
    }
    Ok(())
}

//! What touches the disk: the engine under the store and the log's segments.
//! Owns bytes and their checksums; knows nothing of keys, leases or raft. The only module that names
//! sled or opens data files.

pub mod disk;
mod memory;
mod panics;
mod sled;
pub mod wal;

use std::ops::ControlFlow;

use bytes::Bytes;

pub use memory::MemoryStore;
pub use panics::are_caught_here as panics_are_caught_here;
use panics::{guarded, guarded_open};
pub use sled::{SledOptions, SledStore, VisitChange};

use crate::ids::{FullRevision, LogPosition, Revision};

/// A fault of the disk or of what stands on it. Never "not found": absence is an `Option`.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    /// Bytes that fail their checksum or their grammar. Never read as data.
    #[error("{place} is damaged: {detail}")]
    Damaged { place: String, detail: String },
    /// A whole log, but not the one that was asked for. Nothing of it was read or changed.
    #[error("the log in {path} is of {found}, and this is {expected}")]
    ForeignLog { path: String, found: wal::Owner, expected: wal::Owner },
    /// The disk is full. Nothing of the write is kept; it may be tried again.
    #[error("{path}: no space left on the device")]
    Full { path: String },
    /// Another process holds the data directory.
    #[error("{path} is in use by another process")]
    Locked { path: String },
}

/// One stored change: the value of a key at a revision, or its deletion.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredChange {
    pub at: FullRevision,
    pub tombstone: bool,
    /// The encoded `mvccpb.KeyValue`; for a tombstone only its key is set.
    pub pair: Bytes,
}

/// The small tables beside the revisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    Meta,
    Lease,
    Alarm,
    Member,
    Auth,
}

/// A change to a small table; no value removes the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableWrite {
    pub table: Table,
    pub key: Bytes,
    pub value: Option<Bytes>,
}

/// The whole change of a run of log entries, up to and including `applied`.
#[derive(Clone, Debug, Default)]
pub struct Round {
    pub applied: LogPosition,
    /// Rising in revision, above everything written before.
    pub changes: Vec<StoredChange>,
    /// In order; a later write of the same key wins.
    pub tables: Vec<TableWrite>,
}

/// Bytes of the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Files on disk.
    pub on_disk: u64,
    /// Encoded revisions and tables that are not removed.
    pub in_use: u64,
}

/// Where the state lives between starts. Writes come from one thread; reads from any, also during a write.
///
/// What a crash leaves is always the state after some whole number of rounds, at least all those before the
/// last completed `flush`.
pub trait Store: Send + Sync + 'static {
    /// The position of the newest round written (after opening: of what was recovered).
    fn applied(&self) -> LogPosition;

    /// Writes one round, atomically; durable only after `flush`.
    fn write(&self, round: &Round) -> Result<(), Error>;

    /// Makes every round written before this call durable and returns the position they reach.
    fn flush(&self) -> Result<LogPosition, Error>;

    /// The encoded pair of one change.
    fn read(&self, at: FullRevision) -> Result<Option<StoredChange>, Error>;

    /// The encoded pairs of some changes, which rise: for each what `read` finds. With `alone` no pair keeps more in memory
    /// than some times itself, whatever it stands beside.
    fn read_rising(&self, wanted: &[FullRevision], _alone: bool) -> Result<Vec<Option<Bytes>>, Error> {
        wanted.iter().map(|at| Ok(self.read(*at)?.map(|change| change.pair))).collect()
    }

    /// Visits the changes in `from..to` in rising order until told to stop.
    fn scan(
        &self,
        from: FullRevision,
        to: FullRevision,
        visit: &mut dyn FnMut(&StoredChange) -> ControlFlow<()>,
    ) -> Result<(), Error>;

    /// Everything in a small table, in key order.
    fn table(&self, table: Table) -> Result<Vec<(Bytes, Bytes)>, Error>;

    /// Removes, among the changes in `from..=through` (main revisions), those that `keep` refuses; stops after
    /// about `limit` changes looked at. Returns where to go on, or `None` when through. Restartable.
    fn retain(
        &self,
        from: FullRevision,
        through: Revision,
        limit: usize,
        keep: &mut dyn FnMut(&StoredChange) -> bool,
    ) -> Result<Option<FullRevision>, Error>;

    fn sizes(&self) -> Sizes;

    /// Makes sure of room for changes of so many bytes beside what is kept for those that make room: `write` may go on
    /// for a while when there is none.
    ///
    /// # Errors
    /// `Full` when there is none; faults of the disk.
    fn check_space(&self, bytes: u64) -> Result<(), Error>;

    /// There may soon be no room: no more should be accepted than is soon written.
    fn is_nearly_full(&self) -> bool {
        false
    }

    /// Makes a store that was begun beside another the one that a start opens, and lets go of the other's files. Does
    /// nothing for one that is that already.
    fn take_place(&self) -> Result<(), Error>;

    /// Lets go of the files of a store that was begun beside another and is not wanted. What cannot be removed now goes
    /// with the next one that is begun, or at the next start.
    fn discard(&self);

    /// Does one slice of giving space back to the file system, of at most so many rows; `true` while there is more to do.
    /// Reads and writes go on between slices.
    fn defragment(&self, rows: usize) -> Result<bool, Error>;
}

/// What a change counts for in `Sizes::in_use`: its key in etcd's storage form, and its pair.
fn change_size(change: &StoredChange) -> u64 {
    17 + change.pair.len() as u64
}

/// What a row of a small table counts for.
fn row_size(key: &[u8], value: &[u8]) -> u64 {
    (key.len() + value.len()) as u64
}

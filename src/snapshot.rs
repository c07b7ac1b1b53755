//! The whole state at one entry of the log, on its way from a member to one that the log does not reach any more.
//! Owns what is sent and how it is checked; knows neither network nor raft. `apply` is asked for a `Capture`, whose
//! pieces are read out while writes go on; the receiver puts them into a store of its own and gives `apply` what it
//! recovered from that.
//!
//! What is sent is the logical state: the changes that the compaction left, the rows of every table, nothing of how far
//! a store has come with removing. Two members at the same entry send the same but for the size that they announce.

mod export;
mod format;
mod import;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

pub use export::{Capture, Pieces};
pub use format::MAX_PIECE_BYTES;
pub use import::{Importer, Incoming, Received};

use crate::ids::{LogPosition, Revision};
use crate::mvcc::{self, Tail};
use crate::storage::{self, Store};

/// Why a state cannot be sent or taken in.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// One state is received and installed after the other.
    #[error("another state is on its way already")]
    Busy,
    /// What came is not what was sent, or not all of it. Nothing of it is kept.
    #[error("the received state is damaged: {0}")]
    Damaged(String),
    /// The receiver took so long that a compaction need not wait any more.
    #[error("the state was not taken in time")]
    Expired,
    /// What the index names is not in the store.
    #[error("the store has {found} of {named} changes of the state")]
    Incomplete { named: u64, found: u64 },
    /// A change that no receiver takes.
    #[error("a change of {bytes} bytes is too large to be sent")]
    TooLarge { bytes: usize },
    #[error(transparent)]
    Store(#[from] storage::Error),
    #[error(transparent)]
    Keyspace(#[from] mvcc::Error),
}

/// What the store's thread goes on with when a received state is installed.
pub struct Replacement {
    pub tail: Tail,
    pub position: LogPosition,
    pub compacted: Revision,
    pub compaction_is_open: bool,
    pub draft: Draft,
}

/// The store that a state comes into. There is one at a time, from the first piece until it is in its place or given up.
/// Dropped, it is given up, unless the log has decided for it: then it stays where a start finds it, and no other is begun.
pub struct Draft {
    pub store: Arc<dyn Store>,
    is_decided: AtomicBool,
    /// Shared by all drafts of an importer.
    is_taken: Arc<AtomicBool>,
}

impl Draft {
    fn begin(
        is_taken: &Arc<AtomicBool>,
        store: impl FnOnce() -> Result<Arc<dyn Store>, storage::Error>,
    ) -> Result<Self, Error> {
        if is_taken.swap(true, Ordering::AcqRel) {
            return Err(Error::Busy);
        }
        let store = store().inspect_err(|_| is_taken.store(false, Ordering::Release))?;
        Ok(Self { store, is_decided: AtomicBool::new(false), is_taken: is_taken.clone() })
    }

    /// From here on it is not given up.
    pub fn decide(&self) {
        self.is_decided.store(true, Ordering::Release);
    }

    /// Makes it the store that a start opens; then the next state may come.
    ///
    /// # Errors
    /// A fault of the disk; after `Full` it may be tried again.
    pub fn take_place(&self) -> Result<(), storage::Error> {
        self.decide();
        self.store.take_place()?;
        self.is_taken.store(false, Ordering::Release);
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.is_decided.load(Ordering::Acquire) {
            self.store.discard();
            self.is_taken.store(false, Ordering::Release);
        }
    }
}

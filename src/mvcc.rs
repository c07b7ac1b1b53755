//! The multi-version key space: an index in memory, the pairs in the store.
//! `Keyspace` writes and belongs to `apply` alone; everybody else reads through a `Reader`, which never locks
//! the writer: each batch of writes is published as one immutable view.

mod compact;
mod compare;
mod hash;
mod history;
mod keys;
mod range;
mod read;
mod recover;
mod tree;
mod txn;
mod whole;
mod write;

use bytes::Bytes;

pub use compact::Compaction;
pub use compare::{Readable, all_hold};
pub use hash::HashKv;
pub use range::{KeyRange, RangeAnswer, RangeCursor};
pub use read::{Reader, Snapshot, Tail};
pub use recover::{Attachment, Recovered, Recovery};
pub use txn::{TxnPath, range_response, read_txn};
pub use whole::{Pin, Slice};
pub use write::{Keyspace, Operations, Publication, Write};

use crate::ids::FullRevision;
use crate::storage;
use crate::wire::{EncodedKeyValue, KeyValue};

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The revision is below the compacted one.
    #[error("required revision has been compacted")]
    Compacted,
    #[error("required revision is a future revision")]
    FutureRevision,
    #[error(transparent)]
    Storage(#[from] storage::Error),
    /// A pair in the store is no `mvccpb.KeyValue`.
    #[error("the pair of revision {}.{} is damaged: {source}", at.main, at.sub)]
    DamagedPair { at: FullRevision, source: prost::DecodeError },
    /// The index names a change that the store does not have.
    #[error("the pair of revision {}.{} is missing from the store", at.main, at.sub)]
    MissingPair { at: FullRevision },
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    Put,
    Delete,
}

/// One change as watchers see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub at: FullRevision,
    pub kind: ChangeKind,
    pub key: Bytes,
    /// The new pair; for a deletion only key and mod revision are set.
    pub pair: EncodedKeyValue,
    /// The put made the key (again): there is no previous pair.
    pub created: bool,
}

impl Change {
    /// The event of a stored change.
    fn of(stored: &storage::StoredChange) -> Result<Self, Error> {
        let pair = decode(stored)?;
        if !stored.tombstone {
            let created = pair.version == 1;
            let encoded = EncodedKeyValue::from_encoded(stored.pair.clone());
            return Ok(Self { at: stored.at, kind: ChangeKind::Put, key: pair.key, pair: encoded, created });
        }
        let key = pair.key.clone();
        let deleted = KeyValue { key: pair.key, mod_revision: stored.at.main.0, ..KeyValue::default() };
        Ok(Self { at: stored.at, kind: ChangeKind::Delete, key, pair: (&deleted).into(), created: false })
    }
}

fn decode(stored: &storage::StoredChange) -> Result<KeyValue, Error> {
    prost::Message::decode(stored.pair.clone()).map_err(|source| Error::DamagedPair { at: stored.at, source })
}

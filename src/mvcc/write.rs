//! Writing: one `Write` per command, one publication per batch.
//! Owns the next revision. Called by `apply` alone, in log order.

use std::cell::Cell;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;

use super::history::Version;
use super::range::KeyRange;
use super::read::{Reader, Root, Source, View};
use super::{Change, ChangeKind, Error, RangeAnswer, Tail};
use crate::ids::{FullRevision, LeaseId, Revision};
use crate::storage::{StoredChange, Table, TableWrite};
use crate::wire::etcdserverpb::RangeRequest;
use crate::wire::{EncodedKeyValue, KeyValue};

/// Rows of the meta table.
pub(super) const REVISION: &[u8] = b"revision";
pub(super) const COMPACT_SCHEDULED: &[u8] = b"compact-scheduled";
pub(super) const COMPACT_FINISHED: &[u8] = b"compact-finished";

/// The writable key space.
pub struct Keyspace {
    pub(super) view: View,
    pub(super) shared: Arc<Root>,
    /// Changes since the last publication.
    pub(super) pending: Vec<StoredChange>,
    pub(super) changes: Vec<Change>,
    pub(super) tables: Vec<TableWrite>,
    /// Where the index is still to be pruned for the newest compaction.
    pub(super) prune_from: Option<Vec<u8>>,
    /// Since the last publication.
    pub(super) operations: Operations,
}

/// What commands asked of the key space, as etcd counts it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Operations {
    /// Ranges, compares, and previous pairs asked for.
    pub ranges: u64,
    pub puts: u64,
    /// Bytes of the keys and values put.
    pub put_bytes: u64,
    /// Deletions asked for, however many keys each deleted.
    pub deletes: u64,
    /// Commands that asked for more than one of these.
    pub txns: u64,
}

/// What a batch of commands changed.
#[derive(Debug, Default)]
pub struct Publication {
    pub revision: Revision,
    /// For the store.
    pub stored: Vec<StoredChange>,
    pub tables: Vec<TableWrite>,
    /// For watchers.
    pub changes: Vec<Change>,
    pub operations: Operations,
}

impl Keyspace {
    pub fn reader(&self) -> Reader {
        Reader { shared: self.shared.clone() }
    }

    pub fn tail(&self) -> Tail {
        self.view.pairs.tail.clone()
    }

    pub fn revision(&self) -> Revision {
        self.view.revision
    }

    pub fn compacted(&self) -> Revision {
        self.view.compacted
    }

    fn source(&self) -> Source<'_> {
        Source { view: &self.view, pending: &self.pending, shared: &self.shared }
    }

    /// Begins a command that may change data.
    pub fn write(&mut self) -> Write<'_> {
        let main = Revision(self.view.revision.0 + 1);
        Write { keyspace: self, main, next_sub: 0, asked: Operations::default(), ranges: Cell::new(0) }
    }

    /// Makes everything since the last call visible to readers at once.
    pub fn publish(&mut self) -> Publication {
        self.view.pairs.tail.append(&self.pending);
        self.shared.view.store(Arc::new(self.view.clone()));
        let mut tables = std::mem::take(&mut self.tables);
        if !self.pending.is_empty() {
            tables.push(meta(REVISION, self.view.revision));
        }
        Publication {
            revision: self.view.revision,
            stored: std::mem::take(&mut self.pending),
            tables,
            changes: std::mem::take(&mut self.changes),
            operations: std::mem::take(&mut self.operations),
        }
    }
}

/// One command at work: all its changes share one main revision. Reads see its own changes.
pub struct Write<'a> {
    keyspace: &'a mut Keyspace,
    main: Revision,
    next_sub: u32,
    /// Counted here until the command ends; its ranges apart, because reading takes no `&mut`.
    asked: Operations,
    ranges: Cell<u64>,
}

impl Write<'_> {
    /// What was asked so far counts as a command of its own: what a transaction reads to choose its branch does
    /// so in etcd.
    pub fn count_apart(&mut self) {
        let Operations { puts, put_bytes, deletes, .. } = std::mem::take(&mut self.asked);
        let ranges = self.ranges.take();
        let total = &mut self.keyspace.operations;
        total.ranges += ranges;
        total.puts += puts;
        total.put_bytes += put_bytes;
        total.deletes += deletes;
        total.txns += u64::from(ranges + puts + deletes > 1);
    }

    fn count_range(&self) {
        self.ranges.set(self.ranges.get() + 1);
    }

    /// The revision that reads inside the command see, and that its answers carry.
    pub fn revision(&self) -> Revision {
        self.keyspace.view.revision
    }

    pub fn compacted(&self) -> Revision {
        self.keyspace.view.compacted
    }

    /// # Errors
    /// `Compacted`, `FutureRevision`, a fault of the disk.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeAnswer, Error> {
        self.count_range();
        self.keyspace.source().range(request)
    }

    /// The newest pair of `key`, if it exists.
    ///
    /// # Errors
    /// A fault of the disk.
    pub fn get(&self, key: &[u8]) -> Result<Option<EncodedKeyValue>, Error> {
        self.count_range();
        let Some(version) = self.version(key) else {
            return Ok(None);
        };
        Ok(Some(EncodedKeyValue::from_encoded(self.keyspace.source().pair(version.modified)?)))
    }

    /// Every existing key of the range decoded, in order. With `values` unset only what the index knows is
    /// filled in (no value, no lease).
    ///
    /// # Errors
    /// A fault of the disk.
    pub fn pairs(&self, range: &KeyRange, values: bool) -> Result<Vec<KeyValue>, Error> {
        self.count_range();
        self.keyspace.source().key_values(range, values)
    }

    /// # Errors
    /// When the stored bytes are no pair.
    pub fn decode(&self, pair: &EncodedKeyValue) -> Result<KeyValue, Error> {
        pair.decode()
            .map_err(|source| Error::DamagedPair { at: FullRevision::start_of(self.revision()), source })
    }

    pub fn exists(&self, key: &[u8]) -> bool {
        self.version(key).is_some()
    }

    fn version(&self, key: &[u8]) -> Option<Version> {
        let history = self.keyspace.view.tree.get(key)?;
        (!history.newest.is_tombstone()).then_some(history.newest)
    }

    pub fn put(&mut self, key: Bytes, value: Bytes, lease: LeaseId) {
        self.asked.puts += 1;
        self.asked.put_bytes += (key.len() + value.len()) as u64;
        let modified = self.next_change();
        let version = match self.version(&key) {
            Some(before) => Version { modified, created: before.created, version: before.version + 1 },
            None => Version { modified, created: self.main, version: 1 },
        };
        let pair = KeyValue {
            key: key.clone(),
            create_revision: version.created.0,
            mod_revision: self.main.0,
            version: version.version,
            value,
            lease: lease.0,
        };
        let encoded: Bytes = pair.encode_to_vec().into();
        self.keyspace.view.tree.push(&key, version);
        self.keyspace.pending.push(StoredChange { at: modified, tombstone: false, pair: encoded.clone() });
        self.keyspace.changes.push(Change {
            at: modified,
            kind: ChangeKind::Put,
            key,
            pair: EncodedKeyValue::from_encoded(encoded),
            created: version.version == 1,
        });
    }

    /// Deletes what exists of the range and returns its keys, in order.
    pub fn delete_range(&mut self, range: &KeyRange) -> Vec<Bytes> {
        self.asked.deletes += 1;
        let source = self.keyspace.source();
        let rows = source.rows(range, self.revision(), usize::MAX);
        let keys: Vec<_> = rows.into_iter().map(|(key, _)| Bytes::copy_from_slice(key)).collect();
        for key in &keys {
            self.delete(key.clone());
        }
        keys
    }

    /// Deletes a key that exists.
    fn delete(&mut self, key: Bytes) {
        let at = self.next_change();
        let stored = KeyValue { key: key.clone(), ..KeyValue::default() };
        let seen = KeyValue { key: key.clone(), mod_revision: at.main.0, ..KeyValue::default() };
        self.keyspace.view.tree.push(&key, Version::tombstone(at));
        let pair = stored.encode_to_vec().into();
        self.keyspace.pending.push(StoredChange { at, tombstone: true, pair });
        let pair = (&seen).into();
        self.keyspace.changes.push(Change { at, kind: ChangeKind::Delete, key, pair, created: false });
    }

    /// The first change moves the revision; each takes the next place in it.
    fn next_change(&mut self) -> FullRevision {
        self.keyspace.view.revision = self.main;
        let at = FullRevision { main: self.main, sub: self.next_sub };
        self.next_sub = self.next_sub.checked_add(1).expect("a command changes fewer than 2^32 keys");
        at
    }
}

impl Drop for Write<'_> {
    fn drop(&mut self) {
        self.count_apart();
    }
}

pub(super) fn meta(row: &'static [u8], revision: Revision) -> TableWrite {
    let value = Bytes::copy_from_slice(&revision.0.to_be_bytes());
    TableWrite { table: Table::Meta, key: Bytes::from_static(row), value: Some(value) }
}

//! Start: the index from one sequential scan of the store.
//! Owns nothing afterwards.

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;

use super::history::Version;
use super::read::{Pairs, Root, Shared, Tail, View};
use super::tree::Tree;
use super::write::{COMPACT_FINISHED, COMPACT_SCHEDULED, Keyspace, Operations, REVISION};
use super::{Error, decode};
use crate::ids::{FullRevision, LeaseId, Revision};
use crate::storage::{self, Store, StoredChange, Table};
use crate::wire::KeyValue;

/// No store comes so far: the next revisions can always be counted.
const MAX_REVISION: i64 = 1 << 62;

/// A key of a lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attachment {
    pub key: Bytes,
    pub lease: LeaseId,
}

/// What a store held.
pub struct Recovered {
    pub keyspace: Keyspace,
    /// Every live key that has a lease.
    pub attachments: Vec<Attachment>,
    /// A compaction was scheduled and not finished.
    pub compaction_is_open: bool,
}

impl Keyspace {
    /// Opens the key space over a store; an empty one is at revision 1.
    ///
    /// # Errors
    /// Faults of the disk, damaged pairs.
    pub fn recover(store: Arc<dyn Store>) -> Result<Recovered, Error> {
        let mut recovery = Recovery::default();
        let end = FullRevision::start_of(Revision(revision_of(&meta_of(&*store)?)?.0 + 1));
        store.scan(FullRevision::default(), end, &mut |stored| {
            recovery.add(stored);
            if recovery.failed.is_none() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        recovery.finish(store)
    }
}

/// The index of a key space as it comes about from a store's changes.
#[derive(Default)]
pub struct Recovery {
    tree: Tree,
    leases: HashMap<Bytes, LeaseId>,
    last: FullRevision,
    failed: Option<Error>,
}

impl Recovery {
    /// The next change, in order. What is wrong with it, `finish` says.
    pub fn add(&mut self, stored: &StoredChange) {
        if self.failed.is_none() {
            self.failed = self.try_add(stored).err();
        }
    }

    fn try_add(&mut self, stored: &StoredChange) -> Result<(), Error> {
        let pair = decode(stored)?;
        check(stored, &pair)?;
        self.last = stored.at;
        if stored.tombstone {
            self.tree.push(&pair.key, Version::tombstone(stored.at));
            self.leases.remove(&pair.key);
            return Ok(());
        }
        let created = Revision(pair.create_revision);
        self.tree.push(&pair.key, Version { modified: stored.at, created, version: pair.version });
        if pair.lease == 0 {
            self.leases.remove(&pair.key);
        } else {
            // A copy: a slice would keep the whole block of the store in memory.
            self.leases.insert(Bytes::copy_from_slice(&pair.key), LeaseId(pair.lease));
        }
        Ok(())
    }

    /// The key space, when every change of the store has been added.
    ///
    /// # Errors
    /// Faults of the disk, damaged pairs.
    pub fn finish(self, store: Arc<dyn Store>) -> Result<Recovered, Error> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        let meta = meta_of(&*store)?;
        let scheduled = revision_row(&meta, COMPACT_SCHEDULED)?;
        let finished = revision_row(&meta, COMPACT_FINISHED)?;
        let revision = revision_of(&meta)?;
        let compacted = scheduled.unwrap_or(Revision(-1));
        let last = self.last.main;
        for (named, what) in [(compacted, "compacted"), (last, "changed")] {
            if named > revision {
                let detail = format!("{what} at {named}, but only at revision {revision}");
                return Err(storage::Error::Damaged { place: "the meta table".to_owned(), detail }.into());
            }
        }
        let pairs = Arc::new(Pairs { tail: Tail::default(), store });
        let view = View { revision, compacted, tree: self.tree, pairs };
        let shared = Shared { view: ArcSwap::from_pointee(view.clone()), pins: Arc::default() };
        let keyspace = Keyspace {
            prune_from: scheduled.map(|_| Vec::new()),
            view,
            shared: Arc::new(Root::new(shared)),
            pending: Vec::new(),
            changes: Vec::new(),
            tables: Vec::new(),
            operations: Operations::default(),
        };
        let leases = self.leases.into_iter();
        let mut attachments: Vec<_> = leases.map(|(key, lease)| Attachment { key, lease }).collect();
        attachments.sort_by(|left, right| left.key.cmp(&right.key));
        Ok(Recovered { keyspace, attachments, compaction_is_open: scheduled > finished })
    }
}

/// A pair is of the revision that it stands at, and its counts are ones that a key can have there.
fn check(stored: &StoredChange, pair: &KeyValue) -> Result<(), Error> {
    let main = stored.at.main.0;
    let fits = stored.tombstone
        || (pair.mod_revision == main
            && (1..=main).contains(&pair.create_revision)
            && (1..=main).contains(&pair.version));
    if fits {
        return Ok(());
    }
    let detail = "it is of another revision".to_owned();
    let place = format!("the pair of revision {main}.{}", stored.at.sub);
    Err(storage::Error::Damaged { place, detail }.into())
}

fn meta_of(store: &dyn Store) -> Result<HashMap<Bytes, Bytes>, Error> {
    Ok(store.table(Table::Meta)?.into_iter().collect())
}

/// The newest of all changes.
fn revision_of(meta: &HashMap<Bytes, Bytes>) -> Result<Revision, Error> {
    Ok(revision_row(meta, REVISION)?.unwrap_or(Revision(1)))
}

fn revision_row(meta: &HashMap<Bytes, Bytes>, row: &'static [u8]) -> Result<Option<Revision>, Error> {
    let Some(value) = meta.get(row) else {
        return Ok(None);
    };
    let bytes: [u8; 8] = value.as_ref().try_into().map_err(|source: std::array::TryFromSliceError| {
        storage::Error::Damaged {
            place: format!("meta row {}", String::from_utf8_lossy(row)),
            detail: source.to_string(),
        }
    })?;
    let revision = i64::from_be_bytes(bytes);
    if !(0..MAX_REVISION).contains(&revision) {
        let place = format!("meta row {}", String::from_utf8_lossy(row));
        return Err(storage::Error::Damaged { place, detail: format!("{revision} is no revision") }.into());
    }
    Ok(Some(Revision(revision)))
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::ids::{LogIndex, LogPosition, Term};
    use crate::storage::{MemoryStore, Round, TableWrite};

    /// The engine was asked for a whole round and has kept its changes without its meta row.
    #[test]
    fn changes_beyond_the_revision_of_the_store_are_damage() {
        let change = |revision: i64| {
            let pair = KeyValue {
                key: "key".into(),
                create_revision: 2,
                mod_revision: revision,
                version: revision - 1,
                ..KeyValue::default()
            };
            let at = FullRevision::new(revision, 0);
            StoredChange { at, tombstone: false, pair: pair.encode_to_vec().into() }
        };
        let write = |changes: Vec<StoredChange>, revision: i64| {
            let value = Some(Bytes::copy_from_slice(&revision.to_be_bytes()));
            let tables = vec![TableWrite { table: Table::Meta, key: Bytes::from_static(REVISION), value }];
            let store = Arc::new(MemoryStore::new());
            let applied = LogPosition { index: LogIndex(1), term: Term(1) };
            store.write(&Round { applied, changes: changes.clone(), tables }).expect("written");
            let mut recovery = Recovery::default();
            changes.iter().for_each(|change| recovery.add(change));
            recovery.finish(store)
        };
        let right = write(vec![change(2), change(3)], 3).expect("recovered");
        assert_eq!(right.keyspace.revision(), Revision(3));
        let wrong = write(vec![change(2), change(3)], 2).err().expect("refused");
        assert!(wrong.to_string().contains("changed at 3, but only at revision 2"), "{wrong}");
    }
}

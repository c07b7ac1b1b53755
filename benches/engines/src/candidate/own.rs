//! Decklog's own store, through the interface that the server uses.

use std::ops::ControlFlow;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use decklog::ids::{FullRevision, LogIndex, LogPosition, Revision, Term};
use decklog::storage::{self, SledOptions, SledStore, Store, StoredChange, Table, TableWrite};

use super::{COMPACTION_CHANGES, Candidate, Failure};
use crate::workload::{self, Round};

/// sled lets go of its lock some time after its last handle is dropped.
const LOCK_PATIENCE: Duration = Duration::from_secs(20);

pub struct Own(SledStore);

impl Own {
    pub fn open(directory: &Path) -> Result<Self, Failure> {
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match SledStore::open(&directory.join("store"), &SledOptions::default()) {
                Err(storage::Error::Locked { .. }) if Instant::now() < deadline => std::thread::yield_now(),
                opened => return Ok(Self(opened?)),
            }
        }
    }
}

fn at(revision: u64) -> FullRevision {
    FullRevision::new(i64::try_from(revision).expect("revisions are small"), 0)
}

fn revision_of(change: &StoredChange) -> u64 {
    u64::try_from(change.at.main.0).expect("revisions are positive")
}

impl Candidate for Own {
    fn applied(&self) -> u64 {
        self.0.applied().index.0
    }

    fn write(&self, round: &Round) -> Result<(), Failure> {
        let changes = round.changes.iter().map(|change| StoredChange {
            at: at(change.revision),
            tombstone: false,
            pair: change.value.clone(),
        });
        let tables = round.slot.iter().map(|slot| TableWrite {
            table: Table::Meta,
            key: Bytes::copy_from_slice(&[*slot]),
            value: Some(Bytes::copy_from_slice(&round.applied.to_be_bytes())),
        });
        Ok(self.0.write(&storage::Round {
            applied: LogPosition { index: LogIndex(round.applied), term: Term(1) },
            changes: changes.collect(),
            tables: tables.collect(),
        })?)
    }

    fn flush(&self) -> Result<u64, Failure> {
        Ok(self.0.flush()?.index.0)
    }

    fn read(&self, revision: u64) -> Result<Option<Bytes>, Failure> {
        Ok(self.0.read(at(revision))?.map(|change| change.pair))
    }

    fn scan(&self, visit: &mut dyn FnMut(u64, &[u8])) -> Result<(), Failure> {
        Ok(self.0.scan(at(0), FullRevision::new(i64::MAX, 0), &mut |change| {
            visit(revision_of(change), &change.pair);
            ControlFlow::Continue(())
        })?)
    }

    fn slots(&self) -> Result<Vec<(u8, u64)>, Failure> {
        let mut slots = Vec::new();
        for (key, value) in self.0.table(Table::Meta)? {
            slots.push((key[0], u64::from_be_bytes(value.as_ref().try_into()?)));
        }
        Ok(slots)
    }

    fn compact(&self, from: u64, through: u64) -> Result<Option<u64>, Failure> {
        let mut keep = |change: &StoredChange| workload::is_kept(revision_of(change));
        let through = Revision(i64::try_from(through)?);
        let next = self.0.retain(at(from), through, COMPACTION_CHANGES, &mut keep)?;
        Ok(next.map(|next| u64::try_from(next.main.0)).transpose()?)
    }

    fn defragment(&self) -> Result<(), Failure> {
        while self.0.defragment(64)? {}
        Ok(())
    }
}

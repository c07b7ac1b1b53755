//! The plain form: a row per revision.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use super::rows::{self, Op, Rows};
use super::{COMPACTION_CHANGES, Candidate, Failure};
use crate::workload::{self, Round};

const PREFIX: u8 = b'r';

pub struct Plain<R> {
    rows: R,
    applied: AtomicU64,
}

impl<R: Rows> Plain<R> {
    pub fn open(rows: R) -> Result<Self, Failure> {
        let applied = AtomicU64::new(rows::applied(&rows)?);
        Ok(Self { rows, applied })
    }
}

/// A table's prefix, then the key in etcd's form.
fn key(revision: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(18);
    key.push(PREFIX);
    key.extend(revision.to_be_bytes());
    key.push(b'_');
    key.extend(0_u64.to_be_bytes());
    key
}

/// `None` for a row of another table.
fn revision(key: &[u8]) -> Option<u64> {
    let bytes = key.strip_prefix(&[PREFIX])?.first_chunk()?;
    Some(u64::from_be_bytes(*bytes))
}

impl<R: Rows> Candidate for Plain<R> {
    fn applied(&self) -> u64 {
        self.applied.load(Ordering::Acquire)
    }

    fn write(&self, round: &Round) -> Result<(), Failure> {
        let changes = round.changes.iter().map(|change| Op::Put(key(change.revision), change.value.to_vec()));
        self.rows.apply(changes.chain(rows::side_rows(round)).collect())?;
        self.applied.store(round.applied, Ordering::Release);
        Ok(())
    }

    fn flush(&self) -> Result<u64, Failure> {
        let applied = self.applied();
        self.rows.flush()?;
        Ok(applied)
    }

    fn read(&self, revision: u64) -> Result<Option<Bytes>, Failure> {
        Ok(self.rows.get(&key(revision))?.map(Bytes::from))
    }

    fn scan(&self, visit: &mut dyn FnMut(u64, &[u8])) -> Result<(), Failure> {
        self.rows.scan(&[PREFIX], &mut |key, value| match revision(key) {
            Some(revision) => {
                visit(revision, value);
                true
            }
            None => false,
        })
    }

    fn slots(&self) -> Result<Vec<(u8, u64)>, Failure> {
        rows::slots(&self.rows)
    }

    fn compact(&self, from: u64, through: u64) -> Result<Option<u64>, Failure> {
        let (mut ops, mut looked_at, mut next) = (Vec::new(), 0, None);
        self.rows.scan(&key(from), &mut |key, _| {
            let Some(revision) = revision(key).filter(|revision| *revision <= through) else {
                return false;
            };
            if looked_at == COMPACTION_CHANGES {
                next = Some(revision);
                return false;
            }
            looked_at += 1;
            if !workload::is_kept(revision) {
                ops.push(Op::Remove(key.to_vec()));
            }
            true
        })?;
        self.rows.apply(ops)?;
        Ok(next)
    }

    fn defragment(&self) -> Result<(), Failure> {
        self.rows.give_back()
    }
}

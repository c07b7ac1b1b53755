//! The form in blocks: revisions packed into rows of about 16 KiB, as Decklog's store does it over sled 0.34.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard};

use bytes::{Buf, BufMut, Bytes};

use super::rows::{self, Op, Rows};
use super::{COMPACTION_CHANGES, Candidate, Failure};
use crate::workload::{self, Change, Round};

const BLOCK_BYTES: usize = 16 << 10;
const CHANGE_BYTES: usize = 12;
const PREFIX: u8 = b'b';

pub struct Blocks<R> {
    rows: R,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    applied: u64,
    /// First revisions of the blocks.
    index: BTreeSet<u64>,
    /// The newest block while it is not full: written again with each round.
    open: Vec<Change>,
    open_bytes: usize,
}

fn key(first: u64) -> Vec<u8> {
    let mut key = vec![PREFIX];
    key.put_u64(first);
    key
}

fn size(change: &Change) -> usize {
    CHANGE_BYTES + change.value.len()
}

fn put(changes: &[Change]) -> Option<Op> {
    let first = changes.first()?.revision;
    let mut row = Vec::with_capacity(4 + changes.iter().map(size).sum::<usize>());
    row.put_u32(0);
    for change in changes {
        row.put_u64(change.revision);
        row.put_u32(u32::try_from(change.value.len()).expect("values are small"));
        row.put_slice(&change.value);
    }
    let sum = crc32c::crc32c(&row[4..]);
    row[..4].copy_from_slice(&sum.to_be_bytes());
    Some(Op::Put(key(first), row))
}

fn decode(row: Vec<u8>) -> Result<Vec<Change>, Failure> {
    let mut row = Bytes::from(row);
    if row.len() < 4 || row.get_u32() != crc32c::crc32c(&row) {
        return Err("a block's checksum is wrong".into());
    }
    let mut changes = Vec::new();
    while row.has_remaining() {
        let (revision, length) = (row.get_u64(), row.get_u32());
        changes.push(Change { revision, value: row.split_to(length as usize) });
    }
    Ok(changes)
}

/// Cuts changes into blocks of full size.
fn pack(changes: &[Change], ops: &mut Vec<Op>, index: &mut BTreeSet<u64>) {
    let (mut start, mut bytes) = (0, 0);
    for (place, change) in changes.iter().enumerate() {
        if bytes >= BLOCK_BYTES {
            index.insert(changes[start].revision);
            ops.extend(put(&changes[start..place]));
            (start, bytes) = (place, 0);
        }
        bytes += size(change);
    }
    index.extend(changes[start..].first().map(|first| first.revision));
    ops.extend(put(&changes[start..]));
}

impl<R: Rows> Blocks<R> {
    pub fn open(rows: R) -> Result<Self, Failure> {
        let mut state = State { applied: rows::applied(&rows)?, ..State::default() };
        rows.scan(&[PREFIX], &mut |key, _| {
            let first = key.strip_prefix(&[PREFIX]).and_then(|key| key.first_chunk());
            state.index.extend(first.map(|first| u64::from_be_bytes(*first)));
            first.is_some()
        })?;
        Ok(Self { rows, state: Mutex::new(state) })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    fn load(&self, first: u64) -> Result<Vec<Change>, Failure> {
        decode(self.rows.get(&key(first))?.ok_or("a block is missing")?)
    }
}

impl<R: Rows> Candidate for Blocks<R> {
    fn applied(&self) -> u64 {
        self.state().applied
    }

    fn write(&self, round: &Round) -> Result<(), Failure> {
        let state = &mut *self.state();
        let mut ops: Vec<Op> = rows::side_rows(round).collect();
        for change in &round.changes {
            if state.open_bytes >= BLOCK_BYTES {
                ops.extend(put(&state.open));
                state.open.clear();
                state.open_bytes = 0;
            }
            if state.open.is_empty() {
                state.index.insert(change.revision);
            }
            state.open_bytes += size(change);
            state.open.push(change.clone());
        }
        ops.extend(put(&state.open));
        self.rows.apply(ops)?;
        state.applied = round.applied;
        Ok(())
    }

    fn flush(&self) -> Result<u64, Failure> {
        let applied = self.applied();
        self.rows.flush()?;
        Ok(applied)
    }

    fn read(&self, revision: u64) -> Result<Option<Bytes>, Failure> {
        let Some(first) = self.state().index.range(..=revision).next_back().copied() else {
            return Ok(None);
        };
        let mut changes = self.load(first)?;
        let found = changes.binary_search_by_key(&revision, |change| change.revision);
        Ok(found.ok().map(|place| changes.swap_remove(place).value))
    }

    fn scan(&self, visit: &mut dyn FnMut(u64, &[u8])) -> Result<(), Failure> {
        let mut bad = None;
        self.rows.scan(&[PREFIX], &mut |key, row| {
            if key[0] != PREFIX {
                return false;
            }
            match decode(row.to_vec()) {
                Ok(changes) => changes.iter().for_each(|change| visit(change.revision, &change.value)),
                Err(error) => bad = Some(error),
            }
            bad.is_none()
        })?;
        bad.map_or(Ok(()), Err)
    }

    fn slots(&self) -> Result<Vec<(u8, u64)>, Failure> {
        rows::slots(&self.rows)
    }

    fn compact(&self, from: u64, through: u64) -> Result<Option<u64>, Failure> {
        let state = &mut *self.state();
        state.open.clear();
        state.open_bytes = 0;
        let start = state.index.range(..=from).next_back().copied().unwrap_or(from);
        let firsts: Vec<u64> = state.index.range(start..=through).copied().collect();
        let (mut ops, mut kept, mut looked_at, mut next) = (Vec::new(), Vec::new(), 0, None);
        for first in firsts {
            if looked_at >= COMPACTION_CHANGES {
                next = Some(first);
                break;
            }
            let changes = self.load(first)?;
            looked_at += changes.len();
            ops.push(Op::Remove(key(first)));
            state.index.remove(&first);
            let keeps = |change: &Change| change.revision > through || workload::is_kept(change.revision);
            kept.extend(changes.into_iter().filter(keeps));
        }
        pack(&kept, &mut ops, &mut state.index);
        self.rows.apply(ops)?;
        Ok(next)
    }

    fn defragment(&self) -> Result<(), Failure> {
        self.rows.give_back()
    }
}

//! An engine as an ordered map of rows: what the forms `plain` and `blocks` stand on.

use super::Failure;
use crate::workload::Round;

/// A row to put or to remove.
pub enum Op {
    Put(Vec<u8>, Vec<u8>),
    Remove(Vec<u8>),
}

pub trait Rows: Send + Sync {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Failure>;

    /// Visits rows from a key on until told to stop by `false`.
    fn scan(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), Failure>;

    /// All of it or nothing.
    fn apply(&self, ops: Vec<Op>) -> Result<(), Failure>;

    fn flush(&self) -> Result<(), Failure>;

    /// Gives space back, as far as the engine can.
    fn give_back(&self) -> Result<(), Failure>;
}

/// The row that says which round the state stands for.
const APPLIED: &[u8] = b"a";
const SLOT_PREFIX: u8 = b's';

/// Rows of a round besides its changes.
pub fn side_rows(round: &Round) -> impl Iterator<Item = Op> {
    let applied = round.applied.to_be_bytes().to_vec();
    let slot = round.slot.map(|slot| Op::Put(vec![SLOT_PREFIX, slot], applied.clone()));
    slot.into_iter().chain([Op::Put(APPLIED.to_vec(), applied)])
}

pub fn applied(rows: &dyn Rows) -> Result<u64, Failure> {
    match rows.get(APPLIED)? {
        Some(row) => number(&row),
        None => Ok(0),
    }
}

pub fn slots(rows: &dyn Rows) -> Result<Vec<(u8, u64)>, Failure> {
    let (mut slots, mut bad) = (Vec::new(), None);
    rows.scan(&[SLOT_PREFIX], &mut |key, value| {
        match number(value) {
            Ok(value) if key[0] == SLOT_PREFIX => slots.push((key[1], value)),
            Ok(_) => return false,
            Err(error) => bad = Some(error),
        }
        bad.is_none()
    })?;
    bad.map_or(Ok(slots), Err)
}

fn number(value: &[u8]) -> Result<u64, Failure> {
    Ok(u64::from_be_bytes(value.try_into()?))
}

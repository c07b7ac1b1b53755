//! Keys and values of rows. Every value begins with a CRC32C of the rest.

use bytes::{Buf, BufMut, Bytes};

use super::super::{Error, Table};
use crate::ids::{FullRevision, LogIndex, LogPosition, Revision, Term};

pub(super) const BLOCK_PREFIX: &[u8] = b"b";
const CHUNK_PREFIX: u8 = b'c';
const TABLE_PREFIX: u8 = b't';
/// The row that says which entry the state stands for.
pub(super) const APPLIED: &[u8] = b"a";
pub(super) const CHECKSUM_BYTES: usize = 4;

/// What stands in the row `APPLIED`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Applied {
    pub position: LogPosition,
    pub in_use: u64,
}

pub(super) fn block_key(first: FullRevision) -> Vec<u8> {
    revision_key(BLOCK_PREFIX[0], first)
}

pub(super) fn chunk_key(at: FullRevision, number: u32) -> Vec<u8> {
    let mut key = revision_key(CHUNK_PREFIX, at);
    key.put_u32(number);
    key
}

fn revision_key(prefix: u8, at: FullRevision) -> Vec<u8> {
    let mut key = Vec::with_capacity(17);
    key.put_u8(prefix);
    key.put_i64(at.main.0);
    key.put_u32(at.sub);
    key
}

pub(super) fn table_key(table: Table, key: &[u8]) -> Vec<u8> {
    let number = match table {
        Table::Meta => 0,
        Table::Lease => 1,
        Table::Alarm => 2,
        Table::Member => 3,
        Table::Auth => 4,
    };
    [&[TABLE_PREFIX, number], key].concat()
}

/// # Errors
/// `Damaged` for a key that `block_key` did not make.
pub(super) fn block_first(mut key: &[u8]) -> Result<FullRevision, Error> {
    if key.len() != 13 {
        return Err(damaged("the index of blocks".to_owned(), "a key has a wrong length"));
    }
    key.advance(1);
    Ok(FullRevision { main: Revision(key.get_i64()), sub: key.get_u32() })
}

pub(super) fn with_checksum(value: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(CHECKSUM_BYTES + value.len());
    row.put_u32_le(crc32c::crc32c(value));
    row.put_slice(value);
    row
}

/// Fills in the checksum of a row whose first bytes were left for it.
pub(super) fn set_checksum(row: &mut [u8]) {
    let sum = crc32c::crc32c(&row[CHECKSUM_BYTES..]);
    row[..CHECKSUM_BYTES].copy_from_slice(&sum.to_le_bytes());
}

/// A row's value, copied.
///
/// # Errors
/// `Damaged` when it is not what was written.
pub(super) fn checked(row: &[u8], place: impl FnOnce() -> String) -> Result<Bytes, Error> {
    match row.split_first_chunk::<CHECKSUM_BYTES>() {
        Some((sum, value)) if u32::from_le_bytes(*sum) == crc32c::crc32c(value) => {
            Ok(Bytes::copy_from_slice(value))
        }
        _ => Err(damaged(place(), "its checksum is wrong")),
    }
}

pub(super) fn encode_applied(applied: Applied) -> Vec<u8> {
    let mut value = Vec::with_capacity(24);
    value.put_u64(applied.position.index.0);
    value.put_u64(applied.position.term.0);
    value.put_u64(applied.in_use);
    with_checksum(&value)
}

/// # Errors
/// `Damaged` when it is not what was written.
pub(super) fn decode_applied(row: &[u8]) -> Result<Applied, Error> {
    let place = "the row of the applied entry".to_owned();
    let mut value = checked(row, || place.clone())?;
    if value.len() != 24 {
        return Err(damaged(place, "it has a wrong length"));
    }
    let position = LogPosition { index: LogIndex(value.get_u64()), term: Term(value.get_u64()) };
    if position.index.0.max(position.term.0) > i64::MAX as u64 {
        return Err(damaged(place, "no log comes so far"));
    }
    Ok(Applied { position, in_use: value.get_u64() })
}

fn damaged(place: String, detail: &str) -> Error {
    Error::Damaged { place, detail: detail.to_owned() }
}

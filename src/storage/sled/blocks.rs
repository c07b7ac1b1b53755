//! Blocks: runs of changes in one row. Decoding is total; a block is verified once, when it is loaded.
//!
//! ```text
//! checksum u32 | count u32 | changes (main i64, sub u32, flags u8, length u32, pair)
//! ```
//! Little endian. A pair above `CHUNK_BYTES` stands in rows of its own; the block then has its length alone.

use bytes::{Buf, BufMut, Bytes};

use super::super::{Error, StoredChange};
use super::rows;
use crate::ids::{FullRevision, Revision};

/// A block that has reached this size is full.
pub(super) const BLOCK_BYTES: usize = 16 << 10;
/// A pair above this size goes in chunks of it.
pub(super) const CHUNK_BYTES: usize = 32 << 10;

const CHANGE_BYTES: usize = 17;
const TOMBSTONE: u8 = 1;
const CHUNKED: u8 = 2;

/// A decoded block: places of its changes in its bytes.
pub(super) struct Block {
    data: Bytes,
    changes: Vec<Entry>,
}

struct Entry {
    at: FullRevision,
    tombstone: bool,
    /// Of the pair: where it begins, and its length; with `chunked` it stands elsewhere.
    start: u32,
    length: u32,
    chunked: bool,
}

/// Bytes that a change takes in a block.
pub(super) fn encoded_len(change: &StoredChange) -> usize {
    let inline = if change.pair.len() > CHUNK_BYTES { 0 } else { change.pair.len() };
    CHANGE_BYTES + inline
}

/// The chunks of a large pair with their numbers; none for another.
pub(super) fn chunks(change: &StoredChange) -> impl Iterator<Item = (u32, &[u8])> {
    let chunked: &[u8] = if change.pair.len() > CHUNK_BYTES { &change.pair } else { &[] };
    (0..).zip(chunked.chunks(CHUNK_BYTES))
}

/// The row of a block.
pub(super) fn encode(changes: &[StoredChange]) -> Vec<u8> {
    let bytes: usize = changes.iter().map(encoded_len).sum();
    let mut out = Vec::with_capacity(rows::CHECKSUM_BYTES + 4 + bytes);
    out.put_u32_le(0);
    out.put_u32_le(u32::try_from(changes.len()).expect("a block is small"));
    for change in changes {
        let chunked = change.pair.len() > CHUNK_BYTES;
        out.put_i64_le(change.at.main.0);
        out.put_u32_le(change.at.sub);
        out.put_u8(if change.tombstone { TOMBSTONE } else { 0 } | if chunked { CHUNKED } else { 0 });
        out.put_u32_le(u32::try_from(change.pair.len()).expect("a request is below 4 GiB"));
        if !chunked {
            out.put_slice(&change.pair);
        }
    }
    rows::set_checksum(&mut out);
    out
}

impl Block {
    /// # Errors
    /// `Damaged` for anything that `encode` did not make for this first revision.
    pub fn decode(first: FullRevision, row: &[u8]) -> Result<Self, Error> {
        let damaged = |detail: &str| Error::Damaged {
            place: format!("the block of revision {}.{}", first.main, first.sub),
            detail: detail.to_owned(),
        };
        let data = rows::checked(row, || format!("the block of revision {}.{}", first.main, first.sub))?;
        let changes = Self::entries(&data).ok_or_else(|| damaged("its changes do not fill it"))?;
        let rising = changes.windows(2).all(|pair| pair[0].at < pair[1].at);
        if !rising || changes.first().is_none_or(|change| change.at != first) {
            return Err(damaged("its revisions are out of order"));
        }
        Ok(Self { data, changes })
    }

    fn entries(data: &Bytes) -> Option<Vec<Entry>> {
        let mut rest = data.as_ref();
        let count = rest.try_get_u32_le().ok()? as usize;
        if count > rest.len() / CHANGE_BYTES {
            return None;
        }
        let mut changes = Vec::with_capacity(count);
        for _ in 0..count {
            let main = rest.try_get_i64_le().ok()?;
            let sub = rest.try_get_u32_le().ok()?;
            let flags = rest.try_get_u8().ok()?;
            let length = rest.try_get_u32_le().ok()?;
            let start = u32::try_from(data.len() - rest.len()).ok()?;
            let chunked = flags & CHUNKED != 0;
            let has_place = (0..i64::MAX).contains(&main);
            if !has_place || flags & !(TOMBSTONE | CHUNKED) != 0 {
                return None;
            }
            if !chunked {
                rest = rest.get(length as usize..)?;
            }
            let at = FullRevision { main: Revision(main), sub };
            changes.push(Entry { at, tombstone: flags & TOMBSTONE != 0, start, length, chunked });
        }
        rest.is_empty().then_some(changes)
    }

    pub fn len(&self) -> usize {
        self.changes.len()
    }

    /// Bytes of its row.
    pub fn len_bytes(&self) -> usize {
        self.data.len()
    }

    /// Bytes of memory, about.
    pub fn memory(&self) -> usize {
        self.data.len() + self.changes.len() * size_of::<Entry>() + 128
    }

    pub fn first(&self) -> FullRevision {
        self.changes.first().expect("a block is never empty").at
    }

    pub fn last(&self) -> FullRevision {
        self.changes.last().expect("a block is never empty").at
    }

    /// Whether a change at `at` would stand in it.
    pub fn covers(&self, at: FullRevision) -> bool {
        at <= self.last()
    }

    pub fn find(&self, at: FullRevision) -> Option<usize> {
        self.changes.binary_search_by(|change| change.at.cmp(&at)).ok()
    }

    /// Bytes of the pair in a place, as far as it stands in the block.
    pub fn pair_bytes(&self, place: usize) -> usize {
        let Entry { length, chunked, .. } = self.changes[place];
        if chunked { 0 } else { length as usize }
    }

    /// Places of the changes at and after `at`.
    pub fn places_from(&self, at: FullRevision) -> std::ops::Range<usize> {
        self.changes.partition_point(|change| change.at < at)..self.changes.len()
    }

    /// A change; of a chunked one the pair is missing and its length is given.
    pub fn change(&self, place: usize) -> (StoredChange, usize) {
        let Entry { at, tombstone, start, length, chunked } = self.changes[place];
        let (start, length) = (start as usize, length as usize);
        if chunked {
            return (StoredChange { at, tombstone, pair: Bytes::new() }, length);
        }
        (StoredChange { at, tombstone, pair: self.data.slice(start..start + length) }, 0)
    }
}

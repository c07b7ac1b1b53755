//! Records of the log: a header with its own checksum, then the payload. The first of a segment is its head, which
//! says whose log it is. Decoding is total: any bytes give a record, the end, or "no record".
//!
//! ```text
//! header   length u32 | payload checksum u32 | flushed u32 | header checksum u32
//! head     cluster u64 | member u64 | hard state (term, vote, commit: u64)
//! payload  hard state (term, vote, commit: u64) | count u32 | entries (index u64, term u64, kind u8, length u32, data)
//! ```
//! Numbers are little endian. Both checksums are CRC32C over the segment's id, the record's offset and what they
//! cover: a record of another segment, or from another place, is no record. Records begin at multiples of 8.

use bytes::{Buf, BufMut, Bytes};

use super::{HardState, Owner, WalEntry};
use crate::ids::{ClusterId, MemberId};

pub(super) const HEADER_BYTES: usize = 16;
/// A length that no payload has: the segment ends here and the next goes on.
const END: u32 = u32::MAX;
/// A length that no payload has: the log was closed in order after what stands before.
const CLOSED: u32 = u32::MAX - 1;
const ENTRY_BYTES: usize = 21;
/// Indexes and terms stay below: one more can always be counted.
const MAX_NUMBER: u64 = i64::MAX as u64;
const PREFIX_BYTES: usize = 28;
/// Bytes of a segment's head: a multiple of 8.
pub(super) const HEAD_BYTES: usize = HEADER_BYTES + 40;

/// Where a record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub segment: u64,
    pub offset: usize,
}

/// What stands at a place.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// At the beginning of a segment, and nowhere else.
    Head {
        owner: Owner,
        hard_state: HardState,
        next: usize,
    },
    Batch {
        hard_state: HardState,
        entries: Vec<WalEntry>,
        next: usize,
    },
    End,
    Closed {
        next: usize,
    },
    /// Nothing that was written here for this segment.
    Nothing,
    /// The header is ours, its payload is not what was written.
    BadPayload,
    /// The file ends within this record, or has no room for a header. There is always room for a record that is
    /// written and the mark that ends a segment: the file was cut, and what is gone may have been flushed.
    CutShort,
}

/// What a segment begins with.
pub(super) fn head(segment: u64, owner: Owner, hard_state: HardState) -> Vec<u8> {
    let place = Place { segment, offset: 0 };
    let mut payload = Vec::with_capacity(HEAD_BYTES - HEADER_BYTES);
    payload.put_u64_le(owner.cluster.0);
    payload.put_u64_le(owner.member.0);
    put_hard_state(&mut payload, hard_state);
    let length = u32::try_from(payload.len()).expect("40 bytes");
    [&header(place, length, checksum(place, &payload), 0)[..], &payload].concat()
}

fn put_hard_state(out: &mut Vec<u8>, hard_state: HardState) {
    out.put_u64_le(hard_state.term);
    out.put_u64_le(hard_state.vote);
    out.put_u64_le(hard_state.commit);
}

/// Appends a record of hard state and entries.
pub(super) fn encode(
    out: &mut Vec<u8>,
    place: Place,
    flushed: usize,
    hard_state: HardState,
    entries: &[WalEntry],
) {
    let start = out.len();
    out.resize(start + HEADER_BYTES, 0);
    put_hard_state(out, hard_state);
    out.put_u32_le(u32::try_from(entries.len()).expect("a batch has fewer than 2^32 entries"));
    for entry in entries {
        out.put_u64_le(entry.index);
        out.put_u64_le(entry.term);
        out.put_u8(entry.kind);
        out.put_u32_le(u32::try_from(entry.data.len()).expect("an entry is below 4 GiB"));
        out.put_slice(&entry.data);
    }
    let payload = start + HEADER_BYTES;
    let length = u32::try_from(out.len() - payload).expect("a record is below 4 GiB");
    let checksum = checksum(place, &out[payload..]);
    let header = header(place, length, checksum, flushed);
    out[start..payload].copy_from_slice(&header);
    out.resize(out.len().next_multiple_of(8), 0);
}

/// A record with whatever payload and a right checksum: for tests of what checksums do not catch.
#[cfg(test)]
pub(super) fn signed(place: Place, flushed: usize, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("tests are small");
    let header = header(place, length, checksum(place, payload), flushed);
    [&header, payload].concat()
}

/// A header alone, with whatever in it and a right checksum.
#[cfg(test)]
pub(super) fn signed_header(place: Place, length: u32, payload_checksum: u32, flushed: u32) -> Vec<u8> {
    header(place, length, payload_checksum, flushed as usize).to_vec()
}

pub(super) fn end(place: Place, flushed: usize) -> [u8; HEADER_BYTES] {
    header(place, END, 0, flushed)
}

pub(super) fn closed(place: Place, flushed: usize) -> [u8; HEADER_BYTES] {
    header(place, CLOSED, 0, flushed)
}

/// Bytes that a record takes.
pub(super) fn size(entries: &[WalEntry]) -> usize {
    let data: usize = entries.iter().map(|entry| ENTRY_BYTES + entry.data.len()).sum();
    (HEADER_BYTES + PREFIX_BYTES + data).next_multiple_of(8)
}

/// An upper bound of the bytes that an entry adds.
pub(super) fn entry_size(data: usize) -> usize {
    HEADER_BYTES + PREFIX_BYTES + ENTRY_BYTES + data + 8
}

pub(super) fn decode(segment: &Bytes, place: Place) -> Found {
    let Some(start) = place.offset.checked_add(HEADER_BYTES).filter(|start| *start <= segment.len()) else {
        return Found::CutShort;
    };
    let Some(Header { length, payload_checksum, .. }) = read_header(segment, place) else {
        return Found::Nothing;
    };
    match length {
        // No segment ends before its head.
        END | CLOSED if place.offset == 0 => return Found::BadPayload,
        END => return Found::End,
        CLOSED => return Found::Closed { next: start },
        _ => {}
    }
    if length as usize > segment.len() - start {
        return Found::CutShort;
    }
    let end = start + length as usize;
    let next = end.next_multiple_of(8);
    if next > segment.len() {
        return Found::CutShort;
    }
    let payload = segment.slice(start..end);
    if checksum(place, &payload) != payload_checksum {
        return Found::BadPayload;
    }
    let found = if place.offset == 0 {
        decode_head(payload).map(|(owner, hard_state)| Found::Head { owner, hard_state, next })
    } else {
        decode_payload(payload).map(|(hard_state, entries)| Found::Batch { hard_state, entries, next })
    };
    found.unwrap_or(Found::BadPayload)
}

/// How far the segment was flushed when the record at this place was written; `None` when there is none.
pub(super) fn flushed_mark(segment: &[u8], place: Place) -> Option<usize> {
    read_header(segment, place).map(|header| header.flushed as usize)
}

struct Header {
    length: u32,
    payload_checksum: u32,
    flushed: u32,
}

fn read_header(segment: &[u8], place: Place) -> Option<Header> {
    let mut bytes = segment.get(place.offset..place.offset.checked_add(HEADER_BYTES)?)?;
    if bytes[..4] == [0; 4] {
        return None;
    }
    let sum = checksum(place, &bytes[..12]);
    let header = Header {
        length: bytes.get_u32_le(),
        payload_checksum: bytes.get_u32_le(),
        flushed: bytes.get_u32_le(),
    };
    (bytes.get_u32_le() == sum).then_some(header)
}

fn header(place: Place, length: u32, payload_checksum: u32, flushed: usize) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[0..4].copy_from_slice(&length.to_le_bytes());
    header[4..8].copy_from_slice(&payload_checksum.to_le_bytes());
    let flushed = u32::try_from(flushed).expect("a segment is below 4 GiB");
    header[8..12].copy_from_slice(&flushed.to_le_bytes());
    let sum = checksum(place, &header[..12]);
    header[12..16].copy_from_slice(&sum.to_le_bytes());
    header
}

fn checksum(place: Place, bytes: &[u8]) -> u32 {
    let sum = crc32c::crc32c(&place.segment.to_le_bytes());
    let sum = crc32c::crc32c_append(sum, &(place.offset as u64).to_le_bytes());
    crc32c::crc32c_append(sum, bytes)
}

fn decode_head(mut payload: Bytes) -> Option<(Owner, HardState)> {
    let cluster = ClusterId(payload.try_get_u64_le().ok()?);
    let member = MemberId(payload.try_get_u64_le().ok()?);
    let hard_state = decode_hard_state(&mut payload)?;
    payload.is_empty().then_some((Owner { member, cluster }, hard_state))
}

fn decode_hard_state(payload: &mut Bytes) -> Option<HardState> {
    let term = payload.try_get_u64_le().ok()?;
    let vote = payload.try_get_u64_le().ok()?;
    let commit = payload.try_get_u64_le().ok()?;
    (term <= MAX_NUMBER && commit <= MAX_NUMBER).then_some(HardState { term, vote, commit })
}

fn decode_payload(mut payload: Bytes) -> Option<(HardState, Vec<WalEntry>)> {
    let hard_state = decode_hard_state(&mut payload)?;
    let count = payload.try_get_u32_le().ok()? as usize;
    if count > payload.len() / ENTRY_BYTES {
        return None;
    }
    let mut entries = Vec::with_capacity(count);
    for _ in 0..count {
        let index = payload.try_get_u64_le().ok()?;
        let term = payload.try_get_u64_le().ok()?;
        let kind = payload.try_get_u8().ok()?;
        let length = payload.try_get_u32_le().ok()? as usize;
        if length > payload.len() || index > MAX_NUMBER || term > MAX_NUMBER {
            return None;
        }
        // A copy: a slice would keep the whole segment in memory.
        let data = Bytes::copy_from_slice(&payload.split_to(length));
        entries.push(WalEntry { index, term, kind, data });
    }
    payload.is_empty().then_some((hard_state, entries))
}

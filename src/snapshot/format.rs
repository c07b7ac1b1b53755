//! The bytes of a state. Records follow each other through pieces; each piece has its number and a checksum, the last
//! record one over everything. Little endian. Decoding never allocates by a length that it was told.
//!
//! ```text
//! piece     number u64 | length u32 | CRC32C u32 of number, length and payload | payload
//! record    kind u8 | length u32 | body
//! header    "decklog state" | format u32 | index u64 | term u64 | revision i64 | compacted i64 | bytes u64
//! row       table u8 | length of the key u32 | key | value
//! change    main i64 | sub u32 | flags u8 (1: deletion) | pair
//! trailer   rows u64 | changes u64 | bytes before it u64 | CRC32C u32 of these bytes
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::Error;
use crate::ids::{FullRevision, LogIndex, LogPosition, Revision, Term};
use crate::storage::{StoredChange, Table};

/// Bytes of a piece, at most.
pub const MAX_PIECE_BYTES: usize = 1 << 20;
const PIECE_HEADER_BYTES: usize = 16;
pub(super) const MAX_PAYLOAD_BYTES: usize = MAX_PIECE_BYTES - PIECE_HEADER_BYTES;
/// Bytes of a record's body, at most: far above what a request may hold.
pub(super) const MAX_RECORD_BYTES: usize = 1 << 30;
const RECORD_HEADER_BYTES: usize = 5;
const MAGIC: &[u8] = b"decklog state";
const FORMAT: u32 = 1;

const HEADER: u8 = 1;
const ROW: u8 = 2;
const CHANGE: u8 = 3;
const TRAILER: u8 = 4;

/// In the order in which their rows are sent.
pub(super) const TABLES: [Table; 5] = [Table::Meta, Table::Lease, Table::Alarm, Table::Member, Table::Auth];

/// What a state is, before its rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub position: LogPosition,
    pub revision: Revision,
    pub compacted: Revision,
    /// About so many bytes of pairs come.
    pub bytes: u64,
}

/// A row of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub table: Table,
    pub key: Bytes,
    pub value: Bytes,
}

/// How much came before it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Trailer {
    pub rows: u64,
    pub changes: u64,
    pub bytes: u64,
    pub checksum: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Header(Header),
    Row(Row),
    Change(StoredChange),
    Trailer(Trailer),
}

fn damaged<T>(what: &str) -> Result<T, Error> {
    Err(Error::Damaged(what.to_owned()))
}

pub(super) fn encode_piece(number: u64, payload: &[u8]) -> Bytes {
    let length = u32::try_from(payload.len()).expect("a payload has at most a mebibyte");
    let mut piece = BytesMut::with_capacity(PIECE_HEADER_BYTES + payload.len());
    piece.put_u64_le(number);
    piece.put_u32_le(length);
    piece.put_u32_le(piece_checksum(number, length, payload));
    piece.put_slice(payload);
    piece.freeze()
}

/// The payload of the piece that is awaited.
///
/// # Errors
/// `Damaged` for anything else.
pub(super) fn decode_piece(awaited: u64, piece: &Bytes) -> Result<Bytes, Error> {
    if piece.len() < PIECE_HEADER_BYTES || piece.len() > MAX_PIECE_BYTES {
        return damaged("a piece has a wrong length");
    }
    let mut payload = piece.clone();
    let (number, length, checksum) = (payload.get_u64_le(), payload.get_u32_le(), payload.get_u32_le());
    if length as usize != payload.len() || checksum != piece_checksum(number, length, &payload) {
        return damaged("a piece fails its checksum");
    }
    if number != awaited {
        return Err(Error::Damaged(format!("piece {number} came in the place of piece {awaited}")));
    }
    Ok(payload)
}

fn piece_checksum(number: u64, length: u32, payload: &[u8]) -> u32 {
    let place = crc32c::crc32c_append(crc32c::crc32c(&number.to_le_bytes()), &length.to_le_bytes());
    crc32c::crc32c_append(place, payload)
}

impl Record {
    /// Appends the record.
    ///
    /// # Errors
    /// `TooLarge`.
    pub fn encode(&self, into: &mut BytesMut) -> Result<(), Error> {
        let start = into.len();
        into.put_bytes(0, RECORD_HEADER_BYTES);
        let kind = match self {
            Self::Header(header) => {
                header.encode(into);
                HEADER
            }
            Self::Row(row) => {
                row.encode(into)?;
                ROW
            }
            Self::Change(change) => {
                into.put_i64_le(change.at.main.0);
                into.put_u32_le(change.at.sub);
                into.put_u8(change.tombstone.into());
                into.put_slice(&change.pair);
                CHANGE
            }
            Self::Trailer(trailer) => {
                into.put_u64_le(trailer.rows);
                into.put_u64_le(trailer.changes);
                into.put_u64_le(trailer.bytes);
                into.put_u32_le(trailer.checksum);
                TRAILER
            }
        };
        let bytes = into.len() - start - RECORD_HEADER_BYTES;
        let length = u32::try_from(bytes).ok().filter(|_| bytes <= MAX_RECORD_BYTES);
        let length = length.ok_or(Error::TooLarge { bytes })?;
        into[start] = kind;
        into[start + 1..start + RECORD_HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
        Ok(())
    }
}

impl Header {
    fn encode(&self, into: &mut BytesMut) {
        into.put_slice(MAGIC);
        into.put_u32_le(FORMAT);
        into.put_u64_le(self.position.index.0);
        into.put_u64_le(self.position.term.0);
        into.put_i64_le(self.revision.0);
        into.put_i64_le(self.compacted.0);
        into.put_u64_le(self.bytes);
    }

    fn decode(mut body: Bytes) -> Result<Self, Error> {
        if body.len() < MAGIC.len() + 4 || !body.starts_with(MAGIC) {
            return damaged("it is no state");
        }
        body.advance(MAGIC.len());
        let format = body.get_u32_le();
        if format != FORMAT {
            return Err(Error::Damaged(format!(
                "it has the format {format}, and this version knows {FORMAT}"
            )));
        }
        if body.len() != 40 {
            return damaged("its header has a wrong length");
        }
        let position = LogPosition { index: LogIndex(body.get_u64_le()), term: Term(body.get_u64_le()) };
        let (revision, compacted) = (Revision(body.get_i64_le()), Revision(body.get_i64_le()));
        if position.index.0 == 0 || position.index.0.max(position.term.0) > i64::MAX as u64 {
            return damaged("it stands for no entry of a log");
        }
        if !(1..i64::MAX).contains(&revision.0) || !(-1..=revision.0).contains(&compacted.0) {
            return damaged("it has no possible revision");
        }
        Ok(Self { position, revision, compacted, bytes: body.get_u64_le() })
    }
}

impl Row {
    fn encode(&self, into: &mut BytesMut) -> Result<(), Error> {
        let bytes = self.key.len();
        let number = TABLES.iter().position(|table| *table == self.table).expect("every table is listed");
        into.put_u8(u8::try_from(number).expect("there are five"));
        into.put_u32_le(u32::try_from(bytes).map_err(|_too_long| Error::TooLarge { bytes })?);
        into.put_slice(&self.key);
        into.put_slice(&self.value);
        Ok(())
    }

    fn decode(mut body: Bytes) -> Result<Self, Error> {
        if body.len() < 5 {
            return damaged("a row has a wrong length");
        }
        let Some(table) = TABLES.get(usize::from(body.get_u8())).copied() else {
            return damaged("a row is of an unknown table");
        };
        let length = body.get_u32_le() as usize;
        if length > body.len() {
            return damaged("a row has a wrong length");
        }
        let key = body.split_to(length);
        Ok(Self { table, key, value: body })
    }
}

fn decode_change(mut body: Bytes) -> Result<StoredChange, Error> {
    if body.len() < 13 {
        return damaged("a change has a wrong length");
    }
    let at = FullRevision { main: Revision(body.get_i64_le()), sub: body.get_u32_le() };
    let tombstone = match body.get_u8() {
        0 => false,
        1 => true,
        _ => return damaged("a change has unknown flags"),
    };
    Ok(StoredChange { at, tombstone, pair: body })
}

fn decode_trailer(mut body: Bytes) -> Result<Trailer, Error> {
    if body.len() != 28 {
        return damaged("its trailer has a wrong length");
    }
    Ok(Trailer {
        rows: body.get_u64_le(),
        changes: body.get_u64_le(),
        bytes: body.get_u64_le(),
        checksum: body.get_u32_le(),
    })
}

/// Puts records together again from what pieces held.
#[derive(Default)]
pub(super) struct Decoder {
    buffer: BytesMut,
    /// Of the records given out, but for the trailer.
    pub bytes: u64,
    pub checksum: u32,
}

impl Decoder {
    pub fn push(&mut self, payload: &[u8]) {
        self.buffer.extend_from_slice(payload);
    }

    /// Everything pushed has been given out.
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// The next whole record; `None` until more is pushed.
    ///
    /// # Errors
    /// `Damaged`.
    pub fn next(&mut self) -> Result<Option<Record>, Error> {
        let Some(head) = self.buffer.first_chunk::<RECORD_HEADER_BYTES>() else {
            return Ok(None);
        };
        let (kind, length) = (head[0], u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize);
        if !(HEADER..=TRAILER).contains(&kind) || length > MAX_RECORD_BYTES {
            return damaged("it holds what is no record");
        }
        if self.buffer.len() < RECORD_HEADER_BYTES + length {
            return Ok(None);
        }
        let mut body = self.buffer.split_to(RECORD_HEADER_BYTES + length).freeze();
        if kind != TRAILER {
            self.bytes += body.len() as u64;
            self.checksum = crc32c::crc32c_append(self.checksum, &body);
        }
        body.advance(RECORD_HEADER_BYTES);
        Ok(Some(match kind {
            HEADER => Record::Header(Header::decode(body)?),
            ROW => Record::Row(Row::decode(body)?),
            CHANGE => Record::Change(decode_change(body)?),
            _ => Record::Trailer(decode_trailer(body)?),
        }))
    }
}

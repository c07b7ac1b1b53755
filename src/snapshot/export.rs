//! Sending: a state as of one entry, read out piece by piece while writes go on. Memory holds some pieces of it at most.

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::Error;
use super::format::{Header, MAX_PAYLOAD_BYTES, Record, Row, Trailer, encode_piece};
use crate::ids::{FullRevision, LogPosition};
use crate::members::Membership;
use crate::mvcc::{Pin, Snapshot};
use crate::storage::TableWrite;

/// Bytes of pairs that are read at once.
const SLICE_BYTES: usize = 256 << 10;

/// The state after one entry. While it lives, and until its time is over, no compaction takes what it names.
pub struct Capture {
    pub(super) position: LogPosition,
    pub(super) snapshot: Snapshot,
    pub(super) pin: Pin,
    members: Membership,
    /// Of the tables, in their order and that of the keys.
    pub(super) rows: Vec<Row>,
    /// About so many bytes of pairs.
    bytes: u64,
}

impl std::fmt::Debug for Capture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Capture").field("position", &self.position).finish_non_exhaustive()
    }
}

impl Capture {
    /// `rows`: those of every table beside the key space's own, each with a value, as of `position`.
    pub fn new(
        position: LogPosition,
        (snapshot, pin): (Snapshot, Pin),
        members: Membership,
        rows: Vec<TableWrite>,
        bytes: u64,
    ) -> Self {
        let rows = snapshot.meta_rows().into_iter().chain(members.rows()).chain(rows);
        let mut rows: Vec<_> = rows
            .filter_map(|TableWrite { table, key, value }| Some(Row { table, key, value: value? }))
            .collect();
        rows.sort_unstable_by(|left, right| (left.table, &left.key).cmp(&(right.table, &right.key)));
        Self { position, snapshot, pin, members, rows, bytes }
    }

    /// Who belongs to the cluster after that entry.
    pub fn members(&self) -> &Membership {
        &self.members
    }

    pub fn position(&self) -> LogPosition {
        self.position
    }

    /// Everything, in pieces. Reads the store: for a thread that may wait.
    pub fn pieces(self) -> Pieces {
        Pieces {
            capture: self,
            part: Part::Header,
            buffer: BytesMut::new(),
            sent: Trailer::default(),
            number: 0,
        }
    }

    fn header(&self) -> Header {
        let (revision, compacted) = (self.snapshot.revision(), self.snapshot.compacted());
        Header { position: self.position, revision, compacted, bytes: self.bytes }
    }
}

/// What comes next.
enum Part {
    Header,
    /// The row with this number.
    Rows(usize),
    Changes(FullRevision),
    Trailer,
    Done,
}

/// The pieces of a state. Ends after the last, or after an error.
pub struct Pieces {
    capture: Capture,
    part: Part,
    /// Records that are not in a piece yet.
    buffer: BytesMut,
    /// What the trailer will say.
    sent: Trailer,
    number: u64,
}

impl Pieces {
    /// Appends what comes next to the buffer.
    fn read(&mut self) -> Result<(), Error> {
        self.part = match self.part {
            Part::Header => {
                self.append(&Record::Header(self.capture.header()))?;
                Part::Rows(0)
            }
            Part::Rows(number) => match self.capture.rows.get(number).cloned() {
                Some(row) => {
                    self.append(&Record::Row(row))?;
                    self.sent.rows += 1;
                    Part::Rows(number + 1)
                }
                None => Part::Changes(FullRevision::default()),
            },
            Part::Changes(from) => self.read_changes(from)?.map_or(Part::Trailer, Part::Changes),
            Part::Trailer => {
                let (named, found) = (self.capture.snapshot.named_changes(), self.sent.changes);
                if named != found {
                    return Err(Error::Incomplete { named, found });
                }
                Record::Trailer(self.sent).encode(&mut self.buffer)?;
                Part::Done
            }
            Part::Done => Part::Done,
        };
        Ok(())
    }

    fn read_changes(&mut self, from: FullRevision) -> Result<Option<FullRevision>, Error> {
        let slice = self.capture.snapshot.slice(from, SLICE_BYTES)?;
        // Looked at afterwards: what was read before the end of the time is whole.
        if !self.capture.pin.holds(Instant::now()) {
            return Err(Error::Expired);
        }
        for change in slice.changes {
            self.append(&Record::Change(change))?;
            self.sent.changes += 1;
        }
        Ok(slice.next)
    }

    fn append(&mut self, record: &Record) -> Result<(), Error> {
        let start = self.buffer.len();
        record.encode(&mut self.buffer)?;
        let encoded = &self.buffer[start..];
        self.sent.bytes += encoded.len() as u64;
        self.sent.checksum = crc32c::crc32c_append(self.sent.checksum, encoded);
        Ok(())
    }
}

impl Iterator for Pieces {
    type Item = Result<Bytes, Error>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.buffer.len() < MAX_PAYLOAD_BYTES && !matches!(self.part, Part::Done) {
            if let Err(error) = self.read() {
                self.part = Part::Done;
                self.buffer.clear();
                return Some(Err(error));
            }
        }
        if self.buffer.is_empty() {
            return None;
        }
        let payload = self.buffer.split_to(self.buffer.len().min(MAX_PAYLOAD_BYTES));
        let piece = encode_piece(self.number, &payload);
        self.number += 1;
        Some(Ok(piece))
    }
}

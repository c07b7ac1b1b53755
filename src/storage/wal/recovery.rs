//! Reading a log back. Everything that was flushed is there or its damage is named; of an unfinished last write
//! nothing is kept.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;

use super::record::{self, Found, Place};
use super::{HardState, Owner, Segment, Spare, WalContent, WalEntry, segment_name};
use crate::ids::{LogIndex, LogPosition, Term};
use crate::storage::Error;
use crate::storage::disk::Disk;

/// Zeros are written in pieces of so many bytes.
const ZERO_BYTES: usize = 1 << 20;

pub(super) struct Recovered {
    owner: Owner,
    pub segments: VecDeque<Segment>,
    pub spares: Vec<Spare>,
    pub next_spare: u64,
    /// Where the last segment goes on.
    pub offset: usize,
    pub content: WalContent,
}

/// A record as `decklog inspect` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Inspected {
    /// What a segment begins with.
    Head {
        segment: String,
        owner: Owner,
        hard_state: HardState,
    },
    Batch {
        segment: String,
        offset: usize,
        hard_state: HardState,
        entries: Vec<WalEntry>,
    },
    /// The segment ends here and the next goes on.
    End {
        segment: String,
        offset: usize,
    },
    /// The log was closed in order.
    Closed {
        segment: String,
        offset: usize,
    },
    /// Nothing more in this segment.
    Tail {
        segment: String,
        offset: usize,
    },
    /// Bytes that are no record although one was flushed here.
    Damaged {
        segment: String,
        offset: usize,
    },
}

/// Visits every record without changing anything.
///
/// # Errors
/// Faults of the disk; damage is visited, not returned.
pub fn inspect(disk: &dyn Disk, visit: &mut dyn FnMut(Inspected)) -> Result<(), Error> {
    for id in list(disk)?.0 {
        let segment = segment_name(id);
        let bytes = Bytes::from(disk.read(&segment)?);
        let mut offset = 0;
        loop {
            let place = Place { segment: id, offset };
            let segment = segment.clone();
            match record::decode(&bytes, place) {
                Found::Head { owner, hard_state, next } => {
                    visit(Inspected::Head { segment, owner, hard_state });
                    offset = next;
                }
                Found::Batch { hard_state, entries, next } => {
                    visit(Inspected::Batch { segment, offset, hard_state, entries });
                    offset = next;
                }
                Found::Closed { next } => {
                    visit(Inspected::Closed { segment, offset });
                    offset = next;
                }
                Found::End => {
                    visit(Inspected::End { segment, offset });
                    break;
                }
                Found::CutShort => {
                    visit(Inspected::Damaged { segment, offset });
                    break;
                }
                Found::Nothing | Found::BadPayload => {
                    let damaged = was_flushed(&bytes, place);
                    visit(match damaged {
                        true => Inspected::Damaged { segment, offset },
                        false => Inspected::Tail { segment, offset },
                    });
                    break;
                }
            }
        }
    }
    Ok(())
}

pub(super) fn recover(disk: &dyn Disk, owner: Owner) -> Result<Recovered, Error> {
    let (ids, spares) = list(disk)?;
    let next_spare = spares.iter().filter_map(|spare| number(&spare.name, ".spare")).max().unwrap_or(0);
    let mut recovered = Recovered {
        owner,
        segments: VecDeque::new(),
        spares,
        next_spare,
        offset: 0,
        content: WalContent::default(),
    };
    for (place, id) in ids.iter().enumerate() {
        if place > 0 && ids[place - 1] + 1 != *id {
            let detail = format!("the segment before {} is missing", segment_name(*id));
            return Err(Error::Damaged { place: disk.place(), detail });
        }
        recovered.read_segment(disk, *id, place + 1 == ids.len())?;
    }
    Ok(recovered)
}

impl Recovered {
    fn read_segment(&mut self, disk: &dyn Disk, id: u64, is_last: bool) -> Result<(), Error> {
        let name = segment_name(id);
        let bytes = Bytes::from(disk.read(&name)?);
        let mut segment = Segment { id, bytes: bytes.len(), last_index: 0 };
        let damaged = |offset: usize, what: &str| {
            let place = format!("{}/{name} at byte {offset}", disk.place());
            Err(Error::Damaged { place, detail: what.to_owned() })
        };
        let (mut offset, mut flushed) = (0, 0);
        loop {
            let place = Place { segment: id, offset };
            flushed = record::flushed_mark(&bytes, place).unwrap_or(flushed);
            match record::decode(&bytes, place) {
                Found::Head { owner, .. } if owner != self.owner => {
                    let path = format!("{}/{name}", disk.place());
                    return Err(Error::ForeignLog { path, found: owner, expected: self.owner });
                }
                Found::Head { hard_state, next, .. } => {
                    self.content.hard_state = hard_state;
                    offset = next;
                }
                Found::Batch { hard_state, entries, next } => {
                    self.content.hard_state = hard_state;
                    if let Some(last) = entries.last() {
                        segment.last_index = segment.last_index.max(last.index);
                    }
                    if !self.add(entries) {
                        return damaged(offset, "its entries do not follow those before");
                    }
                    offset = next;
                }
                Found::Closed { next } => offset = next,
                Found::End => {
                    // Should the next segment not have been begun before a crash, this one goes on here.
                    self.segments.push_back(segment);
                    self.offset = offset;
                    return Ok(());
                }
                Found::CutShort => return damaged(offset, "it is shorter than it was made"),
                Found::Nothing | Found::BadPayload if !is_last => {
                    return damaged(offset, "a record that was flushed is not what was written");
                }
                Found::Nothing | Found::BadPayload if was_flushed(&bytes, place) => {
                    return damaged(offset, "a record that was flushed is not what was written");
                }
                Found::Nothing | Found::BadPayload => break,
            }
        }
        if offset == 0 {
            return damaged(offset, "its first record is not one of ours");
        }
        write_again(disk, &name, &bytes, flushed..offset)?;
        self.content.torn_bytes = clear_tail(disk, &name, id, &bytes, offset)?;
        self.segments.push_back(segment);
        self.offset = offset;
        Ok(())
    }

    /// Adds entries; `false` when they leave a gap, or go back to an older term.
    fn add(&mut self, entries: Vec<WalEntry>) -> bool {
        let Some(first) = entries.first() else {
            return true;
        };
        if first.is_mark() {
            let position = LogPosition { index: LogIndex(first.index), term: Term(first.term) };
            self.content.begins_after = Some(position);
            self.content.entries.clear();
            return entries.len() == 1;
        }
        if entries.iter().any(WalEntry::is_mark) {
            return false;
        }
        let after = self.content.begins_after.filter(|_| self.content.entries.is_empty());
        if after.is_some_and(|after| first.index != after.index.0 + 1 || first.term < after.term.0) {
            return false;
        }
        let known = &mut self.content.entries;
        if let Some(oldest) = known.first() {
            let last = oldest.index + known.len() as u64 - 1;
            if first.index > last + 1 {
                return false;
            }
            let keep = usize::try_from(first.index.saturating_sub(oldest.index)).unwrap_or(usize::MAX);
            known.truncate(keep);
        }
        let follow = |before: &WalEntry, after: &WalEntry| before.term <= after.term;
        let fits = known.last().is_none_or(|last| follow(last, first));
        let whole =
            entries.windows(2).all(|pair| pair[0].index + 1 == pair[1].index && follow(&pair[0], &pair[1]));
        known.extend(entries);
        fits && whole
    }
}

/// Segment ids in order, and spare files with their sizes.
fn list(disk: &dyn Disk) -> Result<(Vec<u64>, Vec<Spare>), Error> {
    let (mut ids, mut spares) = (Vec::new(), Vec::new());
    for name in disk.list()? {
        if let Some(id) = number(&name, ".wal") {
            ids.push(id);
        } else if number(&name, ".spare").is_some() {
            let bytes = usize::try_from(disk.length(&name)?).unwrap_or(0);
            spares.push(Spare { name, bytes });
        }
    }
    ids.sort_unstable();
    Ok((ids, spares))
}

/// The number in a name, when it is exactly as it was made; one more can always be counted.
fn number(name: &str, suffix: &str) -> Option<u64> {
    let number = u64::from_str_radix(name.strip_suffix(suffix)?, 16).ok()?;
    (format!("{number:016x}{suffix}") == name && number <= i64::MAX as u64).then_some(number)
}

/// Whether some record behind a bad place says that the place had been flushed before it was written.
fn was_flushed(bytes: &Bytes, bad: Place) -> bool {
    let offsets = (bad.offset + 8..bytes.len()).step_by(8);
    offsets
        .filter_map(|offset| record::flushed_mark(bytes, Place { segment: bad.segment, offset }))
        .any(|flushed| flushed > bad.offset)
}

/// Writes what no record promises as flushed once more, and syncs it: after a flush that failed, the system may show
/// what never reached the disk, and believe that it did.
fn write_again(disk: &dyn Disk, name: &str, bytes: &Bytes, range: Range<usize>) -> Result<(), Error> {
    if range.is_empty() {
        return Ok(());
    }
    disk.write(name, range.start as u64, &bytes[range])?;
    disk.sync(name)
}

/// Zeros what an unfinished write left behind `offset`: parts of it could be taken for records later.
/// Returns how many bytes of it there were.
fn clear_tail(disk: &dyn Disk, name: &str, id: u64, bytes: &Bytes, offset: usize) -> Result<u64, Error> {
    let tail = &bytes[offset..];
    let has_header = |offset| record::flushed_mark(bytes, Place { segment: id, offset }).is_some();
    let torn = (offset..bytes.len()).step_by(8).any(has_header);
    let Some(last) = tail.iter().rposition(|byte| *byte != 0) else {
        return Ok(0);
    };
    for (piece, zeros) in tail[..=last].chunks(ZERO_BYTES).enumerate() {
        disk.write(name, (offset + piece * ZERO_BYTES) as u64, &vec![0; zeros.len()])?;
    }
    disk.sync(name)?;
    Ok(if torn { last as u64 + 1 } else { 0 })
}

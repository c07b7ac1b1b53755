//! The raft log on disk: segments of fixed size, zeroed before use and used again, one record per batch, one
//! flush per batch. Owns what is durable; decides nothing about what may be forgotten (`cut` is told).
//! docs/storage.md has the format and the rules of recovery.

mod record;
mod recovery;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use super::Error;
use super::disk::Disk;
use crate::ids::{ClusterId, LogIndex, LogPosition, MemberId};
use record::{HEADER_BYTES, Place};

pub use recovery::{Inspected, inspect};

/// Emptied segments that are kept to be used again; one of them for a full disk.
const MAX_SPARES: usize = 3;
/// Of a segment, one part in so many is left for records without entries behind every reserved one.
const MARGIN_PARTS: u64 = 64;

/// Whose log it is: in the head of every segment, so that the log of another is never taken for ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    pub member: MemberId,
    pub cluster: ClusterId,
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "member {:016x} of cluster {:016x}", self.member.0, self.cluster.0)
    }
}

/// Raft's promises. All 0 in an empty log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    pub term: u64,
    /// The member voted for in this term; 0 for none.
    pub vote: u64,
    pub commit: u64,
}

/// One entry. `kind` belongs to consensus.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalEntry {
    pub index: u64,
    pub term: u64,
    pub kind: u8,
    pub data: Bytes,
}

/// The kind of an entry that is none: the log goes on behind its index, and what was before counts no more.
const BEGIN_AFTER: u8 = u8::MAX;

impl WalEntry {
    /// No entry, but the mark that the log goes on behind this index.
    pub fn is_mark(&self) -> bool {
        self.kind == BEGIN_AFTER
    }
}

/// How the log is laid out.
#[derive(Clone, Copy, Debug)]
pub struct WalOptions {
    /// Bytes of a segment; one that must hold a larger record is larger.
    pub segment_bytes: u64,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self { segment_bytes: 16 << 20 }
    }
}

/// What a log held when it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WalContent {
    pub hard_state: HardState,
    /// Without a gap; the first may be far above 1 after cuts.
    pub entries: Vec<WalEntry>,
    /// The entry after which the log goes on, when what stands there came by another way.
    pub begins_after: Option<LogPosition>,
    /// Bytes of an unfinished write that were dropped.
    pub torn_bytes: u64,
}

impl WalContent {
    /// Nothing of the log was cut: its entries follow the one that every member begins with.
    pub fn begins_at_the_beginning(&self) -> bool {
        let is_first = |first: &WalEntry| first.index == 2;
        self.begins_after.is_none() && self.entries.first().map_or(self.hard_state.commit <= 1, is_first)
    }
}

/// See the module.
pub struct Wal {
    disk: Arc<dyn Disk>,
    owner: Owner,
    options: WalOptions,
    /// Oldest first; the last is written to.
    segments: VecDeque<Segment>,
    spares: Vec<Spare>,
    next_spare: u64,
    hard_state: HardState,
    /// Where the next record goes, and through where the segment is flushed.
    offset: usize,
    flushed: usize,
    /// Bytes promised by `reserve` and not yet appended.
    reserved: usize,
    buffer: Vec<u8>,
    bytes_written: u64,
    failed: bool,
}

#[derive(Clone, Debug)]
struct Segment {
    id: u64,
    bytes: usize,
    /// The largest index in it; 0 for none.
    last_index: u64,
}

#[derive(Clone, Debug)]
struct Spare {
    name: String,
    bytes: usize,
}

fn segment_name(id: u64) -> String {
    format!("{id:016x}.wal")
}

impl Wal {
    /// Opens the log of a directory; an empty directory gets an empty log of `owner`.
    ///
    /// # Errors
    /// `ForeignLog` for a log with a segment of another owner; `Damaged` for anything but an unfinished last write;
    /// faults of the disk.
    pub fn open(disk: Arc<dyn Disk>, owner: Owner, options: WalOptions) -> Result<(Self, WalContent), Error> {
        let found = recovery::recover(&*disk, owner)?;
        let mut wal = Self {
            disk,
            owner,
            options,
            segments: found.segments,
            next_spare: found.next_spare,
            spares: found.spares,
            hard_state: found.content.hard_state,
            offset: found.offset,
            flushed: found.offset,
            reserved: 0,
            buffer: Vec::new(),
            bytes_written: 0,
            failed: false,
        };
        if wal.segments.is_empty() {
            wal.begin_segment(1, 0)?;
        }
        if wal.spares.is_empty()
            && let Err(error) = wal.keep_spare()
        {
            // On a full disk the log goes on with what it has.
            let Error::Full { .. } = error else { return Err(error) };
            tracing::warn!(%error, "the log has no spare segment");
        }
        Ok((wal, found.content))
    }

    /// Makes sure that an entry of `bytes` more can be appended whatever happens to the disk's free space, without the
    /// spare that is kept for what makes room.
    ///
    /// # Errors
    /// `Full`: nothing has changed. Faults of the disk.
    pub fn reserve(&mut self, bytes: usize) -> Result<(), Error> {
        self.reserve_beside(bytes, 1)
    }

    /// The same for an entry that makes room, or that has been accepted elsewhere: with all spares.
    ///
    /// # Errors
    /// `Full`: nothing has changed. Faults of the disk.
    pub fn reserve_of_spare(&mut self, bytes: usize) -> Result<(), Error> {
        self.reserve_beside(bytes, 0)
    }

    /// `kept`: so many spares are there for others.
    fn reserve_beside(&mut self, bytes: usize, kept: usize) -> Result<(), Error> {
        self.check()?;
        let reserved = self.reserved + record::entry_size(bytes);
        // What promises alone need (elections) is not reserved: it finds room, too.
        let margin = usize::try_from(self.options.segment_bytes / MARGIN_PARTS).unwrap_or(0);
        let fits_here = self.offset + reserved + margin + HEADER_BYTES <= self.current().bytes;
        let needed = record::HEAD_BYTES + reserved + margin + 4 * HEADER_BYTES;
        let fitting = self.spares.iter().filter(|spare| spare.bytes >= needed).count();
        if !fits_here && fitting < kept + 1 {
            self.make_spare(needed)?;
        }
        if self.spares.len() < kept {
            self.keep_spare()?;
        }
        self.reserved = reserved;
        Ok(())
    }

    /// Adds one record: the hard state (`None`: as it was) and entries. An entry at or below the last index
    /// replaces it and all behind it. Durable after `flush`.
    ///
    /// # Errors
    /// Faults of the disk, after which nothing works any more.
    pub fn append(&mut self, hard_state: Option<HardState>, entries: &[WalEntry]) -> Result<(), Error> {
        self.check()?;
        self.reserved = 0;
        let size = record::size(entries);
        if self.offset + size + HEADER_BYTES > self.current().bytes {
            let rolled = self.roll(size);
            self.fail_on(rolled)?;
        }
        // Not before: a new segment begins with the state of the records before it.
        self.hard_state = hard_state.unwrap_or(self.hard_state);
        let place = Place { segment: self.current().id, offset: self.offset };
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        record::encode(&mut buffer, place, self.flushed, self.hard_state, entries);
        let written = self.disk.write(&segment_name(place.segment), place.offset as u64, &buffer);
        self.offset += buffer.len();
        self.bytes_written += buffer.len() as u64;
        buffer.shrink_to(1 << 20);
        self.buffer = buffer;
        self.fail_on(written)?;
        if let Some(last) = entries.last() {
            let segment = self.segments.back_mut().expect("there is always one");
            segment.last_index = segment.last_index.max(last.index);
        }
        Ok(())
    }

    /// Makes the log go on after `position`, whatever it held: what stands there came by another way. Durable after
    /// `flush`.
    ///
    /// # Errors
    /// Faults of the disk, after which nothing works any more.
    pub fn begin_after(&mut self, hard_state: HardState, position: LogPosition) -> Result<(), Error> {
        let mark = WalEntry {
            index: position.index.0,
            term: position.term.0,
            kind: BEGIN_AFTER,
            data: Bytes::new(),
        };
        self.append(Some(hard_state), &[mark])
    }

    /// Makes everything appended durable. A flush that failed once is never tried again: the system may have
    /// forgotten what it could not write.
    ///
    /// # Errors
    /// Faults of the disk, after which nothing works any more.
    pub fn flush(&mut self) -> Result<(), Error> {
        self.check()?;
        if self.flushed < self.offset {
            let synced = self.disk.sync(&segment_name(self.current().id));
            self.fail_on(synced)?;
            self.flushed = self.offset;
        }
        Ok(())
    }

    /// Forgets segments that hold nothing above `through`.
    ///
    /// # Errors
    /// Faults of the disk.
    pub fn cut(&mut self, through: LogIndex) -> Result<(), Error> {
        self.check()?;
        while self.segments.len() > 1 && self.segments[0].last_index <= through.0 {
            let segment = self.segments.pop_front().expect("there are two");
            let name = segment_name(segment.id);
            let useful = self.spares.len() < MAX_SPARES && segment.bytes as u64 >= self.options.segment_bytes;
            let gone = if useful {
                let spare = self.spare_name();
                let renamed = self.disk.rename(&name, &spare);
                self.spares.push(Spare { name: spare, bytes: segment.bytes });
                renamed
            } else {
                self.disk.remove(&name)
            };
            // One at a time: a crash must not leave an older segment without the one behind it.
            let gone = gone.and_then(|()| self.disk.sync_directory());
            self.fail_on(gone)?;
        }
        Ok(())
    }

    /// Ends the log in order: with this mark, the next start knows that nothing of it is missing. Nothing works
    /// afterwards.
    ///
    /// # Errors
    /// Faults of the disk.
    pub fn close(&mut self) -> Result<(), Error> {
        self.flush()?;
        self.failed = true;
        let place = Place { segment: self.current().id, offset: self.offset };
        if place.offset + 2 * HEADER_BYTES > self.current().bytes {
            return Ok(());
        }
        let name = segment_name(place.segment);
        self.disk.write(&name, place.offset as u64, &record::closed(place, self.flushed))?;
        self.disk.sync(&name)
    }

    /// Bytes written since it was opened.
    pub fn bytes_written(&self) -> u64 {
        self.bytes_written
    }

    fn current(&self) -> &Segment {
        self.segments.back().expect("there is always one")
    }

    fn check(&self) -> Result<(), Error> {
        if !self.failed {
            return Ok(());
        }
        let source = std::io::Error::other("an earlier write failed; the log takes nothing any more");
        Err(Error::Io { path: self.disk.place(), source })
    }

    fn fail_on(&mut self, result: Result<(), Error>) -> Result<(), Error> {
        self.failed |= result.is_err();
        result
    }

    /// Ends the segment and goes on in the next, which will hold a record of `size`.
    fn roll(&mut self, size: usize) -> Result<(), Error> {
        let place = Place { segment: self.current().id, offset: self.offset };
        let name = segment_name(place.segment);
        self.disk.write(&name, place.offset as u64, &record::end(place, self.flushed))?;
        self.disk.sync(&name)?;
        self.begin_segment(place.segment + 1, size)
    }

    /// Begins a segment with its owner and the hard state, durable before anything follows it.
    fn begin_segment(&mut self, id: u64, size: usize) -> Result<(), Error> {
        let needed = record::HEAD_BYTES + size + 2 * HEADER_BYTES;
        if !self.spares.iter().any(|spare| spare.bytes >= needed) {
            self.make_spare(needed)?;
        }
        let fitting = self.spares.iter().rposition(|spare| spare.bytes >= needed).expect("made above");
        let spare = self.spares.remove(fitting);
        let head = record::head(id, self.owner, self.hard_state);
        // Before it has its name: a segment whose head cannot be read is damaged, never unfinished.
        self.disk.write(&spare.name, 0, &head)?;
        self.disk.sync(&spare.name)?;
        self.disk.rename(&spare.name, &segment_name(id))?;
        self.disk.sync_directory()?;
        self.segments.push_back(Segment { id, bytes: spare.bytes, last_index: 0 });
        (self.offset, self.flushed) = (head.len(), head.len());
        Ok(())
    }

    fn make_spare(&mut self, needed: usize) -> Result<(), Error> {
        let bytes = usize::try_from(self.options.segment_bytes).unwrap_or(usize::MAX).max(needed);
        let name = self.spare_name();
        self.disk.create(&name, bytes as u64)?;
        self.spares.push(Spare { name, bytes });
        Ok(())
    }

    /// The one for a full disk: used last, so that its zeros need not be written.
    fn keep_spare(&mut self) -> Result<(), Error> {
        let bytes = self.options.segment_bytes;
        let name = self.spare_name();
        self.disk.allocate(&name, bytes)?;
        self.spares.insert(0, Spare { name, bytes: usize::try_from(bytes).unwrap_or(usize::MAX) });
        Ok(())
    }

    fn spare_name(&mut self) -> String {
        self.next_spare += 1;
        format!("{:016x}.spare", self.next_spare)
    }
}

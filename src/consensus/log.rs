//! The raft log as raft sees it: recent entries in memory, all of them in the write-ahead log.
//! Owns what of the log is kept; never looks into an entry.

use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, StorageError};

use crate::ids::{LogIndex, LogPosition, MemberId, Term};
use crate::storage::Error;
use crate::storage::wal::{self, Wal, WalContent, WalEntry};

/// How long the log's writes and flushes take, in seconds.
#[derive(Clone)]
pub struct LogTimers {
    pub write: prometheus::Histogram,
    pub flush: prometheus::Histogram,
}

/// See the module.
pub struct RaftLog {
    wal: Wal,
    timers: LogTimers,
    /// The entry before the first in memory: its data is gone, its term is still asked for.
    base: LogPosition,
    entries: VecDeque<Entry>,
    hard_state: HardState,
    conf_state: ConfState,
}

impl RaftLog {
    /// Takes over what the write-ahead log holds beyond `applied`, the entry that the store stands for.
    ///
    /// # Errors
    /// When log and store do not fit together: one of them is damaged or not of this member.
    pub fn new(
        wal: Wal,
        content: WalContent,
        applied: LogPosition,
        member: MemberId,
        timers: LogTimers,
    ) -> Result<Self, Error> {
        check_fit(&content, applied)?;
        let mut hard_state = HardState::default();
        hard_state.term = content.hard_state.term.max(applied.term.0);
        hard_state.vote = content.hard_state.vote;
        let kept = content.entries.into_iter().filter(|entry| entry.index > applied.index.0);
        let mut entries = VecDeque::new();
        for entry in kept {
            entries.push_back(to_raft(entry)?);
        }
        let last = entries.back().map_or(applied.index.0, |entry: &Entry| entry.index);
        hard_state.commit = content.hard_state.commit.clamp(applied.index.0, last);
        let conf_state = ConfState { voters: vec![member.0], ..ConfState::default() };
        Ok(Self { wal, timers, base: applied, entries, hard_state, conf_state })
    }

    /// Makes sure of room for an entry of `bytes`, so that a full disk is met before raft takes it.
    ///
    /// # Errors
    /// `Full`, after which everything is as before; a fault of the disk.
    pub fn reserve(&mut self, bytes: usize) -> Result<(), Error> {
        self.wal.reserve(bytes)
    }

    /// Writes what a `Ready` wants kept; durable after `flush`. A commit index alone waits for the next write.
    ///
    /// # Errors
    /// A fault of the disk.
    pub fn append(&mut self, hard_state: Option<&HardState>, entries: &[Entry]) -> Result<(), Error> {
        let mut promised = false;
        if let Some(new) = hard_state {
            promised = new.term != self.hard_state.term || new.vote != self.hard_state.vote;
            self.hard_state = new.clone();
        }
        if entries.is_empty() && !promised {
            return Ok(());
        }
        let records: Vec<WalEntry> = entries.iter().map(from_raft).collect();
        let HardState { term, vote, commit, .. } = self.hard_state;
        let timer = self.timers.write.start_timer();
        self.wal.append(Some(wal::HardState { term, vote, commit }), &records)?;
        timer.observe_duration();
        if let Some(first) = entries.first() {
            let keep = usize::try_from(first.index - self.base.index.0 - 1).expect("indexes in memory fit");
            self.entries.truncate(keep);
            self.entries.extend(entries.iter().cloned());
        }
        Ok(())
    }

    /// # Errors
    /// A fault of the disk. Nothing may be promised after it.
    pub fn flush(&mut self) -> Result<(), Error> {
        let timer = self.timers.flush.start_timer();
        self.wal.flush()?;
        timer.observe_duration();
        Ok(())
    }

    /// Remembers a commit index; it is written with the next record.
    pub fn note_commit(&mut self, commit: LogIndex) {
        self.hard_state.commit = commit.0;
    }

    /// Forgets the entries through `through`.
    ///
    /// # Errors
    /// A fault of the disk.
    pub fn cut(&mut self, through: LogIndex) -> Result<(), Error> {
        if through <= self.base.index {
            return Ok(());
        }
        while let Some(first) = self.entries.front()
            && first.index <= through.0
        {
            self.base = LogPosition { index: LogIndex(first.index), term: Term(first.term) };
            self.entries.pop_front();
        }
        self.wal.cut(self.base.index)
    }

    /// Ends the log in order, so that a later start knows that nothing is missing.
    ///
    /// # Errors
    /// A fault of the disk.
    pub fn close(&mut self) -> Result<(), Error> {
        self.wal.close()
    }

    /// Bytes written since the start.
    pub fn bytes_written(&self) -> u64 {
        self.wal.bytes_written()
    }

    fn last(&self) -> u64 {
        self.base.index.0 + self.entries.len() as u64
    }
}

/// The store may be behind the log, never ahead of it, and nothing may be missing between them.
fn check_fit(content: &WalContent, applied: LogPosition) -> Result<(), Error> {
    let damaged = |detail: String| Err(Error::Damaged { place: "the raft log".to_owned(), detail });
    let LogPosition { index: LogIndex(applied), term: Term(applied_term) } = applied;
    if applied > 0 && content.hard_state.term == 0 {
        return damaged(format!("it is empty, but the store holds the state after entry {applied}"));
    }
    let (Some(first), Some(last)) = (content.entries.first(), content.entries.last()) else {
        return Ok(());
    };
    if first.index > applied + 1 {
        return damaged(format!(
            "it begins with entry {}, but the store ends with entry {applied}: the entries between are missing",
            first.index
        ));
    }
    if last.index < applied {
        return damaged(format!(
            "it ends with entry {}, but the store holds the state after entry {applied}",
            last.index
        ));
    }
    let place = applied.checked_sub(first.index).and_then(|place| usize::try_from(place).ok());
    if let Some(entry) = place.and_then(|place| content.entries.get(place))
        && entry.term != applied_term
    {
        return damaged(format!(
            "its entry {applied} is of term {}, but the one that the store holds the state after is of term {applied_term}",
            entry.term
        ));
    }
    Ok(())
}

fn from_raft(entry: &Entry) -> WalEntry {
    let kind = match entry.entry_type {
        EntryType::EntryNormal => 0,
        EntryType::EntryConfChange => 1,
        EntryType::EntryConfChangeV2 => 2,
    };
    WalEntry { index: entry.index, term: entry.term, kind, data: entry.data.clone() }
}

fn to_raft(stored: WalEntry) -> Result<Entry, Error> {
    let entry_type = match stored.kind {
        0 => EntryType::EntryNormal,
        // Members change in a later version; what it wrote is not this one's to skip.
        kind => {
            let detail = format!("it is of the kind {kind}, which this version does not know");
            return Err(Error::Damaged { place: format!("log entry {}", stored.index), detail });
        }
    };
    let WalEntry { index, term, data, .. } = stored;
    Ok(Entry { entry_type, index, term, data, ..Entry::default() })
}

impl raft::Storage for RaftLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState { hard_state: self.hard_state.clone(), conf_state: self.conf_state.clone() })
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let first = self.base.index.0 + 1;
        if low < first {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if high > self.last() + 1 {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        let place = |index: u64| usize::try_from(index - first).expect("indexes in memory fit");
        let mut entries: Vec<Entry> = self.entries.range(place(low)..place(high)).cloned().collect();
        raft::util::limit_size(&mut entries, max_size.into());
        Ok(entries)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.base.index.0 {
            return Ok(self.base.term.0);
        }
        if index < self.base.index.0 {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        let place = usize::try_from(index - self.base.index.0 - 1).expect("indexes in memory fit");
        self.entries.get(place).map(|entry| entry.term).ok_or(raft::Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.index.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last())
    }

    /// Members that need one come in a later version.
    fn snapshot(&self, _request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
    }
}

#[cfg(test)]
mod tests;

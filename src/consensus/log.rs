//! The raft log as raft sees it: recent entries in memory, all of them in the write-ahead log.
//! Owns what of the log is kept; never looks into an entry.

use std::cell::Cell;
use std::collections::VecDeque;

use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, StorageError};

use super::message::set_data;
use crate::ids::{LogIndex, LogPosition, Term};
use crate::members::Membership;
use crate::storage::Error;
use crate::storage::wal::{self, Wal, WalContent, WalEntry};

/// Every member of a new cluster begins as if this entry had been applied everywhere: no log ever holds it, so that a
/// member that joins later needs a state first.
pub const BEGINNING: LogPosition = LogPosition { index: LogIndex(1), term: Term(1) };

/// Entries are kept in memory for members that lag behind, but no more bytes of them.
const MAX_CATCH_UP_BYTES: usize = 64 << 20;

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
    /// Bytes of the entries' data.
    bytes: usize,
    hard_state: HardState,
    conf_state: ConfState,
    /// A state that is ready to be sent, and to whom.
    offer: Option<(u64, Snapshot)>,
    /// Who needs a state: asked through a shared reference, taken by the node.
    wanted_by: Cell<Option<u64>>,
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
        members: &Membership,
        timers: LogTimers,
    ) -> Result<Self, Error> {
        check_fit(&content, applied)?;
        let mut hard_state = HardState::default();
        hard_state.term = content.hard_state.term.max(applied.term.0);
        hard_state.vote = content.hard_state.vote;
        let base = base_of(&content, applied);
        let kept = content.entries.into_iter().filter(|entry| entry.index > base.index.0);
        let entries = kept.map(to_raft).collect::<Result<VecDeque<_>, _>>()?;
        let last = entries.back().map_or(applied.index.0, |entry: &Entry| entry.index);
        hard_state.commit = content.hard_state.commit.clamp(applied.index.0, last);
        let bytes = entries.iter().map(size_of).sum();
        Ok(Self {
            wal,
            timers,
            base,
            entries,
            bytes,
            hard_state,
            conf_state: conf_state(members),
            offer: None,
            wanted_by: Cell::new(None),
        })
    }

    /// Begins the log of a member of a new cluster.
    ///
    /// # Errors
    /// A fault of the disk.
    pub fn bootstrap(wal: &mut Wal) -> Result<(), Error> {
        let (term, commit) = (BEGINNING.term.0, BEGINNING.index.0);
        wal.append(Some(wal::HardState { term, vote: 0, commit }), &[])?;
        wal.flush()
    }

    /// Makes sure of room for an entry of `bytes`, so that a full disk is met before raft takes it.
    ///
    /// # Errors
    /// `Full`, after which everything is as before; a fault of the disk.
    pub fn reserve(&mut self, bytes: usize) -> Result<(), Error> {
        self.wal.reserve(bytes)
    }

    /// The same for an entry that makes room, or that others have: it may use what is kept for a full disk.
    ///
    /// # Errors
    /// `Full`, after which everything is as before; a fault of the disk.
    pub fn reserve_of_spare(&mut self, bytes: usize) -> Result<(), Error> {
        self.wal.reserve_of_spare(bytes)
    }

    /// Writes what a `Ready` wants kept; durable after `flush`. A commit index alone waits for the next write.
    ///
    /// # Errors
    /// A fault of the disk.
    pub fn append(&mut self, hard_state: Option<&HardState>, entries: &[Entry]) -> Result<(), Error> {
        let mut promised = false;
        if let Some(new) = hard_state {
            promised = self.is_promise(new);
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
            self.bytes -= self.entries.range(keep.min(self.entries.len())..).map(size_of).sum::<usize>();
            self.entries.truncate(keep);
            for entry in entries {
                let mut entry = entry.clone();
                if is_change(&entry) {
                    // What raft reads of a change when it is proposed; its batch stands in the context.
                    entry.data = bytes::Bytes::new();
                }
                self.bytes += size_of(&entry);
                self.entries.push_back(entry);
            }
        }
        Ok(())
    }

    /// Puts a received state in the place of the log through `position`; durable when this returns.
    ///
    /// # Errors
    /// A fault of the disk.
    pub fn begin_after(&mut self, position: LogPosition, members: &Membership) -> Result<(), Error> {
        self.hard_state.commit = position.index.0;
        self.hard_state.term = self.hard_state.term.max(position.term.0);
        let HardState { term, vote, commit, .. } = self.hard_state;
        self.wal.begin_after(wal::HardState { term, vote, commit }, position)?;
        self.wal.flush()?;
        self.entries.clear();
        self.bytes = 0;
        self.base = position;
        self.conf_state = conf_state(members);
        Ok(())
    }

    /// Members have changed, as of the newest committed entry.
    pub fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
    }

    /// Who needs a state, since the log does not reach it any more.
    pub fn take_wanted(&mut self) -> Option<u64> {
        self.wanted_by.take()
    }

    /// A state that is ready to be sent to a member.
    pub fn offer(&mut self, to: u64, position: LogPosition, members: &Membership) {
        self.offer = Some((to, snapshot_of(position, members)));
    }

    /// What was offered to a member is on its way, or of no use.
    pub fn withdraw(&mut self) {
        self.offer = None;
    }

    /// # Errors
    /// A fault of the disk. Nothing may be promised after it.
    pub fn flush(&mut self) -> Result<(), Error> {
        let timer = self.timers.flush.start_timer();
        self.wal.flush()?;
        timer.observe_duration();
        Ok(())
    }

    /// Whether term or vote are new: nothing that rests on them may be said before a flush.
    pub fn is_promise(&self, new: &HardState) -> bool {
        new.term != self.hard_state.term || new.vote != self.hard_state.vote
    }

    /// Whether a change of members becomes committed when the commit index rises to `commit`. `new` has the entries that are
    /// not in the log yet.
    pub fn commits_change(&self, commit: LogIndex, new: &[Entry]) -> bool {
        let known = self.hard_state.commit;
        let place = |index: u64| {
            let place =
                usize::try_from(index.saturating_sub(self.base.index.0)).expect("indexes in memory fit");
            place.min(self.entries.len())
        };
        let (first, end) = (place(known), place(commit.0));
        let mut of_log = self.entries.range(first.min(end)..end);
        let becomes = |entry: &&Entry| entry.index > known && entry.index <= commit.0;
        of_log.any(is_change) || new.iter().filter(becomes).any(is_change)
    }

    /// Remembers a commit index; it is written with the next record.
    pub fn note_commit(&mut self, commit: LogIndex) {
        self.hard_state.commit = commit.0;
    }

    /// Makes durable that everything through the commit index is committed.
    ///
    /// # Errors
    /// A fault of the disk.
    pub fn keep_commit(&mut self) -> Result<(), Error> {
        let HardState { term, vote, commit, .. } = self.hard_state;
        self.wal.append(Some(wal::HardState { term, vote, commit }), &[])?;
        self.flush()
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
            self.bytes -= size_of(first);
            self.entries.pop_front();
        }
        self.wal.cut(self.base.index)
    }

    /// Through where the log may be cut when everything through `done` is applied and stored and `catch_up` entries
    /// shall be left for members that lag behind.
    pub fn cut_point(&self, done: LogIndex, catch_up: u64) -> LogIndex {
        let mut cut = done.0.saturating_sub(catch_up);
        let mut bytes = self.bytes;
        for entry in &self.entries {
            if entry.index > done.0 || (entry.index > cut && bytes <= MAX_CATCH_UP_BYTES) {
                break;
            }
            bytes -= size_of(entry);
            cut = cut.max(entry.index);
        }
        LogIndex(cut)
    }

    /// Bytes of the entries in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
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
pub(super) fn check_fit(content: &WalContent, applied: LogPosition) -> Result<(), Error> {
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

/// The entry before the first that is kept: what the log holds before `applied` is still of use to members that lag
/// behind. It must be one whose term is known.
fn base_of(content: &WalContent, applied: LogPosition) -> LogPosition {
    let Some(first) = content.entries.first().filter(|first| first.index <= applied.index.0) else {
        return applied;
    };
    let before = LogIndex(first.index - 1);
    match content.begins_after {
        Some(after) if after.index == before => after,
        // Every log begins after the entry that all members of a new cluster take for applied.
        _ if before == BEGINNING.index => BEGINNING,
        _ => LogPosition { index: LogIndex(first.index), term: Term(first.term) },
    }
}

fn from_raft(entry: &Entry) -> WalEntry {
    let kind = match entry.entry_type {
        EntryType::EntryNormal => 0,
        EntryType::EntryConfChange => 1,
        EntryType::EntryConfChangeV2 => 2,
    };
    let data = if kind == 0 { &entry.data } else { &entry.context };
    WalEntry { index: entry.index, term: entry.term, kind, data: data.clone() }
}

fn to_raft(stored: WalEntry) -> Result<Entry, Error> {
    let WalEntry { index, term, kind, data } = stored;
    let is_change = match kind {
        0 => false,
        2 => true,
        kind => {
            let detail = format!("it is of the kind {kind}, which this version does not know");
            return Err(Error::Damaged { place: format!("log entry {index}"), detail });
        }
    };
    let mut entry = Entry { index, term, ..Entry::default() };
    set_data(&mut entry, is_change, data);
    Ok(entry)
}

pub(super) fn is_change(entry: &Entry) -> bool {
    entry.entry_type != EntryType::EntryNormal
}

fn size_of(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len() + std::mem::size_of::<Entry>()
}

/// A state as raft speaks of it.
pub(super) fn snapshot_of(position: LogPosition, members: &Membership) -> Snapshot {
    let mut snapshot = Snapshot::default();
    let metadata = snapshot.mut_metadata();
    (metadata.index, metadata.term) = (position.index.0, position.term.0);
    metadata.set_conf_state(conf_state(members));
    snapshot
}

fn conf_state(members: &Membership) -> ConfState {
    ConfState { voters: members.voters(), learners: members.learners(), ..ConfState::default() }
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

    /// The state on offer for this member; there is none before somebody has asked.
    fn snapshot(&self, _request_index: u64, to: u64) -> raft::Result<Snapshot> {
        match &self.offer {
            // Behind its end the log goes on.
            Some((offered_to, snapshot))
                if *offered_to == to && snapshot.get_metadata().index >= self.base.index.0 =>
            {
                Ok(snapshot.clone())
            }
            _ => {
                self.wanted_by.set(Some(to));
                Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable))
            }
        }
    }
}

#[cfg(test)]
mod tests;

//! The synchronous core of consensus: raft and its log, stepped by the loop (or by a simulation).
//! Owns the `RawNode`. Takes ticks and proposals, gives committed entries; time stands outside.

use std::collections::BTreeMap;

use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType};
use raft::{RawNode, StateRole};

use super::log::RaftLog;
use super::proposal::{Gathered, Replies};
use super::{ConsensusError, Proposal};
use crate::ids::{LogIndex, LogPosition, MemberId, Term};
use crate::storage;

/// What a node needs to know about itself.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    pub id: MemberId,
    pub election_ticks: usize,
    pub heartbeat_ticks: usize,
    pub pre_vote: bool,
    /// The newest entry that the recovered state contains.
    pub applied: LogIndex,
}

/// Why the node cannot go on. The process must stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("raft log: {0}")]
    Log(#[from] storage::Error),
    #[error("raft: {0}")]
    Raft(#[from] raft::Error),
}

/// A committed entry with the callers that wait for it here.
#[derive(Debug)]
pub struct CommittedEntry {
    pub position: LogPosition,
    /// Empty for the entry that a new leader begins its term with.
    pub data: Bytes,
    pub replies: Replies,
}

/// What one round of the node gave.
#[derive(Debug, Default)]
pub struct Step {
    pub committed: Vec<CommittedEntry>,
}

/// Raft over its log.
pub struct Node {
    raw: RawNode<RaftLog>,
    id: MemberId,
    sequence: u64,
    /// Callers by the index that their entry was given, with its term: another term at that index means that
    /// the entry was lost.
    waiting: BTreeMap<u64, (u64, Replies)>,
}

impl Node {
    /// # Errors
    /// When the log and the options do not fit together.
    pub fn new(log: RaftLog, options: &NodeOptions) -> Result<Self, Error> {
        let config = raft::Config {
            id: options.id.0,
            election_tick: options.election_ticks,
            heartbeat_tick: options.heartbeat_ticks,
            applied: options.applied.0,
            pre_vote: options.pre_vote,
            check_quorum: true,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 512,
            max_committed_size_per_ready: 16 << 20,
            read_only_option: raft::ReadOnlyOption::Safe,
            ..raft::Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, log, &logger)?;
        Ok(Self { raw, id: options.id, sequence: 0, waiting: BTreeMap::new() })
    }

    /// The only voter need not wait for an election timeout.
    ///
    /// # Errors
    /// When raft refuses to stand.
    pub fn campaign_if_alone(&mut self) -> Result<(), Error> {
        if self.is_only_voter() && !self.is_leader() {
            self.raw.campaign()?;
        }
        Ok(())
    }

    pub fn is_only_voter(&self) -> bool {
        let voters = self.raw.raft.prs().conf().voters().ids();
        voters.len() == 1 && voters.contains(self.id.0)
    }

    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    pub fn leader(&self) -> MemberId {
        MemberId(self.raw.raft.leader_id)
    }

    pub fn term(&self) -> Term {
        Term(self.raw.raft.term)
    }

    pub fn log(&self) -> &RaftLog {
        self.raw.store()
    }

    pub fn tick(&mut self) {
        self.raw.tick();
    }

    /// Puts proposals into entries. What cannot be proposed is answered here.
    pub fn propose(&mut self, proposals: impl IntoIterator<Item = Proposal>) {
        let mut gathered = Gathered::default();
        for proposal in proposals {
            gathered.push(proposal);
            if gathered.is_full() {
                self.propose_entry(std::mem::take(&mut gathered));
            }
        }
        if !gathered.is_empty() {
            self.propose_entry(gathered);
        }
    }

    fn propose_entry(&mut self, gathered: Gathered) {
        self.sequence += 1;
        let (data, replies) = gathered.finish(self.id, self.sequence);
        if !self.is_leader() {
            return replies.fail(&ConsensusError::NoLeader);
        }
        // Before raft takes it: an entry that raft holds can no longer be refused.
        if let Err(fault) = self.raw.mut_store().reserve(data.len()) {
            tracing::warn!(%fault, "the log cannot take a proposal");
            return replies.fail(&ConsensusError::NoSpace);
        }
        match self.raw.propose(Vec::new(), data.into()) {
            Ok(()) => {
                let index = self.raw.raft.raft_log.last_index();
                self.waiting.insert(index, (self.raw.raft.term, replies));
            }
            Err(raft::Error::ProposalDropped) => replies.fail(&ConsensusError::TooManyRequests),
            Err(error) => {
                tracing::warn!(%error, "raft refused a proposal");
                replies.fail(&ConsensusError::NoLeader);
            }
        }
    }

    /// Whether `step` has something to do.
    pub fn has_ready(&self) -> bool {
        self.raw.has_ready()
    }

    /// Flushes what raft wants kept, then hands out what is committed by it.
    ///
    /// # Errors
    /// See `Error`: nothing may be answered any more.
    pub fn step(&mut self) -> Result<Step, Error> {
        let mut step = Step::default();
        let mut ready = self.raw.ready();
        self.take_committed(ready.take_committed_entries(), &mut step);
        self.raw.mut_store().append(ready.hs(), ready.entries())?;
        if ready.must_sync() {
            self.raw.mut_store().flush()?;
        }
        let mut light = self.raw.advance_append(ready);
        self.take_committed(light.take_committed_entries(), &mut step);
        if let Some(commit) = light.commit_index() {
            self.raw.mut_store().note_commit(LogIndex(commit));
        }
        Ok(step)
    }

    fn take_committed(&mut self, entries: Vec<Entry>, step: &mut Step) {
        for entry in entries {
            let replies = self.replies_of(&entry);
            // Members change in a later version; a change found in the log is not ours to skip.
            assert_eq!(entry.entry_type, EntryType::EntryNormal, "entry {} changes members", entry.index);
            step.committed.push(CommittedEntry {
                position: LogPosition { index: LogIndex(entry.index), term: Term(entry.term) },
                data: entry.data,
                replies,
            });
        }
    }

    fn replies_of(&mut self, entry: &Entry) -> Replies {
        while let Some(first) = self.waiting.first_entry()
            && *first.key() <= entry.index
        {
            let (index, (term, replies)) = first.remove_entry();
            if index == entry.index && term == entry.term {
                return replies;
            }
            replies.fail(&ConsensusError::LeaderChanged);
        }
        Replies::default()
    }

    /// Says that entries through `applied` have taken effect and that the store has those through `flushed`:
    /// the log below is no longer needed by this member.
    ///
    /// # Errors
    /// A fault of the disk.
    pub fn progressed(&mut self, applied: LogIndex, flushed: LogIndex, catch_up: u64) -> Result<(), Error> {
        self.raw.advance_apply_to(applied.0);
        let catch_up = if self.is_only_voter() { 0 } else { catch_up };
        let cut = flushed.0.min(applied.0).saturating_sub(catch_up);
        self.raw.mut_store().cut(LogIndex(cut))?;
        Ok(())
    }

    /// Ends the log in order, after the last step: nothing works afterwards.
    ///
    /// # Errors
    /// A fault of the disk.
    pub fn close(&mut self) -> Result<(), Error> {
        Ok(self.raw.mut_store().close()?)
    }

    /// Answers everybody who still waits.
    pub fn fail_waiting(&mut self, error: &ConsensusError) {
        for (_, (_, replies)) in std::mem::take(&mut self.waiting) {
            replies.fail(error);
        }
    }
}

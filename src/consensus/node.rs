//! The synchronous core of consensus: raft and its log, stepped by the loop (or by a simulation).
//! Owns the `RawNode` and who belongs to the cluster as of the newest committed entry. Takes ticks, proposals, reads and
//! messages; gives messages, committed entries and granted reads. Time and network stand outside.

mod changes;
mod reading;
mod room;
mod steps;

use std::collections::VecDeque;

use bytes::Bytes;
use raft::eraftpb::{Entry, Message, MessageType};
use raft::{INVALID_ID, RawNode, StateRole};

use super::log::RaftLog;
use super::proposal::{Gathered, Replies};
use super::reads::{Granted, Reads};
use super::waiting::Waiting;
use super::{ConsensusError, Install, Proposal, ReceivedState};
use crate::ids::{LogIndex, LogPosition, MemberId, Term};
use crate::members::Membership;
use crate::storage;

/// Ticks for which nothing comes from a leader whose link broke, after which this member stands for election.
const LOST_LEADER_TICKS: u64 = 2;
/// Proposals and reads kept while there is no leader, and the bytes of the proposals; more are refused.
const MAX_HELD: usize = 16 * 1024;
const MAX_HELD_BYTES: usize = 64 << 20;
/// Messages that a member is sent before it answers, and the bytes of each, unless one entry has more. One that is far behind
/// gets all of them in one turn, and what others wait for comes after it.
const MAX_IN_FLIGHT: usize = 32;
const MAX_MESSAGE_BYTES: u64 = 128 << 10;
/// Bytes of entries that are kept for a member that takes in a state.
const MAX_BYTES_FOR_STATE: usize = 256 << 20;
/// Bytes of proposals that raft holds before they are committed; more are refused.
const MAX_UNCOMMITTED_BYTES: u64 = 256 << 20;

/// What a node needs to know about itself.
#[derive(Clone, Debug)]
pub struct NodeOptions {
    pub id: MemberId,
    pub election_ticks: usize,
    pub heartbeat_ticks: usize,
    pub pre_vote: bool,
    /// The newest entry that the recovered state contains.
    pub applied: LogIndex,
    /// Who belongs to the cluster after that entry.
    pub members: Membership,
    /// Of no other start of any member: random outside of a simulation.
    pub seed: u64,
}

/// Why the node cannot go on. The process must stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("raft log: {0}")]
    Log(#[from] storage::Error),
    #[error("raft: {0}")]
    Raft(#[from] raft::Error),
    #[error("it acknowledged entry {told}, but its log ends with entry {last}: empty it and --rejoin")]
    LostEntries { told: u64, last: u64 },
    #[error("member {:x} has no state to go on with, or is no member any more", .0.0)]
    NotAMember(MemberId),
    #[error("entry {index} changes members, but is not one of ours: {detail}")]
    Change { index: u64, detail: String },
}

/// Where messages go. Never waits; a message that cannot be sent is lost.
pub trait Network {
    /// May gather messages until `depart`.
    fn send(&mut self, message: Message);

    /// What was sent since the last call leaves.
    fn depart(&mut self) {}
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
    /// A received state to put in the place of the present one, before anything of `committed`.
    pub install: Option<Install>,
    pub committed: Vec<CommittedEntry>,
    pub granted: Vec<Granted>,
    /// Who belongs to the cluster has changed.
    pub members_changed: bool,
}

/// Raft over its log.
pub struct Node {
    raw: RawNode<RaftLog>,
    id: MemberId,
    seed: u64,
    election_ticks: usize,
    ticks: u64,
    members: Membership,
    waiting: Waiting,
    reads: Reads,
    /// What other members are told that asked for their readers.
    answers: Vec<Message>,
    /// Proposals that wait for a leader.
    held: VecDeque<Proposal>,
    /// Changes of members that wait for the one before.
    changes: VecDeque<Proposal>,
    /// Term and leader when they were last looked at.
    noticed: (u64, u64),
    /// Committed, and not handed out before it is sure that those who stay know that this member is removed.
    withheld: VecDeque<Entry>,
    /// The newest commit index that a leader has told this member.
    told_commit: u64,
    /// The entry of the state that is on its way to a member.
    sending: Option<LogIndex>,
    /// The tick at which a state was last asked for, to be sent to a member.
    state_since: Option<u64>,
    /// The tick since which the leader cannot be reached: what it is sent would be lost.
    leader_lost_since: Option<u64>,
    /// A state that has come whole and that raft has not taken yet.
    received: Option<ReceivedState>,
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
            max_size_per_msg: MAX_MESSAGE_BYTES,
            max_inflight_msgs: MAX_IN_FLIGHT,
            max_committed_size_per_ready: 16 << 20,
            max_uncommitted_size: MAX_UNCOMMITTED_BYTES,
            read_only_option: raft::ReadOnlyOption::Safe,
            ..raft::Config::default()
        };
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, log, &logger)?;
        let mut node = Self {
            noticed: (raw.raft.term, INVALID_ID),
            raw,
            id: options.id,
            seed: options.seed,
            election_ticks: options.election_ticks,
            ticks: 0,
            members: options.members.clone(),
            waiting: Waiting::new(options.id, options.seed),
            reads: Reads::new(options.id, options.seed),
            answers: Vec::new(),
            held: VecDeque::new(),
            changes: VecDeque::new(),
            withheld: VecDeque::new(),
            told_commit: 0,
            sending: None,
            state_since: None,
            leader_lost_since: None,
            received: None,
        };
        node.notice();
        Ok(node)
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

    /// Lets all but a tick of the first election timeout pass: a member that starts need not wait for a leader that is
    /// not there.
    pub fn skip_first_timeout(&mut self) {
        for _ in 0..self.election_ticks.saturating_sub(1) {
            self.tick();
        }
    }

    pub fn is_only_voter(&self) -> bool {
        let voters = self.raw.raft.prs().conf().voters().ids();
        voters.len() == 1 && voters.contains(self.id.0)
    }

    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    pub fn is_learner(&self) -> bool {
        self.raw.raft.prs().conf().learners().contains(&self.id.0)
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

    /// Who belongs to the cluster after the newest committed entry.
    pub fn members(&self) -> &Membership {
        &self.members
    }

    pub fn tick(&mut self) {
        self.ticks += 1;
        self.raw.tick();
        self.waiting.forget_gone();
        self.reads.forget_gone();
        self.held.retain(|proposal| !proposal.reply.is_closed());
        self.changes.retain(|proposal| !proposal.reply.is_closed());
        if self.leader_lost_since.is_some_and(|since| self.ticks == since + LOST_LEADER_TICKS) {
            self.stand_early();
        }
        self.notice();
    }

    /// A leader whose link broke and that says nothing has most likely ended: no need to wait for the whole election timeout.
    /// The vote before the vote makes this harmless: whoever hears the leader refuses.
    fn stand_early(&mut self) {
        let raft = &self.raw.raft;
        if raft.pre_vote && raft.state == StateRole::Follower && raft.promotable() {
            tracing::info!(leader = %format!("{:x}", raft.leader_id), "the leader is gone: standing for election");
            if let Err(error) = self.raw.campaign() {
                tracing::debug!(%error, "raft does not stand");
            }
        }
    }

    /// Takes a message of a peer.
    ///
    /// # Errors
    /// `LostEntries`.
    pub fn receive(&mut self, message: Message) -> Result<(), Error> {
        if !self.hears(&message) {
            tracing::debug!(from = message.from, to = message.to, "a message is not for this member");
            return Ok(());
        }
        if message.from == self.raw.raft.leader_id {
            self.leader_lost_since = None;
        }
        if !self.fits(&message)? {
            tracing::warn!(from = message.from, kind = ?message.get_msg_type(), "a message does not fit the log");
            return Ok(());
        }
        if let Err(fault) = self.make_room_for(&message) {
            tracing::debug!(%fault, from = message.from, "the log cannot take entries of another member");
            return Ok(());
        }
        let (from, term, kind, commit) = (message.from, message.term, message.get_msg_type(), message.commit);
        if kind == MessageType::MsgReadIndex && self.is_leader() {
            self.ask_for(message);
            return Ok(());
        }
        if let Err(error) = self.raw.step(message) {
            tracing::debug!(%error, "raft did not take a message");
        }
        let is_leaders = matches!(kind, MessageType::MsgAppend | MessageType::MsgHeartbeat);
        if is_leaders && (term, from) == (self.raw.raft.term, self.raw.raft.leader_id) {
            self.told_commit = self.told_commit.max(commit);
        }
        self.notice();
        Ok(())
    }

    /// Whether a message is for this member, and of one who may still speak: a removed member may not know that it is one.
    fn hears(&self, message: &Message) -> bool {
        let is_others = message.from != self.id.0 && message.from != INVALID_ID;
        message.to == self.id.0 && is_others && !self.members.is_removed(MemberId(message.from))
    }

    /// What raft would take for a defect of its own and end the process.
    fn fits(&self, message: &Message) -> Result<bool, Error> {
        let (last, committed) = (self.raw.raft.raft_log.last_index(), self.raw.raft.raft_log.committed);
        let is_current = message.term >= self.raw.raft.term;
        Ok(match message.get_msg_type() {
            MessageType::MsgHeartbeat if is_current && message.commit > last => {
                return Err(Error::LostEntries { told: message.commit, last });
            }
            MessageType::MsgAppendResponse | MessageType::MsgHeartbeatResponse => message.index <= last,
            MessageType::MsgAppend => {
                let term_here = |index| self.raw.raft.raft_log.term(index).unwrap_or(0);
                let is_known = |entry: &&Entry| entry.index <= committed && term_here(entry.index) != 0;
                message.entries.iter().filter(is_known).all(|entry| term_here(entry.index) == entry.term)
            }
            _ => true,
        })
    }

    /// A peer can't be reached: raft sends it less until it is heard again.
    pub fn unreachable(&mut self, peer: MemberId) {
        if peer == self.leader() {
            self.leader_lost_since.get_or_insert(self.ticks);
        }
        self.raw.report_unreachable(peer.0);
    }

    /// Hands the leadership over, if this member has it.
    pub fn transfer_leadership(&mut self, to: MemberId) {
        if self.is_leader() {
            self.raw.transfer_leader(to.0);
        }
    }

    /// The voter that is best suited to lead next: it has most of the log and was heard lately.
    pub fn best_successor(&self) -> Option<MemberId> {
        let progress = self.raw.raft.prs();
        let voters = progress.conf().voters().ids();
        let others = progress.iter().filter(|(id, _)| **id != self.id.0 && voters.contains(**id));
        let heard = others.filter(|(_, progress)| progress.recent_active);
        heard.map(|(id, progress)| (progress.matched, *id)).max().map(|(_, id)| MemberId(id))
    }

    /// Whether proposals find a leader now.
    fn can_propose(&self) -> bool {
        let raft = &self.raw.raft;
        let is_handing_over = self.is_leader() && raft.lead_transferee.is_some();
        raft.leader_id != INVALID_ID && self.leader_lost_since.is_none() && !is_handing_over
    }

    /// Puts proposals into entries, here or at the leader; while there is none they wait. What cannot be proposed is
    /// answered here.
    pub fn propose(&mut self, proposals: impl IntoIterator<Item = Proposal>) {
        if !self.can_propose() || !self.held.is_empty() {
            let mut bytes: usize = self.held.iter().map(|proposal| proposal.command.len()).sum();
            for proposal in proposals {
                bytes += proposal.command.len();
                if self.held.len() < MAX_HELD && bytes <= MAX_HELD_BYTES {
                    self.held.push_back(proposal);
                } else {
                    bytes -= proposal.command.len();
                    proposal.fail(&ConsensusError::TooManyRequests);
                }
            }
            return;
        }
        self.propose_now(proposals);
    }

    fn propose_now(&mut self, proposals: impl IntoIterator<Item = Proposal>) {
        let is_leader = self.is_leader();
        let mut gathered = Gathered::default();
        for proposal in proposals {
            if !is_leader && !gathered.goes_with(&proposal) {
                self.propose_entry(std::mem::take(&mut gathered));
            }
            gathered.push(proposal);
            if gathered.is_full() {
                self.propose_entry(std::mem::take(&mut gathered));
            }
        }
        self.propose_entry(gathered);
    }

    fn propose_entry(&mut self, mut gathered: Gathered) {
        let is_leader = self.is_leader();
        // Before raft takes it: an entry that raft holds can no longer be refused.
        if is_leader {
            gathered = self.with_room(gathered);
        }
        if gathered.is_empty() {
            return;
        }
        let sequence = self.waiting.next_sequence();
        let (data, replies) = gathered.finish(self.id, sequence);
        let term = self.raw.raft.term;
        match self.raw.propose(Vec::new(), data.into()) {
            Ok(()) if is_leader => {
                self.waiting.appended(self.raw.raft.raft_log.last_index(), term, sequence, replies);
            }
            Ok(()) => self.waiting.forwarded(term, sequence, replies),
            Err(raft::Error::ProposalDropped) => replies.fail(&ConsensusError::TooManyRequests),
            Err(error) => {
                tracing::warn!(%error, "raft refused a proposal");
                replies.fail(&ConsensusError::NoLeader);
            }
        }
    }

    /// Does what waited for a leader, and begins a round for those who want to read: when everything that has come was
    /// taken in.
    pub fn move_on(&mut self) {
        if !self.held.is_empty() && self.can_propose() {
            let held = std::mem::take(&mut self.held);
            self.propose_now(held.into_iter().filter(|proposal| !proposal.reply.is_closed()));
        }
        self.propose_next_change();
        self.begin_round();
    }

    /// After each call into raft: a new term or leader ends the rounds of reads, and begins another election timeout,
    /// which depends on nothing but the seed.
    fn notice(&mut self) {
        let now = (self.raw.raft.term, self.raw.raft.leader_id);
        if now != self.noticed {
            self.noticed = now;
            self.leader_lost_since = None;
            self.reads.drop_rounds();
        }
        let mixed = mix(self.seed ^ mix(now.0) ^ mix(u64::from(self.is_leader()).wrapping_add(now.1)));
        let extra = usize::try_from(mixed % self.election_ticks.max(1) as u64).expect("below the timeout");
        self.raw.raft.set_randomized_election_timeout(self.election_ticks + extra);
    }

    /// Says that entries through `applied` have taken effect and that the store has those through `flushed`:
    /// the log below is no longer needed by this member.
    ///
    /// # Errors
    /// A fault of the disk.
    pub fn progressed(&mut self, applied: LogIndex, flushed: LogIndex, catch_up: u64) -> Result<(), Error> {
        self.applied(applied);
        let catch_up = if self.raw.raft.prs().iter().count() == 1 { 0 } else { catch_up };
        let mut cut = self.raw.store().cut_point(flushed.min(applied), catch_up);
        if let Some(sending) = self.sending
            && self.raw.store().bytes() < MAX_BYTES_FOR_STATE
        {
            // Who takes in a state goes on from there.
            cut = cut.min(sending);
        }
        self.raw.mut_store().cut(cut)?;
        Ok(())
    }

    /// Entries through here have taken effect: raft lets a next change of members begin.
    pub fn applied(&mut self, through: LogIndex) {
        if through.0 > self.raw.raft.raft_log.applied {
            self.raw.advance_apply_to(through.0);
        }
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
        self.waiting.fail_all(error);
        for proposal in self.held.drain(..).chain(self.changes.drain(..)) {
            proposal.fail(error);
        }
        for reader in self.reads.take_all() {
            drop(reader.reply.send(Err(error.clone())));
        }
    }
}

/// Spreads a number over all 64 bits.
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests;

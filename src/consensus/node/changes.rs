//! The node's part in who belongs to the cluster: one change at a time, and states taken over as a whole.

use bytes::Bytes;
use prost::Message as _;
use raft::eraftpb::{ConfChangeSingle, ConfChangeType, ConfChangeV2, MessageType};

use super::super::log::snapshot_of;
use super::super::proposal::{Gathered, Proposal};
use super::super::{ConsensusError, Install, ReceivedState};
use super::{Error, Node};
use crate::command::{self, Kind, MemberChange};
use crate::ids::{LogPosition, MemberId};
use crate::members::Membership;
use crate::wire::log::member_change::Kind as Change;

/// A state that is not on its way after so many ticks is made anew.
const STATE_PATIENCE_TICKS: u64 = 100;

impl Node {
    /// Proposes a change of members, when this member leads: behind those before it.
    pub fn propose_change(&mut self, proposal: Proposal) {
        if !self.is_leader() {
            return proposal.fail(&ConsensusError::NotLeader);
        }
        self.changes.push_back(proposal);
    }

    /// Raft takes the next change when the one before is applied. A leader that is to be removed hands over before, and the
    /// next one removes it: once it had left, the others might not know that they no longer need it.
    pub(super) fn propose_next_change(&mut self) {
        if !self.is_leader() {
            self.changes.drain(..).for_each(|proposal| proposal.fail(&ConsensusError::NotLeader));
        }
        if self.changes.is_empty() || !self.can_propose() || self.raw.raft.has_pending_conf() {
            return;
        }
        let Some(proposal) = self.changes.pop_front() else {
            return;
        };
        let change = match decode(&proposal.command) {
            Ok(change) => change,
            Err(detail) => {
                tracing::error!(detail, "a change of members is not one");
                return proposal.fail(&ConsensusError::NotLeader);
            }
        };
        if matches!(change.kind, Some(Change::Remove(id)) if id == self.id.0)
            && let Some(successor) = self.best_successor()
        {
            self.raw.transfer_leader(successor.0);
            return proposal.fail(&ConsensusError::NotLeader);
        }
        let mut gathered = Gathered::default();
        gathered.push(proposal);
        if let Err(fault) = self.raw.mut_store().reserve_of_spare(gathered.bytes()) {
            tracing::warn!(%fault, "the log cannot take a change of members");
            return gathered.fail(&ConsensusError::NoSpace);
        }
        let sequence = self.waiting.next_sequence();
        let (data, replies) = gathered.finish(self.id, sequence);
        match self.raw.propose_conf_change(data.into(), self.to_raft(&change)) {
            Ok(()) => {
                let (index, term) = (self.raw.raft.raft_log.last_index(), self.raw.raft.term);
                self.waiting.appended(index, term, sequence, replies);
            }
            Err(error) => {
                tracing::warn!(%error, "raft refused a change of members");
                replies.fail(&ConsensusError::TooManyRequests);
            }
        }
    }

    /// A committed change takes effect, unless the rules refuse it: on every member alike.
    pub(super) fn change_members(&mut self, at: LogPosition, data: &Bytes) -> Result<bool, Error> {
        let wrong = |detail: String| Error::Change { index: at.index.0, detail };
        let batch = command::decode(at.index.0, data).map_err(|error| wrong(error.to_string()))?;
        let Some(Kind::MemberChange(change)) =
            batch.commands.into_iter().next().and_then(|command| command.kind)
        else {
            return Err(wrong("it holds no change".to_owned()));
        };
        let for_raft = self.to_raft(&change);
        if let Err(rejection) = self.members.apply(&change) {
            tracing::info!(%rejection, index = at.index.0, "a change of members is refused");
            return Ok(false);
        }
        let conf_state = self.raw.apply_conf_change(&for_raft)?;
        self.raw.mut_store().set_conf_state(conf_state);
        Ok(true)
    }

    /// Whether an entry's change would remove this member.
    pub(super) fn removes_itself(&self, data: &Bytes) -> bool {
        let batch = command::decode(0, data).ok();
        let command = batch.and_then(|batch| batch.commands.into_iter().next());
        match command.and_then(|command| command.kind) {
            Some(Kind::MemberChange(change)) => {
                matches!(change.kind, Some(Change::Remove(id)) if id == self.id.0)
                    && self.members.check(&change).is_ok()
            }
            _ => false,
        }
    }

    /// A leader that has removed itself leads no more (raft thesis, 4.2.2): raft would not find itself among those who
    /// have the next entry.
    pub(super) fn step_down_if_removed(&mut self) {
        if !self.is_leader() || self.raw.raft.prs().get(self.id.0).is_some() {
            return;
        }
        if let Some(successor) = self.best_successor() {
            self.raw.transfer_leader(successor.0);
        }
        self.raw.raft.become_follower(self.raw.raft.term, raft::INVALID_ID);
    }

    /// The change as raft knows it. An update changes nothing there: the member is added again as what it is.
    fn to_raft(&self, change: &MemberChange) -> ConfChangeV2 {
        let role = |is_learner: bool| match is_learner {
            true => ConfChangeType::AddLearnerNode,
            false => ConfChangeType::AddNode,
        };
        let (kind, id) = match &change.kind {
            Some(Change::Add(member)) => (role(member.is_learner), member.id),
            Some(Change::Remove(id)) => (ConfChangeType::RemoveNode, *id),
            Some(Change::Promote(id)) => (ConfChangeType::AddNode, *id),
            Some(Change::Update(member)) => {
                let known = self.members.get(MemberId(member.id));
                (role(known.is_some_and(|known| known.is_learner)), member.id)
            }
            None => (ConfChangeType::AddNode, self.id.0),
        };
        let mut single = ConfChangeSingle::default();
        single.set_change_type(kind);
        single.node_id = id;
        let mut change = ConfChangeV2::default();
        change.set_changes(vec![single].into());
        change
    }

    /// How much of the leader's log a member has, of 100; `None` when this member does not lead or does not know it.
    pub fn percent_of_log(&self, member: MemberId) -> Option<u64> {
        let progress = self.raw.raft.prs();
        let matched = progress.get(member.0).filter(|_| self.is_leader())?.matched;
        Some(matched.saturating_mul(100) / self.raw.raft.raft_log.last_index().max(1))
    }

    /// Who needs the leader's state, since the log does not reach it any more: one member after the other.
    pub fn take_wanted_state(&mut self) -> Option<MemberId> {
        let wanted = self.raw.mut_store().take_wanted()?;
        let is_busy = self.state_since.is_some_and(|since| self.ticks < since + STATE_PATIENCE_TICKS);
        if is_busy || !self.is_leader() {
            return None;
        }
        (self.state_since, self.sending) = (Some(self.ticks), None);
        Some(MemberId(wanted))
    }

    /// A state of `position` is ready to be sent: raft sends its message now, or when it next has something for the member.
    pub fn offer_state(&mut self, to: MemberId, position: LogPosition, members: &Membership) {
        self.sending = Some(position.index);
        self.raw.mut_store().offer(to.0, position, members);
        if self.is_leader() && self.raw.raft.prs().get(to.0).is_some() {
            self.raw.raft.send_append(to.0);
        }
    }

    /// A state has been sent, or could not be.
    pub fn state_sent(&mut self, to: MemberId, arrived: bool) {
        self.raw.mut_store().withdraw();
        (self.state_since, self.sending) = (None, None);
        let status = if arrived { raft::SnapshotStatus::Finish } else { raft::SnapshotStatus::Failure };
        self.raw.report_snapshot(to.0, status);
    }

    /// A state has come whole with the leader's message for it. Raft takes it when it is newer than what is here.
    pub fn receive_state(&mut self, received: ReceivedState) {
        let is_ours = self.hears(&received.message) && received.members.contains(self.id);
        // Before raft takes it: the log's mark must find room.
        let has_room = self.raw.mut_store().reserve_of_spare(0).is_ok();
        if !is_ours || !has_room {
            tracing::warn!(
                from = received.message.from,
                is_ours,
                has_room,
                "a received state cannot be taken"
            );
            return;
        }
        let mut message = received.message.clone();
        message.set_msg_type(MessageType::MsgSnapshot);
        message.set_snapshot(snapshot_of(received.position, &received.members));
        self.received = Some(received);
        if let Err(error) = self.raw.step(message) {
            tracing::debug!(%error, "raft did not take a state");
        }
        if self.raw.snap().is_none()
            && let Some(received) = self.received.take()
        {
            tracing::info!(index = received.position.index.0, "a received state is not wanted");
        }
        self.notice();
    }

    /// Puts the received state in the place of the log.
    pub(super) fn take_state(&mut self, position: LogPosition) -> Result<Install, Error> {
        let Some(received) = self.received.take().filter(|received| received.position == position) else {
            let detail = "raft takes a state that has not come".to_owned();
            return Err(Error::Change { index: position.index.0, detail });
        };
        received.state.decide();
        self.raw.mut_store().begin_after(position, &received.members)?;
        self.waiting.fail_all(&ConsensusError::LeaderChanged);
        self.members = received.members;
        Ok(Install { position, state: received.state })
    }
}

fn decode(command: &Bytes) -> Result<MemberChange, String> {
    let command = command::Command::decode(command.clone()).map_err(|error| error.to_string())?;
    match command.kind {
        Some(Kind::MemberChange(change)) => Ok(change),
        _ => Err("it is another command".to_owned()),
    }
}

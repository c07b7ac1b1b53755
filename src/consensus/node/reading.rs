//! Linearizable reads at the node: rounds with the leader, and at the leader for everybody.

use raft::eraftpb::{Entry, Message, MessageType};
use raft::{INVALID_ID, ReadState};

use super::super::ConsensusError;
use super::super::reads::{Asking, ReadReply};
use super::{MAX_HELD, Node, Step};
use crate::ids::{LogIndex, MemberId};

/// A round of reads that is not answered for so many ticks is asked again: with a heartbeat of 100 ms as often as in etcd.
const READ_PATIENCE_TICKS: u64 = 5;

impl Node {
    /// Lets a reader wait for a round with the leader.
    pub fn read(&mut self, reader: ReadReply) {
        if self.reads.len() < MAX_HELD {
            self.reads.add(reader);
        } else {
            drop(reader.reply.send(Err(ConsensusError::TooManyRequests)));
        }
    }

    /// Whether a round is under way: who comes now waits for the next one.
    pub fn has_round(&self) -> bool {
        self.reads.has_round(self.ticks, READ_PATIENCE_TICKS)
    }

    /// Another member asks this one, which leads, for readers of its own. One that is not heard asks again.
    pub(super) fn ask_for(&mut self, mut message: Message) {
        let Some(mut entry) = message.take_entries().into_iter().next() else {
            return;
        };
        let asking = Asking { member: MemberId(message.from), context: entry.take_data() };
        if self.answers_for_all(&message) {
            let answer = self.answer_to(asking, self.raw.raft.raft_log.committed);
            self.answers.push(answer);
        } else if self.reads.len() < MAX_HELD {
            self.reads.add_member(asking);
        }
    }

    /// Whether who asks and this member are enough to know that nobody else led when the readers came: asking, the other one
    /// had not moved on to a later term, nor has this one since. Of three voters any two are.
    fn answers_for_all(&self, message: &Message) -> bool {
        let raft = &self.raw.raft;
        let mut both = std::collections::HashSet::default();
        both.extend([self.id.0, message.from]);
        message.log_term == raft.term && raft.commit_to_current_term() && raft.prs().has_quorum(&both)
    }

    /// Asks the leader for those who wait, if there is one to be asked.
    pub(super) fn begin_round(&mut self) {
        let raft = &self.raw.raft;
        let can_ask = self.leader_lost_since.is_none()
            && raft.leader_id != INVALID_ID
            && (!self.is_leader() || raft.commit_to_current_term());
        if can_ask && self.reads.need_round(self.ticks, READ_PATIENCE_TICKS) {
            let context = self.reads.begin_round(self.ticks);
            self.raw.read_index(context);
            // In which term it is asked. Raft leaves that open, and this field unused in a question.
            let term = self.raw.raft.term;
            if let Some(asked) = self.raw.raft.msgs.last_mut()
                && asked.get_msg_type() == MessageType::MsgReadIndex
            {
                asked.log_term = term;
            }
        }
    }

    /// What other members are told whose rounds are answered by this one's.
    pub(super) fn take_reads(&mut self, states: Vec<ReadState>, step: &mut Step) -> Vec<Message> {
        let mut answers = std::mem::take(&mut self.answers);
        for state in states {
            let Some((granted, members)) = self.reads.answered(&state.request_ctx, LogIndex(state.index))
            else {
                continue;
            };
            step.granted.push(granted);
            answers.extend(members.into_iter().map(|asking| self.answer_to(asking, state.index)));
        }
        answers
    }

    fn answer_to(&self, asking: Asking, index: u64) -> Message {
        let mut answer = Message::default();
        answer.set_msg_type(MessageType::MsgReadIndexResp);
        (answer.from, answer.to) = (self.id.0, asking.member.0);
        (answer.term, answer.index) = (self.raw.raft.term, index);
        answer.set_entries(vec![Entry { data: asking.context, ..Entry::default() }].into());
        answer
    }
}

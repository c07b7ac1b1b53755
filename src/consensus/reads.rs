//! Linearizable reads: whoever asks waits for a round with the leader that begins after the question, and then until
//! this member has applied what the round names. One round at a time serves all that wait.
//! Owns the numbers of rounds: each is used once, and none survives a change of leader or term.

use bytes::{Buf, BufMut};
use tokio::sync::oneshot;

use super::ConsensusError;
use crate::courier::{Courier, Outbox};
use crate::ids::{LogIndex, MemberId};

/// A reader that waits.
#[derive(Debug)]
pub struct ReadReply {
    pub reply: oneshot::Sender<Result<(), ConsensusError>>,
    /// Of the thread on which it waits.
    pub courier: Courier,
}

impl ReadReply {
    pub fn answer(self, result: Result<(), ConsensusError>, outbox: &mut Outbox) {
        let Self { reply, courier } = self;
        outbox.push(&courier, move || drop(reply.send(result)));
    }
}

/// Readers that may read when everything through an entry is applied.
#[derive(Debug)]
pub struct Granted {
    pub index: LogIndex,
    pub readers: Vec<ReadReply>,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Reads {
    member: MemberId,
    /// Of this start of the member: an answer to an earlier one is none to us.
    incarnation: u64,
    next_round: u64,
    /// Answers to rounds before this one came too late.
    valid_from: u64,
    in_flight: Option<Round>,
    /// With the first round that began after the question.
    waiting: Vec<(u64, ReadReply)>,
}

#[derive(Clone, Copy, Debug)]
struct Round {
    number: u64,
    asked_at: u64,
}

impl Reads {
    pub fn new(member: MemberId, incarnation: u64) -> Self {
        Self { member, incarnation, next_round: 1, valid_from: 1, in_flight: None, waiting: Vec::new() }
    }

    pub fn add(&mut self, reply: ReadReply) {
        self.waiting.push((self.next_round, reply));
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether somebody waits for a round that has not begun: none is under way, or it is not answered for
    /// `patience` ticks.
    pub fn need_round(&self, now: u64, patience: u64) -> bool {
        let overdue = |round: Round| now >= round.asked_at + patience;
        !self.waiting.is_empty() && self.in_flight.is_none_or(overdue)
    }

    /// Begins a round; what raft is to ask with.
    pub fn begin_round(&mut self, now: u64) -> Vec<u8> {
        let number = self.next_round;
        self.next_round += 1;
        self.in_flight = Some(Round { number, asked_at: now });
        let mut context = Vec::with_capacity(24);
        context.put_u64(self.member.0);
        context.put_u64(self.incarnation);
        context.put_u64(number);
        context
    }

    /// An answer has come: who may read now.
    pub fn answered(&mut self, mut context: &[u8], index: LogIndex) -> Option<Granted> {
        let ours = context.len() == 24
            && context.get_u64() == self.member.0
            && context.get_u64() == self.incarnation;
        if !ours {
            return None;
        }
        let number = context.get_u64();
        if number < self.valid_from || number >= self.next_round {
            return None;
        }
        if self.in_flight.is_some_and(|round| round.number <= number) {
            self.in_flight = None;
        }
        let ready = self.waiting.extract_if(.., |(first_round, _)| *first_round <= number);
        let readers = ready.map(|(_, reader)| reader).collect();
        Some(Granted { index, readers })
    }

    /// Leader or term have changed: rounds under way count no more, their readers wait for another.
    pub fn drop_rounds(&mut self) {
        self.valid_from = self.next_round;
        self.in_flight = None;
    }

    /// Forgets those who do not wait any more.
    pub fn forget_gone(&mut self) {
        self.waiting.retain(|(_, reply)| !reply.reply.is_closed());
    }

    /// Gives up on everybody.
    pub fn take_all(&mut self) -> Vec<ReadReply> {
        self.waiting.drain(..).map(|(_, reply)| reply).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader() -> (ReadReply, oneshot::Receiver<Result<(), ConsensusError>>) {
        let (reply, answer) = oneshot::channel();
        (ReadReply { reply, courier: Courier::here() }, answer)
    }

    #[test]
    fn only_a_round_that_began_after_the_question_answers_it() {
        let mut reads = Reads::new(MemberId(1), 9);
        reads.add(reader().0);
        assert!(reads.need_round(0, 5));
        let first = reads.begin_round(0);
        assert!(!reads.need_round(4, 5));
        reads.add(reader().0);
        let granted = reads.answered(&first, LogIndex(7)).expect("ours");
        assert_eq!((granted.index, granted.readers.len(), reads.len()), (LogIndex(7), 1, 1));
        assert!(reads.need_round(4, 5));
        let second = reads.begin_round(4);
        // The second round is late; a third is begun, and the second's answer still serves.
        assert!(reads.need_round(9, 5));
        let third = reads.begin_round(9);
        assert_eq!(reads.answered(&second, LogIndex(8)).map(|granted| granted.readers.len()), Some(1));
        assert_eq!(reads.answered(&third, LogIndex(8)).map(|granted| granted.readers.len()), Some(0));
    }

    #[test]
    fn answers_from_before_a_change_of_leader_count_for_nothing() {
        let mut reads = Reads::new(MemberId(1), 9);
        reads.add(reader().0);
        let old = reads.begin_round(0);
        reads.drop_rounds();
        assert!(reads.answered(&old, LogIndex(7)).is_none());
        assert!(reads.need_round(0, 5));
        let new = reads.begin_round(0);
        let mut other = Reads::new(MemberId(1), 10);
        other.add(reader().0);
        assert!(other.answered(&new, LogIndex(7)).is_none());
        assert_eq!(reads.answered(&new, LogIndex(7)).map(|granted| granted.readers.len()), Some(1));
        assert!(reads.answered(b"garbage", LogIndex(7)).is_none());
    }
}

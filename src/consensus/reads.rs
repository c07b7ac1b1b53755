//! Linearizable reads: whoever asks waits for a round with the leader that begins after the question, and then until
//! this member has applied what the round names. One round at a time serves all that wait: at the leader, that is also
//! the rounds of the other members, each of which would otherwise cost everybody a heartbeat and its answer.
//! Owns the numbers of rounds: each is used once, and none survives a change of leader or term.

use bytes::{Buf, BufMut, Bytes};
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

/// Another member whose round has come to this one, which leads.
#[derive(Debug)]
pub(super) struct Asking {
    pub member: MemberId,
    /// By which it knows its round.
    pub context: Bytes,
}

#[derive(Debug)]
enum Waiter {
    Reader(ReadReply),
    Member(Asking),
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
    waiting: Vec<(u64, Waiter)>,
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

    pub fn add(&mut self, reader: ReadReply) {
        self.waiting.push((self.next_round, Waiter::Reader(reader)));
    }

    /// The same for the readers of another member.
    pub fn add_member(&mut self, asking: Asking) {
        self.waiting.push((self.next_round, Waiter::Member(asking)));
    }

    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether somebody waits for a round that has not begun.
    pub fn need_round(&self, now: u64, patience: u64) -> bool {
        !self.waiting.is_empty() && !self.has_round(now, patience)
    }

    /// Whether a round is under way, and may still be answered: it began less than `patience` ticks ago.
    pub fn has_round(&self, now: u64, patience: u64) -> bool {
        self.in_flight.is_some_and(|round| now < round.asked_at + patience)
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

    /// An answer has come: who may read now, and who is to be told the same.
    pub fn answered(&mut self, mut context: &[u8], index: LogIndex) -> Option<(Granted, Vec<Asking>)> {
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
        let (mut readers, mut members) = (Vec::new(), Vec::new());
        for (_, waiter) in self.waiting.extract_if(.., |(first_round, _)| *first_round <= number) {
            match waiter {
                Waiter::Reader(reader) => readers.push(reader),
                Waiter::Member(asking) => members.push(asking),
            }
        }
        Some((Granted { index, readers }, members))
    }

    /// Leader or term have changed: rounds under way count no more, their readers wait for another. Other members ask
    /// whoever leads then.
    pub fn drop_rounds(&mut self) {
        self.valid_from = self.next_round;
        self.in_flight = None;
        self.waiting.retain(|(_, waiter)| matches!(waiter, Waiter::Reader(_)));
    }

    /// Forgets those who do not wait any more.
    pub fn forget_gone(&mut self) {
        self.waiting.retain(|(_, waiter)| match waiter {
            Waiter::Reader(reader) => !reader.reply.is_closed(),
            Waiter::Member(_) => true,
        });
    }

    /// Gives up on everybody: the readers here.
    pub fn take_all(&mut self) -> Vec<ReadReply> {
        let readers = self.waiting.drain(..).filter_map(|(_, waiter)| match waiter {
            Waiter::Reader(reader) => Some(reader),
            Waiter::Member(_) => None,
        });
        readers.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reader() -> (ReadReply, oneshot::Receiver<Result<(), ConsensusError>>) {
        let (reply, answer) = oneshot::channel();
        (ReadReply { reply, courier: Courier::here() }, answer)
    }

    fn readers(answered: Option<(Granted, Vec<Asking>)>) -> Option<usize> {
        answered.map(|(granted, _)| granted.readers.len())
    }

    #[test]
    fn only_a_round_that_began_after_the_question_answers_it() {
        let mut reads = Reads::new(MemberId(1), 9);
        reads.add(reader().0);
        assert!(reads.need_round(0, 5));
        let first = reads.begin_round(0);
        assert!(!reads.need_round(4, 5));
        reads.add(reader().0);
        let (granted, _) = reads.answered(&first, LogIndex(7)).expect("ours");
        assert_eq!((granted.index, granted.readers.len(), reads.len()), (LogIndex(7), 1, 1));
        assert!(reads.need_round(4, 5));
        let second = reads.begin_round(4);
        // The second round is late; a third is begun, and the second's answer still serves.
        assert!(reads.need_round(9, 5));
        let third = reads.begin_round(9);
        assert_eq!(readers(reads.answered(&second, LogIndex(8))), Some(1));
        assert_eq!(readers(reads.answered(&third, LogIndex(8))), Some(0));
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
        assert_eq!(readers(reads.answered(&new, LogIndex(7))), Some(1));
        assert!(reads.answered(b"garbage", LogIndex(7)).is_none());
    }
    #[test]
    fn a_round_serves_the_members_that_asked_before_it_began() {
        let asking = |member, context: &'static [u8]| Asking {
            member: MemberId(member),
            context: Bytes::from_static(context),
        };
        let mut reads = Reads::new(MemberId(1), 9);
        reads.add_member(asking(2, b"two"));
        assert!(reads.need_round(0, 5));
        let first = reads.begin_round(0);
        reads.add_member(asking(3, b"three"));
        let (_, members) = reads.answered(&first, LogIndex(7)).expect("ours");
        let [told] = members.as_slice() else { panic!("one: {members:?}") };
        assert_eq!((told.member, told.context.as_ref()), (MemberId(2), b"two".as_slice()));
        assert!(reads.need_round(0, 5));
        let second = reads.begin_round(0);
        reads.drop_rounds();
        assert!(reads.answered(&second, LogIndex(7)).is_none());
        assert!(!reads.need_round(0, 5), "they ask whoever leads now");
    }
}

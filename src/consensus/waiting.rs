//! Callers whose commands are on their way through the log. Owns the numbers by which an entry finds them.

use std::collections::BTreeMap;

use bytes::{Buf, Bytes};
use prost::encoding::decode_varint;

use super::ConsensusError;
use super::proposal::Replies;
use crate::ids::{LogPosition, MemberId};

/// See the module.
#[derive(Debug)]
pub(super) struct Waiting {
    member: MemberId,
    next_sequence: u64,
    /// Appended here, by the index that their entry was given, with its term: another term at that index means that the
    /// entry was lost.
    appended: BTreeMap<u64, Appended>,
    /// Sent to the leader of a term, by their number.
    forwarded: BTreeMap<u64, Forwarded>,
}

#[derive(Debug)]
struct Appended {
    term: u64,
    sequence: u64,
    replies: Replies,
}

#[derive(Debug)]
struct Forwarded {
    term: u64,
    replies: Replies,
}

impl Waiting {
    /// `first_sequence`: of this start of the member; an entry of an earlier one finds nobody.
    pub fn new(member: MemberId, first_sequence: u64) -> Self {
        Self { member, next_sequence: first_sequence, appended: BTreeMap::new(), forwarded: BTreeMap::new() }
    }

    /// The number of the next entry.
    pub fn next_sequence(&mut self) -> u64 {
        let sequence = self.next_sequence;
        self.next_sequence = sequence.wrapping_add(1);
        sequence
    }

    pub fn appended(&mut self, index: u64, term: u64, sequence: u64, replies: Replies) {
        self.appended.insert(index, Appended { term, sequence, replies });
    }

    pub fn forwarded(&mut self, term: u64, sequence: u64, replies: Replies) {
        self.forwarded.insert(sequence, Forwarded { term, replies });
    }

    /// The callers of a committed entry. Those who can't be answered any more are told so.
    pub fn committed(&mut self, at: LogPosition, data: &Bytes) -> Replies {
        let sequence = sequence_of(self.member, data);
        let mut found = sequence.and_then(|sequence| self.forwarded.remove(&sequence)).map(|it| it.replies);
        while let Some(first) = self.appended.first_entry()
            && *first.key() <= at.index.0
        {
            let (index, appended) = first.remove_entry();
            if index == at.index.0 && appended.term == at.term.0 && Some(appended.sequence) == sequence {
                found = Some(appended.replies);
            } else {
                appended.replies.fail(&ConsensusError::LeaderChanged);
            }
        }
        // What an older leader was sent and did not commit before a newer one came is lost, or was never taken.
        while let Some(first) = self.forwarded.first_entry()
            && first.get().term < at.term.0
        {
            first.remove().replies.fail(&ConsensusError::LeaderChanged);
        }
        found.unwrap_or_default()
    }

    pub fn fail_all(&mut self, error: &ConsensusError) {
        for (_, appended) in std::mem::take(&mut self.appended) {
            appended.replies.fail(error);
        }
        for (_, forwarded) in std::mem::take(&mut self.forwarded) {
            forwarded.replies.fail(error);
        }
    }

    /// Forgets those of whom nobody waits any more.
    pub fn forget_gone(&mut self) {
        self.forwarded.retain(|_, forwarded| !forwarded.replies.are_gone());
    }
}

/// The number that `member` gave an entry; `None` when it is another's. An entry's batch begins with both.
fn sequence_of(member: MemberId, data: &Bytes) -> Option<u64> {
    let mut rest = data.as_ref();
    let mut field = |number: u8| {
        if !rest.has_remaining() || rest.get_u8() != number << 3 {
            return None;
        }
        decode_varint(&mut rest).ok()
    };
    let (proposer, sequence) = (field(1)?, field(2)?);
    (proposer == member.0).then_some(sequence)
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::super::proposal::{Gathered, Proposal};
    use super::*;
    use crate::command::CommandResult;
    use crate::command::Outcome;
    use crate::courier::{Courier, Outbox};
    use crate::ids::{LogIndex, Term};

    type Answer = oneshot::Receiver<Result<Outcome, ConsensusError>>;

    fn entry(waiting: &mut Waiting) -> (u64, Bytes, Replies, Answer) {
        let (reply, answer) = oneshot::channel();
        let mut gathered = Gathered::default();
        let command = Bytes::new();
        gathered.push(Proposal { command, makes_room: false, reply, courier: Courier::here() });
        let sequence = waiting.next_sequence();
        let (data, replies) = gathered.finish(MemberId(5), sequence);
        (sequence, data, replies, answer)
    }

    fn at(index: u64, term: u64) -> LogPosition {
        LogPosition { index: LogIndex(index), term: Term(term) }
    }

    fn done() -> Vec<CommandResult> {
        vec![Ok(Outcome::LeaseCheckpoint)]
    }

    #[test]
    fn an_entry_finds_its_callers_wherever_it_was_appended() {
        let mut waiting = Waiting::new(MemberId(5), 300);
        let (sequence, here, replies, mut appended) = entry(&mut waiting);
        waiting.appended(7, 2, sequence, replies);
        let (sequence, there, replies, mut forwarded) = entry(&mut waiting);
        waiting.forwarded(2, sequence, replies);
        waiting.committed(at(7, 2), &here).answer(done(), &mut Outbox::default());
        waiting.committed(at(8, 2), &there).answer(done(), &mut Outbox::default());
        assert_eq!(appended.try_recv(), Ok(Ok(Outcome::LeaseCheckpoint)));
        assert_eq!(forwarded.try_recv(), Ok(Ok(Outcome::LeaseCheckpoint)));
    }

    #[test]
    fn what_a_new_leader_does_not_have_is_told_as_lost() {
        let mut waiting = Waiting::new(MemberId(5), 300);
        let (sequence, _, replies, mut appended) = entry(&mut waiting);
        waiting.appended(7, 2, sequence, replies);
        let (sequence, _, replies, mut forwarded) = entry(&mut waiting);
        waiting.forwarded(2, sequence, replies);
        waiting.committed(at(6, 2), &Bytes::new());
        assert!(appended.try_recv().is_err() && forwarded.try_recv().is_err());
        waiting.committed(at(7, 3), &Bytes::new());
        assert_eq!(appended.try_recv(), Ok(Err(ConsensusError::LeaderChanged)));
        assert_eq!(forwarded.try_recv(), Ok(Err(ConsensusError::LeaderChanged)));
    }

    #[test]
    fn an_entry_that_raft_emptied_is_not_taken_for_its_own() {
        let mut waiting = Waiting::new(MemberId(5), 300);
        let (sequence, _, replies, mut appended) = entry(&mut waiting);
        waiting.appended(7, 2, sequence, replies);
        waiting.committed(at(7, 2), &Bytes::new());
        assert_eq!(appended.try_recv(), Ok(Err(ConsensusError::LeaderChanged)));
    }
}

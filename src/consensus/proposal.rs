//! Proposals on their way into an entry, and their callers on the way back.
//! Owns the bytes of a batch; an entry's data is a `command::Batch` put together from ready-made pieces.

use bytes::{BufMut, Bytes, BytesMut};
use prost::encoding::{WireType, encode_key, encode_varint};
use tokio::sync::oneshot;

use super::ConsensusError;
use crate::command::{CommandResult, Outcome};
use crate::courier::{Courier, Outbox};
use crate::ids::MemberId;

/// Bytes of commands that one entry takes before the next entry is begun.
const MAX_BATCH_BYTES: usize = 1 << 20;

/// Bytes of an entry besides its commands, at most.
const ENTRY_BYTES: usize = 24;

/// A command that waits for the log.
#[derive(Debug)]
pub struct Proposal {
    /// The encoded `command::Command`.
    pub command: Bytes,
    /// See `command::makes_room`.
    pub makes_room: bool,
    pub reply: oneshot::Sender<Result<Outcome, ConsensusError>>,
    /// Of the thread on which the caller waits.
    pub courier: Courier,
}

impl Proposal {
    pub(super) fn fail(self, error: &ConsensusError) {
        drop(self.reply.send(Err(error.clone())));
    }
}

/// The callers of one entry's commands, in the order of the commands.
#[derive(Debug, Default)]
pub struct Replies(Vec<(oneshot::Sender<Result<Outcome, ConsensusError>>, Courier)>);

impl Replies {
    /// Answers every caller by way of the outbox. One that went away does not care.
    pub fn answer(self, outcomes: Vec<CommandResult>, outbox: &mut Outbox) {
        for ((reply, courier), outcome) in self.0.into_iter().zip(outcomes) {
            outbox.push(&courier, move || drop(reply.send(outcome.map_err(ConsensusError::Rejected))));
        }
    }

    /// Nobody waits any more.
    pub(super) fn are_gone(&self) -> bool {
        self.0.iter().all(|(reply, _)| reply.is_closed())
    }

    pub fn fail(self, error: &ConsensusError) {
        for (reply, _) in self.0 {
            drop(reply.send(Err(error.clone())));
        }
    }
}

/// Commands gathered for one entry.
#[derive(Debug, Default)]
pub(super) struct Gathered {
    proposals: Vec<Proposal>,
    bytes: usize,
}

impl Gathered {
    pub fn is_empty(&self) -> bool {
        self.proposals.is_empty()
    }

    pub fn is_full(&self) -> bool {
        self.bytes >= MAX_BATCH_BYTES
    }

    /// Bytes of the entry, at most.
    pub fn bytes(&self) -> usize {
        self.bytes + ENTRY_BYTES
    }

    pub fn push(&mut self, proposal: Proposal) {
        self.bytes += proposal.command.len() + 8;
        self.proposals.push(proposal);
    }

    /// Whether it may be one entry with what is there already. A leader without room refuses an entry as a whole.
    pub fn goes_with(&self, proposal: &Proposal) -> bool {
        self.proposals.first().is_none_or(|first| first.makes_room == proposal.makes_room)
    }

    /// What is taken on a full disk, too; the others are told.
    pub fn what_makes_room(self, error: &ConsensusError) -> Self {
        let (kept, others): (Vec<_>, Vec<_>) =
            self.proposals.into_iter().partition(|proposal| proposal.makes_room);
        others.into_iter().for_each(|proposal| proposal.fail(error));
        let mut gathered = Self::default();
        kept.into_iter().for_each(|proposal| gathered.push(proposal));
        gathered
    }

    pub fn fail(self, error: &ConsensusError) {
        self.proposals.into_iter().for_each(|proposal| proposal.fail(error));
    }

    /// The data of the entry and its callers.
    pub fn finish(self, proposer: MemberId, sequence: u64) -> (Bytes, Replies) {
        let mut data = BytesMut::with_capacity(self.bytes());
        encode_key(1, WireType::Varint, &mut data);
        encode_varint(proposer.0, &mut data);
        encode_key(2, WireType::Varint, &mut data);
        encode_varint(sequence, &mut data);
        let mut replies = Replies::default();
        for proposal in self.proposals {
            encode_key(3, WireType::LengthDelimited, &mut data);
            encode_varint(proposal.command.len() as u64, &mut data);
            data.put(proposal.command);
            replies.0.push((proposal.reply, proposal.courier));
        }
        (data.freeze(), replies)
    }
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::command::{self, Command, Kind};
    use crate::wire::etcdserverpb::PutRequest;

    #[test]
    fn a_batch_put_together_from_pieces_is_the_message() {
        let commands: Vec<Command> = [b"a".as_slice(), b"", b"ccc"]
            .iter()
            .map(|key| {
                Kind::Put(PutRequest { key: Bytes::copy_from_slice(key), ..PutRequest::default() }).into()
            })
            .collect();
        let mut gathered = Gathered::default();
        for command in &commands {
            let (reply, _) = oneshot::channel();
            let command = command.encode_to_vec().into();
            gathered.push(Proposal { command, makes_room: false, reply, courier: Courier::here() });
        }
        let (data, _) = gathered.finish(MemberId(u64::MAX), 300);
        let batch = command::decode(1, &data).expect("it is one");
        assert_eq!(batch, command::Batch { proposer: u64::MAX, sequence: 300, commands });
    }
}

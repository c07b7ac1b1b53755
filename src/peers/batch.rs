//! What of a peer's batch is taken. Pure.

use super::MAX_BATCH_MESSAGES;
use crate::consensus::{BadMessage, Message, from_wire};
use crate::ids::MemberId;
use crate::wire::peer as pb;

/// Why a message of a batch is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("it is in another's name")]
    Foreign,
    #[error("its batch has too many before it")]
    TooMany,
    #[error(transparent)]
    Bad(#[from] BadMessage),
}

/// A batch that has been looked through.
#[derive(Debug, Default)]
pub(super) struct Sorted {
    pub messages: Vec<Message>,
    /// How many were dropped.
    pub refused: u64,
    /// Why the first of them was.
    pub why: Option<Refusal>,
}

impl Sorted {
    /// Drops what is no message, what is somebody else's, and what is more than a batch may hold.
    pub fn of(from: MemberId, batch: pb::MessageBatch) -> Self {
        let most = batch.messages.len().min(MAX_BATCH_MESSAGES);
        let mut sorted = Self { messages: Vec::with_capacity(most), ..Self::default() };
        for (number, message) in batch.messages.into_iter().enumerate() {
            match taken(from, number, message) {
                Ok(message) => sorted.messages.push(message),
                Err(refusal) => {
                    sorted.refused += 1;
                    sorted.why.get_or_insert(refusal);
                }
            }
        }
        sorted
    }
}

fn taken(from: MemberId, number: usize, message: pb::RaftMessage) -> Result<Message, Refusal> {
    if number >= MAX_BATCH_MESSAGES {
        return Err(Refusal::TooMany);
    }
    if message.from != from.0 {
        return Err(Refusal::Foreign);
    }
    Ok(from_wire(message)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::consensus::MessageType;

    fn heartbeat(from: u64) -> pb::RaftMessage {
        pb::RaftMessage { kind: MessageType::MsgHeartbeat as u32, from, to: 1, ..Default::default() }
    }

    fn sorted(messages: Vec<pb::RaftMessage>) -> (usize, u64, Option<Refusal>) {
        let sorted = Sorted::of(MemberId(2), pb::MessageBatch { messages, sent_at: 0 });
        (sorted.messages.len(), sorted.refused, sorted.why)
    }

    #[test]
    fn of_what_a_batch_has_wrong_the_first_is_told() {
        let no_kind = pb::RaftMessage { kind: 99, ..heartbeat(2) };
        assert_eq!(sorted(vec![heartbeat(2), heartbeat(2)]), (2, 0, None));
        let wrong = vec![heartbeat(2), heartbeat(3), no_kind.clone(), heartbeat(2)];
        assert_eq!(sorted(wrong), (2, 2, Some(Refusal::Foreign)));
        assert_eq!(sorted(vec![no_kind; 3]), (0, 3, Some(Refusal::Bad(BadMessage::Kind(99)))));
    }

    #[test]
    fn of_a_batch_so_many_messages_are_taken_and_no_more() {
        let most = MAX_BATCH_MESSAGES;
        assert_eq!(sorted(vec![heartbeat(2); most]), (most, 0, None));
        assert_eq!(sorted(vec![heartbeat(2); most + 3]), (most, 3, Some(Refusal::TooMany)));
    }
}

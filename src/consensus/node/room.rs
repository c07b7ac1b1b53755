//! Room in the log, made sure of before raft takes an entry. Owns what is refused for want of it.

use raft::StateRole;
use raft::eraftpb::{Message, MessageType};

use super::super::ConsensusError;
use super::super::proposal::Gathered;
use super::Node;
use crate::command;
use crate::storage;

/// Bytes of an entry in the log besides its data, at most.
const ENTRY_OVERHEAD: usize = 64;

impl Node {
    /// Entries are lost when the log has no room for them; the leader sends its own again.
    pub(super) fn make_room_for(&mut self, message: &Message) -> Result<(), storage::Error> {
        let bytes =
            message.entries.iter().map(|entry| entry.data.len() + entry.context.len() + ENTRY_OVERHEAD).sum();
        let makes_room = || message.entries.iter().all(|entry| command::batch_makes_room(&entry.data));
        match message.get_msg_type() {
            MessageType::MsgPropose if self.raw.raft.state == StateRole::Leader => {
                let log = self.raw.mut_store();
                log.reserve(bytes)
                    .or_else(|fault| if makes_room() { log.reserve_of_spare(bytes) } else { Err(fault) })
            }
            MessageType::MsgAppend if !message.entries.is_empty() => {
                self.raw.mut_store().reserve_of_spare(bytes)
            }
            _ => Ok(()),
        }
    }

    /// What of an entry finds room in this leader's log; the callers of the rest are told.
    pub(super) fn with_room(&mut self, gathered: Gathered) -> Gathered {
        let log = self.raw.mut_store();
        let Err(fault) = log.reserve(gathered.bytes()) else {
            return gathered;
        };
        tracing::warn!(%fault, "the log cannot take a proposal");
        let gathered = gathered.what_makes_room(&ConsensusError::NoSpace);
        if log.reserve_of_spare(gathered.bytes()).is_ok() {
            return gathered;
        }
        gathered.fail(&ConsensusError::NoSpace);
        Gathered::default()
    }
}

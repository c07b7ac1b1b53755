//! Room in the log, made sure of before raft takes an entry. Owns what is refused for want of it.

use raft::StateRole;
use raft::eraftpb::{Entry, Message, MessageType};

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
        let makes_room = || message.entries.iter().all(|entry| command::batch_makes_room(&entry.data));
        match message.get_msg_type() {
            MessageType::MsgPropose if self.raw.raft.state == StateRole::Leader => {
                let bytes = bytes_of(&message.entries);
                let log = self.raw.mut_store();
                log.reserve(bytes)
                    .or_else(|fault| if makes_room() { log.reserve_of_spare(bytes) } else { Err(fault) })
            }
            MessageType::MsgAppend => match self.what_raft_appends(message) {
                [] => Ok(()),
                entries => self.raw.mut_store().reserve_of_spare(bytes_of(entries)),
            },
            _ => Ok(()),
        }
    }

    /// The entries of a leader's message that raft puts into the log: none of an older term, none that do not follow what is
    /// here, and none that are here already.
    fn what_raft_appends<'a>(&self, message: &'a Message) -> &'a [Entry] {
        let log = &self.raw.raft.raft_log;
        let is_refused = message.term < self.raw.raft.term
            || message.index < log.committed
            || !log.match_term(message.index, message.log_term);
        if is_refused {
            return &[];
        }
        let is_here = |entry: &Entry| log.match_term(entry.index, entry.term);
        let first = message.entries.iter().position(|entry| !is_here(entry));
        first.and_then(|first| message.entries.get(first..)).unwrap_or_default()
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

fn bytes_of(entries: &[Entry]) -> usize {
    entries.iter().map(|entry| entry.data.len() + entry.context.len() + ENTRY_OVERHEAD).sum()
}

//! Raft's messages as they travel between members. Owns the translation to `wire::peer` and back, which is total: what
//! no peer may send, or what raft would take for a defect of its own, is refused here.

use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

use crate::wire::peer as pb;

/// Indexes, terms and the like stay below: one more can always be counted.
const MAX_NUMBER: u64 = i64::MAX as u64;
const NORMAL: u32 = 0;
const CHANGE: u32 = 2;

/// Why a message of a peer is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadMessage {
    #[error("it is of the unknown kind {0}")]
    Kind(u32),
    #[error("a number in it is too large")]
    Number,
    #[error("its entries do not follow each other")]
    Entries,
    #[error("it has another number of entries than its kind allows")]
    EntryCount,
}

/// The message for the wire.
pub fn to_wire(mut message: Message) -> pb::RaftMessage {
    let entries = message.take_entries().into_iter().map(entry_to_wire).collect();
    pb::RaftMessage {
        kind: message.get_msg_type() as u32,
        to: message.to,
        from: message.from,
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries,
        commit: message.commit,
        commit_term: message.commit_term,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.take_context(),
        request_snapshot: message.request_snapshot,
    }
}

/// # Errors
/// See `BadMessage`.
pub fn from_wire(from: pb::RaftMessage) -> Result<Message, BadMessage> {
    let kind = kind_of(from.kind)?;
    let numbers = [
        from.term,
        from.log_term,
        from.index,
        from.commit,
        from.commit_term,
        from.reject_hint,
        from.request_snapshot,
    ];
    if numbers.iter().any(|number| *number > MAX_NUMBER) {
        return Err(BadMessage::Number);
    }
    check_entries(kind, &from)?;
    let mut message = Message::default();
    message.set_msg_type(kind);
    message.to = from.to;
    message.from = from.from;
    message.term = from.term;
    message.log_term = from.log_term;
    message.index = from.index;
    message.commit = from.commit;
    message.commit_term = from.commit_term;
    message.reject = from.reject;
    message.reject_hint = from.reject_hint;
    message.context = from.context;
    message.request_snapshot = from.request_snapshot;
    let entries: Vec<Entry> = from.entries.into_iter().map(entry_from_wire).collect();
    message.set_entries(entries.into());
    Ok(message)
}

/// What peers say to each other; a snapshot comes by a stream of its own, the rest is between raft and its member.
fn kind_of(number: u32) -> Result<MessageType, BadMessage> {
    use MessageType as Type;
    const KINDS: [Type; 12] = [
        Type::MsgPropose,
        Type::MsgAppend,
        Type::MsgAppendResponse,
        Type::MsgRequestVote,
        Type::MsgRequestVoteResponse,
        Type::MsgHeartbeat,
        Type::MsgHeartbeatResponse,
        Type::MsgTimeoutNow,
        Type::MsgReadIndex,
        Type::MsgReadIndexResp,
        Type::MsgRequestPreVote,
        Type::MsgRequestPreVoteResponse,
    ];
    KINDS.into_iter().find(|kind| *kind as u32 == number).ok_or(BadMessage::Kind(number))
}

fn check_entries(kind: MessageType, from: &pb::RaftMessage) -> Result<(), BadMessage> {
    let entries = &from.entries;
    if entries.iter().any(|entry| entry.kind != NORMAL && entry.kind != CHANGE) {
        return Err(BadMessage::Entries);
    }
    match kind {
        MessageType::MsgAppend => {
            let (mut index, mut term) = (from.index, from.log_term);
            for entry in entries {
                if entry.index != index + 1
                    || entry.term < term
                    || entry.index > MAX_NUMBER
                    || entry.term > from.term
                {
                    return Err(BadMessage::Entries);
                }
                (index, term) = (entry.index, entry.term);
            }
            Ok(())
        }
        // Changes of members are the leader's to propose.
        MessageType::MsgPropose if entries.iter().any(|entry| entry.kind != NORMAL) => {
            Err(BadMessage::Entries)
        }
        MessageType::MsgPropose if entries.is_empty() => Err(BadMessage::EntryCount),
        MessageType::MsgReadIndex | MessageType::MsgReadIndexResp if entries.len() != 1 => {
            Err(BadMessage::EntryCount)
        }
        MessageType::MsgPropose | MessageType::MsgReadIndex | MessageType::MsgReadIndexResp => Ok(()),
        _ if entries.is_empty() => Ok(()),
        _ => Err(BadMessage::EntryCount),
    }
}

fn entry_to_wire(mut entry: Entry) -> pb::RaftEntry {
    let (kind, data) = match entry.entry_type {
        EntryType::EntryNormal => (NORMAL, entry.take_data()),
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => (CHANGE, entry.take_context()),
    };
    pb::RaftEntry { kind, term: entry.term, index: entry.index, data }
}

fn entry_from_wire(from: pb::RaftEntry) -> Entry {
    let mut entry = Entry { term: from.term, index: from.index, ..Entry::default() };
    set_data(&mut entry, from.kind == CHANGE, from.data);
    entry
}

/// A change of members carries its batch beside what raft reads of it when it is proposed.
pub(super) fn set_data(entry: &mut Entry, is_change: bool, data: Bytes) {
    if is_change {
        entry.entry_type = EntryType::EntryConfChangeV2;
        entry.context = data;
    } else {
        entry.data = data;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn append() -> pb::RaftMessage {
        let entry = |index, kind| pb::RaftEntry { kind, term: 3, index, data: Bytes::from_static(b"data") };
        pb::RaftMessage {
            kind: MessageType::MsgAppend as u32,
            to: 1,
            from: 2,
            term: 4,
            log_term: 2,
            index: 6,
            entries: vec![entry(7, NORMAL), entry(8, CHANGE)],
            commit: 5,
            ..Default::default()
        }
    }

    #[test]
    fn a_message_arrives_as_it_was_sent() {
        let sent = append();
        let message = from_wire(sent.clone()).expect("it is one");
        assert_eq!(message.entries[1].entry_type, EntryType::EntryConfChangeV2);
        assert_eq!(to_wire(message), sent);
    }

    #[test]
    fn what_raft_would_stumble_over_is_refused() {
        let refused = |change: &dyn Fn(&mut pb::RaftMessage)| {
            let mut message = append();
            change(&mut message);
            from_wire(message).expect_err("it is refused")
        };
        assert_eq!(refused(&|message| message.entries[1].index = 9), BadMessage::Entries);
        assert_eq!(refused(&|message| message.entries[1].term = 2), BadMessage::Entries);
        assert_eq!(refused(&|message| message.entries[1].term = 5), BadMessage::Entries);
        assert_eq!(refused(&|message| message.entries[0].kind = 1), BadMessage::Entries);
        assert_eq!(refused(&|message| message.commit = u64::MAX), BadMessage::Number);
        for local in [MessageType::MsgHup, MessageType::MsgSnapshot, MessageType::MsgUnreachable] {
            let kind = local as u32;
            assert_eq!(refused(&|message| message.kind = kind), BadMessage::Kind(kind));
        }
        let kind = MessageType::MsgReadIndex as u32;
        assert_eq!(refused(&|message| message.kind = kind), BadMessage::EntryCount);
        let kind = MessageType::MsgPropose as u32;
        assert_eq!(refused(&|message| message.kind = kind), BadMessage::Entries);
        assert_eq!(
            refused(&|message| (message.kind, message.entries) = (kind, Vec::new())),
            BadMessage::EntryCount
        );
    }
}

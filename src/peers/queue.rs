//! What waits for a link: messages in order, in pieces of which batches are made. Never waits at the one end, never
//! holds more than its bounds.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use prost::Message as _;
use tokio::sync::mpsc;

use super::MAX_BATCH_MESSAGES;
use crate::wire::peer as pb;

/// Pieces that wait for the link, and their bytes: above what raft sends a member before that one answers.
const MAX_QUEUED_PIECES: usize = 1024;
const MAX_QUEUED_BYTES: usize = 96 << 20;
/// A batch of more than one message has no more, far below what its receiver decodes.
const MAX_BATCH_BYTES: usize = 1 << 20;
/// What a message costs beside its content.
const MESSAGE_COST: usize = 64;

/// Messages that travel together.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Piece {
    pub messages: Vec<pb::RaftMessage>,
    pub bytes: usize,
}

impl Piece {
    fn has_room_for(&self, messages: usize, bytes: usize) -> bool {
        self.messages.len() + messages <= MAX_BATCH_MESSAGES && self.bytes + bytes <= MAX_BATCH_BYTES
    }

    fn push(&mut self, message: pb::RaftMessage, bytes: usize) {
        self.messages.push(message);
        self.bytes += bytes;
    }
}

/// The end that consensus fills. Cheap to clone.
#[derive(Clone)]
pub(super) struct Queue {
    sender: mpsc::Sender<Piece>,
    bytes: Arc<AtomicUsize>,
}

/// The link's end.
pub(super) struct Waiting {
    pieces: mpsc::Receiver<Piece>,
    /// Taken, and too much for the batch before it.
    next: Option<Piece>,
    bytes: Arc<AtomicUsize>,
}

pub(super) fn queue() -> (Queue, Waiting) {
    let (sender, pieces) = mpsc::channel(MAX_QUEUED_PIECES);
    let bytes: Arc<AtomicUsize> = Arc::default();
    (Queue { sender, bytes: bytes.clone() }, Waiting { pieces, next: None, bytes })
}

impl Queue {
    /// `false` when there is no room for all of them: those from the first that found none on are lost.
    pub fn push(&self, messages: Vec<pb::RaftMessage>) -> bool {
        let mut piece = Piece::default();
        for message in messages {
            let bytes = message.encoded_len() + MESSAGE_COST;
            let is_full = !piece.messages.is_empty() && !piece.has_room_for(1, bytes);
            if is_full && !self.push_piece(std::mem::take(&mut piece)) {
                return false;
            }
            piece.push(message, bytes);
        }
        piece.messages.is_empty() || self.push_piece(piece)
    }

    fn push_piece(&self, piece: Piece) -> bool {
        let bytes = piece.bytes;
        if self.bytes.load(Ordering::Relaxed) + bytes > MAX_QUEUED_BYTES {
            return false;
        }
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let sent = self.sender.try_send(piece).is_ok();
        if !sent {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        sent
    }
}

impl Waiting {
    /// The next batch: as much of what waits as belongs into one. `None` when nothing more will come. What it has taken is
    /// kept when the caller gives up waiting.
    pub async fn batch(&mut self) -> Option<Piece> {
        let mut batch = match self.next.take() {
            Some(piece) => piece,
            None => self.pieces.recv().await?,
        };
        while let Ok(piece) = self.pieces.try_recv() {
            if !batch.has_room_for(piece.messages.len(), piece.bytes) {
                self.next = Some(piece);
                break;
            }
            batch.messages.extend(piece.messages);
            batch.bytes += piece.bytes;
        }
        self.bytes.fetch_sub(batch.bytes, Ordering::Relaxed);
        Some(batch)
    }

    /// Drops what waits: how many pieces that were.
    pub fn lose(&mut self) -> u64 {
        let mut lost = 0;
        while let Some(piece) = self.next.take().or_else(|| self.pieces.try_recv().ok()) {
            self.bytes.fetch_sub(piece.bytes, Ordering::Relaxed);
            lost += 1;
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(index: u64, bytes: usize) -> pb::RaftMessage {
        let entry = pb::RaftEntry { data: vec![0; bytes].into(), ..Default::default() };
        pb::RaftMessage { index, entries: vec![entry], ..Default::default() }
    }

    async fn batches(queue: Queue, mut waiting: Waiting) -> Vec<Vec<u64>> {
        drop(queue);
        let mut batches = Vec::new();
        while let Some(batch) = waiting.batch().await {
            let bytes: usize = batch.messages.iter().map(pb::RaftMessage::encoded_len).sum();
            assert!(bytes <= MAX_BATCH_BYTES || batch.messages.len() == 1, "{bytes} bytes");
            assert!(batch.messages.len() <= MAX_BATCH_MESSAGES);
            batches.push(batch.messages.iter().map(|message| message.index).collect());
        }
        assert_eq!(waiting.bytes.load(Ordering::Relaxed), 0);
        batches
    }

    #[tokio::test]
    async fn what_one_turn_sends_leaves_in_batches_that_the_receiver_takes() {
        let (queue, waiting) = queue();
        let third = MAX_BATCH_BYTES / 3;
        // As raft fills the window of a member that is behind.
        assert!(queue.push((0..64).map(|index| message(index, third)).collect()));
        let batches = batches(queue, waiting).await;
        assert!(batches.iter().all(|batch| batch.len() <= 2), "{batches:?}");
        assert_eq!(batches.concat(), (0..64).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_message_above_the_bound_goes_alone() {
        let (queue, waiting) = queue();
        assert!(queue.push(vec![message(0, 1), message(1, 3 << 20), message(2, 1), message(3, 1)]));
        assert!(queue.push(vec![message(4, 1)]));
        assert_eq!(batches(queue, waiting).await, [vec![0], vec![1], vec![2, 3, 4]]);
    }

    #[tokio::test]
    async fn a_batch_has_no_more_messages_than_its_receiver_takes() {
        let (queue, waiting) = queue();
        let most = MAX_BATCH_MESSAGES as u64;
        assert!(queue.push((0..most + 1).map(|index| message(index, 0)).collect()));
        let batches = batches(queue, waiting).await;
        assert_eq!(batches.concat(), (0..most + 1).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn what_finds_no_room_is_lost_and_nothing_behind_it_overtakes() {
        let (queue, mut waiting) = queue();
        let kept = (MAX_QUEUED_BYTES >> 20) as u64 - 1;
        let large = |index| message(index, (1 << 20) + 1);
        assert!(!queue.push((0..200).map(large).chain([message(200, 1)]).collect()));
        assert_eq!(waiting.lose(), kept);
        assert!(queue.push(vec![large(201)]));
        assert_eq!(batches(queue, waiting).await, [[201]]);
    }
}

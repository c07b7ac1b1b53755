//! States on their way between members: each by a connection of its own, read and written on threads that may wait.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::SendTimeoutError;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::service::PeerService;
use super::{Peers, endpoint};
use crate::consensus::{Handle, Message, ReceivedState, to_wire};
use crate::ids::{LogIndex, MemberId};
use crate::snapshot::{Capture, Incoming};
use crate::wire::peer as pb;
use crate::wire::peer::peer_client::PeerClient;

/// Pieces that are read and not sent, or come and not written.
const MAX_QUEUED_PIECES: usize = 4;
/// A member that takes no piece of a state for so long, or sends none, has gone. There is no limit for all pieces together but that
/// of the capture they are read from.
pub(super) const PIECE_TIMEOUT: Duration = Duration::from_secs(30);
/// From the last piece to the answer: what is still on its way comes, and the receiver makes the state durable and recovers it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(600);

impl Peers {
    /// A state for a member is ready: it leaves when raft says so.
    pub fn offer_state(&self, consensus: &Handle, to: MemberId, capture: Capture) {
        let (position, members) = (capture.position(), capture.members().clone());
        self.0.offered.lock().insert(to, capture);
        consensus.offer_state(to, position, members);
    }

    /// Sends the state that was offered to a member, with raft's message for it, and tells consensus how that went.
    pub(super) fn send_state(&self, consensus: &Handle, message: Message) {
        let to = MemberId(message.to);
        let capture = self.0.offered.lock().remove(&to);
        let index = LogIndex(message.get_snapshot().get_metadata().index);
        let Some(capture) = capture.filter(|capture| capture.position().index == index) else {
            return consensus.state_sent(to, false);
        };
        let (peers, consensus) = (self.clone(), consensus.clone());
        self.0.runtime.spawn(async move {
            let label = format!("{:x}", to.0);
            let metrics = peers.0.metrics.clone();
            tracing::info!(to = label, index = index.0, "sending the state to a member");
            metrics.states_sending.with_label_values(&[&label]).inc();
            let timer = metrics.state_send_seconds.with_label_values(&[&label]).start_timer();
            let sent = peers.stream_state(to, message, capture).await;
            timer.observe_duration();
            metrics.states_sending.with_label_values(&[&label]).dec();
            match &sent {
                Ok(()) => metrics.states_sent.with_label_values(&[&label]).inc(),
                Err(status) => {
                    tracing::warn!(to = label, error = status.message(), "a state did not reach its member");
                    metrics.state_send_failures.with_label_values(&[&label]).inc();
                }
            }
            consensus.state_sent(to, sent.is_ok());
        });
    }

    /// By the first of its URLs that answers.
    async fn connect(&self, to: MemberId) -> Result<Channel, Status> {
        let mut why = "the member is not known".to_owned();
        for url in self.urls(to) {
            let connected = async { endpoint(&url)?.connect().await };
            match connected.await {
                Ok(channel) => return Ok(channel),
                Err(error) => why = format!("{url}: {error}"),
            }
        }
        Err(Status::unavailable(why))
    }

    async fn stream_state(&self, to: MemberId, message: Message, capture: Capture) -> Result<(), Status> {
        let channel = self.connect(to).await?;
        let (read, pieces) = mpsc::channel(MAX_QUEUED_PIECES);
        let reading = tokio::task::spawn_blocking(move || read_pieces(message, capture, &read));
        let (taken, receiver) = mpsc::channel(1);
        let request = self.request(to, ReceiverStream::new(receiver));
        let mut client = PeerClient::new(channel);
        deliver(pieces, taken, async { client.snapshot(request).await.map(drop) }).await?;
        // It may have failed after the receiver had enough to say no; that it said yes means that all came.
        reading.await.map_err(|error| Status::internal(error.to_string()))?
    }
}

/// Hands the pieces of a state on to what sends them, until the member has answered.
///
/// # Errors
/// What it answers; that it takes no piece, or gives no answer, for too long.
async fn deliver(
    pieces: mpsc::Receiver<pb::SnapshotPiece>,
    taken: mpsc::Sender<pb::SnapshotPiece>,
    answer: impl Future<Output = Result<(), Status>>,
) -> Result<(), Status> {
    let given_up = async {
        match hand_on(pieces, taken).await {
            Err(SendTimeoutError::Timeout(_)) => Status::deadline_exceeded("the member takes no more of it"),
            // That nothing more is wanted is told by the answer.
            Ok(()) | Err(SendTimeoutError::Closed(_)) => {
                tokio::time::sleep(ANSWER_TIMEOUT).await;
                Status::deadline_exceeded("the member took too long to answer")
            }
        }
    };
    tokio::select! {
        answered = answer => answered,
        status = given_up => Err(status),
    }
}

/// Hands pieces on as they are taken, until there are no more.
///
/// # Errors
/// That one was not taken for too long, or that no more are wanted.
pub(super) async fn hand_on<T>(
    mut pieces: mpsc::Receiver<T>,
    taken: mpsc::Sender<T>,
) -> Result<(), SendTimeoutError<T>> {
    while let Some(piece) = pieces.recv().await {
        taken.send_timeout(piece, PIECE_TIMEOUT).await?;
    }
    Ok(())
}

/// For a thread that may wait.
fn read_pieces(
    message: Message,
    capture: Capture,
    pieces: &mpsc::Sender<pb::SnapshotPiece>,
) -> Result<(), Status> {
    let mut message = Some(to_wire(message));
    for piece in capture.pieces() {
        if pieces.is_closed() {
            return Err(Status::unavailable("the connection is lost"));
        }
        let data = piece.map_err(|error| Status::internal(error.to_string()))?;
        let piece = pb::SnapshotPiece { message: message.take(), data };
        if pieces.blocking_send(piece).is_err() {
            return Err(Status::unavailable("the connection is lost"));
        }
    }
    Ok(())
}

impl PeerService {
    /// Takes in a state; answered when it is whole, durable, and with consensus.
    pub(super) async fn receive_state(
        &self,
        from: MemberId,
        mut pieces: Streaming<pb::SnapshotPiece>,
    ) -> Result<pb::SnapshotReply, Status> {
        // The leader has been met, also when it is not known as a member yet.
        if !self.knows(from) {
            return Err(Status::permission_denied("the state of somebody who is not known here"));
        }
        let label = format!("{:x}", from.0);
        let metrics = &self.peers.0.metrics;
        metrics.states_receiving.with_label_values(&[&label]).inc();
        let timer = metrics.state_receive_seconds.with_label_values(&[&label]).start_timer();
        let taken = self.take_in(from, &mut pieces).await;
        timer.observe_duration();
        metrics.states_receiving.with_label_values(&[&label]).dec();
        match taken {
            Ok(received) => {
                metrics.states_received.with_label_values(&[&label]).inc();
                self.consensus.receive_state(received);
                Ok(pb::SnapshotReply {})
            }
            Err(status) => {
                tracing::warn!(from = label, error = status.message(), "a state did not come whole");
                metrics.state_receive_failures.with_label_values(&[&label]).inc();
                Err(status)
            }
        }
    }

    async fn take_in(
        &self,
        from: MemberId,
        pieces: &mut Streaming<pb::SnapshotPiece>,
    ) -> Result<ReceivedState, Status> {
        let first = next_piece(pieces).await?.ok_or_else(|| Status::invalid_argument("it has no pieces"))?;
        let message = first.message.ok_or_else(|| Status::invalid_argument("it has no message"))?;
        if message.from != from.0 || message.to != self.peers.0.member.0 || message.term > i64::MAX as u64 {
            return Err(Status::invalid_argument("its message is not for this member"));
        }
        tracing::info!(from = %format!("{:x}", from.0), "receiving the state of a member");
        let mut incoming = self.importer.begin().map_err(|error| Status::unavailable(error.to_string()))?;
        let (queue, waiting) = mpsc::channel(MAX_QUEUED_PIECES);
        let writing = tokio::task::spawn_blocking(move || {
            write_pieces(&mut incoming, waiting)?;
            incoming.finish()
        });
        let mut next = Some(first.data);
        while let Some(data) = next.take() {
            if queue.send(data).await.is_err() {
                // Its thread says why.
                break;
            }
            next = next_piece(pieces).await?.map(|piece| piece.data);
        }
        // Only after the end of the stream: a state whose stream broke is not whole.
        drop(queue);
        let received = writing.await.map_err(|error| Status::internal(error.to_string()))?;
        let received = received.map_err(|error| Status::unavailable(error.to_string()))?;
        let mut for_raft = Message::default();
        (for_raft.from, for_raft.to, for_raft.term) = (message.from, message.to, message.term);
        let (position, members) = (received.position(), received.members.clone());
        Ok(ReceivedState { message: for_raft, position, members, state: Box::new(received) })
    }
}

async fn next_piece(pieces: &mut Streaming<pb::SnapshotPiece>) -> Result<Option<pb::SnapshotPiece>, Status> {
    let piece = tokio::time::timeout(PIECE_TIMEOUT, pieces.message()).await;
    piece.map_err(|_elapsed| Status::deadline_exceeded("no piece came for too long"))?
}

/// For a thread that may wait. Returns when no more pieces come.
pub(super) fn write_pieces(
    incoming: &mut Incoming,
    mut waiting: mpsc::Receiver<Bytes>,
) -> Result<(), crate::snapshot::Error> {
    while let Some(piece) = waiting.blocking_recv() {
        incoming.write(&piece)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;
    use tonic::Code;

    use super::*;

    type Taken = mpsc::Receiver<pb::SnapshotPiece>;

    /// Delivers so many pieces to a member that deals with them like this. How it ended, and how long it took.
    async fn delivered(
        count: usize,
        member: impl AsyncFnOnce(Taken) -> Result<(), Status>,
    ) -> (Result<(), Code>, Duration) {
        let (read, pieces) = mpsc::channel(MAX_QUEUED_PIECES);
        let (taken, receiver) = mpsc::channel(1);
        let reading = tokio::spawn(async move {
            for _ in 0..count {
                if read.send(pb::SnapshotPiece::default()).await.is_err() {
                    return;
                }
            }
        });
        let began = Instant::now();
        let ended = deliver(pieces, taken, member(receiver)).await.map_err(|status| status.code());
        let took = began.elapsed();
        reading.await.expect("nobody waits for more of it");
        (ended, took)
    }

    async fn take(receiver: &mut Taken, count: usize) {
        for _ in 0..count {
            receiver.recv().await.expect("there are more");
        }
    }

    /// A large state over a slow link was given up after ten minutes.
    #[tokio::test(start_paused = true)]
    async fn a_state_goes_on_for_as_long_as_pieces_are_taken() {
        let slow = PIECE_TIMEOUT - Duration::from_secs(1);
        let (ended, took) = delivered(100, async |mut receiver| {
            for _ in 0..100 {
                tokio::time::advance(slow).await;
                take(&mut receiver, 1).await;
            }
            assert!(receiver.recv().await.is_none(), "that was all");
            Ok(())
        })
        .await;
        assert_eq!((ended, took), (Ok(()), 100 * slow));
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_that_takes_no_more_of_a_state_is_given_up() {
        let stalled = delivered(100, async |mut receiver| {
            take(&mut receiver, 10).await;
            std::future::pending().await
        });
        assert_eq!(stalled.await, (Err(Code::DeadlineExceeded), PIECE_TIMEOUT));
        let silent = delivered(10, async |mut receiver| {
            take(&mut receiver, 10).await;
            std::future::pending().await
        });
        assert_eq!(silent.await, (Err(Code::DeadlineExceeded), ANSWER_TIMEOUT));
    }

    #[tokio::test(start_paused = true)]
    async fn a_member_says_itself_why_it_takes_no_more_of_a_state() {
        let late = 2 * PIECE_TIMEOUT;
        let refused = delivered(100, async |mut receiver| {
            take(&mut receiver, 10).await;
            drop(receiver);
            tokio::time::advance(late).await;
            Err(Status::unavailable("no room"))
        });
        assert_eq!(refused.await, (Err(Code::Unavailable), late));
    }
}

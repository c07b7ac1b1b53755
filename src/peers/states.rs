//! States on their way between members: each by a connection of its own, read and written on threads that may wait.

use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
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
/// As long as compactions wait for a state.
const SEND_TIMEOUT: Duration = Duration::from_secs(600);
/// A receiver that takes nothing for so long has gone.
const PIECE_TIMEOUT: Duration = Duration::from_secs(30);

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
        let (pieces, receiver) = mpsc::channel(MAX_QUEUED_PIECES);
        let reading = tokio::task::spawn_blocking(move || read_pieces(message, capture, &pieces));
        let request = self.request(to, ReceiverStream::new(receiver));
        tokio::time::timeout(SEND_TIMEOUT, PeerClient::new(channel).snapshot(request))
            .await
            .map_err(|_elapsed| Status::deadline_exceeded("the member took too long"))??;
        // It may have failed after the receiver had enough to say no; that it said yes means that all came.
        reading.await.map_err(|error| Status::internal(error.to_string()))?
    }
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

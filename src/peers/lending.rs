//! The state of any member for one that has lost its own store. That one takes part in nothing until it has the state;
//! whoever is asked gives what it has applied, which is committed whoever leads.

use prost::Message as _;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::service::PeerService;
use super::states::{PIECE_TIMEOUT, hand_on, write_pieces};
use super::{endpoint, metadata, says_removed};
use crate::datadir::Birth;
use crate::ids::{ClusterId, LogIndex, LogPosition, MemberId};
use crate::snapshot::{Capture, Importer, Received};
use crate::wire::peer as pb;
use crate::wire::peer::peer_client::PeerClient;

/// Pieces that are read and not sent, or come and not written.
const MAX_QUEUED_PIECES: usize = 4;

/// What may go to the asking member, or why nothing more does.
type Piece = Result<pb::SnapshotPiece, Status>;

/// What a member needs that has lost its store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedState {
    pub cluster: ClusterId,
    /// Who asks.
    pub member: MemberId,
    pub birth: Birth,
    /// The entry that the state must stand for, or a later one.
    pub at_least: LogIndex,
    /// The state must hold everything that was committed before it was asked for.
    pub confirmed: bool,
}

/// Why a member has not given its state.
#[derive(Debug, thiserror::Error)]
pub enum BorrowError {
    /// The asked member knows that this one was removed.
    #[error("the member has been permanently removed from the cluster")]
    Removed,
    /// The disk of this member.
    #[error(transparent)]
    Store(#[from] crate::snapshot::Error),
    #[error("{0}")]
    NotNow(String),
}

impl WantedState {
    /// Takes in the state of `from`, which is reached by `url`: whole and durable when this returns, but in nobody's place.
    ///
    /// # Errors
    /// See `BorrowError`.
    pub async fn borrow(
        &self,
        from: MemberId,
        url: &str,
        importer: &Importer,
    ) -> Result<Received, BorrowError> {
        let mut pieces = self.ask(from, url).await?;
        let mut incoming = importer.begin()?;
        let (queue, waiting) = mpsc::channel(MAX_QUEUED_PIECES);
        let writing =
            tokio::task::spawn_blocking(move || write_pieces(&mut incoming, waiting).map(|()| incoming));
        let taken = take_pieces(&mut pieces, queue).await;
        let written = writing.await.map_err(|error| BorrowError::NotNow(error.to_string()))?;
        taken?;
        let incoming = written?;
        let received = tokio::task::spawn_blocking(move || incoming.finish()).await;
        let received = received.map_err(|error| BorrowError::NotNow(error.to_string()))??;
        self.check(&received.position(), received.members.contains(self.member))?;
        Ok(received)
    }

    async fn ask(&self, from: MemberId, url: &str) -> Result<Streaming<pb::SnapshotPiece>, BorrowError> {
        let not_now = |error: &dyn std::fmt::Display| BorrowError::NotNow(format!("{url}: {error}"));
        let endpoint = endpoint(url).map_err(|error| not_now(&error))?;
        let channel = endpoint.connect().await.map_err(|error| not_now(&error))?;
        let wanted = pb::StateRequest { at_least: self.at_least.0, confirmed: self.confirmed };
        let mut request = tonic::Request::new(wanted);
        *request.metadata_mut() = metadata(self.cluster, (self.member, self.birth), from);
        let mut client = PeerClient::new(channel).max_decoding_message_size(super::MAX_MESSAGE_BYTES);
        match tokio::time::timeout(PIECE_TIMEOUT, client.state(request)).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) if says_removed(&status) => Err(BorrowError::Removed),
            Ok(Err(status)) => Err(not_now(&status.message())),
            Err(elapsed) => Err(not_now(&elapsed)),
        }
    }

    fn check(&self, position: &LogPosition, is_member: bool) -> Result<(), BorrowError> {
        if position.index < self.at_least {
            let (found, wanted) = (position.index, self.at_least);
            return Err(BorrowError::NotNow(format!(
                "its state stands for entry {found}, and this log begins after entry {wanted}"
            )));
        }
        if !is_member {
            return Err(BorrowError::NotNow("its state does not know this member".to_owned()));
        }
        Ok(())
    }
}

async fn take_pieces(
    pieces: &mut Streaming<pb::SnapshotPiece>,
    queue: mpsc::Sender<bytes::Bytes>,
) -> Result<(), BorrowError> {
    let not_now = |error: &dyn std::fmt::Display| BorrowError::NotNow(error.to_string());
    loop {
        let piece = tokio::time::timeout(PIECE_TIMEOUT, pieces.message()).await;
        let piece = piece.map_err(|elapsed| not_now(&elapsed))?;
        let Some(piece) = piece.map_err(|status| not_now(&status.message()))? else {
            return Ok(());
        };
        if queue.send(piece.data).await.is_err() {
            // Who writes says why.
            return Ok(());
        }
    }
}

impl PeerService {
    /// Gives the state to a member that has lost its own; one at a time. Nobody else may ask: a member that this one has not
    /// heard of asks again.
    pub(super) async fn lend_state(
        &self,
        to: MemberId,
        wanted: pb::StateRequest,
    ) -> Result<mpsc::Receiver<Piece>, Status> {
        if !self.members.now().contains(to) {
            return Err(Status::permission_denied("the member is not known here"));
        }
        let busy = |_| Status::unavailable("another member is taking this one's state");
        let turn = self.peers.0.lending.clone().try_acquire_owned().map_err(busy)?;
        let unavailable = |error: crate::consensus::ConsensusError| Status::unavailable(error.to_string());
        if wanted.confirmed {
            self.consensus.read_barrier().await.map_err(unavailable)?;
        }
        let capture = self.consensus.lend_state().await.map_err(unavailable)?;
        let position = capture.position();
        if position.index.0 < wanted.at_least.max(1) {
            return Err(Status::failed_precondition(format!(
                "its state stands for entry {}, and entry {} is needed",
                position.index, wanted.at_least
            )));
        }
        let member = format!("{:x}", to.0);
        tracing::info!(
            to = member,
            index = position.index.0,
            "giving the state to a member that has lost its own"
        );
        let (read, pieces) = mpsc::channel(MAX_QUEUED_PIECES);
        let (taken, receiver) = mpsc::channel(1);
        tokio::spawn(give(pieces, taken));
        let metrics = self.peers.0.metrics.clone();
        tokio::task::spawn_blocking(move || {
            read_pieces(capture, &read, |bytes| {
                metrics.peer_sent_bytes.with_label_values(&[&member]).inc_by(bytes as u64);
            });
            drop(turn);
        });
        Ok(receiver)
    }
}

/// Ends, and with it the reading, when the asking member takes nothing for too long: what it has is not whole, and it
/// finds that out.
async fn give(pieces: mpsc::Receiver<Piece>, taken: mpsc::Sender<Piece>) {
    if let Err(error) = hand_on(pieces, taken).await {
        tracing::warn!(%error, "the state is not given to its end: the asking member takes no more");
    }
}

/// For a thread that may wait. Ends when nobody takes more.
fn read_pieces(capture: Capture, pieces: &mpsc::Sender<Piece>, count: impl Fn(usize)) {
    for piece in capture.pieces() {
        let piece = piece.map(|data| pb::SnapshotPiece { message: None, data });
        let piece = piece.map_err(|error| Status::internal(error.to_string()));
        count(piece.as_ref().map_or(0, pb::SnapshotPiece::encoded_len));
        if pieces.blocking_send(piece).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_state_that_nobody_takes_is_not_read_on() {
        let (read, pieces) = mpsc::channel(MAX_QUEUED_PIECES);
        let (taken, mut receiver) = mpsc::channel(1);
        let began = Instant::now();
        let handing_on = tokio::spawn(give(pieces, taken));
        for _ in 0..3 {
            read.send(Ok(pb::SnapshotPiece::default())).await.expect("it is taken");
        }
        tokio::time::timeout(2 * PIECE_TIMEOUT, read.closed()).await.expect("it is given up");
        assert_eq!(began.elapsed().as_secs(), PIECE_TIMEOUT.as_secs());
        handing_on.await.expect("it has ended");
        assert!(receiver.recv().await.is_some(), "what had gone");
        assert!(receiver.recv().await.is_none());
    }
}

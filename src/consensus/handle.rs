//! The way in for everybody else: propose, wait for a read point, ask for the status.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prometheus::HistogramVec;
use prost::Message as _;
use tokio::sync::oneshot;

use super::event_loop::{Event, MAX_QUEUED_REQUESTS};
use super::lobby::Door;
use super::{
    ConsensusError, MAX_APPLY_BACKLOG, Message, Progress, Proposal, ReadReply, ReceivedState, Status,
};
use crate::command::{self, Command, Kind, MemberChange, Outcome};
use crate::courier::Courier;
use crate::ids::{LogPosition, MemberId};
use crate::inbox::{Refused, Sender};
use crate::members::Membership;
use crate::snapshot::Capture;

/// Bytes of peers' messages that wait for the loop.
const MAX_QUEUED_MESSAGE_BYTES: usize = 128 << 20;
/// As in etcd, which then asks its peers again.
const SLOW_READ: Duration = Duration::from_millis(500);

/// Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) events: Sender<Event>,
    pub(super) door: Door,
    pub(super) progress: Arc<Progress>,
    pub(super) max_request_bytes: usize,
    pub(super) request_timeout: Duration,
    /// A request that began so long before a leader was elected may have been lost with the one before.
    pub(super) leader_loss: Duration,
    /// How long proposals took, by the name of their command and whether they had an outcome.
    pub(super) seconds: HistogramVec,
}

impl Handle {
    /// Puts a command through the log and returns what it did, after it is durable and visible.
    ///
    /// # Errors
    /// See `ConsensusError`; on the timeouts, `LeaderChanged` and `Stopped` the outcome is unknown.
    pub async fn propose(&self, command: Command) -> Result<Outcome, ConsensusError> {
        let began = Instant::now();
        let result = match self.order(&command) {
            Ok(ordered) => ordered.outcome().await,
            Err(refused) => Err(refused),
        };
        let has_outcome = matches!(result, Ok(_) | Err(ConsensusError::Rejected(_)));
        let success = if has_outcome { "true" } else { "false" };
        let seconds = self.seconds.with_label_values(&[command::name(&command), success]);
        seconds.observe(began.elapsed().as_secs_f64());
        result
    }

    /// Puts a command in line for the log without waiting: it comes behind everything ordered before it.
    ///
    /// # Errors
    /// `TooLarge`, `TooManyRequests`, `Stopped`.
    pub fn order(&self, command: &Command) -> Result<Ordered, ConsensusError> {
        self.send(command, Event::Proposal)
    }

    /// Changes who belongs to the cluster; only the leader does.
    ///
    /// # Errors
    /// See `propose`; `NotLeader`.
    pub async fn change_members(&self, change: MemberChange) -> Result<Outcome, ConsensusError> {
        self.send(&Kind::MemberChange(change).into(), Event::Change)?.outcome().await
    }

    fn send(&self, command: &Command, event: fn(Proposal) -> Event) -> Result<Ordered, ConsensusError> {
        let makes_room = command::makes_room(command);
        let command = Bytes::from(command.encode_to_vec());
        if command.len() > self.max_request_bytes {
            return Err(ConsensusError::TooLarge);
        }
        let status = self.progress.status();
        if status.committed.index.0 > status.applied.index.0 + MAX_APPLY_BACKLOG {
            return Err(ConsensusError::TooManyRequests);
        }
        let (reply, outcome) = oneshot::channel();
        let proposal = Proposal { command, makes_room, reply, courier: Courier::here() };
        self.events.try_send_below(MAX_QUEUED_REQUESTS, event(proposal)).map_err(of_refusal)?;
        self.progress.pending.fetch_add(1, Ordering::Relaxed);
        let leaders_before = (!self.progress.has_leader()).then(|| self.progress.leader_changes());
        Ok(Ordered { outcome, handle: self.clone(), began: Instant::now(), leaders_before })
    }

    /// Returns when everything acknowledged before this call is visible to a `Reader`.
    ///
    /// # Errors
    /// `Timeout` and its kinds, `TooManyRequests`, `Stopped`.
    pub async fn read_barrier(&self) -> Result<(), ConsensusError> {
        if self.progress.reads_need_no_round() {
            return Ok(());
        }
        let began = Instant::now();
        let result = self.round().await;
        if result.is_err() {
            self.progress.failed_reads.fetch_add(1, Ordering::Relaxed);
        }
        if began.elapsed() > SLOW_READ {
            self.progress.slow_reads.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    async fn round(&self) -> Result<(), ConsensusError> {
        let (reply, granted) = oneshot::channel();
        let reader = ReadReply { reply, courier: Courier::here() };
        // An inbox without room is looked through, and then the lobby.
        if self.door.enter(reader)? && self.events.try_send(Event::Readers) == Err(Refused::Closed) {
            return Err(ConsensusError::Stopped);
        }
        match tokio::time::timeout(self.request_timeout, granted).await {
            Ok(Ok(granted)) => granted,
            Ok(Err(_closed)) => Err(ConsensusError::Stopped),
            // As in etcd, only writes are told why.
            Err(_elapsed) => Err(ConsensusError::Timeout),
        }
    }

    /// What a write is told that began then and has waited for its time, as etcd decides it.
    fn timed_out(&self, began: Instant) -> ConsensusError {
        let (status, connections) = (self.progress.status(), &self.progress.connections);
        if self.progress.lost_leader_around(began, self.leader_loss) {
            return ConsensusError::TimeoutLeaderFailed;
        }
        let was_connected = match status.leader {
            MemberId(0) => true,
            _ if status.is_leader => connections.had_quorum_since(began),
            leader => connections.had_since(leader, began),
        };
        if was_connected { ConsensusError::Timeout } else { ConsensusError::TimeoutConnectionLost }
    }

    /// Messages of a peer, and their bytes. Those that find no room are lost: raft sends them again.
    pub fn receive(&self, messages: Vec<Message>, bytes: usize) {
        let queued = &self.progress.queued_bytes;
        if queued.fetch_add(bytes, Ordering::Relaxed) + bytes > MAX_QUEUED_MESSAGE_BYTES
            || self.events.try_send(Event::Messages(messages, bytes)).is_err()
        {
            queued.fetch_sub(bytes, Ordering::Relaxed);
            tracing::debug!("messages of a peer are dropped");
        }
    }

    /// A state has come whole.
    pub fn receive_state(&self, received: ReceivedState) {
        self.events.send_end(Event::State(Box::new(received)));
    }

    /// A state for a member is ready to be sent.
    pub fn offer_state(&self, to: MemberId, position: LogPosition, members: Membership) {
        self.events.send_end(Event::Offer(to, position, members));
    }

    /// A state has been sent, or could not be.
    pub fn state_sent(&self, to: MemberId, arrived: bool) {
        self.events.send_end(Event::Sent(to, arrived));
    }

    /// A peer cannot be reached.
    pub fn unreachable(&self, peer: MemberId) {
        if let Err(refused) = self.events.try_send(Event::Unreachable(peer)) {
            tracing::debug!(%refused, "that a peer is unreachable is told again later");
        }
    }

    /// Hands the leadership over, to `to` or to whom it suits best; returns at once.
    pub fn transfer_leadership(&self, to: Option<MemberId>) {
        if let Err(refused) = self.events.try_send(Event::Transfer(to)) {
            tracing::warn!(%refused, "the leadership is not handed over");
        }
    }

    /// How much of the leader's log a member has, of 100.
    ///
    /// # Errors
    /// `NotLeader` (also when the member is not known), `Stopped`.
    pub async fn percent_of_log(&self, member: MemberId) -> Result<u64, ConsensusError> {
        let (reply, answer) = oneshot::channel();
        self.events
            .try_send_below(MAX_QUEUED_REQUESTS, Event::PercentOfLog(member, reply))
            .map_err(of_refusal)?;
        match answer.await {
            Ok(percent) => percent.ok_or(ConsensusError::NotLeader),
            Err(_closed) => Err(ConsensusError::Stopped),
        }
    }

    /// The state after what is applied when apply comes to it.
    ///
    /// # Errors
    /// `TooManyRequests`, `Stopped`.
    pub async fn lend_state(&self) -> Result<Capture, ConsensusError> {
        let (asker, answer) = oneshot::channel();
        self.events.try_send_below(MAX_QUEUED_REQUESTS, Event::Lend(asker)).map_err(of_refusal)?;
        answer.await.map_err(|_closed| ConsensusError::Stopped)
    }

    pub fn status(&self) -> Status {
        self.progress.status()
    }

    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }

    pub fn request_timeout(&self) -> Duration {
        self.request_timeout
    }
}

fn of_refusal(refused: Refused) -> ConsensusError {
    match refused {
        Refused::Full => ConsensusError::TooManyRequests,
        Refused::Closed => ConsensusError::Stopped,
    }
}

/// A command on its way through the log.
pub struct Ordered {
    outcome: oneshot::Receiver<Result<Outcome, ConsensusError>>,
    handle: Handle,
    began: Instant,
    /// When there was no leader at its beginning: how many had been seen. As long as it stays so, the command waits here.
    leaders_before: Option<u64>,
}

impl Ordered {
    /// What the command did.
    ///
    /// # Errors
    /// See `Handle::propose`.
    pub async fn outcome(mut self) -> Result<Outcome, ConsensusError> {
        let result = match tokio::time::timeout(self.handle.request_timeout, &mut self.outcome).await {
            Ok(Ok(result)) => result,
            Ok(Err(_closed)) => Err(ConsensusError::Stopped),
            Err(_elapsed) if self.leaders_before == Some(self.handle.progress.leader_changes()) => {
                Err(ConsensusError::TimeoutWithoutLeader)
            }
            Err(_elapsed) => Err(self.handle.timed_out(self.began)),
        };
        if !matches!(result, Ok(_) | Err(ConsensusError::Rejected(_))) {
            self.handle.progress.failed.fetch_add(1, Ordering::Relaxed);
        }
        result
    }
}

impl Drop for Ordered {
    /// Also when the caller went away before the outcome.
    fn drop(&mut self) {
        self.handle.progress.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

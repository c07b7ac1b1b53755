//! The way in for everybody else: propose, wait for a read point, ask for the status.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use prometheus::HistogramVec;
use prost::Message;
use tokio::sync::{oneshot, watch};

use super::event_loop::Event;
use super::{ConsensusError, MAX_APPLY_BACKLOG, Proposal, Status};
use crate::command::{self, Command, Outcome};
use crate::courier::Courier;
use crate::ids::{LogIndex, LogPosition, MemberId, Term};
use crate::inbox::{Refused, Sender};

/// As in etcd, which then asks its peers again.
const SLOW_READ: Duration = Duration::from_millis(500);

/// Numbers that the loop, apply and the store publish for each other and for the status. Each has one writer.
#[derive(Debug, Default)]
pub struct Progress {
    pub(super) term: AtomicU64,
    pub(super) leader: AtomicU64,
    pub(super) is_leader: AtomicBool,
    pub(super) committed_index: AtomicU64,
    pub(super) committed_term: AtomicU64,
    applied_index: AtomicU64,
    applied_term: AtomicU64,
    flushed_index: AtomicU64,
    disk_full: AtomicBool,
    pending: AtomicU64,
    failed: AtomicU64,
    failed_reads: AtomicU64,
    slow_reads: AtomicU64,
    pub(super) leader_changes: AtomicU64,
    pub(super) log_bytes: AtomicU64,
}

impl Progress {
    /// By apply: everything through `position` is visible.
    pub fn set_applied(&self, position: LogPosition) {
        self.applied_term.store(position.term.0, Ordering::Release);
        self.applied_index.store(position.index.0, Ordering::Release);
    }

    pub fn applied(&self) -> LogPosition {
        let index = LogIndex(self.applied_index.load(Ordering::Acquire));
        LogPosition { index, term: Term(self.applied_term.load(Ordering::Acquire)) }
    }

    /// By the store: everything through `index` is durable in it, so the log may be cut there.
    pub fn set_flushed(&self, index: LogIndex) {
        self.flushed_index.store(index.0, Ordering::Release);
    }

    pub fn flushed(&self) -> LogIndex {
        LogIndex(self.flushed_index.load(Ordering::Acquire))
    }

    /// By the store: it cannot write for want of space, so the log must not take more.
    pub fn set_disk_full(&self, full: bool) {
        self.disk_full.store(full, Ordering::Release);
    }

    pub fn disk_full(&self) -> bool {
        self.disk_full.load(Ordering::Acquire)
    }

    /// Proposals that wait for their outcome.
    pub fn pending_proposals(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }

    /// Proposals that ended without an outcome.
    pub fn failed_proposals(&self) -> u64 {
        self.failed.load(Ordering::Relaxed)
    }

    /// Reads whose barrier failed.
    pub fn failed_reads(&self) -> u64 {
        self.failed_reads.load(Ordering::Relaxed)
    }

    /// Reads that waited long for their barrier.
    pub fn slow_reads(&self) -> u64 {
        self.slow_reads.load(Ordering::Relaxed)
    }

    /// Leaders seen since the start.
    pub fn leader_changes(&self) -> u64 {
        self.leader_changes.load(Ordering::Relaxed)
    }

    /// Bytes written to the raft log since the start.
    pub fn log_bytes(&self) -> u64 {
        self.log_bytes.load(Ordering::Relaxed)
    }

    pub fn status(&self) -> Status {
        Status {
            term: Term(self.term.load(Ordering::Acquire)),
            leader: MemberId(self.leader.load(Ordering::Acquire)),
            is_leader: self.is_leader.load(Ordering::Acquire),
            is_learner: false,
            committed: LogPosition {
                index: LogIndex(self.committed_index.load(Ordering::Acquire)),
                term: Term(self.committed_term.load(Ordering::Acquire)),
            },
            applied: self.applied(),
        }
    }
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Handle {
    pub(super) events: Sender<Event>,
    pub(super) progress: Arc<Progress>,
    /// Set when this member leads alone and has applied an entry of its own term: from then on everything
    /// acknowledged is visible before its caller hears of it, and a read needs no round.
    pub(super) reads_need_no_round: watch::Receiver<bool>,
    pub(super) max_request_bytes: usize,
    pub(super) request_timeout: Duration,
    /// How long proposals took, by the name of their command and whether they had an outcome.
    pub(super) seconds: HistogramVec,
}

impl Handle {
    /// Puts a command through the log and returns what it did, after it is durable and visible.
    ///
    /// # Errors
    /// See `ConsensusError`; on `Timeout`, `LeaderChanged` and `Stopped` the outcome is unknown.
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
        let command = Bytes::from(command.encode_to_vec());
        if command.len() > self.max_request_bytes {
            return Err(ConsensusError::TooLarge);
        }
        let status = self.progress.status();
        if status.committed.index.0 > status.applied.index.0 + MAX_APPLY_BACKLOG {
            return Err(ConsensusError::TooManyRequests);
        }
        let (reply, outcome) = oneshot::channel();
        self.events
            .try_send(Event::Proposal(Proposal { command, reply, courier: Courier::here() }))
            .map_err(|refused| match refused {
                Refused::Full => ConsensusError::TooManyRequests,
                Refused::Closed => ConsensusError::Stopped,
            })?;
        self.progress.pending.fetch_add(1, Ordering::Relaxed);
        Ok(Ordered { outcome, progress: self.progress.clone(), timeout: self.request_timeout })
    }

    /// Returns when everything acknowledged before this call is visible to a `Reader`.
    ///
    /// # Errors
    /// `Timeout`, `Stopped`.
    pub async fn read_barrier(&self) -> Result<(), ConsensusError> {
        if *self.reads_need_no_round.borrow() {
            return Ok(());
        }
        let began = Instant::now();
        let mut ready = self.reads_need_no_round.clone();
        let result = match tokio::time::timeout(self.request_timeout, ready.wait_for(|ready| *ready)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_closed)) => Err(ConsensusError::Stopped),
            Err(_elapsed) => Err(ConsensusError::Timeout),
        };
        if result.is_err() {
            self.progress.failed_reads.fetch_add(1, Ordering::Relaxed);
        }
        if began.elapsed() > SLOW_READ {
            self.progress.slow_reads.fetch_add(1, Ordering::Relaxed);
        }
        result
    }

    pub fn status(&self) -> Status {
        self.progress.status()
    }

    pub fn progress(&self) -> &Arc<Progress> {
        &self.progress
    }
}

/// A command on its way through the log.
pub struct Ordered {
    outcome: oneshot::Receiver<Result<Outcome, ConsensusError>>,
    progress: Arc<Progress>,
    timeout: Duration,
}

impl Ordered {
    /// What the command did.
    ///
    /// # Errors
    /// See `Handle::propose`.
    pub async fn outcome(mut self) -> Result<Outcome, ConsensusError> {
        let result = match tokio::time::timeout(self.timeout, &mut self.outcome).await {
            Ok(Ok(result)) => result,
            Ok(Err(_closed)) => Err(ConsensusError::Stopped),
            Err(_elapsed) => Err(ConsensusError::Timeout),
        };
        if !matches!(result, Ok(_) | Err(ConsensusError::Rejected(_))) {
            self.progress.failed.fetch_add(1, Ordering::Relaxed);
        }
        result
    }
}

impl Drop for Ordered {
    /// Also when the caller went away before the outcome.
    fn drop(&mut self) {
        self.progress.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

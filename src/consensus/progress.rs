//! What the stages publish for each other and for the status. Owns those numbers, and the readers that wait for an
//! entry to be applied.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::Status;
use super::connections::Connections;
use super::reads::Granted;
use super::turns::Turns;
use crate::courier::Outbox;
use crate::ids::{LogIndex, LogPosition, MemberId, Term};

/// Numbers that the loop, apply and the store publish for each other and for the status. Each has one writer.
#[derive(Debug, Default)]
pub struct Progress {
    pub(super) term: AtomicU64,
    pub(super) leader: AtomicU64,
    pub(super) is_leader: AtomicBool,
    pub(super) is_learner: AtomicBool,
    pub(super) committed_index: AtomicU64,
    pub(super) committed_term: AtomicU64,
    applied_index: AtomicU64,
    applied_term: AtomicU64,
    flushed_index: AtomicU64,
    disk_full: AtomicBool,
    /// This member leads alone and has applied an entry of its own term: everything acknowledged is visible before its
    /// caller hears of it.
    reads_need_no_round: AtomicBool,
    pub(super) pending: AtomicU64,
    pub(super) failed: AtomicU64,
    pub(super) failed_reads: AtomicU64,
    pub(super) slow_reads: AtomicU64,
    pub(super) leader_changes: AtomicU64,
    pub(super) log_bytes: AtomicU64,
    /// Heartbeats that left too late or not at all.
    failed_heartbeats: AtomicU64,
    /// Bytes of peers' messages that wait for the loop.
    pub(super) queued_bytes: AtomicUsize,
    pub connections: Connections,
    pub turns: Turns,
    /// Since when the present leader is known.
    leader_since: Mutex<Option<Instant>>,
    /// Readers that wait for an entry to be applied. A lock, because consensus adds and apply takes.
    granted: Mutex<Vec<Granted>>,
}

impl Progress {
    /// By apply: everything through `position` is visible.
    pub fn set_applied(&self, position: LogPosition) {
        self.applied_term.store(position.term.0, Ordering::Release);
        self.applied_index.store(position.index.0, Ordering::Release);
    }

    /// By consensus: readers that may read when an entry is applied; at once when it is.
    pub(super) fn grant(&self, granted: Granted, outbox: &mut Outbox) {
        let mut waiting = self.granted.lock();
        if granted.index > self.applied().index {
            waiting.push(granted);
            return;
        }
        drop(waiting);
        answer(granted, outbox);
    }

    /// By apply, after `set_applied`: those who waited for it read now.
    pub fn answer_granted(&self, outbox: &mut Outbox) {
        let mut waiting = self.granted.lock();
        if waiting.is_empty() {
            return;
        }
        let applied = self.applied().index;
        let ready: Vec<_> = waiting.extract_if(.., |granted| granted.index <= applied).collect();
        drop(waiting);
        ready.into_iter().for_each(|granted| answer(granted, outbox));
    }

    /// By consensus: who leads, as of now.
    pub(super) fn set_leader(&self, leader: MemberId) {
        let before = self.leader.swap(leader.0, Ordering::AcqRel);
        if before == leader.0 {
            return;
        }
        *self.leader_since.lock() = (leader != MemberId(0)).then(Instant::now);
        if leader == MemberId(0) {
            tracing::warn!(before = %format!("{before:x}"), "nobody leads");
        } else {
            tracing::info!(leader = %format!("{:x}", leader.0), "a member leads");
            self.leader_changes.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Whether raft knows a leader, also while a turn stalls.
    pub(super) fn has_leader(&self) -> bool {
        self.leader.load(Ordering::Acquire) != 0
    }

    /// Whether `start` lies in the last `before` ahead of the present leader's beginning: then a leader was lost under a
    /// request of that time.
    pub(super) fn lost_leader_around(&self, start: Instant, before: Duration) -> bool {
        self.leader_since.lock().is_some_and(|elected| start < elected && start + before > elected)
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

    pub(super) fn set_reads_need_no_round(&self, none: bool) {
        self.reads_need_no_round.store(none, Ordering::Release);
    }

    pub(super) fn reads_need_no_round(&self) -> bool {
        self.reads_need_no_round.load(Ordering::Acquire)
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

    /// Heartbeats that left too late or not at all.
    pub fn failed_heartbeats(&self) -> u64 {
        self.failed_heartbeats.load(Ordering::Relaxed)
    }

    pub fn heartbeats_failed(&self, count: u64) {
        self.failed_heartbeats.fetch_add(count, Ordering::Relaxed);
    }

    /// Bytes written to the raft log since the start.
    pub fn log_bytes(&self) -> u64 {
        self.log_bytes.load(Ordering::Relaxed)
    }

    /// While a turn of the loop stalls, this member leads nobody and knows no leader: others have elected one by then.
    pub fn status(&self) -> Status {
        let stalls = self.turns.stalled_for().is_some();
        let leader = if stalls { 0 } else { self.leader.load(Ordering::Acquire) };
        Status {
            term: Term(self.term.load(Ordering::Acquire)),
            leader: MemberId(leader),
            is_leader: !stalls && self.is_leader.load(Ordering::Acquire),
            is_learner: self.is_learner.load(Ordering::Acquire),
            committed: LogPosition {
                index: LogIndex(self.committed_index.load(Ordering::Acquire)),
                term: Term(self.committed_term.load(Ordering::Acquire)),
            },
            applied: self.applied(),
        }
    }
}

fn answer(granted: Granted, outbox: &mut Outbox) {
    for reader in granted.readers {
        reader.answer(Ok(()), outbox);
    }
}

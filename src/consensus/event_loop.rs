//! The thread round the node: gathers what waits, steps, hands on. Time enters here.
//! While one flush runs, the next batch gathers in the channel: that is the group commit.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use prometheus::HistogramVec;
use tokio::sync::watch;

use super::handle::Progress;
use super::node::{CommittedEntry, Error, Node};
use super::{ConsensusError, Handle, Proposal};
use crate::ids::{LogPosition, MemberId};
use crate::inbox::{Receiver, Sender, Taken, bounded};

/// Proposals that wait for the loop; more are refused with "too many requests".
const MAX_QUEUED_PROPOSALS: usize = 16 * 1024;
/// Batches of committed entries on their way to apply; more wait here, in order.
const MAX_QUEUED_BATCHES: usize = 256;

/// What the loop can be told.
#[derive(Debug)]
pub enum Event {
    Proposal(Proposal),
    /// Stop after what is queued before this.
    Stop,
}

/// How the loop behaves.
#[derive(Clone, Copy, Debug)]
pub struct LoopOptions {
    /// One raft tick: the heartbeat interval.
    pub tick: Duration,
    /// Entries kept in the log for followers behind what the store has flushed.
    pub catch_up_entries: u64,
    pub max_request_bytes: usize,
    pub request_timeout: Duration,
}

/// See the module.
pub struct Loop {
    node: Node,
    options: LoopOptions,
    events: Receiver<Event>,
    /// Taken out of the inbox, not handled yet.
    taken: VecDeque<Event>,
    committed: Sender<Vec<CommittedEntry>>,
    /// Committed batches that apply has no room for yet.
    backlog: VecDeque<Vec<CommittedEntry>>,
    progress: Arc<Progress>,
    reads_need_no_round: watch::Sender<bool>,
    next_tick: Instant,
}

/// Stops the loop. Proposals queued before are still carried out.
#[derive(Clone)]
pub struct Stopper(Sender<Event>);

impl Stopper {
    pub fn stop(&self) {
        self.0.send_end(Event::Stop);
    }
}

impl Loop {
    /// A loop with its handle, its stopper, and the way out for committed entries.
    /// `request_seconds` is told how long each proposal took, by its command's name and whether it had an outcome.
    pub fn new(
        node: Node,
        options: LoopOptions,
        request_seconds: HistogramVec,
    ) -> (Self, Handle, Stopper, Receiver<Vec<CommittedEntry>>) {
        let (event_sender, events) = bounded(MAX_QUEUED_PROPOSALS);
        let (committed, committed_receiver) = bounded(MAX_QUEUED_BATCHES);
        let (reads_need_no_round, reads) = watch::channel(false);
        let progress = Arc::new(Progress::default());
        let handle = Handle {
            events: event_sender.clone(),
            progress: progress.clone(),
            reads_need_no_round: reads,
            max_request_bytes: options.max_request_bytes,
            request_timeout: options.request_timeout,
            seconds: request_seconds,
        };
        let next_tick = Instant::now() + options.tick;
        let this = Self {
            node,
            options,
            events,
            taken: VecDeque::new(),
            committed,
            backlog: VecDeque::new(),
            progress,
            reads_need_no_round,
            next_tick,
        };
        (this, handle, Stopper(event_sender), committed_receiver)
    }

    /// Runs until told to stop.
    ///
    /// # Errors
    /// A fault after which nothing may be acknowledged: the process must stop.
    pub fn run(&mut self) -> Result<(), Error> {
        let result = self.turns().and_then(|()| self.node.close());
        let told = if result.is_ok() { ConsensusError::Stopped } else { ConsensusError::Timeout };
        self.node.fail_waiting(&told);
        result
    }

    fn turns(&mut self) -> Result<(), Error> {
        self.node.campaign_if_alone()?;
        loop {
            self.settle()?;
            let wake_at = self.wake_at();
            match self.events.take(&mut self.taken, Some(wake_at)) {
                Taken::Items => {
                    if !self.take_proposals() {
                        return self.settle();
                    }
                }
                Taken::TimedOut => {}
                Taken::Closed => return Ok(()),
            }
            self.tick_when_due()?;
        }
    }

    /// Steps until nothing is left to flush or to hand on.
    fn settle(&mut self) -> Result<(), Error> {
        while self.node.has_ready() {
            let step = self.node.step()?;
            self.publish_status(step.committed.last().map(|entry| entry.position));
            if !step.committed.is_empty() {
                self.backlog.push_back(step.committed);
            }
        }
        while self.committed.has_room()
            && let Some(batch) = self.backlog.pop_front()
        {
            // Refused when apply has ended: it has said why, and the process is stopping.
            if self.committed.try_send(batch).is_err() {
                break;
            }
        }
        Ok(())
    }

    fn wake_at(&self) -> Instant {
        let unsettled = !self.backlog.is_empty() || !*self.reads_need_no_round.borrow();
        if unsettled { self.next_tick.min(Instant::now() + Duration::from_millis(1)) } else { self.next_tick }
    }

    /// Proposes what was taken; `false` when a stop was among it: what came behind that is dropped.
    fn take_proposals(&mut self) -> bool {
        let mut proposals = Vec::with_capacity(self.taken.len());
        let mut go_on = true;
        for event in self.taken.drain(..) {
            match event {
                Event::Proposal(proposal) if go_on => proposals.push(proposal),
                Event::Proposal(_) => {}
                Event::Stop => go_on = false,
            }
        }
        if self.progress.disk_full() {
            for proposal in proposals {
                drop(proposal.reply.send(Err(ConsensusError::NoSpace)));
            }
        } else {
            self.node.propose(proposals);
        }
        go_on
    }

    fn tick_when_due(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        if !*self.reads_need_no_round.borrow() {
            self.check_reads();
        }
        if now < self.next_tick {
            return Ok(());
        }
        self.next_tick = now + self.options.tick;
        self.node.tick();
        let (applied, flushed) = (self.progress.applied().index, self.progress.flushed());
        self.node.progressed(applied, flushed, self.options.catch_up_entries)
    }

    /// A lone leader that has applied an entry of its term has applied everything of older terms.
    fn check_reads(&self) {
        let alone = self.node.is_only_voter() && self.node.is_leader();
        if alone && self.progress.applied().term == self.node.term() {
            self.reads_need_no_round.send_replace(true);
        }
    }

    fn publish_status(&self, committed: Option<LogPosition>) {
        self.progress.term.store(self.node.term().0, Ordering::Release);
        let before = self.progress.leader.swap(self.node.leader().0, Ordering::AcqRel);
        if before != self.node.leader().0 && self.node.leader() != MemberId(0) {
            self.progress.leader_changes.fetch_add(1, Ordering::Relaxed);
        }
        self.progress.log_bytes.store(self.node.log().bytes_written(), Ordering::Relaxed);
        self.progress.is_leader.store(self.node.is_leader(), Ordering::Release);
        if let Some(committed) = committed {
            self.progress.committed_term.store(committed.term.0, Ordering::Release);
            self.progress.committed_index.store(committed.index.0, Ordering::Release);
        }
    }
}

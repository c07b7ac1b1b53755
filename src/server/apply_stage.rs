//! The thread round apply: takes committed entries, applies what is there, publishes once, then answers.
//! Owns the order of these steps; every rule of the state machine is `apply`'s.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::apply::{self, Applier};
use crate::command::CommandResult;
use crate::consensus::{Committed, CommittedEntry, Handle, Install, Progress, Replies};
use crate::courier::Outbox;
use crate::inbox::{Receiver, Taken};
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::persist::Mailbox;
use crate::snapshot::Capture;
use crate::watch::HubInput;

/// Entries applied before they are published, at most.
const MAX_ENTRIES_PER_TURN: usize = 512;
/// How long a state may take to be read out, and how much of it that must be in a second when it is large. Compactions wait
/// for it, so that there must be an end: the member has it begun anew then.
const CAPTURE_TIME: Duration = Duration::from_secs(600);
const CAPTURE_BYTES_PER_SECOND: u64 = 1 << 20;
/// While the index is being pruned for a compaction, turns without entries come so often.
const PRUNE_PAUSE: Duration = Duration::from_millis(1);

/// See the module.
pub struct ApplyStage {
    pub applier: Applier,
    pub committed: Receiver<Committed>,
    pub mailbox: Arc<Mailbox>,
    pub hub: HubInput,
    pub outbox: Outbox,
    pub progress: Arc<Progress>,
    pub consensus: Handle,
    pub peers: Peers,
    pub metrics: Metrics,
    /// A turn that takes longer is told.
    pub warn_after: Duration,
}

impl ApplyStage {
    /// Runs until consensus has ended and everything committed is applied.
    ///
    /// # Errors
    /// A fault after which the state cannot be trusted to advance: the process must stop.
    pub fn run(&mut self) -> Result<(), apply::Error> {
        let mut batches = VecDeque::new();
        loop {
            let until = self.applier.is_pruning().then(|| Instant::now() + PRUNE_PAUSE);
            match self.committed.take(&mut batches, until) {
                Taken::Items => {
                    while let Some(first) = batches.pop_front() {
                        match first {
                            Committed::Entries(entries) => {
                                self.turn(entries_of_a_turn(entries, &mut batches))?;
                            }
                            Committed::Install(install) => self.install(install),
                            Committed::Capture(member) => {
                                let capture = capture(&self.applier);
                                self.peers.offer_state(&self.consensus, member, capture);
                            }
                            Committed::Lend(asker) => {
                                lend(asker, || capture(&self.applier));
                            }
                        }
                    }
                }
                Taken::TimedOut => self.turn(Vec::new())?,
                Taken::Closed => return Ok(()),
            }
        }
    }

    /// Everything before is applied and published, nothing behind is looked at yet.
    fn install(&mut self, install: Install) {
        assert_eq!(
            install.state.position(),
            install.position,
            "raft takes the state that came with its message"
        );
        self.metrics.installing_states.set(1);
        let replacement = self.applier.install(*install.state);
        self.progress.set_applied(install.position);
        self.hub.installed(self.applier.revision());
        self.mailbox.install(replacement);
        self.progress.answer_granted(&mut self.outbox);
        self.outbox.send();
        self.metrics.installing_states.set(0);
        tracing::info!(index = install.position.index.0, "installed a received state");
    }

    fn turn(&mut self, entries: Vec<CommittedEntry>) -> Result<(), apply::Error> {
        let began = Instant::now();
        let mut last = began;
        let metrics = self.metrics.clone();
        let mut count = |name: &'static str, outcome: &CommandResult| {
            let now = Instant::now();
            let success = if outcome.is_ok() { "true" } else { "false" };
            metrics
                .apply_seconds
                .with_label_values(&["v3", name, success])
                .observe((now - last).as_secs_f64());
            last = now;
        };
        let commands = entries.len();
        let mut answers: Vec<(Replies, Vec<CommandResult>)> = Vec::with_capacity(entries.len());
        for entry in entries {
            let outcomes = self.applier.apply(entry.position, &entry.data, &mut count)?;
            answers.push((entry.replies, outcomes));
        }
        self.publish();
        for (replies, outcomes) in answers {
            replies.answer(outcomes, &mut self.outbox);
        }
        self.progress.answer_granted(&mut self.outbox);
        self.outbox.send();
        let took = began.elapsed();
        if took > self.warn_after && commands > 0 {
            self.metrics.slow_applies.inc();
            tracing::warn!(?took, entries = commands, "apply request took too long");
        }
        Ok(())
    }

    /// Visible first, then handed on, so that whoever hears of it can read it.
    fn publish(&mut self) {
        if self.applier.is_pruning() {
            let began = Instant::now();
            self.applier.prune();
            let took = began.elapsed().as_secs_f64() * 1e3;
            self.metrics.index_compaction_pause_milliseconds.observe(took);
        }
        let published = self.applier.publish_unpruned();
        self.progress.set_applied(published.round.applied);
        self.metrics.count_operations(&published.operations);
        if !published.changes.is_empty() {
            self.hub.publish(published.revision, published.changes);
        }
        self.mailbox.put(published.round, published.compacted);
    }
}

fn capture(applier: &Applier) -> Capture {
    applier.capture(Instant::now() + capture_time(applier.bytes_in_use()))
}

fn capture_time(bytes: u64) -> Duration {
    CAPTURE_TIME + Duration::from_secs(bytes / CAPTURE_BYTES_PER_SECOND)
}

/// A capture costs apply time, and holds a compaction up: none is made for somebody who has gone.
fn lend<T>(asker: oneshot::Sender<T>, capture: impl FnOnce() -> T) {
    if !asker.is_closed() {
        // It may go at this moment, too.
        drop(asker.send(capture()));
    }
}

/// With those of the batches that follow, as many as belong into one turn.
fn entries_of_a_turn(
    mut entries: Vec<CommittedEntry>,
    batches: &mut VecDeque<Committed>,
) -> Vec<CommittedEntry> {
    while entries.len() < MAX_ENTRIES_PER_TURN
        && let Some(Committed::Entries(more)) = batches.front_mut()
    {
        entries.append(more);
        batches.pop_front();
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_state_has_more_time() {
        assert_eq!(capture_time(1000), CAPTURE_TIME);
        assert_eq!(capture_time(8 << 30), CAPTURE_TIME + Duration::from_secs(8 << 10));
    }

    #[test]
    fn a_state_whose_asker_has_gone_is_not_captured() {
        let (asker, mut answer) = oneshot::channel();
        lend(asker, || 1);
        assert_eq!(answer.try_recv(), Ok(1));
        let (asker, answer) = oneshot::channel();
        drop(answer);
        let mut captured = false;
        lend(asker, || captured = true);
        assert!(!captured);
    }
}

//! The thread round apply: takes committed entries, applies what is there, publishes once, then answers.
//! Owns the order of these steps; every rule of the state machine is `apply`'s.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::apply::{self, Applier};
use crate::command::CommandResult;
use crate::consensus::{CommittedEntry, Progress, Replies};
use crate::metrics::Metrics;
use crate::persist::Mailbox;
use crate::watch::HubInput;

/// Entries applied before they are published, at most.
const MAX_ENTRIES_PER_TURN: usize = 512;
/// While the index is being pruned for a compaction, turns without entries come so often.
const PRUNE_PAUSE: Duration = Duration::from_millis(1);

/// See the module.
pub struct ApplyStage {
    pub applier: Applier,
    pub committed: Receiver<Vec<CommittedEntry>>,
    pub mailbox: Arc<Mailbox>,
    pub hub: HubInput,
    pub progress: Arc<Progress>,
    pub metrics: Metrics,
    /// A turn that takes longer is told.
    pub warn_after: Duration,
}

impl ApplyStage {
    /// Runs until consensus has ended and everything committed is applied.
    ///
    /// # Errors
    /// A fault after which the state cannot be trusted to advance: the process must stop.
    pub fn run(mut self) -> Result<(), apply::Error> {
        loop {
            let batch = if self.applier.is_pruning() {
                self.committed.recv_timeout(PRUNE_PAUSE)
            } else {
                self.committed.recv().map_err(|_closed| RecvTimeoutError::Disconnected)
            };
            match batch {
                Ok(batch) => self.turn(batch)?,
                Err(RecvTimeoutError::Timeout) => self.turn(Vec::new())?,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            }
        }
    }

    fn turn(&mut self, mut entries: Vec<CommittedEntry>) -> Result<(), apply::Error> {
        while entries.len() < MAX_ENTRIES_PER_TURN
            && let Ok(more) = self.committed.try_recv()
        {
            entries.extend(more);
        }
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
            replies.answer(outcomes);
        }
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

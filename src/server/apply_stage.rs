//! The thread round apply: takes committed entries, applies what is there, publishes once, then answers.
//! Owns the order of these steps; every rule of the state machine is `apply`'s.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};

use crate::apply::{self, Applier};
use crate::command::CommandResult;
use crate::consensus::{CommittedEntry, Progress, Replies};
use crate::persist::Mailbox;
use crate::watch::{HubInput, WatchBatch};

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
        let mut answers: Vec<(Replies, Vec<CommandResult>)> = Vec::with_capacity(entries.len());
        for entry in entries {
            let outcomes = self.applier.apply(entry.position, &entry.data)?;
            answers.push((entry.replies, outcomes));
        }
        self.publish();
        for (replies, outcomes) in answers {
            replies.answer(outcomes);
        }
        Ok(())
    }

    /// Visible first, then handed on, so that whoever hears of it can read it.
    fn publish(&mut self) {
        let published = self.applier.publish();
        self.progress.set_applied(published.round.applied);
        if !published.changes.is_empty() {
            self.hub.publish(WatchBatch { revision: published.revision, changes: published.changes });
        }
        self.mailbox.put(published.round, published.compacted.is_some());
    }
}

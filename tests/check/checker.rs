//! Judges histories of a cluster by what etcd promises: strict serializability of the key space, and watches that are
//! ordered, unique, reliable, atomic, resumable and bookmarkable. Other tests have this file, with its folder, by path.
//!
//! Acknowledged writes name their revisions, so that their order is known; it must agree with real time and with every
//! answer. Only what is unknown has to be searched for, and what was seen of a revision mostly tells it at once.

mod facts;
pub mod history;
mod replay;
pub mod report;
pub mod state;
mod watches;
mod wire;

use facts::Facts;
use history::{History, What};
use replay::{Cause, Replay};
use report::Violation;

/// What a history that keeps the promises consists of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    pub operations: usize,
    /// Revisions above the first.
    pub revisions: usize,
    /// Those that were made by writes of unknown outcome.
    pub by_unknown: usize,
    /// Those that were made by leases whose time was over.
    pub by_expiry: usize,
    /// That were told by watches.
    pub events: usize,
}

/// Whether a cluster that keeps etcd's promises can have this history.
///
/// # Errors
/// It cannot: the operations that contradict each other.
pub fn check(history: &History) -> Result<Summary, Violation> {
    let facts = Facts::new(history)?;
    let views = watches::views(&facts)?;
    let causes = Replay::new(&facts, &views).run()?;
    let told = history.watchers.iter().flat_map(|watcher| &watcher.sessions).flat_map(|one| &one.told);
    let count = |wanted: &dyn Fn(&Cause) -> bool| causes.iter().filter(|cause| wanted(cause)).count();
    Ok(Summary {
        operations: history.operations.len(),
        revisions: causes.len(),
        by_unknown: count(&|cause| match cause {
            Cause::Operation(place) => history.operations[*place].outcome == history::Outcome::Unknown,
            Cause::Expiry(_) => false,
        }),
        by_expiry: count(&|cause| matches!(cause, Cause::Expiry(_))),
        events: told
            .map(|told| if let What::Events { events, .. } = &told.what { events.len() } else { 0 })
            .sum(),
    })
}

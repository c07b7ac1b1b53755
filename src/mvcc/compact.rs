//! Compaction: logical at once, in the index leaf by leaf, in the store slice by slice.
//! Owns which revision is scheduled and which is finished; both survive a crash, so that a restart goes on.

use std::sync::Arc;
use std::time::Instant;

use super::read::{Reader, Snapshot};
use super::write::{COMPACT_FINISHED, COMPACT_SCHEDULED, Keyspace, meta};
use super::{Error, decode};
use crate::ids::{FullRevision, Revision};
use crate::storage::{Store, TableWrite};

impl Keyspace {
    /// Forgets everything that `revision` makes old. From here on no read below it succeeds.
    ///
    /// # Errors
    /// `Compacted` when it is already, `FutureRevision` when it is above the current one.
    pub fn compact(&mut self, revision: i64) -> Result<(), Error> {
        if revision <= self.view.compacted.0 {
            return Err(Error::Compacted);
        }
        if revision > self.view.revision.0 {
            return Err(Error::FutureRevision);
        }
        self.view.compacted = Revision(revision);
        self.tables.push(meta(COMPACT_SCHEDULED, self.view.compacted));
        self.prune_from = Some(Vec::new());
        Ok(())
    }

    /// Prunes up to `leaves` leaves of the index for the newest compaction; `true` while there is more.
    pub fn prune(&mut self, leaves: usize) -> bool {
        for _ in 0..leaves {
            let Some(from) = self.prune_from.take() else {
                return false;
            };
            self.prune_from = self.view.tree.compact_leaf(&from, self.view.compacted);
        }
        self.prune_from.is_some()
    }

    pub fn is_pruning(&self) -> bool {
        self.prune_from.is_some()
    }
}

/// The removal of one compaction's revisions from the store. Belongs to the one thread that writes the store.
pub struct Compaction {
    snapshot: Snapshot,
    next: Option<FullRevision>,
    removed: u64,
}

impl Compaction {
    /// Begins to remove what the newest published compaction dropped.
    pub fn begin(reader: &Reader) -> Self {
        Self { snapshot: reader.snapshot(), next: Some(FullRevision::default()), removed: 0 }
    }

    /// Begins to remove from `store` what the compaction at `revision` dropped. `None` when a newer one is published
    /// already: its changes may not have reached the store, and removing for it would leave the store without what they
    /// replace. The same when what is published stands in another store.
    pub fn begin_at(reader: &Reader, store: &Arc<dyn Store>, revision: Revision) -> Option<Self> {
        let compaction = Self::begin(reader);
        let is_of_store = Arc::ptr_eq(&compaction.snapshot.view.pairs.store, store);
        (is_of_store && compaction.revision() == revision).then_some(compaction)
    }

    pub fn revision(&self) -> Revision {
        self.snapshot.compacted()
    }

    /// Changes removed so far.
    pub fn removed(&self) -> u64 {
        self.removed
    }

    /// Looks at about `limit` further changes; `true` while there are more. Does nothing while somebody reads out a state
    /// that has not seen this compaction.
    ///
    /// # Errors
    /// A fault of the disk. The compaction can be begun again.
    pub fn step(&mut self, limit: usize) -> Result<bool, Error> {
        let Some(from) = self.next else {
            return Ok(false);
        };
        let through = self.revision();
        if self.snapshot.shared.pins.forbid(through, Instant::now()) {
            return Ok(true);
        }
        let mut failed = None;
        let mut removed = 0;
        let view = &self.snapshot.view;
        self.next = view.pairs.store.retain(from, through, limit, &mut |stored| match decode(stored) {
            Ok(pair) => {
                let kept =
                    view.tree.get(&pair.key).is_some_and(|history| history.survives(stored.at, through));
                removed += u64::from(!kept);
                kept
            }
            Err(error) => {
                failed = Some(error);
                true
            }
        })?;
        self.removed += removed;
        failed.map_or(Ok(self.next.is_some()), Err)
    }

    /// The row that marks it as done; to be written with the next round.
    pub fn finished(&self) -> TableWrite {
        meta(COMPACT_FINISHED, self.revision())
    }
}

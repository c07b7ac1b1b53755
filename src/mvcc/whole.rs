//! The key space as a whole: read out for another member, and replaced by what another member sent.
//! Owns the pins that keep a compaction from removing what is being read out.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use super::read::Snapshot;
use super::write::{COMPACT_FINISHED, COMPACT_SCHEDULED, Keyspace, REVISION, meta};
use super::{Error, decode};
use crate::ids::{FullRevision, Revision};
use crate::storage::{StoredChange, TableWrite};

/// Who reads everything out. A lock, because `apply` adds, the reading thread takes away, and the store's thread looks.
#[derive(Default)]
pub(super) struct Pins(Mutex<Held>);

#[derive(Default)]
struct Held {
    pins: BTreeMap<u64, (Revision, Instant)>,
    next: u64,
}

impl Pins {
    /// Whether the removal for a compaction at `revision` would take what somebody still reads: the pinned view is of
    /// before that compaction, and the pin's time is not over.
    pub fn forbid(&self, revision: Revision, now: Instant) -> bool {
        self.0.lock().pins.values().any(|(compacted, until)| *compacted < revision && now < *until)
    }
}

/// Keeps what a snapshot names in the store until it is dropped, or its time is over.
pub struct Pin {
    pins: Arc<Pins>,
    id: u64,
    until: Instant,
}

impl Pin {
    /// Whether everything read before `now` was still protected.
    pub fn holds(&self, now: Instant) -> bool {
        now < self.until
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        self.pins.0.lock().pins.remove(&self.id);
    }
}

/// A part of the changes, and where to go on.
#[derive(Debug, Default)]
pub struct Slice {
    pub changes: Vec<StoredChange>,
    pub next: Option<FullRevision>,
}

impl Snapshot {
    /// The rows of the meta table for this state when nothing is left in it that its compaction dropped.
    pub fn meta_rows(&self) -> Vec<TableWrite> {
        let mut rows = vec![meta(REVISION, self.view.revision)];
        if self.view.compacted >= Revision(0) {
            rows.push(meta(COMPACT_SCHEDULED, self.view.compacted));
            rows.push(meta(COMPACT_FINISHED, self.view.compacted));
        }
        rows
    }

    /// Changes from `from` on, without what the compaction dropped, after looking at about `bytes` of pairs. How far the
    /// removal has come in the store makes no difference.
    ///
    /// # Errors
    /// A fault of the disk.
    pub fn slice(&self, from: FullRevision, bytes: usize) -> Result<Slice, Error> {
        let mut slice = self.stored_slice(from, bytes)?;
        let mut failed = None;
        slice.changes.retain(|stored| {
            self.keeps(stored).unwrap_or_else(|error| {
                failed = Some(error);
                false
            })
        });
        failed.map_or(Ok(slice), Err)
    }

    fn keeps(&self, stored: &StoredChange) -> Result<bool, Error> {
        if stored.at.main > self.view.compacted {
            return Ok(true);
        }
        let key = decode(stored)?.key;
        let history = self.view.tree.get(&key);
        Ok(history.is_some_and(|history| history.survives(stored.at, self.view.compacted)))
    }

    /// How many changes the index names: so many all slices together have.
    pub fn named_changes(&self) -> u64 {
        let compacted = self.view.compacted;
        let mut named = 0;
        for (_, history) in self.view.tree.range(&[], None) {
            let older = history.older.into_iter().flat_map(|older| older.iter());
            let versions = older.chain(std::iter::once(&history.newest));
            let kept = versions.filter(|version| history.survives(version.modified, compacted)).count();
            named += kept as u64;
        }
        named
    }

    /// What store and tail hold from `from` on.
    fn stored_slice(&self, from: FullRevision, bytes: usize) -> Result<Slice, Error> {
        let end = FullRevision::start_of(Revision(self.view.revision.0 + 1));
        // The tail first: what leaves it meanwhile is in the store.
        let in_store = self.view.pairs.tail.first().map_or(end, |first| first.min(end));
        let mut budget = Budget { changes: Vec::new(), left: bytes };
        if from < in_store {
            self.view.pairs.store.scan(from, in_store, &mut |stored| budget.take(stored))?;
            let next = if budget.left == 0 { budget.next() } else { in_store };
            return Ok(Slice { changes: budget.changes, next: (next < end).then_some(next) });
        }
        if !self.view.pairs.tail.visit_from(from, &mut |stored| {
            if stored.at < end { budget.take(stored) } else { ControlFlow::Break(()) }
        }) {
            // The store has it by now.
            return Ok(Slice { changes: Vec::new(), next: Some(from) });
        }
        let next = (budget.left == 0).then(|| budget.next()).filter(|next| *next < end);
        Ok(Slice { changes: budget.changes, next })
    }
}

/// Changes until there are enough.
struct Budget {
    changes: Vec<StoredChange>,
    left: usize,
}

impl Budget {
    fn take(&mut self, stored: &StoredChange) -> ControlFlow<()> {
        self.changes.push(stored.clone());
        self.left = self.left.saturating_sub(stored.pair.len() + 32);
        if self.left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Behind the last.
    fn next(&self) -> FullRevision {
        self.changes.last().map(|last| last.at.successor()).unwrap_or_default()
    }
}

impl Keyspace {
    /// Everything so far, and a pin on it. Whoever publishes a newer compaction does so after this.
    ///
    /// # Panics
    /// In the middle of a batch.
    pub fn pinned_snapshot(&self, until: Instant) -> (Snapshot, Pin) {
        self.assert_at_rest();
        let snapshot = self.reader().snapshot();
        let pins = snapshot.shared.pins.clone();
        let mut held = pins.0.lock();
        let id = held.next;
        held.next += 1;
        held.pins.insert(id, (snapshot.view.compacted, until));
        drop(held);
        (snapshot, Pin { pins, id, until })
    }

    /// Puts another key space in the place of this one, for every reader at once. A snapshot that is held stays what it
    /// was, over the store that it was of.
    ///
    /// # Panics
    /// In the middle of a batch; when the other one is older.
    pub fn replace(&mut self, other: Self) {
        self.assert_at_rest();
        let (old, new) = (&self.view, &other.view);
        assert!(new.revision >= old.revision, "revision {} cannot follow {}", new.revision, old.revision);
        assert!(
            new.compacted >= old.compacted,
            "compaction {} cannot follow {}",
            new.compacted,
            old.compacted
        );
        self.view = other.view;
        self.prune_from = other.prune_from;
        self.shared.view.store(Arc::new(self.view.clone()));
    }

    fn assert_at_rest(&self) {
        let is_at_rest = self.pending.is_empty() && self.changes.is_empty() && self.tables.is_empty();
        assert!(is_at_rest, "the whole state is looked at between two batches");
    }
}

//! The versions of one key: what the index knows without reading the store.
//! Owns which version is visible at a revision and which survive a compaction.

use std::sync::Arc;

use crate::ids::{FullRevision, Revision};

/// One version of a key: a put, or its deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version {
    pub modified: FullRevision,
    /// Revision of the put that created the key; 0 for a deletion.
    pub created: Revision,
    /// Puts since the creation, this one included; 0 for a deletion.
    pub version: i64,
}

impl Version {
    pub fn tombstone(modified: FullRevision) -> Self {
        Self { modified, created: Revision(0), version: 0 }
    }

    pub fn is_tombstone(&self) -> bool {
        self.version == 0
    }
}

/// The versions before the newest, oldest first, in runs whose lengths fall by half or more: adding one copies
/// few versions even while older copies of the history are still being read. A clone is one reference count.
#[derive(Clone, Debug, Default)]
pub struct Older {
    runs: Arc<Vec<Arc<[Version]>>>,
}

impl Older {
    pub fn push(&mut self, version: Version) {
        let runs = Arc::make_mut(&mut self.runs);
        runs.push(Arc::from([version]));
        while let [.., longer, last] = runs.as_slice()
            && longer.len() < 2 * last.len()
        {
            let merged: Arc<[Version]> = longer.iter().chain(last.iter()).copied().collect();
            runs.truncate(runs.len() - 2);
            runs.push(merged);
        }
    }

    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Version> {
        self.runs.iter().flat_map(|run| run.iter())
    }

    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }

    /// The newest version at or below `revision`.
    fn at(&self, revision: Revision) -> Option<&Version> {
        let run = self.runs.iter().rev().find(|run| run[0].modified.main <= revision)?;
        let after = run.partition_point(|version| version.modified.main <= revision);
        Some(&run[after - 1])
    }

    /// Only the versions from `oldest` on.
    fn cut_below(&self, oldest: FullRevision) -> Self {
        let kept = self.runs.iter().filter_map(|run| {
            let keep_from = run.partition_point(|version| version.modified < oldest);
            match keep_from {
                0 => Some(run.clone()),
                _ => (keep_from < run.len()).then(|| run[keep_from..].into()),
            }
        });
        Self { runs: Arc::new(kept.collect()) }
    }
}

/// A key's versions as the index holds them: the newest, and the older ones if there are any.
#[derive(Clone, Copy, Debug)]
pub struct History<'a> {
    pub newest: Version,
    pub older: Option<&'a Older>,
}

/// What a compaction leaves of a key.
#[derive(Debug)]
pub enum Compacted {
    /// Nothing changes.
    Same,
    /// The newest version stays, with these before it.
    Older(Older),
    /// The key leaves the index.
    Gone,
}

impl History<'_> {
    /// The version visible at `revision`: the newest at or below it, also when that is a deletion.
    pub fn at(&self, revision: Revision) -> Option<Version> {
        if self.newest.modified.main <= revision {
            return Some(self.newest);
        }
        self.older?.at(revision).copied()
    }

    /// Whether a compaction at `revision` leaves the version changed at `modified`: everything newer than the
    /// revision, the version visible at it, and a deletion only if it happened exactly at it (a watch that
    /// starts there has to see it).
    pub fn survives(&self, modified: FullRevision, revision: Revision) -> bool {
        if modified.main > revision {
            return true;
        }
        match self.at(revision) {
            Some(visible) => visible.modified == modified && !is_dropped(&visible, revision),
            None => false,
        }
    }

    /// What a compaction at `revision` leaves; see `survives`.
    pub fn compact(&self, revision: Revision) -> Compacted {
        let Some(visible) = self.at(revision) else {
            return Compacted::Same;
        };
        let dropped = is_dropped(&visible, revision);
        if visible.modified == self.newest.modified {
            return match (dropped, self.older) {
                (true, _) => Compacted::Gone,
                (false, Some(_)) => Compacted::Older(Older::default()),
                (false, None) => Compacted::Same,
            };
        }
        let Some(older) = self.older else {
            return Compacted::Same;
        };
        let oldest = if dropped { visible.modified.successor() } else { visible.modified };
        if older.iter().next().is_some_and(|first| first.modified >= oldest) {
            return Compacted::Same;
        }
        Compacted::Older(older.cut_below(oldest))
    }
}

fn is_dropped(visible: &Version, revision: Revision) -> bool {
    visible.is_tombstone() && visible.modified.main < revision
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(main: i64, created: i64, version: i64) -> Version {
        Version { modified: FullRevision::new(main, 0), created: Revision(created), version }
    }

    #[test]
    fn older_versions_are_found_and_cut() {
        let mut older = Older::default();
        for main in 1..=100 {
            older.push(put(main * 2, 2, main));
        }
        assert!(older.runs.len() <= 8, "{} runs", older.runs.len());
        for revision in 2..=200 {
            let found = older.at(Revision(revision)).expect("there is one");
            assert_eq!(found.modified.main.0, revision / 2 * 2);
        }
        assert!(older.at(Revision(1)).is_none());
        let cut = older.cut_below(FullRevision::new(151, 0));
        assert_eq!(
            cut.iter().map(|v| v.modified.main.0).collect::<Vec<_>>(),
            (76..=100).map(|m| m * 2).collect::<Vec<_>>()
        );
    }

    #[test]
    fn a_deletion_exactly_at_the_compacted_revision_stays_for_that_round() {
        let mut older = Older::default();
        older.push(put(2, 2, 1));
        let history = History { newest: Version::tombstone(FullRevision::new(5, 0)), older: Some(&older) };
        assert!(matches!(history.compact(Revision(5)), Compacted::Older(left) if left.is_empty()));
        assert!(matches!(history.compact(Revision(6)), Compacted::Gone));
        assert!(history.survives(FullRevision::new(5, 0), Revision(5)));
        assert!(!history.survives(FullRevision::new(5, 0), Revision(6)));
        assert!(!history.survives(FullRevision::new(2, 0), Revision(5)));
        assert!(history.survives(FullRevision::new(2, 0), Revision(4)));
    }
}

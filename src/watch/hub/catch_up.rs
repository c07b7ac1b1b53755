//! Watchers that are behind: read from the store in slices, those at about the same place together.

use std::ops::ControlFlow;
use std::sync::atomic::Ordering;

use super::super::index::Index;
use super::super::watcher::WatcherId;
use super::super::{Answer, Queued};
use super::Hub;
use crate::ids::Revision;
use crate::mvcc;

impl Hub {
    /// One slice for the watchers that are furthest behind and can be fed.
    ///
    /// # Errors
    /// A fault of the disk.
    pub fn catch_up(&mut self) -> Result<(), mvcc::Error> {
        let limits = self.options.limits;
        let can_read = self.behind.iter().filter(|(_, id)| self.has_room(*id));
        let group: Vec<_> = can_read.take(limits.watchers_per_slice).copied().collect();
        let Some((from, _)) = group.first().copied() else {
            return Ok(());
        };
        let mut changes = Vec::new();
        let mut bytes = 0;
        let snapshot = self.reader.snapshot();
        let read = snapshot.changes(from, self.revision, &mut |change| {
            bytes += change.pair.as_bytes().len();
            changes.push(change);
            let enough = changes.len() >= limits.changes_per_slice || bytes >= limits.bytes_per_slice;
            if enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let through = match read {
            Ok(through) => through,
            Err(mvcc::Error::Compacted) => {
                self.cancel_compacted(&group);
                return Ok(());
            }
            Err(fault) => return Err(fault),
        };
        let mut index = Index::default();
        for (_, id) in &group {
            index.insert(&self.watcher_mut(*id).range.clone(), *id);
        }
        let fed = self.gather(&mut index, &changes)?;
        let refused = self.send_gathered(fed);
        for (next, id) in group {
            let undelivered = refused.contains(&id).then(|| self.watcher_mut(id).first);
            self.advance(id, next, undelivered.unwrap_or(Revision(through.0 + 1)));
        }
        Ok(())
    }

    fn advance(&mut self, id: WatcherId, from: Revision, to: Revision) {
        let to = to.max(from);
        let revision = self.revision;
        self.behind.remove(&(from, id));
        let watcher = self.watcher_mut(id);
        watcher.next = to;
        if to <= revision {
            self.behind.insert((to, id));
            return;
        }
        watcher.in_sync = true;
        let range = watcher.range.clone();
        self.index.insert(&range, id);
        self.stats.slow_watchers.fetch_sub(1, Ordering::Relaxed);
    }

    /// Ends those of the group whose next revision is gone.
    fn cancel_compacted(&mut self, group: &[(Revision, WatcherId)]) {
        let compacted = self.reader.compacted();
        for (_, place) in group.iter().filter(|(next, _)| *next < compacted) {
            // Not there any more when another of its stream has just found the client gone.
            let Some(watcher) = &self.watchers[place.0] else {
                continue;
            };
            let (stream, id) = (watcher.stream, watcher.id);
            self.remove(stream, id);
            if let Some(owner) = self.streams.get_mut(&stream) {
                owner.ended(id);
            }
            self.push(stream, Queued { answer: Answer::Compacted { id, compacted }, _place: None });
        }
    }
}

//! Reading: views, the tail of pairs that the store has not written yet, snapshots.
//! Owns no state that changes but the two places where the newest view and the tail are found.

use std::collections::VecDeque;
use std::ops::{ControlFlow, Deref};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::RwLock;

use super::tree::Tree;
use super::whole::Pins;
use super::{Change, Error};
use crate::ids::{FullRevision, Revision};
use crate::storage::{Sizes, Store, StoredChange};
use crate::wire::EncodedKeyValue;

/// Changes that are looked up at a time: the tail is locked for so many. And of an answer with no more than these, each may keep
/// its block in memory, 8 MiB together.
const LOOKED_UP_TOGETHER: usize = 512;

/// The index as of one revision, with the pairs that it names. Immutable.
#[derive(Clone)]
pub(super) struct View {
    pub revision: Revision,
    pub compacted: Revision,
    pub tree: Tree,
    pub pairs: Arc<Pairs>,
}

/// Where the pairs of a view stand. A received state brings others of its own: who still holds a view of before reads on
/// where that one stands.
pub(super) struct Pairs {
    pub tail: Tail,
    pub store: Arc<dyn Store>,
}

pub(super) struct Shared {
    pub view: ArcSwap<View>,
    pub pins: Arc<Pins>,
}

/// What writer and readers hold of `Shared`. The `Arc` in it is cloned by snapshots alone, so its count is theirs.
pub(super) struct Root(Arc<Shared>);

impl Root {
    pub fn new(shared: Shared) -> Self {
        Self(Arc::new(shared))
    }
}

impl Deref for Root {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

/// The changes that the store has not written yet, in order. A lock, because writer, store thread and readers
/// meet here; it is held for one search or one append, and not at all by who looks for what has been written long since: `apply`
/// would wait for a thread of long work that was stopped while it held it.
#[derive(Clone, Default)]
pub struct Tail(Arc<Unwritten>);

#[derive(Default)]
struct Unwritten {
    changes: RwLock<VecDeque<StoredChange>>,
    /// The store has all of lower revisions; rises.
    begins: AtomicI64,
}

impl Tail {
    pub(super) fn append(&self, changes: &[StoredChange]) {
        self.0.changes.write().extend(changes.iter().cloned());
    }

    /// Forgets what the store has written: everything through `last`.
    pub fn written(&self, last: FullRevision) {
        let mut tail = self.0.changes.write();
        let written = tail.partition_point(|change| change.at <= last);
        tail.drain(..written);
        self.0.begins.fetch_max(tail.front().map_or(last, |first| first.at).main.0, Ordering::Release);
        if tail.capacity() > 4096 && tail.len() * 4 < tail.capacity() {
            tail.shrink_to_fit();
        }
    }

    /// Where it begins: the store has all before that.
    pub(super) fn first(&self) -> Option<FullRevision> {
        self.0.changes.read().front().map(|change| change.at)
    }

    /// Visits what it holds from `from` on, until told to stop; `false` when it begins only behind that.
    pub(super) fn visit_from(
        &self,
        from: FullRevision,
        visit: &mut dyn FnMut(&StoredChange) -> ControlFlow<()>,
    ) -> bool {
        let tail = self.0.changes.read();
        if tail.front().is_none_or(|first| first.at > from) {
            return false;
        }
        let place = tail.partition_point(|change| change.at < from);
        for change in tail.range(place..) {
            if visit(change).is_break() {
                break;
            }
        }
        true
    }

    fn get(&self, at: FullRevision) -> Option<StoredChange> {
        if at.main.0 < self.0.begins.load(Ordering::Acquire) {
            return None;
        }
        let tail = self.0.changes.read();
        let place = tail.binary_search_by(|change| change.at.cmp(&at)).ok()?;
        Some(tail[place].clone())
    }

    /// Of some changes, which rise, those that are not older than all it holds: the place of the first, and their pairs.
    fn newest_of(&self, wanted: &[FullRevision]) -> (usize, Vec<Option<Bytes>>) {
        let begins = self.0.begins.load(Ordering::Acquire);
        if wanted.last().is_none_or(|last| last.main.0 < begins) {
            return (wanted.len(), Vec::new());
        }
        let tail = self.0.changes.read();
        let Some(first) = tail.front() else {
            return (wanted.len(), Vec::new());
        };
        let begin = wanted.partition_point(|at| *at < first.at);
        let find = |at: &FullRevision| tail.binary_search_by(|change| change.at.cmp(at)).ok();
        let pairs = wanted[begin..].iter().map(|at| find(at).map(|place| tail[place].pair.clone()));
        (begin, pairs.collect())
    }

    /// Those in `from..=through` by main revision, and where the tail begins: the store has all before that.
    fn between(&self, from: Revision, through: Revision) -> (Option<FullRevision>, Vec<StoredChange>) {
        let tail = self.0.changes.read();
        let first = tail.partition_point(|change| change.at.main < from);
        let changes = tail.range(first..).take_while(|change| change.at.main <= through);
        (tail.front().map(|change| change.at), changes.cloned().collect())
    }
}

/// The way to read for everybody but `apply`. Cheap to clone.
#[derive(Clone)]
pub struct Reader {
    pub(super) shared: Arc<Root>,
}

impl Reader {
    /// Everything published so far, pinned.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot { view: self.shared.view.load_full(), shared: Arc::clone(&self.shared.0) }
    }

    pub fn revision(&self) -> Revision {
        self.shared.view.load().revision
    }

    pub fn compacted(&self) -> Revision {
        self.shared.view.load().compacted
    }

    /// Snapshots that are held right now.
    pub fn open_snapshots(&self) -> usize {
        Arc::strong_count(&self.shared.0) - 1
    }

    pub fn sizes(&self) -> Sizes {
        self.shared.view.load().pairs.store.sizes()
    }

    /// Keys that exist at the newest revision.
    pub fn live_keys(&self) -> u64 {
        self.shared.view.load().tree.live()
    }
}

/// One revision of everything, for as long as it is held.
#[derive(Clone)]
pub struct Snapshot {
    pub(super) view: Arc<View>,
    pub(super) shared: Arc<Shared>,
}

impl Snapshot {
    pub fn revision(&self) -> Revision {
        self.view.revision
    }

    pub fn compacted(&self) -> Revision {
        self.view.compacted
    }

    pub(super) fn source(&self) -> Source<'_> {
        Source { view: &self.view, pending: &[], shared: &self.shared }
    }

    /// The pair that was current before `revision`, also before what that revision did to the key earlier; `None`
    /// when there was none or it is compacted away.
    ///
    /// # Errors
    /// A fault of the disk.
    pub fn previous(&self, key: &[u8], revision: Revision) -> Result<Option<EncodedKeyValue>, Error> {
        let before = Revision(revision.0 - 1);
        let Some(version) = self.view.tree.get(key).and_then(|history| history.at(before)) else {
            return Ok(None);
        };
        if version.is_tombstone() {
            return Ok(None);
        }
        match self.source().pair(version.modified) {
            Ok(pair) => Ok(Some(EncodedKeyValue::from_encoded(pair))),
            // A compaction that came after this snapshot has taken it.
            Err(Error::Compacted) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Visits the changes of whole revisions in `from..=through`, in order, and returns the last revision
    /// visited in full. Stops after the revision in which `visit` first asks to.
    ///
    /// # Errors
    /// `Compacted` when `from` is below the compacted revision; a fault of the disk.
    pub fn changes(
        &self,
        from: Revision,
        through: Revision,
        visit: &mut dyn FnMut(Change) -> ControlFlow<()>,
    ) -> Result<Revision, Error> {
        if from < self.view.compacted {
            return Err(Error::Compacted);
        }
        let through = through.min(self.view.revision);
        let mut walk = Walk { visit, stop_after: None, failed: None };
        self.stored_changes(from, through, &mut |stored| walk.step(stored))?;
        if let Some(error) = walk.failed {
            return Err(error);
        }
        let done = walk.stop_after.unwrap_or(through);
        // What a compaction removed while we read is a gap: the caller must not take it for "nothing happened".
        if from < self.shared.view.load().compacted {
            return Err(Error::Compacted);
        }
        Ok(done)
    }

    /// Visits what store and tail hold in `from..=through`, in order.
    pub(super) fn stored_changes(
        &self,
        from: Revision,
        through: Revision,
        visit: &mut dyn FnMut(&StoredChange) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        // The tail first: what leaves it meanwhile is in the store.
        let (tail_start, tail) = self.view.pairs.tail.between(from, through);
        let end = FullRevision::start_of(Revision(through.0 + 1));
        let end = tail_start.map_or(end, |start| start.min(end));
        let mut stopped = false;
        if FullRevision::start_of(from) < end {
            self.view.pairs.store.scan(FullRevision::start_of(from), end, &mut |stored| {
                let flow = visit(stored);
                stopped = flow.is_break();
                flow
            })?;
        }
        for stored in &tail {
            if stopped || visit(stored).is_break() {
                break;
            }
            stopped = false;
        }
        Ok(())
    }
}

/// Hands changes on until the first revision boundary after a stop was asked for.
struct Walk<'a> {
    visit: &'a mut dyn FnMut(Change) -> ControlFlow<()>,
    stop_after: Option<Revision>,
    failed: Option<Error>,
}

impl Walk<'_> {
    fn step(&mut self, stored: &StoredChange) -> ControlFlow<()> {
        if self.stop_after.is_some_and(|last| stored.at.main > last) {
            return ControlFlow::Break(());
        }
        match Change::of(stored) {
            Ok(change) => {
                if (self.visit)(change).is_break() {
                    self.stop_after = Some(stored.at.main);
                }
                ControlFlow::Continue(())
            }
            Err(error) => {
                self.failed = Some(error);
                ControlFlow::Break(())
            }
        }
    }
}

/// Where a read looks: an index, the changes of the running batch (only `apply` has some), tail and store.
pub(super) struct Source<'a> {
    pub view: &'a View,
    pub pending: &'a [StoredChange],
    pub shared: &'a Shared,
}

impl Source<'_> {
    /// The encoded pair of a change that the index names.
    pub fn pair(&self, at: FullRevision) -> Result<Bytes, Error> {
        if let Ok(place) = self.pending.binary_search_by(|change| change.at.cmp(&at)) {
            return Ok(self.pending[place].pair.clone());
        }
        if let Some(change) = self.view.pairs.tail.get(at) {
            return Ok(change.pair);
        }
        let stored = self.view.pairs.store.read(at)?;
        stored.map(|change| change.pair).ok_or_else(|| self.missing(at))
    }

    /// The encoded pairs of changes that the index names, in any order. They are looked up in their own: what stands
    /// together is found together, and a block is loaded once, also when the keys were written in another order.
    pub fn encoded(&self, wanted: &[FullRevision]) -> Result<Vec<EncodedKeyValue>, Error> {
        if wanted.len() < 2 || !self.pending.is_empty() {
            let pairs = wanted.iter().map(|at| Ok(EncodedKeyValue::from_encoded(self.pair(*at)?)));
            return pairs.collect();
        }
        let mut places: Vec<_> = (0..wanted.len()).collect();
        places.sort_unstable_by_key(|place| wanted[*place]);
        let mut found = vec![EncodedKeyValue::default(); wanted.len()];
        for places in places.chunks(LOOKED_UP_TOGETHER) {
            let rising: Vec<_> = places.iter().map(|place| wanted[*place]).collect();
            let pairs = self.rising(&rising, wanted.len() > LOOKED_UP_TOGETHER)?;
            for ((place, at), pair) in places.iter().zip(rising).zip(pairs) {
                let pair = pair.ok_or_else(|| self.missing(at))?;
                found[*place] = EncodedKeyValue::from_encoded(pair);
            }
        }
        Ok(found)
    }

    fn rising(&self, wanted: &[FullRevision], alone: bool) -> Result<Vec<Option<Bytes>>, Error> {
        // The tail first: what leaves it meanwhile is in the store.
        let (begin, newest) = self.view.pairs.tail.newest_of(wanted);
        let mut pairs = self.view.pairs.store.read_rising(&wanted[..begin], alone)?;
        pairs.extend(newest);
        Ok(pairs)
    }

    /// Why a change that the index names is not there.
    fn missing(&self, at: FullRevision) -> Error {
        if at.main < self.shared.view.load().compacted { Error::Compacted } else { Error::MissingPair { at } }
    }

    /// The revision that a request names: 0 and less is the current one.
    pub fn resolve(&self, revision: i64) -> Result<Revision, Error> {
        match revision {
            ..=0 => Ok(self.view.revision),
            _ if revision > self.view.revision.0 => Err(Error::FutureRevision),
            _ if revision < self.view.compacted.0 => Err(Error::Compacted),
            _ => Ok(Revision(revision)),
        }
    }
}

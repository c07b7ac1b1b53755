//! Where apply leaves its rounds for the store: they merge while the store is busy.
//! Bounded by bytes: apply waits when the store is far behind.

use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tokio::sync::oneshot;

use crate::ids::Revision;
use crate::snapshot::Replacement;
use crate::storage::Round;

/// Bytes of merged rounds above which apply waits.
const MAX_WAITING_BYTES: usize = 64 << 20;
/// Bytes of merged rounds that are not kept waiting for the interval.
const LARGE_ROUND_BYTES: usize = 8 << 20;
/// Both, when the disk is nearly full.
const TIGHT_BYTES: usize = 512 << 10;

pub(super) type Done = oneshot::Sender<Result<(), String>>;

/// See the module.
#[derive(Default)]
pub struct Mailbox {
    waiting: Mutex<Waiting>,
    /// Something came, or the box was closed.
    filled: Condvar,
    /// The rounds were taken.
    emptied: Condvar,
}

#[derive(Default)]
struct Waiting {
    /// Before the round, which is for its store.
    install: Option<Replacement>,
    round: Option<Round>,
    bytes: usize,
    /// When the oldest waiting round came.
    since: Option<Instant>,
    compact: Option<Revision>,
    defragment: Vec<Done>,
    /// The disk is nearly full.
    is_tight: bool,
    closed: bool,
}

impl Waiting {
    fn is_large(&self) -> bool {
        self.bytes > if self.is_tight { TIGHT_BYTES } else { LARGE_ROUND_BYTES }
    }

    fn is_full(&self) -> bool {
        self.bytes > if self.is_tight { TIGHT_BYTES } else { MAX_WAITING_BYTES }
    }
}

/// What the store is to do next.
#[derive(Default)]
pub(super) struct Work {
    pub install: Option<Replacement>,
    pub round: Option<Round>,
    pub compact: Option<Revision>,
    pub defragment: Vec<Done>,
}

impl Mailbox {
    /// Adds a round behind those that wait; `compact` is the compaction that it ordered.
    pub fn put(&self, round: Round, compact: Option<Revision>) {
        let mut waiting = self.waiting.lock();
        while waiting.is_full() && !waiting.closed {
            self.emptied.wait(&mut waiting);
        }
        waiting.bytes += bytes_of(&round);
        waiting.compact = compact.or(waiting.compact);
        match &mut waiting.round {
            Some(merged) => {
                merged.applied = round.applied;
                merged.changes.extend(round.changes);
                merged.tables.extend(round.tables);
            }
            None => {
                waiting.round = Some(round);
                waiting.since = Some(Instant::now());
                self.filled.notify_one();
            }
        }
        if waiting.is_large() {
            self.filled.notify_one();
        }
    }

    /// Another store takes the place of the present one. The rounds that wait are in it already.
    ///
    /// # Panics
    /// When one waits: a second is received only after the first is in its place.
    pub fn install(&self, replacement: Replacement) {
        let mut waiting = self.waiting.lock();
        (waiting.round, waiting.bytes, waiting.since, waiting.compact) = (None, 0, None, None);
        let before = waiting.install.replace(replacement);
        assert!(before.is_none(), "one state is installed after the other");
        self.emptied.notify_all();
        self.filled.notify_one();
    }

    pub(super) fn has_replacement(&self) -> bool {
        self.waiting.lock().install.is_some()
    }

    /// Asks for a defragmentation and returns where its end is told.
    pub fn defragment(&self) -> oneshot::Receiver<Result<(), String>> {
        let (done, told) = oneshot::channel();
        self.waiting.lock().defragment.push(done);
        self.filled.notify_one();
        told
    }

    /// When the disk is nearly full, apply waits for the store: what is on the way is little.
    pub(super) fn set_tight(&self, is_tight: bool) {
        self.waiting.lock().is_tight = is_tight;
    }

    /// Those that wait, while nothing else is taken.
    pub(super) fn take_defragment(&self) -> Vec<Done> {
        std::mem::take(&mut self.waiting.lock().defragment)
    }

    /// What waits is still written; nothing is waited for any more.
    pub fn close(&self) {
        self.waiting.lock().closed = true;
        self.filled.notify_all();
        self.emptied.notify_all();
    }

    pub fn is_closed(&self) -> bool {
        self.waiting.lock().closed
    }

    /// Waits for work: a round older than `interval` or large, a defragmentation, or (with `patience`) just so
    /// long. `None` when the box is closed and empty.
    pub(super) fn take(&self, interval: Duration, patience: Option<Duration>) -> Option<Work> {
        let impatient_at = patience.map(|patience| Instant::now() + patience);
        let mut waiting = self.waiting.lock();
        loop {
            if waiting.closed {
                let is_empty = waiting.round.is_none() && waiting.install.is_none();
                return (!is_empty).then(|| self.empty(&mut waiting));
            }
            let now = Instant::now();
            let due = waiting.since.map(|since| since + interval);
            let ripe = due.is_some_and(|due| due <= now) || waiting.is_large();
            if ripe || waiting.install.is_some() || !waiting.defragment.is_empty() {
                return Some(self.empty(&mut waiting));
            }
            if impatient_at.is_some_and(|at| at <= now) {
                return Some(Work::default());
            }
            match due.into_iter().chain(impatient_at).min() {
                Some(at) => drop(self.filled.wait_until(&mut waiting, at)),
                None => self.filled.wait(&mut waiting),
            }
        }
    }

    /// Waits unless the box is closed.
    pub(super) fn pause(&self, time: Duration) {
        let mut waiting = self.waiting.lock();
        let until = Instant::now() + time;
        while !waiting.closed && !self.filled.wait_until(&mut waiting, until).timed_out() {}
    }

    fn empty(&self, waiting: &mut Waiting) -> Work {
        self.emptied.notify_all();
        waiting.bytes = 0;
        waiting.since = None;
        Work {
            install: waiting.install.take(),
            round: waiting.round.take(),
            compact: waiting.compact.take(),
            defragment: std::mem::take(&mut waiting.defragment),
        }
    }
}

pub(super) fn bytes_of(round: &Round) -> usize {
    let changes: usize = round.changes.iter().map(|change| change.pair.len() + 64).sum();
    let tables: usize = round.tables.iter().map(|write| write.key.len() + 64).sum();
    changes + tables
}

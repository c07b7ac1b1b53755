//! Persistence behind apply: rounds go to the store and are flushed; compaction and defragmentation go on
//! between them, in slices. Owns all writes to the store. Acknowledges nothing: the log did.

mod mailbox;

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{oneshot, watch};

pub use mailbox::Mailbox;

use crate::consensus::Progress;
use crate::ids::Revision;
use crate::mvcc::{self, Compaction, Reader, Tail};
use crate::snapshot::Replacement;
use crate::storage::{self, Round, Store};

/// Defragmentation slices between two looks at the mailbox, and the rows of each: few while somebody writes, who waits the
/// longer for a core the more the system writes at once.
const DEFRAGMENT_SLICES_PER_TURN: usize = 4;
const DEFRAGMENT_ROWS: usize = 64;
const DEFRAGMENT_ROWS_BESIDE_WRITES: usize = 4;
/// How long after a round others count as writing.
const WRITES_GO_ON: Duration = Duration::from_secs(1);
/// How long a full disk is left alone before the next try.
const FULL_DISK_PAUSE: Duration = Duration::from_millis(500);

/// How the stage paces itself.
#[derive(Clone, Copy, Debug)]
pub struct PersistOptions {
    /// Rounds are gathered for so long, unless they grow large.
    pub round_interval: Duration,
    /// Changes that compaction looks at in one slice, and its pause between slices.
    pub compaction_batch: usize,
    pub compaction_pause: Duration,
}

/// What the stage counts.
#[derive(Clone)]
pub struct PersistMetrics {
    pub write_seconds: prometheus::Histogram,
    /// With the write.
    pub flush_seconds: prometheus::Histogram,
    pub slice_milliseconds: prometheus::Histogram,
    pub compaction_milliseconds: prometheus::Histogram,
    pub compacted_keys: prometheus::IntCounter,
    /// Unix time.
    pub last_compaction: prometheus::IntGauge,
    pub defragment_in_flight: prometheus::IntGauge,
}

/// Why the stage cannot go on. The process must stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("store: {0}")]
    Store(#[from] storage::Error),
    #[error("compaction: {0}")]
    Compaction(#[from] mvcc::Error),
}

/// The synchronous core: driven by the thread below, or by a simulation.
pub struct Persist {
    store: Arc<dyn Store>,
    reader: Reader,
    tail: Tail,
    progress: Arc<Progress>,
    compaction: Option<Compaction>,
    began_compaction: Instant,
    removed_through: watch::Sender<Revision>,
    defragmenting: Vec<oneshot::Sender<Result<(), String>>>,
    /// A defragmentation takes half of a core and of the disk at most: it rests for as long as it has worked.
    rest: Duration,
    last_round: Option<Instant>,
    metrics: PersistMetrics,
}

/// What the stage works on.
pub struct PersistParts {
    pub store: Arc<dyn Store>,
    pub reader: Reader,
    pub tail: Tail,
    pub progress: Arc<Progress>,
    pub metrics: PersistMetrics,
}

impl Persist {
    /// `compaction_is_open`: a start after a crash in the middle of a compaction goes on with it.
    pub fn new(parts: PersistParts, compaction_is_open: bool) -> (Self, watch::Receiver<Revision>) {
        let PersistParts { store, reader, tail, progress, metrics } = parts;
        let compaction = compaction_is_open.then(|| Compaction::begin(&reader));
        let removed = if compaction_is_open { Revision(-1) } else { reader.compacted() };
        let (removed_through, removed) = watch::channel(removed);
        progress.set_flushed(store.applied().index);
        let this = Self {
            store,
            reader,
            tail,
            progress,
            compaction,
            began_compaction: Instant::now(),
            removed_through,
            defragmenting: Vec::new(),
            rest: Duration::ZERO,
            last_round: None,
            metrics,
        };
        (this, removed)
    }

    /// Writes and flushes one round; after `Full` it may be tried again.
    ///
    /// # Errors
    /// A fault of the disk.
    pub fn write(&mut self, round: &Round) -> Result<(), storage::Error> {
        let timer = self.metrics.flush_seconds.start_timer();
        let flushed = loop {
            if round.applied.index > self.store.applied().index {
                let timer = self.metrics.write_seconds.start_timer();
                self.store.write(round)?;
                timer.observe_duration();
            }
            // A flush that found no room before may have lost what was written.
            let flushed = self.store.flush()?;
            if flushed.index >= round.applied.index {
                break flushed;
            }
        };
        // Not before: what finds no room in the flush may be gone from the store again.
        if let Some(last) = round.changes.last() {
            self.tail.written(last.at);
        }
        timer.observe_duration();
        self.progress.set_flushed(flushed.index);
        Ok(())
    }

    /// Begins to remove what the compaction at `revision` dropped; its round has been written. When a newer one is
    /// ordered already, its round is on the way, and the removal begins with that.
    pub fn begin_compaction(&mut self, revision: Revision) {
        if let Some(compaction) = Compaction::begin_at(&self.reader, &self.store, revision) {
            self.compaction = Some(compaction);
            self.began_compaction = Instant::now();
        }
    }

    /// Goes on with the store of a received state, which the next start opens from here on. What was under way in the old
    /// one ends: a compaction with it, a defragmentation because a store that was just written has nothing to give back.
    /// After `Full` it may be tried again.
    ///
    /// # Errors
    /// A fault of the disk.
    pub fn install(&mut self, replacement: &Replacement) -> Result<(), storage::Error> {
        let Replacement { tail, position, compacted, draft, .. } = replacement;
        draft.take_place()?;
        (self.store, self.tail, self.compaction) = (draft.store.clone(), tail.clone(), None);
        self.answer_defragment(&Ok(()));
        if replacement.compaction_is_open {
            self.begin_compaction(*compacted);
        } else {
            self.removed_through.send_replace(*compacted);
        }
        self.progress.set_flushed(position.index);
        tracing::info!(
            index = position.index.0,
            "the store of a received state has taken the place of the old one"
        );
        Ok(())
    }

    pub fn is_compacting(&self) -> bool {
        self.compaction.is_some()
    }

    /// One slice of the running compaction.
    ///
    /// # Errors
    /// A fault of the disk.
    pub fn step_compaction(&mut self, limit: usize) -> Result<(), Error> {
        let Some(compaction) = &mut self.compaction else {
            return Ok(());
        };
        let began = Instant::now();
        let more = compaction.step(limit)?;
        self.metrics.slice_milliseconds.observe(began.elapsed().as_secs_f64() * 1e3);
        if more {
            return Ok(());
        }
        let tables = vec![compaction.finished()];
        let (revision, removed) = (compaction.revision(), compaction.removed());
        self.store.write(&Round { applied: self.store.applied(), changes: Vec::new(), tables })?;
        self.compaction = None;
        let took = self.began_compaction.elapsed();
        self.metrics.compaction_milliseconds.observe(took.as_secs_f64() * 1e3);
        self.metrics.compacted_keys.inc_by(removed);
        self.metrics.last_compaction.set(unix_seconds());
        tracing::info!(%revision, removed, ?took, "finished compaction");
        self.removed_through.send_replace(revision);
        Ok(())
    }

    /// A few slices of defragmentation, if somebody waits for one.
    fn step_defragment(&mut self) {
        let others_write = self.last_round.is_some_and(|last| last.elapsed() < WRITES_GO_ON);
        let rows = if others_write { DEFRAGMENT_ROWS_BESIDE_WRITES } else { DEFRAGMENT_ROWS };
        for _ in 0..DEFRAGMENT_SLICES_PER_TURN {
            if self.defragmenting.is_empty() {
                return;
            }
            let done = match self.store.defragment(rows) {
                Ok(true) => continue,
                Ok(false) => Ok(()),
                Err(error) => {
                    tracing::error!(%error, "defragmentation stopped");
                    Err(error.to_string())
                }
            };
            self.answer_defragment(&done);
        }
    }

    fn answer_defragment(&mut self, done: &Result<(), String>) {
        // Before anybody hears that it is over.
        self.metrics.defragment_in_flight.set(0);
        for waiting in self.defragmenting.drain(..) {
            // A caller that went away does not care.
            drop(waiting.send(done.clone()));
        }
    }

    /// Runs until the mailbox is closed and empty.
    ///
    /// # Errors
    /// A fault of the disk other than its being full.
    pub fn run(&mut self, mailbox: &Mailbox, options: &PersistOptions) -> Result<(), Error> {
        self.look_for_room(0)?;
        loop {
            mailbox.set_tight(self.store.is_nearly_full());
            let busy = self.is_compacting() || !self.defragmenting.is_empty();
            let for_room = self.progress.disk_full().then_some(FULL_DISK_PAUSE);
            let rest = options.compaction_pause.max(self.rest);
            let patience = busy.then_some(rest).or(for_room);
            let Some(work) = mailbox.take(options.round_interval, patience) else {
                return Ok(());
            };
            self.defragmenting.extend(work.defragment);
            if let Some(replacement) = work.install
                && !self.until_there_is_room(mailbox, options, |this| this.install(&replacement))?
            {
                // What comes behind it belongs into its store; the next start finds that.
                return Ok(());
            }
            if let Some(round) = work.round {
                self.last_round = Some(Instant::now());
                self.look_for_room(mailbox::bytes_of(&round) as u64)?;
                self.until_there_is_room(mailbox, options, |this| this.write(&round))?;
            }
            if self.progress.disk_full() {
                self.look_for_room(0)?;
            }
            if let Some(revision) = work.compact {
                self.begin_compaction(revision);
            }
            self.go_on_beside(mailbox, options)?;
        }
    }

    /// A slice of what goes on between rounds.
    fn go_on_beside(&mut self, mailbox: &Mailbox, options: &PersistOptions) -> Result<(), Error> {
        match self.step_compaction(options.compaction_batch) {
            Err(
                Error::Store(storage::Error::Full { .. })
                | Error::Compaction(mvcc::Error::Storage(storage::Error::Full { .. })),
            ) => mailbox.pause(FULL_DISK_PAUSE),
            stepped => stepped?,
        }
        self.metrics.defragment_in_flight.set(i64::from(!self.defragmenting.is_empty()));
        let began = Instant::now();
        self.step_defragment();
        self.rest = if self.defragmenting.is_empty() { Duration::ZERO } else { began.elapsed() };
        Ok(())
    }

    /// Says whether there is room for more than what has been accepted: so many bytes.
    fn look_for_room(&mut self, bytes: u64) -> Result<(), Error> {
        match (self.store.check_space(bytes), self.progress.disk_full()) {
            (Ok(()), true) => {
                tracing::info!("there is space on the disk again");
                self.progress.set_disk_full(false);
            }
            (Err(storage::Error::Full { path }), false) => {
                tracing::error!(%path, "the disk is full: only what makes room is taken until there is space");
                self.progress.set_disk_full(true);
            }
            (Ok(()), false) | (Err(storage::Error::Full { .. }), true) => {}
            (Err(fault), _) => return Err(fault.into()),
        }
        Ok(())
    }

    /// The log keeps what cannot be written, and takes no more meanwhile but what makes room. `false` when the process stops
    /// before there is room.
    fn until_there_is_room(
        &mut self,
        mailbox: &Mailbox,
        options: &PersistOptions,
        mut write: impl FnMut(&mut Self) -> Result<(), storage::Error>,
    ) -> Result<bool, Error> {
        loop {
            match write(self) {
                Ok(()) => return Ok(true),
                Err(storage::Error::Full { path }) => {
                    tracing::debug!(%path, "the store waits for room");
                    self.progress.set_disk_full(true);
                }
                Err(fault) => return Err(fault.into()),
            }
            if mailbox.is_closed() {
                return Ok(false);
            }
            if mailbox.has_replacement() {
                // Another store comes, which holds what was to be written.
                return Ok(true);
            }
            // They may be what makes room.
            self.defragmenting.extend(mailbox.take_defragment());
            if !self.defragmenting.is_empty() || self.is_compacting() {
                self.go_on_beside(mailbox, options)?;
            }
            mailbox.pause(FULL_DISK_PAUSE);
            // There may be: then what was put by for what has been accepted is made whole first.
            self.look_for_room(0)?;
        }
    }
}

fn unix_seconds() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

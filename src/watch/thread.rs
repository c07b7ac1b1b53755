//! The thread round the hub and the inbox into it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, fence};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::hub::Hub;
use super::watcher::StreamId;
use super::{HubOptions, HubStats, Queued, WatchCreate, WatchHub};
use crate::courier::Courier;
use crate::ids::Revision;
use crate::inbox::{Receiver, Sender, Taken, bounded};
use crate::mvcc::{self, Change, Reader};

/// Requests of all streams that wait for the hub.
const MAX_QUEUED_REQUESTS: usize = 4096;
/// How often streams without room are looked at again.
const RETRY: Duration = Duration::from_millis(10);
const IDLE: Duration = Duration::from_secs(1);

/// Changes published together.
#[derive(Debug)]
pub struct WatchBatch {
    /// The revision of the batch before: a gap tells that one was missed.
    pub after: Revision,
    pub revision: Revision,
    pub changes: Vec<Change>,
}

/// A stream's request with the place it takes.
pub struct Request {
    pub(super) stream: StreamId,
    pub(super) command: Command,
    /// Given back when its answer is taken by the client.
    pub(super) place: Option<OwnedSemaphorePermit>,
    pub(super) _room: Option<OwnedSemaphorePermit>,
}

/// What the hub can be told.
pub(super) enum Event {
    Batch(WatchBatch),
    Request(Request),
    /// A received state has taken the place of the present one: what lies between was never published.
    Installed,
    /// Apply has ended: nothing more comes.
    End,
}

pub(super) enum Command {
    Open { sender: mpsc::Sender<Vec<Queued>>, queued_bytes: Arc<AtomicUsize>, courier: Courier },
    Create(WatchCreate),
    Cancel(i64),
    Progress,
    Close,
}

/// Apply's end: never waits.
pub struct HubInput {
    events: Sender<Event>,
    lagged: Arc<AtomicBool>,
    stats: Arc<HubStats>,
    queued_batches: usize,
    last: Revision,
}

impl HubInput {
    /// Hands on changes that are visible already. When the hub is far behind they are dropped here, and it reads
    /// them from the store; when nobody watches it is not woken.
    pub fn publish(&mut self, revision: Revision, changes: Vec<Change>) {
        let after = std::mem::replace(&mut self.last, revision);
        // The hub counts a stream before it asks for the revision that the stream's watchers begin after. Either
        // we see the stream, or it sees what we have made visible.
        fence(Ordering::SeqCst);
        if self.stats.streams.load(Ordering::Relaxed) == 0 {
            return;
        }
        let batch = Event::Batch(WatchBatch { after, revision, changes });
        if self.events.try_send_below(self.queued_batches, batch).is_err() {
            self.lagged.store(true, Ordering::Release);
        }
    }

    /// A received state is visible: every watcher goes on from its next revision by reading it.
    pub fn installed(&mut self, revision: Revision) {
        self.last = revision;
        // Never lost, whatever waits: it comes seldom.
        if let Err(refused) = self.events.try_send_below(usize::MAX, Event::Installed) {
            tracing::debug!(%refused, "the hub hears of no received state");
        }
    }
}

impl Drop for HubInput {
    fn drop(&mut self) {
        self.events.send_end(Event::End);
    }
}

/// See the module.
pub struct HubThread {
    hub: Hub,
    events: Receiver<Event>,
    /// Taken out of the inbox, not handled yet.
    taken: VecDeque<Event>,
    has_ended: bool,
    lagged: Arc<AtomicBool>,
    stats: Arc<HubStats>,
}

/// A hub at the reader's revision with its two ends.
pub fn connect(reader: Reader, options: HubOptions) -> (HubThread, HubInput, WatchHub) {
    let queued_batches = options.limits.queued_batches;
    // Requests count twice: closing a stream needs no permit.
    let (sender, events) = bounded(queued_batches + 2 * MAX_QUEUED_REQUESTS);
    let lagged = Arc::new(AtomicBool::new(false));
    let stats = Arc::new(HubStats::default());
    let input = HubInput {
        events: sender.clone(),
        lagged: lagged.clone(),
        stats: stats.clone(),
        queued_batches,
        last: reader.revision(),
    };
    let handle = WatchHub {
        events: sender,
        places: Arc::new(Semaphore::new(MAX_QUEUED_REQUESTS)),
        next_stream: Arc::new(AtomicU64::new(1)),
        queued_sends: options.limits.queued_sends,
        stats: stats.clone(),
    };
    let hub = Hub::new(reader, options, stats.clone(), Instant::now());
    let thread = HubThread { hub, events, taken: VecDeque::new(), has_ended: false, lagged, stats };
    (thread, input, handle)
}

impl HubThread {
    /// Runs until apply has ended and everything it published is delivered or queued.
    ///
    /// # Errors
    /// A fault of the disk.
    pub fn run(&mut self) -> Result<(), mvcc::Error> {
        loop {
            let wait = if self.hub.can_catch_up() {
                Duration::ZERO
            } else if self.hub.is_waiting_for_room() {
                RETRY
            } else {
                IDLE
            };
            if self.events.take(&mut self.taken, Some(Instant::now() + wait)) == Taken::Closed {
                return Ok(());
            }
            self.turn(Instant::now())?;
            if self.has_ended {
                return Ok(());
            }
        }
    }

    /// What is done between two waits: everything that has come, in order, what time brings, and a slice for the
    /// watchers that are behind. Never waits, so that a simulation can drive it.
    ///
    /// # Errors
    /// A fault of the disk.
    pub fn turn(&mut self, now: Instant) -> Result<(), mvcc::Error> {
        self.events.take_now(&mut self.taken);
        self.stats.waiting_batches.store(self.taken.len() as u64, Ordering::Relaxed);
        for event in self.taken.drain(..) {
            match event {
                Event::Batch(batch) => self.hub.batch(&batch)?,
                Event::Request(request) => self.hub.request(request),
                Event::Installed => self.hub.missed_changes(),
                Event::End => self.has_ended = true,
            }
        }
        self.stats.waiting_batches.store(0, Ordering::Relaxed);
        if self.lagged.swap(false, Ordering::AcqRel) {
            self.hub.missed_changes();
        }
        self.hub.tick(now);
        self.hub.catch_up()?;
        self.hub.send();
        Ok(())
    }
}

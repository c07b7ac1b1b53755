//! The thread round the hub and the two channels into it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::hub::Hub;
use super::watcher::StreamId;
use super::{HubOptions, HubStats, Queued, WatchCreate, WatchHub};
use crate::ids::Revision;
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

pub(super) enum Command {
    Open { sender: mpsc::Sender<Vec<Queued>>, queued_bytes: Arc<AtomicUsize> },
    Create(WatchCreate),
    Cancel(i64),
    Progress,
    Close,
}

/// Apply's end: never waits.
pub struct HubInput {
    batches: Sender<WatchBatch>,
    lagged: Arc<AtomicBool>,
    last: Revision,
}

impl HubInput {
    /// Hands on changes that are visible already. When the hub is far behind they are dropped here, and it reads
    /// them from the store.
    pub fn publish(&mut self, revision: Revision, changes: Vec<Change>) {
        let batch = WatchBatch { after: self.last, revision, changes };
        self.last = revision;
        if self.batches.try_send(batch).is_err() {
            self.lagged.store(true, Ordering::Release);
        }
    }
}

/// See the module.
pub struct HubThread {
    hub: Hub,
    batches: Receiver<WatchBatch>,
    requests: Receiver<Request>,
    lagged: Arc<AtomicBool>,
    stats: Arc<HubStats>,
}

/// A hub at the reader's revision with its two ends.
pub fn connect(reader: Reader, options: HubOptions) -> (HubThread, HubInput, WatchHub) {
    let (batch_sender, batches) = bounded(options.limits.queued_batches);
    // Twice: closing a stream needs no permit.
    let (request_sender, requests) = bounded(2 * MAX_QUEUED_REQUESTS);
    let lagged = Arc::new(AtomicBool::new(false));
    let stats = Arc::new(HubStats::default());
    let input = HubInput { batches: batch_sender, lagged: lagged.clone(), last: reader.revision() };
    let handle = WatchHub {
        requests: request_sender,
        places: Arc::new(Semaphore::new(MAX_QUEUED_REQUESTS)),
        next_stream: Arc::new(AtomicU64::new(1)),
        queued_sends: options.limits.queued_sends,
        stats: stats.clone(),
    };
    let hub = Hub::new(reader, options, stats.clone(), Instant::now());
    (HubThread { hub, batches, requests, lagged, stats }, input, handle)
}

impl HubThread {
    /// Runs until apply has ended and everything it published is delivered or queued.
    ///
    /// # Errors
    /// A fault of the disk.
    pub fn run(mut self) -> Result<(), mvcc::Error> {
        loop {
            let wait = if self.hub.can_catch_up() {
                Duration::ZERO
            } else if self.hub.is_waiting_for_room() {
                RETRY
            } else {
                IDLE
            };
            select! {
                recv(self.batches) -> batch => match batch {
                    Ok(batch) => self.hub.batch(&batch)?,
                    Err(_closed) => return Ok(()),
                },
                recv(self.requests) -> request => match request {
                    Ok(request) => self.request(request)?,
                    Err(_closed) => return Ok(()),
                },
                default(wait) => {}
            }
            self.turn(Instant::now())?;
        }
    }

    /// What is done between two waits: a request and all batches that are there, what time brings, and a slice for
    /// the watchers that are behind. Never waits, so that a simulation can drive it.
    ///
    /// # Errors
    /// A fault of the disk.
    pub fn turn(&mut self, now: Instant) -> Result<(), mvcc::Error> {
        if let Ok(request) = self.requests.try_recv() {
            self.request(request)?;
        }
        self.stats.waiting_batches.store(self.batches.len() as u64, Ordering::Relaxed);
        self.drain_batches()?;
        if self.lagged.swap(false, Ordering::AcqRel) {
            self.hub.missed_changes();
        }
        self.hub.tick(now);
        self.hub.catch_up()
    }

    /// A request is carried out after every change that could be seen when it was made.
    fn request(&mut self, request: Request) -> Result<(), mvcc::Error> {
        self.drain_batches()?;
        self.hub.request(request);
        Ok(())
    }

    fn drain_batches(&mut self) -> Result<(), mvcc::Error> {
        for batch in self.batches.try_iter() {
            self.hub.batch(&batch)?;
        }
        Ok(())
    }
}

//! A client's end of the hub: requests in, answers out, one bounded queue each way.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::thread::{Command, Event, Request};
use super::watcher::StreamId;
use super::{HubStats, Queued, Stats, WatchCreate};
use crate::courier::Courier;
use crate::inbox::Sender;

/// Requests of one stream whose answers its client has not taken yet.
const MAX_OPEN_REQUESTS: usize = 64;

/// The hub as the watch service holds it. Cheap to clone.
#[derive(Clone)]
pub struct WatchHub {
    pub(super) events: Sender<Event>,
    /// One for each request that may wait for the hub.
    pub(super) places: Arc<Semaphore>,
    pub(super) next_stream: Arc<AtomicU64>,
    pub(super) queued_sends: usize,
    pub(super) stats: Stats,
}

/// The hub has ended: the server is stopping.
#[derive(Debug, thiserror::Error)]
#[error("the server is stopping")]
pub struct HubStopped;

impl WatchHub {
    /// # Errors
    /// When the server is stopping.
    pub async fn open(&self) -> Result<(StreamRequests, StreamResponses), HubStopped> {
        let id = StreamId(self.next_stream.fetch_add(1, Ordering::Relaxed));
        let (sender, receiver) = mpsc::channel(self.queued_sends);
        let queued_bytes = Arc::new(AtomicUsize::new(0));
        let open = Arc::new(Semaphore::new(MAX_OPEN_REQUESTS));
        let requests = StreamRequests { hub: self.clone(), stream: id, open };
        let command = Command::Open { sender, queued_bytes: queued_bytes.clone(), courier: Courier::here() };
        self.send(id, command, None).await?;
        Ok((requests, StreamResponses { receiver, taken: VecDeque::new(), queued_bytes }))
    }

    pub fn stats(&self) -> &HubStats {
        &self.stats
    }

    async fn send(
        &self,
        stream: StreamId,
        command: Command,
        place: Option<OwnedSemaphorePermit>,
    ) -> Result<(), HubStopped> {
        let Ok(room) = self.places.clone().acquire_owned().await else {
            return Err(HubStopped);
        };
        let request = Request { stream, command, place, _room: Some(room) };
        self.events.try_send(Event::Request(request)).map_err(|refused| {
            tracing::debug!(%refused, "the hub takes no requests any more");
            HubStopped
        })
    }
}

/// The requests of one stream. Dropping it ends the stream.
pub struct StreamRequests {
    hub: WatchHub,
    stream: StreamId,
    open: Arc<Semaphore>,
}

impl StreamRequests {
    /// # Errors
    /// When the server is stopping.
    pub async fn create(&self, create: WatchCreate) -> Result<(), HubStopped> {
        self.request(Command::Create(create)).await
    }

    /// # Errors
    /// When the server is stopping.
    pub async fn cancel(&self, id: i64) -> Result<(), HubStopped> {
        self.request(Command::Cancel(id)).await
    }

    /// # Errors
    /// When the server is stopping.
    pub async fn progress(&self) -> Result<(), HubStopped> {
        self.request(Command::Progress).await
    }

    /// Waits while too many requests of this stream are unanswered.
    async fn request(&self, command: Command) -> Result<(), HubStopped> {
        let Ok(place) = self.open.clone().acquire_owned().await else {
            return Err(HubStopped);
        };
        self.hub.send(self.stream, command, Some(place)).await
    }
}

impl Drop for StreamRequests {
    /// A close that finds no room is not missed for long: the hub looks for streams whose client is gone.
    fn drop(&mut self) {
        let close = Request { stream: self.stream, command: Command::Close, place: None, _room: None };
        if let Err(refused) = self.hub.events.try_send(Event::Request(close)) {
            tracing::debug!(%refused, "a watch stream ends unannounced");
        }
    }
}

/// The answers of one stream, in order.
pub struct StreamResponses {
    receiver: mpsc::Receiver<Vec<Queued>>,
    taken: VecDeque<Queued>,
    queued_bytes: Arc<AtomicUsize>,
}

impl StreamResponses {
    /// The next answer; `None` when the hub has ended the stream.
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Queued>> {
        loop {
            if let Some(queued) = self.taken.pop_front() {
                self.queued_bytes.fetch_sub(queued.bytes(), Ordering::Relaxed);
                return Poll::Ready(Some(queued));
            }
            match Pin::new(&mut self.receiver).poll_recv(context) {
                Poll::Ready(Some(answers)) => self.taken.extend(answers),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            }
        }
    }
}

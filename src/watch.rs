//! Watching: every change, once, in order, to everybody who asked for it.
//! One thread, the hub, owns all watchers. It is fed by apply, which never waits for it, and feeds bounded queues,
//! one per stream, for which it never waits: a watcher that cannot be fed goes back to reading the store.

mod hub;
mod index;
mod prepared;
mod stream;
mod thread;
mod watcher;

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

pub use hub::{Hub, HubLimits, HubOptions};
pub use stream::{StreamRequests, StreamResponses, WatchHub};
pub use thread::{HubInput, HubThread, WatchBatch, connect};

use crate::ids::Revision;
use crate::mvcc::KeyRange;
use crate::wire::EncodedEvent;

/// The id of what concerns all watchers of a stream.
pub const ALL_WATCHERS: i64 = -1;

/// A watcher that a client asks for.
#[derive(Clone, Debug)]
pub struct WatchCreate {
    pub key: Bytes,
    pub range_end: Bytes,
    /// 0: from the next change on.
    pub start_revision: i64,
    /// 0: the hub chooses.
    pub id: i64,
    pub wants: Wants,
}

/// What of its range a watcher wants, and how.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wants {
    pub no_put: bool,
    pub no_delete: bool,
    pub previous: bool,
    pub progress: bool,
    /// Large answers come in pieces.
    pub fragments: bool,
}

/// Why a watcher is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("mvcc: watcher range is empty")]
    EmptyRange,
    #[error("mvcc: duplicate watch ID provided on the WatchStream")]
    DuplicateId,
    #[error("mvcc: required revision has been compacted")]
    NegativeStart,
}

/// What a stream is told.
#[derive(Debug)]
pub enum Answer {
    Created {
        id: i64,
        revision: Revision,
    },
    Refused {
        reason: Refusal,
        revision: Revision,
    },
    Canceled {
        id: i64,
        revision: Revision,
    },
    /// The watcher's next revision is compacted away: it ends.
    Compacted {
        id: i64,
        compacted: Revision,
    },
    Events {
        id: i64,
        revision: Revision,
        events: Vec<EncodedEvent>,
        fragments: bool,
    },
    /// Everything through `revision` has been delivered.
    Progress {
        id: i64,
        revision: Revision,
    },
}

/// An answer with the place that its request took in the stream's queue; given back when it is taken out.
#[derive(Debug)]
pub struct Queued {
    pub answer: Answer,
    _place: Option<OwnedSemaphorePermit>,
}

/// Numbers of the hub, for the metrics.
#[derive(Debug, Default)]
pub struct HubStats {
    pub streams: AtomicU64,
    pub watchers: AtomicU64,
    pub slow_watchers: AtomicU64,
    pub events_sent: AtomicU64,
    /// Batches of changes that the hub has not looked at.
    pub waiting_batches: AtomicU64,
}

type Stats = Arc<HubStats>;

impl WatchCreate {
    /// An empty key is the first possible one. `None` for a range with nothing in it.
    fn range(&self) -> Option<KeyRange> {
        let key = if self.key.is_empty() { Bytes::from_static(&[0]) } else { self.key.clone() };
        let range = KeyRange::new(&key, &self.range_end);
        match &range {
            KeyRange::Span(from, Some(to)) if from >= to => None,
            _ => Some(range),
        }
    }
}

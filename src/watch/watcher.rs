//! One watcher and one stream, as the hub holds them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::{Answer, Queued, Wants};
use crate::courier::{Courier, Outbox};
use crate::ids::Revision;
use crate::mvcc::{ChangeKind, KeyRange};
use crate::wire::EncodedEvent;

/// Bytes of events that wait in one stream's queue before it counts as full.
const MAX_QUEUED_BYTES: usize = 16 << 20;

/// A watcher's place in the hub.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct WatcherId(pub usize);

/// A stream's number, never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct StreamId(pub u64);

pub(super) struct Watcher {
    pub stream: StreamId,
    /// Its id on the stream.
    pub id: i64,
    pub range: KeyRange,
    pub wants: Wants,
    /// The revision that it asked to begin with; 0 for the next.
    pub start: Revision,
    /// Changes below are delivered or not wanted. In sync this is only a lower bound: it got everything through
    /// the hub's revision.
    pub next: Revision,
    pub in_sync: bool,
    /// It got something since the last periodic progress.
    pub fed: bool,
    /// Events of the batch under way, and the revision of the first.
    pub events: Vec<EncodedEvent>,
    pub first: Revision,
}

impl Watcher {
    pub fn wants(&self, kind: ChangeKind, revision: Revision) -> bool {
        let filtered = match kind {
            ChangeKind::Put => self.wants.no_put,
            ChangeKind::Delete => self.wants.no_delete,
        };
        !filtered && revision >= self.next
    }

    /// The answer with the events gathered.
    pub fn take_events(&mut self, revision: Revision) -> Answer {
        let events = std::mem::take(&mut self.events);
        Answer::Events { id: self.id, revision, events, fragments: self.wants.fragments }
    }
}

/// Ids of ended watchers that a stream keeps.
const MAX_ENDED: usize = 1 << 16;

pub(super) struct Stream {
    pub watchers: BTreeMap<i64, WatcherId>,
    /// Ids of watchers that a compaction has ended. As in etcd they are taken until their client cancels them, too.
    pub ended: BTreeSet<i64>,
    pub next_id: i64,
    sender: Sender<Vec<Queued>>,
    /// Answers to requests, for which the queue had no room; their number is bounded by the places of requests
    /// and the number of watchers.
    pending: VecDeque<Queued>,
    queued_bytes: Arc<AtomicUsize>,
    /// Of the thread on which the stream is served. Everything goes through it, so that the order stays.
    courier: Courier,
}

impl Stream {
    pub fn new(sender: Sender<Vec<Queued>>, queued_bytes: Arc<AtomicUsize>, courier: Courier) -> Self {
        let (watchers, pending) = (BTreeMap::new(), VecDeque::new());
        Self { watchers, ended: BTreeSet::new(), next_id: 0, sender, pending, queued_bytes, courier }
    }

    pub fn is_taken(&self, id: i64) -> bool {
        self.watchers.contains_key(&id) || self.ended.contains(&id)
    }

    /// A compaction has ended this watcher. Of a client that never cancels the oldest are forgotten.
    pub fn ended(&mut self, id: i64) {
        self.ended.insert(id);
        if self.ended.len() > MAX_ENDED {
            self.ended.pop_first();
        }
    }

    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    pub fn is_gone(&self) -> bool {
        self.sender.is_closed()
    }

    /// Queues an answer that must not be lost, behind all before it.
    pub fn push(&mut self, queued: Queued, outbox: &mut Outbox) {
        self.pending.push_back(queued);
        self.flush(outbox);
    }

    /// Sends what is pending, as far as there is room.
    pub fn flush(&mut self, outbox: &mut Outbox) {
        if self.pending.is_empty() {
            return;
        }
        match self.sender.clone().try_reserve_owned() {
            Ok(place) => {
                let answers = self.pending.drain(..).collect();
                outbox.push(&self.courier, move || drop(place.send(answers)));
            }
            Err(TrySendError::Full(_)) => {}
            // The client is gone: the stream's end is on its way to the hub.
            Err(TrySendError::Closed(_)) => self.pending.clear(),
        }
    }

    /// Whether events may be sent now.
    pub fn has_room(&self) -> bool {
        self.pending.is_empty()
            && self.sender.capacity() > 0
            && self.queued_bytes.load(Ordering::Relaxed) < MAX_QUEUED_BYTES
    }

    /// Sends events, or gives back that there was no room.
    pub fn try_send(&mut self, answers: Vec<Queued>, outbox: &mut Outbox) -> Result<(), Full> {
        if !self.has_room() {
            return Err(Full);
        }
        let bytes: usize = answers.iter().map(Queued::bytes).sum();
        match self.sender.clone().try_reserve_owned() {
            Ok(place) => {
                self.queued_bytes.fetch_add(bytes, Ordering::Relaxed);
                outbox.push(&self.courier, move || drop(place.send(answers)));
                Ok(())
            }
            Err(TrySendError::Full(_)) => Err(Full),
            Err(TrySendError::Closed(_)) => Ok(()),
        }
    }
}

/// A stream's queue has no room.
pub(super) struct Full;

impl Queued {
    /// Bytes of its events.
    pub(super) fn bytes(&self) -> usize {
        match &self.answer {
            Answer::Events { events, .. } => events.iter().map(|event| event.as_bytes().len() + 8).sum(),
            _ => 0,
        }
    }

    pub(super) fn events(&self) -> usize {
        match &self.answer {
            Answer::Events { events, .. } => events.len(),
            _ => 0,
        }
    }
}

//! The hub's synchronous core: all watchers, in sync or catching up. Time and events come from outside.

mod catch_up;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{Ordering, fence};
use std::time::{Duration, Instant};

use super::index::Index;
use super::prepared::Prepared;
use super::thread::{Command, Request, WatchBatch};
use super::watcher::{Stream, StreamId, Watcher, WatcherId};
use super::{ALL_WATCHERS, Answer, Queued, Refusal, Stats, WatchCreate};
use crate::courier::Outbox;
use crate::ids::Revision;
use crate::mvcc::{self, Change, Reader};

/// How the hub paces itself.
#[derive(Clone, Copy, Debug)]
pub struct HubOptions {
    /// How often a watcher that asked for it hears of progress when nothing else happens.
    pub progress_interval: Duration,
    pub limits: HubLimits,
}

/// How much waits for whom, and how much is read at once.
#[derive(Clone, Copy, Debug)]
pub struct HubLimits {
    /// Batches that wait for the hub; when there are more it reads what it missed from the store.
    pub queued_batches: usize,
    /// Sends to a stream that wait for its client; each may hold answers for many watchers.
    pub queued_sends: usize,
    /// Watchers that read together.
    pub watchers_per_slice: usize,
    /// Changes, and bytes of them, in one slice: live events wait no longer than reading these takes.
    pub changes_per_slice: usize,
    pub bytes_per_slice: usize,
}

impl HubLimits {
    pub const DEFAULT: Self = Self {
        queued_batches: 1024,
        queued_sends: 128,
        watchers_per_slice: 512,
        changes_per_slice: 2000,
        bytes_per_slice: 2 << 20,
    };
}

/// See the module.
pub struct Hub {
    reader: Reader,
    options: HubOptions,
    stats: Stats,
    /// Everything through here has been handed to the watchers in sync.
    revision: Revision,
    streams: HashMap<StreamId, Stream>,
    /// Answers on their way to the streams, until the turn ends.
    outbox: Outbox,
    watchers: Vec<Option<Watcher>>,
    free: Vec<WatcherId>,
    index: Index,
    /// Watchers that read the store, by the revision they need next.
    behind: BTreeSet<(Revision, WatcherId)>,
    /// Streams with answers that found no room.
    waiting: BTreeSet<StreamId>,
    wants_progress: BTreeSet<WatcherId>,
    /// Requests for progress by the revision that must be handed on before they are answered.
    progress_asked: BTreeMap<Revision, Vec<Request>>,
    next_progress: Instant,
}

impl Hub {
    pub fn new(reader: Reader, options: HubOptions, stats: Stats, now: Instant) -> Self {
        Self {
            revision: reader.revision(),
            reader,
            options,
            stats,
            streams: HashMap::new(),
            outbox: Outbox::default(),
            watchers: Vec::new(),
            free: Vec::new(),
            index: Index::default(),
            behind: BTreeSet::new(),
            waiting: BTreeSet::new(),
            wants_progress: BTreeSet::new(),
            progress_asked: BTreeMap::new(),
            next_progress: now + options.progress_interval,
        }
    }

    /// Some watcher can read on at once.
    pub fn can_catch_up(&self) -> bool {
        self.behind.iter().any(|(_, watcher)| self.has_room(*watcher))
    }

    /// Somebody waits for a client to take its answers.
    pub fn is_waiting_for_room(&self) -> bool {
        !self.behind.is_empty() || !self.waiting.is_empty()
    }

    /// Delivers changes to the watchers in sync.
    ///
    /// # Errors
    /// A fault of the disk.
    pub fn batch(&mut self, batch: &WatchBatch) -> Result<(), mvcc::Error> {
        if batch.revision <= self.revision {
            return Ok(());
        }
        if batch.after != self.revision {
            self.missed_changes();
            return Ok(());
        }
        let mut index = std::mem::take(&mut self.index);
        let fed = self.gather(&mut index, &batch.changes);
        self.index = index;
        self.revision = batch.revision;
        for watcher in self.send_gathered(fed?) {
            self.fall_behind(watcher);
        }
        self.answer_progress();
        Ok(())
    }

    /// Changes went by unseen: every watcher in sync reads them from the store.
    pub fn missed_changes(&mut self) {
        let next = Revision(self.revision.0 + 1);
        let in_sync = self.watchers.iter().enumerate().filter_map(|(place, watcher)| {
            watcher.as_ref().is_some_and(|watcher| watcher.in_sync).then_some(WatcherId(place))
        });
        for id in in_sync.collect::<Vec<_>>() {
            let watcher = self.watcher_mut(id);
            watcher.first = watcher.next.max(next);
            self.fall_behind(id);
        }
        self.revision = self.reader.revision();
        self.answer_progress();
    }

    /// Sends what the turn has for the streams.
    pub fn send(&mut self) {
        self.outbox.send();
    }

    /// Carries out a stream's request.
    pub fn request(&mut self, request: Request) {
        let Request { stream, command, place, _room } = request;
        if self.watchers.len() == self.free.len() {
            // While nobody watched, changes may have gone by.
            self.missed_changes();
        }
        match command {
            Command::Open { sender, queued_bytes, courier } => {
                self.streams.insert(stream, Stream::new(sender, queued_bytes, courier));
                self.stats.streams.fetch_add(1, Ordering::Relaxed);
                // Counted before its watchers ask for the revision: see `HubInput::publish`.
                fence(Ordering::SeqCst);
            }
            Command::Create(create) => {
                let answer = self.create(stream, &create);
                self.push(stream, Queued { answer, _place: place });
            }
            Command::Cancel(id) => {
                let had_ended = self.streams.get_mut(&stream).is_some_and(|owner| owner.ended.remove(&id));
                if had_ended || self.remove(stream, id) {
                    let answer = Answer::Canceled { id, revision: self.reader.revision() };
                    self.push(stream, Queued { answer, _place: place });
                }
            }
            Command::Progress => {
                let revision = self.reader.revision().max(self.revision);
                let asked = Request { stream, command: Command::Progress, place, _room: None };
                self.progress_asked.entry(revision).or_default().push(asked);
                self.answer_progress();
            }
            Command::Close => self.close(stream),
        }
    }

    /// What time brings: periodic progress, and another try for streams that had no room.
    pub fn tick(&mut self, now: Instant) {
        for stream in std::mem::take(&mut self.waiting) {
            self.flush(stream);
        }
        if now < self.next_progress {
            return;
        }
        // Up to a tenth later, so that many servers do not speak at once.
        let jitter = rand::random_range(0.0..0.1);
        self.next_progress = now + self.options.progress_interval.mul_f64(1.0 + jitter);
        // Those whose close found no room on its way here.
        let gone = self.streams.iter().filter(|(_, stream)| stream.is_gone()).map(|(id, _)| *id);
        for stream in gone.collect::<Vec<_>>() {
            self.close(stream);
        }
        let mut told: BTreeMap<StreamId, Vec<Queued>> = BTreeMap::new();
        for id in self.wants_progress.clone() {
            let revision = self.revision;
            let watcher = self.watcher_mut(id);
            let quiet = !std::mem::take(&mut watcher.fed);
            let (stream, answer) = (watcher.stream, Answer::Progress { id: watcher.id, revision });
            if quiet && self.is_up_to_date(id) {
                told.entry(stream).or_default().push(Queued { answer, _place: None });
            }
        }
        // One send per stream: a queue has room for fewer sends than a stream may have watchers.
        for (stream, answers) in told {
            if let Some(stream) = self.streams.get_mut(&stream) {
                // Without room it has something to read anyway.
                drop(stream.try_send(answers, &mut self.outbox));
            }
        }
    }

    fn create(&mut self, stream: StreamId, create: &WatchCreate) -> Answer {
        let revision = self.reader.revision();
        let refuse = |reason| Answer::Refused { reason, revision };
        if create.start_revision < 0 {
            return refuse(Refusal::NegativeStart);
        }
        let Some(range) = create.range() else {
            return refuse(Refusal::EmptyRange);
        };
        let Some(owner) = self.streams.get_mut(&stream) else {
            return refuse(Refusal::EmptyRange);
        };
        let id = if create.id == 0 {
            while owner.is_taken(owner.next_id) {
                owner.next_id += 1;
            }
            owner.next_id += 1;
            owner.next_id - 1
        } else if owner.is_taken(create.id) {
            return refuse(Refusal::DuplicateId);
        } else {
            create.id
        };
        let next = if create.start_revision == 0 { revision.0 + 1 } else { create.start_revision };
        let watcher = Watcher {
            stream,
            id,
            range,
            wants: create.wants,
            start: Revision(create.start_revision),
            next: Revision(next),
            in_sync: next > self.revision.0,
            fed: false,
            events: Vec::new(),
            first: Revision(0),
        };
        let place = self.add(watcher);
        if let Some(owner) = self.streams.get_mut(&stream) {
            owner.watchers.insert(id, place);
        }
        Answer::Created { id, revision }
    }

    fn add(&mut self, watcher: Watcher) -> WatcherId {
        let place = self.free.pop().unwrap_or(WatcherId(self.watchers.len()));
        if watcher.in_sync {
            self.index.insert(&watcher.range, place);
        } else {
            self.behind.insert((watcher.next, place));
            self.stats.slow_watchers.fetch_add(1, Ordering::Relaxed);
        }
        if watcher.wants.progress {
            self.wants_progress.insert(place);
        }
        if place.0 == self.watchers.len() {
            self.watchers.push(Some(watcher));
        } else {
            self.watchers[place.0] = Some(watcher);
        }
        self.stats.watchers.fetch_add(1, Ordering::Relaxed);
        place
    }

    /// Ends a watcher; `false` when the stream has none with this id.
    fn remove(&mut self, stream: StreamId, id: i64) -> bool {
        let Some(place) = self.streams.get_mut(&stream).and_then(|owner| owner.watchers.remove(&id)) else {
            return false;
        };
        let Some(watcher) = self.watchers[place.0].take() else {
            return false;
        };
        if watcher.in_sync {
            self.index.remove(&watcher.range, place);
        } else {
            self.behind.remove(&(watcher.next, place));
            self.stats.slow_watchers.fetch_sub(1, Ordering::Relaxed);
        }
        self.wants_progress.remove(&place);
        self.free.push(place);
        self.stats.watchers.fetch_sub(1, Ordering::Relaxed);
        true
    }

    fn close(&mut self, stream: StreamId) {
        let Some(owner) = self.streams.get(&stream) else {
            return;
        };
        for id in owner.watchers.keys().copied().collect::<Vec<_>>() {
            self.remove(stream, id);
        }
        self.streams.remove(&stream);
        self.waiting.remove(&stream);
        self.stats.streams.fetch_sub(1, Ordering::Relaxed);
    }

    /// Gives each watcher of `index` its events of `changes` and returns who got some.
    fn gather(&mut self, index: &mut Index, changes: &[Change]) -> Result<Vec<WatcherId>, mvcc::Error> {
        let snapshot = self.reader.snapshot();
        let (mut fed, mut failed) = (Vec::new(), None);
        for change in changes {
            let mut prepared = Prepared::new(change);
            index.matching(&change.key, |id| {
                let watcher = self.watchers[id.0].as_mut().expect("the index names living watchers");
                if !watcher.wants(change.kind, change.at.main) {
                    return;
                }
                match prepared.event(watcher.wants.previous, &snapshot) {
                    Ok(event) => {
                        if watcher.events.is_empty() {
                            watcher.first = change.at.main;
                            fed.push(id);
                        }
                        watcher.events.push(event);
                    }
                    Err(fault) => failed = Some(fault),
                }
            });
        }
        failed.map_or(Ok(fed), Err)
    }

    /// Sends what was gathered, one send per stream, and returns the watchers for whom there was no room.
    fn send_gathered(&mut self, mut fed: Vec<WatcherId>) -> Vec<WatcherId> {
        let stream_of = |hub: &Self, id: WatcherId| hub.watchers[id.0].as_ref().map(|watcher| watcher.stream);
        if fed.len() > 1 {
            fed.sort_by_key(|id| stream_of(self, *id));
        }
        let mut refused = Vec::new();
        let mut rest = fed.as_slice();
        while let Some(first) = rest.first() {
            let stream = stream_of(self, *first);
            let (group, others) = rest.split_at(rest.partition_point(|id| stream_of(self, *id) == stream));
            rest = others;
            let has_room =
                stream.and_then(|stream| self.streams.get(&stream)).is_some_and(|stream| stream.has_room());
            let mut answers = Vec::with_capacity(group.len());
            let revision = self.revision;
            for id in group {
                let watcher = self.watcher_mut(*id);
                let answer = watcher.take_events(revision);
                watcher.fed |= has_room;
                answers.push(Queued { answer, _place: None });
            }
            let events: usize = answers.iter().map(Queued::events).sum();
            let sent = has_room
                && stream
                    .and_then(|stream| self.streams.get_mut(&stream))
                    .is_some_and(|stream| stream.try_send(answers, &mut self.outbox).is_ok());
            if sent {
                self.stats.events_sent.fetch_add(events as u64, Ordering::Relaxed);
            } else {
                refused.extend_from_slice(group);
            }
        }
        refused
    }

    /// A watcher in sync whose events from `first` on found no room reads them again later.
    fn fall_behind(&mut self, id: WatcherId) {
        let watcher = self.watchers[id.0].as_mut().expect("it lives");
        watcher.in_sync = false;
        watcher.next = watcher.first;
        self.index.remove(&watcher.range, id);
        self.behind.insert((watcher.next, id));
        self.stats.slow_watchers.fetch_add(1, Ordering::Relaxed);
    }

    /// Answers the requests for progress whose revision has been handed on: for a stream whose watchers all have
    /// everything, and not at all for another.
    fn answer_progress(&mut self) {
        while let Some(entry) = self.progress_asked.first_entry()
            && *entry.key() <= self.revision
        {
            for Request { stream, place, .. } in entry.remove() {
                let Some(owner) = self.streams.get(&stream) else {
                    continue;
                };
                let complete = owner.watchers.values().all(|id| self.is_up_to_date(*id));
                if complete && !owner.watchers.is_empty() && owner.has_room() {
                    let answer = Answer::Progress { id: ALL_WATCHERS, revision: self.revision };
                    self.push(stream, Queued { answer, _place: place });
                }
            }
        }
    }

    /// In sync, and past its start: one that waits for a revision to come hears of no other.
    fn is_up_to_date(&self, id: WatcherId) -> bool {
        self.watchers[id.0].as_ref().is_some_and(|watcher| watcher.in_sync && watcher.start <= self.revision)
    }

    fn has_room(&self, id: WatcherId) -> bool {
        let stream = self.watchers[id.0].as_ref().and_then(|watcher| self.streams.get(&watcher.stream));
        stream.is_some_and(Stream::has_room)
    }

    fn watcher_mut(&mut self, id: WatcherId) -> &mut Watcher {
        self.watchers[id.0].as_mut().expect("ids name living watchers")
    }

    fn push(&mut self, stream: StreamId, queued: Queued) {
        if let Some(owner) = self.streams.get_mut(&stream) {
            owner.push(queued, &mut self.outbox);
            self.flush(stream);
        }
    }

    fn flush(&mut self, stream: StreamId) {
        let Some(owner) = self.streams.get_mut(&stream) else {
            return;
        };
        owner.flush(&mut self.outbox);
        if owner.is_gone() {
            self.close(stream);
        } else if owner.has_pending() {
            self.waiting.insert(stream);
        }
    }
}

#[cfg(test)]
mod tests;

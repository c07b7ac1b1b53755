//! What one watcher should have been told.

use bytes::Bytes;
use decklog::watch::{Wants, WatchCreate};
use decklog::wire::{EncodedEvent, EventType, KeyValue};

use crate::naive::{Event, Naive, is_in, to_pair};

/// What was told, so that a test that tests nothing is seen.
#[derive(Debug, Default)]
pub struct Told {
    pub events: u64,
    pub with_previous: u64,
    pub without_previous: u64,
}

pub struct Watcher {
    key: Bytes,
    range_end: Bytes,
    pub wants: Wants,
    /// The first revision that it wants.
    pub start: i64,
    /// The next of all events to look at.
    next: usize,
    /// Everything through here it has been told, by events or by progress.
    pub told: i64,
}

/// The key of a request; an empty one is the first possible.
pub fn key_of(create: &WatchCreate) -> Bytes {
    if create.key.is_empty() { Bytes::from_static(&[0]) } else { create.key.clone() }
}

/// Whether a compaction may have taken an event out of its revision.
fn may_be_gone(naive: &Naive, event: &Event) -> bool {
    event.revision <= naive.compacted && naive.is_superseded(event)
}

fn is_about(found: &EncodedEvent, event: &Event) -> bool {
    let found = found.decode().expect("an event");
    let pair = found.kv.as_ref().expect("every event has one").decode().expect("a pair");
    let is_put = found.r#type() == EventType::Put;
    (pair.mod_revision, pair.key, is_put) == (event.revision, event.key.clone(), event.row.is_some())
}

impl Watcher {
    pub fn new(create: &WatchCreate, current: i64) -> Self {
        let start = if create.start_revision == 0 { current + 1 } else { create.start_revision };
        Self {
            key: key_of(create),
            range_end: create.range_end.clone(),
            wants: create.wants,
            start,
            next: 0,
            told: start - 1,
        }
    }

    fn wants(&self, event: &Event) -> bool {
        let filtered = if event.row.is_some() { self.wants.no_put } else { self.wants.no_delete };
        !filtered && event.revision >= self.start && is_in(&event.key, &self.key, &self.range_end)
    }

    /// The next event that it must be told.
    fn expected<'a>(&mut self, naive: &'a Naive) -> Option<&'a Event> {
        while let Some(event) = naive.events.get(self.next) {
            if self.wants(event) {
                return Some(event);
            }
            self.next += 1;
        }
        None
    }

    /// The events of one answer.
    pub fn events(&mut self, naive: &Naive, revision: i64, events: &[EncodedEvent], met: &mut Told) {
        assert!(!events.is_empty(), "an answer without events");
        assert!(revision <= naive.revision());
        for event in events {
            let expected = self.expected_as(naive, event);
            self.event(naive, event, expected, met);
            self.next += 1;
            self.told = expected.revision;
            met.events += 1;
        }
        assert!(self.told <= revision, "revision {} in an answer of {revision}", self.told);
        let told = self.told;
        let is_whole = self.required(naive).is_none_or(|next| next.revision > told);
        assert!(is_whole, "revision {told} is torn");
    }

    /// What should come now. Of its own revision a compaction leaves only the last change to a key.
    fn expected_as<'a>(&mut self, naive: &'a Naive, event: &EncodedEvent) -> &'a Event {
        loop {
            let expected = self.expected(naive).unwrap_or_else(|| panic!("too much: {event:?}"));
            if !may_be_gone(naive, expected) || is_about(event, expected) {
                return expected;
            }
            self.next += 1;
        }
    }

    /// The next that must come, whatever a compaction has taken out of its revision.
    pub fn required<'a>(&self, naive: &'a Naive) -> Option<&'a Event> {
        let coming = naive.events.iter().skip(self.next);
        coming.filter(|event| self.wants(event)).find(|event| !may_be_gone(naive, event))
    }

    fn event(&self, naive: &Naive, event: &EncodedEvent, expected: &Event, met: &mut Told) {
        let decoded = event.decode().expect("an event");
        let (kind, pair) = match &expected.row {
            Some(row) => (EventType::Put, to_pair(&expected.key, row)),
            None => {
                let key = expected.key.clone();
                let gone = KeyValue { key, mod_revision: expected.revision, ..KeyValue::default() };
                (EventType::Delete, (&gone).into())
            }
        };
        assert_eq!((decoded.r#type(), decoded.kv), (kind, Some(pair)), "expected {expected:?}");
        let before = expected.before.as_ref().filter(|_| self.wants.previous);
        let before = before.map(|row| to_pair(&expected.key, row));
        match (decoded.prev_kv, before) {
            // It may be compacted away.
            (None, Some(_)) if expected.revision <= naive.compacted => met.without_previous += 1,
            (found, before) => {
                met.with_previous += u64::from(found.is_some());
                assert_eq!(found, before, "the pair before {expected:?}");
            }
        }
    }

    /// Told that what it needs next is compacted away.
    pub fn compacted(&self, naive: &Naive, compacted: i64) {
        assert!(compacted <= naive.compacted);
        let needs = self.told + 1;
        assert!(needs < compacted, "it needs {needs}, and {compacted} can be read");
    }

    /// Told that everything through `revision` was delivered.
    pub fn progress(&mut self, naive: &Naive, revision: i64) {
        assert!(self.start <= revision + 1, "progress at {revision} before the start at {}", self.start);
        let missing = self.required(naive).filter(|event| event.revision <= revision);
        assert!(missing.is_none(), "progress at {revision} ran ahead of {missing:?}");
        self.told = self.told.max(revision);
    }
}

//! Everything that can be read, compared with the naive state machine.

use std::ops::ControlFlow;

use decklog::ids::{FullRevision, Revision};
use decklog::mvcc::{Change, ChangeKind, Error, RangeCursor, Reader, Snapshot};
use decklog::wire::etcdserverpb as pb;
use decklog::wire::{EncodedKeyValue, KeyValue};
use rand::Rng;

use crate::naive::{Event, Naive, Pin, Refused, to_pair};
use crate::programs::Programs;

/// A snapshot that is held while the world goes on.
pub struct Held {
    snapshot: Snapshot,
    pin: Pin,
}

/// A range that is being read piece by piece while the world goes on.
pub struct Stream {
    cursor: RangeCursor,
    at: i64,
    limit: i64,
    expected: decklog::mvcc::RangeAnswer,
    got: Vec<EncodedKeyValue>,
}

fn refusal(error: &Error) -> Refused {
    match error {
        Error::Compacted => Refused::Compacted,
        Error::FutureRevision => Refused::Future,
        other => panic!("a fault: {other}"),
    }
}

/// What a compaction has overtaken may be refused; it may never be wrong.
fn compare<T: PartialEq + std::fmt::Debug>(
    found: Result<T, Error>,
    expected: Result<T, Refused>,
    overtaken: bool,
    what: &dyn Fn() -> String,
) {
    match found {
        Err(Error::Compacted) if overtaken => {}
        found => assert_eq!(found.map_err(|error| refusal(&error)), expected, "{}", what()),
    }
}

impl Held {
    pub fn new(reader: &Reader, naive: &Naive) -> Self {
        Self::at(reader, naive.pin())
    }

    pub fn at(reader: &Reader, pin: Pin) -> Self {
        let held = Self { snapshot: reader.snapshot(), pin };
        assert_eq!(held.snapshot.revision().0, held.pin.revision);
        assert_eq!(held.snapshot.compacted().0, held.pin.compacted);
        held
    }

    fn overtaken(&self, naive: &Naive, asked: i64) -> bool {
        self.pin.resolve(asked).is_ok_and(|at| at < naive.compacted)
    }

    /// One random read of each kind.
    pub fn check(&self, naive: &Naive, programs: &mut Programs) {
        for _ in 0..4 {
            let request = programs.range(naive);
            self.range(naive, &request);
        }
        let at = programs.revision(naive);
        self.hash(naive, at);
        self.changes(naive, programs);
        self.previous(naive, programs);
    }

    pub fn range(&self, naive: &Naive, request: &pb::RangeRequest) {
        let found = self.snapshot.range(request);
        if let Ok(answer) = &found
            && request.revision <= 0
            && !request.count_only
        {
            assert!(self.snapshot.estimate(request) >= answer.pairs.len() as u64, "{request:?}");
        }
        let overtaken = self.overtaken(naive, request.revision);
        compare(found, naive.range(self.pin, request), overtaken, &|| format!("{:?}: {request:?}", self.pin));
    }

    pub fn hash(&self, naive: &Naive, at: i64) {
        let found = self.snapshot.hash_kv(at);
        if let Ok(hash) = &found {
            assert_eq!(hash.compacted.0, self.pin.compacted);
            // Below a negative one there is nothing, and it is told back.
            assert_eq!(Ok(hash.revision.0), if at < 0 { Ok(at) } else { self.pin.resolve(at) });
        }
        // Removal for a newer compaction goes on below: what it leaves has another hash.
        let overtaken = naive.compacted > self.pin.compacted;
        let (found, expected) = (found.map(|hash| hash.hash), naive.hash(self.pin, at));
        compare(found, expected, overtaken, &|| format!("{:?}: hash at {at}", self.pin));
    }

    fn changes(&self, naive: &Naive, programs: &mut Programs) {
        let first = naive.compacted.max(1);
        let from = programs.random.random_range(first - 1..=naive.revision() + 1);
        let through = programs.random.random_range(first - 1..=naive.revision() + 1);
        let enough = programs.random.random_range(1..40);
        let mut found = Vec::new();
        let done = self.snapshot.changes(Revision(from), Revision(through), &mut |change| {
            found.push(change);
            if found.len() >= enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        let what = || format!("{:?}: changes {from}..={through}, at most about {enough}", self.pin);
        let done = match done {
            Ok(done) => done.0,
            Err(Error::Compacted) if from < naive.compacted => return,
            Err(error) => {
                assert_eq!(
                    naive.events_in(self.pin, from, through).err(),
                    Some(refusal(&error)),
                    "{}",
                    what()
                );
                return;
            }
        };
        // Whole revisions, and all of them as far as it says.
        let expected =
            naive.events_in(self.pin, from, done).unwrap_or_else(|why| panic!("{why:?}, {}", what()));
        let mut found_too = found.iter().map(|change| (change.at.main.0, change.at.sub)).peekable();
        let is_found = |event: &&Event| {
            // What a compaction leaves of its own revision depends on how far it came.
            let may_be_gone = event.revision <= naive.compacted && naive.is_superseded(event);
            found_too.next_if_eq(&event.id()).is_some() || !may_be_gone
        };
        let expected: Vec<Change> = expected.into_iter().filter(is_found).map(to_change).collect();
        assert_eq!(found, expected, "{}", what());
        if found.len() < enough {
            assert_eq!(done, through.min(self.pin.revision), "{}", what());
        } else if from <= through {
            let before_last = found.iter().filter(|change| change.at.main.0 < done).count();
            assert!(before_last < enough, "went on after it was told to stop: {}", what());
        }
    }

    /// The pair before a change is the one that was there, unless it is compacted.
    fn previous(&self, naive: &Naive, programs: &mut Programs) {
        let visible = naive.events.iter().filter(|event| event.revision <= self.pin.revision).count();
        if visible == 0 {
            return;
        }
        let event = &naive.events[programs.random.random_range(0..visible)];
        let found = self.snapshot.previous(&event.key, Revision(event.revision)).expect("read");
        let before = naive.at(event.revision - 1).get(&event.key);
        let expected = before.map(|row| to_pair(&event.key, row));
        if found.is_none() && event.revision <= naive.compacted {
            return;
        }
        assert_eq!(found, expected, "{:?}: the pair before {event:?}", self.pin);
    }

    pub fn stream(&self, naive: &Naive, programs: &mut Programs) -> Option<Stream> {
        let (key, range_end) = programs.range_of_keys();
        let limit = [0, 0, 3, 50][programs.random.random_range(0..4)];
        let keys_only = programs.random.random_ratio(1, 4);
        let revision = programs.revision(naive);
        let request = pb::RangeRequest { key, range_end, limit, keys_only, revision, ..Default::default() };
        let expected = naive.range(self.pin, &request);
        match self.snapshot.cursor(request) {
            Ok(cursor) => {
                let at = self.pin.resolve(revision).expect("it can be read");
                let expected = expected.expect("it can be read");
                Some(Stream { cursor, at, limit, expected, got: Vec::new() })
            }
            Err(error) => {
                assert_eq!(expected.err(), Some(refusal(&error)));
                None
            }
        }
    }
}

impl Stream {
    /// Reads some more; `false` when it is at its end.
    pub fn read(&mut self, naive: &Naive, programs: &mut Programs) -> bool {
        let done = self.cursor.is_done();
        let wanted = programs.random.random_range(0..8);
        let max_bytes = programs.random.random_range(1..300);
        match self.cursor.next(wanted, max_bytes) {
            Ok(pairs) => {
                assert!(pairs.len() <= wanted && (!done || pairs.is_empty()), "{} of {wanted}", pairs.len());
                self.got.extend(pairs);
            }
            Err(error) => {
                assert_eq!(refusal(&error), Refused::Compacted);
                assert!(self.at < naive.compacted, "revision {} is not compacted", self.at);
                return false;
            }
        }
        assert!(self.expected.pairs.starts_with(&self.got), "at {}: not a prefix", self.at);
        if !done {
            return true;
        }
        let merged = decklog::mvcc::RangeAnswer {
            pairs: std::mem::take(&mut self.got),
            ..self.cursor.summary(self.limit)
        };
        assert_eq!(merged, self.expected, "at {}", self.at);
        false
    }
}

/// The event as watchers see it.
fn to_change(event: &Event) -> Change {
    let at = FullRevision::new(event.revision, event.sub);
    let key = event.key.clone();
    match &event.row {
        Some(row) => {
            Change { at, kind: ChangeKind::Put, pair: to_pair(&key, row), key, created: row.version == 1 }
        }
        None => {
            let pair = KeyValue { key: key.clone(), mod_revision: event.revision, ..KeyValue::default() };
            Change { at, kind: ChangeKind::Delete, key, pair: (&pair).into(), created: false }
        }
    }
}

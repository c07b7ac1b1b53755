//! Watches as they were wrong elsewhere, each as a short script, by the name of what was wrong. The numbers are etcd's
//! issues.

use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use decklog::command::Kind;
use decklog::watch::{
    ALL_WATCHERS, Answer, HubInput, HubLimits, HubOptions, HubThread, StreamRequests, StreamResponses, Wants,
    WatchCreate, WatchHub, connect,
};

use super::client::now;
use crate::known_bugs::{compact, delete, put};
use crate::rig::{Place, Rig};

struct Watched {
    rig: Rig,
    hub: HubThread,
    input: HubInput,
    watches: WatchHub,
}

struct Stream {
    requests: StreamRequests,
    responses: StreamResponses,
}

impl Watched {
    /// With room for so many sends that a client has not taken.
    fn new(queued_sends: usize) -> Self {
        let rig = Rig::new(Place::memory());
        let limits = HubLimits { queued_sends, ..HubLimits::DEFAULT };
        let options = HubOptions { progress_interval: Duration::from_secs(600), limits };
        let (hub, input, watches) = connect(rig.reader().clone(), options);
        Self { rig, hub, input, watches }
    }

    fn open(&self) -> Stream {
        let (requests, responses) = now(self.watches.open()).expect("at once").expect("the hub runs");
        Stream { requests, responses }
    }

    /// Applies commands, each visible and told by itself.
    fn apply(&mut self, commands: impl IntoIterator<Item = Kind>) {
        for command in commands {
            self.rig.apply(vec![command]);
            let published = self.rig.publish();
            if !published.changes.is_empty() {
                self.input.publish(published.revision, published.changes);
            }
        }
    }

    fn turns(&mut self) {
        for _ in 0..20 {
            self.hub.turn(Instant::now()).expect("no fault");
        }
    }
}

impl Stream {
    fn watch(&self, start_revision: i64) {
        let everything = Bytes::from_static(&[0]);
        let create = WatchCreate {
            key: everything.clone(),
            range_end: everything,
            start_revision,
            id: 0,
            wants: Wants { previous: true, ..Wants::default() },
        };
        now(self.requests.create(create)).expect("at once").expect("the hub runs");
    }

    /// What has come: `c` created, `x` compacted, `p` progress with its revision, events by their revisions.
    fn read(&mut self) -> Vec<String> {
        let mut read = Vec::new();
        while let Poll::Ready(Some(queued)) =
            self.responses.poll_next(&mut Context::from_waker(Waker::noop()))
        {
            match queued.answer {
                Answer::Created { id, .. } => read.push(format!("c{id}")),
                Answer::Compacted { id, compacted } => read.push(format!("x{id} at {compacted}")),
                Answer::Progress { id: ALL_WATCHERS, revision } => read.push(format!("p{revision}")),
                Answer::Events { id, events, .. } => {
                    let pairs = events.iter().map(|event| event.decode().expect("an event").kv);
                    let pairs = pairs.map(|pair| pair.expect("each has one").decode().expect("a pair"));
                    let revisions: Vec<_> = pairs.map(|pair| pair.mod_revision.to_string()).collect();
                    read.push(format!("{id}: {}", revisions.join(" ")));
                }
                other => panic!("nobody asked for {other:?}"),
            }
        }
        read
    }
}

/// 15220: progress told of a revision whose events were still on their way.
#[test]
fn progress_comes_behind_the_events_that_it_tells_of() {
    let mut watched = Watched::new(2);
    let mut stream = watched.open();
    stream.watch(0);
    watched.turns();
    watched.apply([put("a"), put("b"), put("c"), put("d")]);
    now(stream.requests.progress()).expect("at once").expect("the hub runs");
    watched.turns();
    // The queue is full and the watcher behind: no progress.
    assert_eq!(stream.read(), ["c0", "0: 2"]);
    watched.turns();
    now(stream.requests.progress()).expect("at once").expect("the hub runs");
    watched.turns();
    assert_eq!(stream.read(), ["0: 3 4 5", "p5"]);
}

/// 17529: events that found the queue of a slow client full were dropped.
#[test]
fn a_slow_client_gets_everything_in_the_end() {
    let mut watched = Watched::new(1);
    let mut stream = watched.open();
    stream.watch(0);
    watched.turns();
    for _ in 0..30 {
        watched.apply([put("a"), delete("a")]);
        watched.turns();
    }
    let mut read = Vec::new();
    for _ in 0..10 {
        read.extend(stream.read());
        watched.turns();
    }
    let revisions: Vec<_> = read.iter().filter_map(|told| told.strip_prefix("0: ")).collect();
    let expected: Vec<_> = (2..62).map(|revision| revision.to_string()).collect();
    assert_eq!(revisions.join(" "), expected.join(" "));
}

/// 19179: a watch opened exactly at the compacted revision missed the deletion that happened there. One below is told.
#[test]
fn a_watch_at_the_compacted_revision_begins_there() {
    let mut watched = Watched::new(9);
    watched.apply([put("a"), put("b"), delete("a"), put("c"), compact(4)]);
    watched.rig.settle();
    let mut stream = watched.open();
    for start in [3, 4, 5] {
        stream.watch(start);
    }
    watched.turns();
    let mut read = stream.read();
    read.sort();
    assert_eq!(read, ["1: 4 5", "2: 5", "c0", "c1", "c2", "x0 at 4"]);
}

/// 20221: a watch from a revision to come was told what came before it, and progress, too.
#[test]
fn a_watch_from_a_revision_to_come_waits_for_it() {
    let mut watched = Watched::new(9);
    let mut stream = watched.open();
    stream.watch(4);
    watched.turns();
    watched.apply([put("a"), put("b")]);
    now(stream.requests.progress()).expect("at once").expect("the hub runs");
    watched.turns();
    watched.hub.turn(Instant::now() + Duration::from_secs(3600)).expect("no fault");
    assert_eq!(stream.read(), ["c0"]);
    watched.apply([put("c")]);
    watched.turns();
    now(stream.requests.progress()).expect("at once").expect("the hub runs");
    watched.turns();
    assert_eq!(stream.read(), ["0: 4", "p4"]);
}

/// One of ours: two watchers of a client that is gone, both behind a compaction, ended the hub.
#[test]
fn a_client_that_goes_while_its_watchers_are_compacted_ends_alone() {
    let mut watched = Watched::new(1);
    let gone = watched.open();
    let mut other = watched.open();
    for _ in 0..2 {
        gone.watch(0);
    }
    other.watch(0);
    watched.turns();
    watched.apply([put("a"), put("b"), put("c"), put("d")]);
    watched.turns();
    watched.apply([compact(5)]);
    let Stream { requests, responses } = gone;
    drop(responses);
    watched.turns();
    drop(requests);
    watched.apply([put("e")]);
    let mut read = Vec::new();
    for _ in 0..10 {
        read.extend(other.read());
        watched.turns();
    }
    assert_eq!(read, ["c0", "x0 at 5"]);
    assert_eq!(watched.watches.stats().streams.load(std::sync::atomic::Ordering::Relaxed), 1);
}

/// One of ours: of many watchers on one stream only as many heard of progress as the queue has places.
#[test]
fn every_watcher_of_a_stream_hears_of_progress() {
    let mut watched = Watched::new(3);
    let mut stream = watched.open();
    let everything = Bytes::from_static(&[0]);
    for _ in 0..20 {
        let (key, range_end) = (everything.clone(), everything.clone());
        let wants = Wants { progress: true, ..Wants::default() };
        let create = WatchCreate { key, range_end, start_revision: 0, id: 0, wants };
        now(stream.requests.create(create)).expect("at once").expect("the hub runs");
    }
    let mut created = 0;
    while created < 20 {
        watched.turns();
        created += stream.read().len();
    }
    watched.hub.turn(Instant::now() + Duration::from_secs(3600)).expect("no fault");
    let mut told = 0;
    while let Poll::Ready(Some(queued)) = stream.responses.poll_next(&mut Context::from_waker(Waker::noop()))
    {
        assert!(matches!(queued.answer, Answer::Progress { .. }));
        told += 1;
    }
    assert_eq!(told, 20);
}

//! A batch of changes on its way through the hub to some streams that watch them all.

use std::future::Future;
use std::pin::Pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use decklog::command::Kind;
use decklog::courier::Courier;
use decklog::watch::{
    Answer, HubInput, HubLimits, HubOptions, HubThread, StreamRequests, StreamResponses, Wants, WatchCreate,
    connect,
};
use decklog::wire::etcdserverpb::WatchResponse;
use prost::Message;

use super::machine::{Machine, entry};
use super::{at_once, context, key, put, scattered};
use crate::counter::Counter;

const STREAMS: usize = 10;
/// Of a batch, and batches.
const CHANGES: usize = 100;
const BATCHES: usize = 10;

pub fn events(counter: &Counter, machine: &mut Machine) {
    for (case, previous, from) in [("watch-event", false, 10_000), ("watch-event-prev-kv", true, 20_000)] {
        let mut watching = Watching::open(machine, previous);
        let mut batch = |from| {
            let puts = scattered(CHANGES, from).map(|number| Kind::Put(put(number)));
            machine.apply(&entry(puts.collect()))
        };
        let inputs = [from, from + CHANGES * BATCHES]
            .map(|from| (0..BATCHES).map(|number| batch(from + number * CHANGES)).collect::<Vec<_>>());
        counter.count(case, BATCHES * CHANGES * STREAMS, inputs, |batches| {
            for published in batches {
                watching.input.publish(published.revision, published.changes);
                assert_eq!(watching.deliver(), CHANGES * STREAMS);
            }
        });
    }
}

/// The hub with its streams, and the front thread that they are served on.
struct Watching {
    hub: HubThread,
    input: HubInput,
    front: Pin<Box<dyn Future<Output = ()>>>,
    streams: Vec<(StreamRequests, StreamResponses)>,
    now: Instant,
    /// What leaves.
    buffer: BytesMut,
}

impl Watching {
    fn open(machine: &Machine, previous: bool) -> Self {
        let options = HubOptions { progress_interval: Duration::from_secs(600), limits: HubLimits::DEFAULT };
        let (mut hub, input, watches) = connect(machine.reader.clone(), options);
        let mut front: Pin<Box<dyn Future<Output = ()>>> = Box::pin(Courier::run());
        poll(&mut front);
        let now = Instant::now();
        let open = || {
            let (requests, responses) = at_once(watches.open()).expect("the hub runs");
            let create = WatchCreate {
                key: key(0),
                range_end: b"/registry/pods0".as_slice().into(),
                start_revision: 0,
                id: 0,
                wants: Wants { previous, ..Wants::default() },
            };
            at_once(requests.create(create)).expect("the hub runs");
            (requests, responses)
        };
        let streams = (0..STREAMS).map(|_| open()).collect();
        hub.turn(now).expect("nothing is read");
        let mut this = Self { hub, input, front, streams, now, buffer: BytesMut::with_capacity(1 << 20) };
        assert_eq!(this.deliver(), 0, "each is told that it watches");
        this
    }

    /// Everything that has come goes out, encoded; so many events.
    fn deliver(&mut self) -> usize {
        self.hub.turn(self.now).expect("read");
        poll(&mut self.front);
        let mut events = 0;
        for (_, responses) in &mut self.streams {
            while let Poll::Ready(Some(queued)) = responses.poll_next(&mut context()) {
                if let Answer::Events { id, events: of_answer, .. } = queued.answer {
                    events += of_answer.len();
                    let message = WatchResponse { watch_id: id, events: of_answer, ..Default::default() };
                    self.buffer.clear();
                    message.encode(&mut self.buffer).expect("it grows");
                }
            }
        }
        events
    }
}

fn poll(future: &mut Pin<Box<dyn Future<Output = ()>>>) {
    assert!(future.as_mut().poll(&mut context()).is_pending());
}

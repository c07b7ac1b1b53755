//! A client that watches through crashes: after each it goes on behind the last that it was told, and gets everything
//! once. What it was told before a crash must have survived it.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use decklog::watch::{ALL_WATCHERS, Answer, StreamRequests, StreamResponses, Wants, WatchCreate, WatchHub};
use rand::Rng;

use crate::naive::Naive;
use crate::programs::Programs;
use crate::watcher::{Told, Watcher, key_of};

const WATCHERS: i64 = 4;

/// A watcher with what made it, to make it again.
struct Subscription {
    create: WatchCreate,
    watcher: Option<Watcher>,
}

#[derive(Default)]
pub struct Subscriber {
    stream: Option<(StreamRequests, StreamResponses)>,
    subscriptions: BTreeMap<i64, Subscription>,
    pub told: Told,
    pub compacted: u64,
    pub progress: u64,
}

/// The outcome of something that need not wait.
fn now<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => panic!("there is room for so few requests"),
    }
}

impl Subscriber {
    /// Opens a stream of the member that has started, and goes on.
    pub fn resume(
        &mut self,
        watches: &WatchHub,
        naive: &Naive,
        mut random_create: impl FnMut(i64) -> WatchCreate,
    ) {
        let stream = now(watches.open()).expect("the hub runs");
        for id in 1..=WATCHERS {
            let new = || Subscription { create: random_create(id), watcher: None };
            let subscription = self.subscriptions.entry(id).or_insert_with(new);
            if let Some(watcher) = &subscription.watcher {
                assert!(watcher.told <= naive.revision().max(watcher.start - 1), "told what was lost");
                subscription.create.start_revision = watcher.told + 1;
            }
            // Its place among the events may have been behind some that were lost.
            subscription.watcher = None;
            now(stream.0.create(subscription.create.clone())).expect("the hub runs");
        }
        self.stream = Some(stream);
    }

    pub fn ask_progress(&mut self) {
        if let Some((requests, _)) = &self.stream {
            now(requests.progress()).expect("the hub runs");
        }
    }

    /// Takes up to so many answers, also those that a member has left that is gone. Returns how many there were.
    pub fn read(&mut self, naive: &Naive, most: usize) -> usize {
        for taken in 0..most {
            let Some((_, responses)) = &mut self.stream else {
                return taken;
            };
            match responses.poll_next(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Some(queued)) => self.answer(naive, queued.answer),
                Poll::Ready(None) => self.stream = None,
                Poll::Pending => return taken,
            }
        }
        most
    }

    fn answer(&mut self, naive: &Naive, answer: Answer) {
        match answer {
            Answer::Created { id, revision } => {
                let subscription = self.subscriptions.get_mut(&id).expect("it was asked for");
                subscription.watcher = Some(Watcher::new(&subscription.create, revision.0));
            }
            Answer::Events { id, revision, events, .. } => {
                let subscription = self.subscriptions.get_mut(&id).expect("it was asked for");
                let watcher = subscription.watcher.as_mut().expect("it was created before");
                watcher.events(naive, revision.0, &events, &mut self.told);
            }
            Answer::Compacted { id, compacted } => {
                let subscription = self.subscriptions.remove(&id).expect("it was asked for");
                subscription.watcher.expect("it was created before").compacted(naive, compacted.0);
                self.compacted += 1;
            }
            Answer::Progress { id: ALL_WATCHERS, revision } => {
                let watchers = self.subscriptions.values_mut().filter_map(|known| known.watcher.as_mut());
                watchers.for_each(|watcher| watcher.progress(naive, revision.0));
                self.progress += 1;
            }
            other => panic!("nobody asked for {other:?}"),
        }
    }

    /// When everything was read, nothing is missing.
    pub fn has_everything(&self, naive: &Naive) {
        for (id, subscription) in &self.subscriptions {
            let watcher = subscription.watcher.as_ref().expect("it was created");
            let missing = watcher.required(naive);
            assert!(missing.is_none(), "watcher {id} misses {missing:?}");
        }
    }
}

/// Over the keys of the programs.
pub fn random_create(naive: &Naive, programs: &mut Programs, id: i64) -> WatchCreate {
    loop {
        let (key, range_end) = programs.range_of_keys();
        let random = &mut programs.random;
        let start = random.random_range(naive.compacted.max(1)..=naive.revision() + 2);
        let start_revision = if random.random() { 0 } else { start };
        let wants = Wants {
            no_put: random.random_ratio(1, 6),
            no_delete: random.random_ratio(1, 6),
            previous: random.random(),
            ..Wants::default()
        };
        let create = WatchCreate { key, range_end, start_revision, id, wants };
        let end = &create.range_end;
        if end.is_empty() || end.as_ref() == [0] || key_of(&create) < *end {
            return create;
        }
    }
}

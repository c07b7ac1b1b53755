//! Clients that watch, each on a member by its real hub: after a crash, or when they like, they go on at another member
//! behind the last that they were told. Whatever a hub tells is held against what the cluster has decided: in order, once,
//! complete, whole revisions; and at the end nothing is missing.

use bytes::Bytes;
use decklog::watch::{Wants, WatchCreate};
use rand::Rng;

use super::World;
use crate::naive::Naive;
use crate::subscriber::Subscriber;

const ROUNDS_WITHOUT_NEWS: usize = 8;

/// See the module.
#[derive(Default)]
pub(super) struct WatchClient {
    subscriber: Subscriber,
    /// The machine and its start on which it watches.
    on: Option<(usize, u64)>,
}

impl World {
    pub(super) fn watch(&mut self) {
        for place in 0..self.machines.len() {
            if self.random.random_ratio(1, 8) {
                self.turn_hub(place);
            }
        }
        for number in 0..self.watches.len() {
            if !self.random.random_ratio(1, 8) {
                continue;
            }
            self.keep_watching(number);
            let most = self.random.random_range(0..6);
            self.watches[number].subscriber.read(&self.truth.naive, most);
        }
    }

    fn turn_hub(&mut self, place: usize) {
        let clock = self.clock(place);
        if self.is_running(place)
            && let Some(life) = &mut self.machines[place].life
        {
            life.turn_hub(clock);
        }
    }

    /// Looks for a member when its own has gone, or when it likes.
    fn keep_watching(&mut self, number: usize) {
        let is_there = self.watches[number].on.is_some_and(|(place, starts)| {
            let machine = &self.machines[place];
            machine.life.is_some() && machine.starts == starts
        });
        if is_there && !self.is_quiet() && !self.random.random_ratio(1, 40) {
            if self.random.random_ratio(1, 10) {
                self.watches[number].subscriber.ask_progress();
            }
            return;
        }
        if is_there && self.is_quiet() {
            return;
        }
        let place = self.random_place();
        self.watch_on(number, place);
    }

    fn watch_on(&mut self, number: usize, place: usize) {
        if !self.is_running(place) {
            return;
        }
        let machine = &self.machines[place];
        let Some(life) = &machine.life else { return };
        let client = &mut self.watches[number];
        client.on = Some((place, machine.starts));
        let (naive, random) = (&self.truth.naive, &mut self.random);
        client.subscriber.resume(&life.watches, naive, |id| random_create(naive, random, id));
        self.met.count("watch");
    }

    /// Every client has been told all there is, on whatever member it watches.
    pub(super) fn check_watches(&mut self) {
        for number in 0..self.watches.len() {
            let on = self.watches[number].on.filter(|(place, starts)| {
                let machine = &self.machines[*place];
                machine.life.is_some() && machine.starts == *starts
            });
            let members: Vec<_> = self.truth.members.keys().copied().collect();
            let on = on.filter(|(place, _)| members.contains(&self.machines[*place].id.0));
            let place = on.map_or_else(
                || {
                    let id = members[self.random.random_range(0..members.len())];
                    let place = super::place_of(id);
                    self.watch_on(number, place);
                    place
                },
                |(place, _)| place,
            );
            let mut quiet = 0;
            while quiet < ROUNDS_WITHOUT_NEWS {
                self.turn_hub(place);
                let client = &mut self.watches[number];
                let read = client.subscriber.read(&self.truth.naive, usize::MAX);
                quiet = if read == 0 { quiet + 1 } else { 0 };
            }
            let subscriber = &self.watches[number].subscriber;
            subscriber.has_everything(&self.truth.naive);
            self.met.add_many("event", subscriber.told.events);
            self.met.add_many("watcher compacted", subscriber.compacted);
            self.met.add_many("progress", subscriber.progress);
        }
    }
}

fn random_create(naive: &Naive, random: &mut rand::rngs::SmallRng, id: i64) -> WatchCreate {
    let ranges: [(&str, &[u8]); 5] =
        [("", b"\0"), ("key-", b"key."), ("key-3", b""), ("lease-", b"lease."), ("other-1", b"other-3")];
    let (key, range_end) = ranges[random.random_range(0..ranges.len())];
    let least = naive.compacted.max(1);
    let start = random.random_range(least.max(naive.revision() - 20)..=naive.revision() + 2);
    let wants = Wants {
        no_put: random.random_ratio(1, 8),
        no_delete: random.random_ratio(1, 8),
        previous: random.random(),
        ..Wants::default()
    };
    WatchCreate {
        key: Bytes::from_static(key.as_bytes()),
        range_end: Bytes::copy_from_slice(range_end),
        start_revision: if random.random() { 0 } else { start },
        id,
        wants,
    }
}

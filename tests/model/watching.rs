//! The watch hub, driven by hand, against the naive list of events: watchers of every kind, clients that read late
//! or go away, small queues and slices, lost batches, compactions. Every watcher gets exactly its events: in order,
//! once, whole revisions, with the pair before; progress never runs ahead of them; who is compacted away is told.

mod client;
mod known_bugs;
mod watcher;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use decklog::apply::Published;
use decklog::watch::{HubInput, HubLimits, HubOptions, HubThread, WatchHub, connect};
use rand::Rng;

use crate::naive::Naive;
use crate::programs::Programs;
use crate::rig::{Place, Rig};
use client::{Client, Counts};

const STEPS: usize = 500;
const MAX_CLIENTS: usize = 4;
const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

#[test]
fn every_watcher_gets_exactly_its_events() {
    let mut met = Counts::default();
    for seed in crate::runs(150) {
        met.add(&Run::new(seed).go());
    }
    println!("{met:?}");
    let everything = [
        met.told.events,
        met.told.with_previous,
        met.told.without_previous,
        met.progress,
        met.progress_of_one,
        met.compacted,
        met.refused,
        met.canceled,
        met.installed,
    ];
    assert!(everything.iter().all(|count| *count > 0), "{met:?}");
}

struct Run {
    rig: Rig,
    naive: Naive,
    programs: Programs,
    hub: HubThread,
    input: HubInput,
    watches: WatchHub,
    /// Published and not yet told to the hub.
    untold: VecDeque<Published>,
    clients: Vec<Client>,
    now: Instant,
    /// Everybody reads at once and nothing is lost on the way to the hub: nobody may fall behind.
    calm: bool,
    met: Counts,
}

impl Run {
    fn new(seed: u64) -> Self {
        let mut programs = Programs::new(seed, false);
        let mut rig = Rig::new(Place::memory());
        let mut naive = Naive::default();
        // The hub begins in the middle of things.
        for _ in 0..programs.random.random_range(0..20) {
            let command = programs.command(&naive);
            drop(naive.apply(&command));
            rig.apply(vec![command]);
        }
        rig.publish();
        let calm = programs.random.random_ratio(1, 4);
        let random = &mut programs.random;
        let mut small = |from: usize, to: usize| if calm { 64 } else { random.random_range(from..to) };
        let limits = HubLimits {
            queued_batches: small(1, 8),
            queued_sends: small(1, 6),
            watchers_per_slice: small(1, 8),
            changes_per_slice: small(1, 12),
            bytes_per_slice: 1 << 20,
        };
        let options = HubOptions { progress_interval: PROGRESS_INTERVAL, limits };
        let (hub, input, watches) = connect(rig.reader().clone(), options);
        Self {
            rig,
            naive,
            programs,
            hub,
            input,
            watches,
            untold: VecDeque::new(),
            clients: Vec::new(),
            now: Instant::now(),
            calm,
            met: Counts::default(),
        }
    }

    fn go(mut self) -> Counts {
        for _ in 0..STEPS {
            match self.programs.random.random_range(0..25) {
                0..=6 => self.write(),
                7..=9 => self.tell(),
                10 => {
                    let rounds = self.programs.random.random_range(1..5);
                    self.rig.persist(rounds);
                }
                11 => self.rig.compact(self.programs.random.random_range(1..40)),
                12 => self.open(),
                13..=16 => self.ask(),
                17 => self.now += Duration::from_millis(self.programs.random.random_range(0..8000)),
                18 => self.leave(),
                19 | 20 => self.read(),
                24 => self.install(),
                _ => self.turn(),
            }
            if self.calm {
                self.calm_down();
            }
        }
        self.end()
    }

    /// One entry, visible at once, or a little later to the hub.
    fn write(&mut self) {
        let commands: Vec<_> = (0..self.programs.random.random_range(1..3))
            .map(|_| self.programs.command(&self.naive))
            .collect();
        for command in &commands {
            drop(self.naive.apply(command));
        }
        self.rig.apply(commands);
        let published = self.rig.publish();
        self.untold.push_back(published);
    }

    fn tell(&mut self) {
        if let Some(published) = self.untold.pop_front()
            && !published.changes.is_empty()
        {
            self.input.publish(published.revision, published.changes);
        }
    }

    /// The state of a member that is further on takes the place of this one's: what lies between comes from there, as far
    /// as it is not compacted away. Who is never behind may be cancelled by that, so it does not happen in calm runs.
    fn install(&mut self) {
        if self.calm || self.programs.random.random_ratio(1, 2) {
            return;
        }
        let mut ahead = self.rig.follower(Place::memory(), self.rig.entries());
        for _ in 0..self.programs.random.random_range(1..12) {
            let command = self.programs.command(&self.naive);
            drop(self.naive.apply(&command));
            ahead.apply(vec![command]);
        }
        ahead.publish();
        while !self.untold.is_empty() {
            self.tell();
        }
        if self.programs.random.random() {
            self.turn();
        }
        let (importer, store) = self.rig.importer();
        let mut incoming = importer.begin().expect("nothing else is received");
        for piece in ahead.capture(Instant::now() + Duration::from_secs(3600)).pieces() {
            incoming.write(&piece.expect("read")).expect("it is what was sent");
        }
        let received = incoming.finish().expect("it is whole");
        self.rig.hear(&ahead);
        let replacement = self.rig.install(received, store);
        self.input.installed(self.rig.reader().revision());
        self.rig.persist_installed(&replacement);
        self.met.installed += 1;
    }

    fn turn(&mut self) {
        self.hub.turn(self.now).expect("no fault");
    }

    fn open(&mut self) {
        if self.clients.len() < MAX_CLIENTS {
            self.clients.extend(Client::open(&self.watches));
        }
    }

    fn ask(&mut self) {
        if !self.clients.is_empty() {
            let place = self.programs.random.random_range(0..self.clients.len());
            self.clients[place].ask(&self.naive, &mut self.programs);
        }
    }

    /// A client goes away: with both ends, first with the one it reads, or unheard.
    fn leave(&mut self) {
        if self.clients.is_empty() || self.programs.random.random_ratio(3, 4) {
            return;
        }
        let place = self.programs.random.random_range(0..self.clients.len());
        match self.programs.random.random_range(0..4) {
            0 => self.clients.remove(place).vanish(),
            1 if !self.clients[place].is_deaf() => self.clients[place].stop_reading(),
            _ => drop(self.clients.remove(place)),
        }
    }

    fn read(&mut self) {
        if self.clients.is_empty() {
            return;
        }
        let place = self.programs.random.random_range(0..self.clients.len());
        let most = self.programs.random.random_range(1..20);
        self.clients[place].read(&self.naive, most, &mut self.met);
    }

    fn calm_down(&mut self) {
        while !self.untold.is_empty() {
            self.tell();
        }
        self.turns(5);
        for client in &self.clients {
            assert_eq!(client.unexpectedly_compacted, 0, "a watcher that was never behind was cancelled");
        }
    }

    /// Turns until nobody has anything more to do. A turn takes one request, and some have no answer.
    fn settle(&mut self) {
        self.turns(64 * (MAX_CLIENTS + 1));
    }

    /// Turns until so many of them in a row have brought no answer.
    fn turns(&mut self, enough: usize) {
        let mut quiet = 0;
        while quiet < enough {
            self.turn();
            let before = self.met.answers;
            for client in &mut self.clients {
                client.read(&self.naive, usize::MAX, &mut self.met);
            }
            quiet = if self.met.answers == before { quiet + 1 } else { 0 };
        }
    }

    fn end(mut self) -> Counts {
        while !self.untold.is_empty() {
            self.tell();
        }
        // Now and then nothing comes behind it that could wake the hub.
        self.install();
        self.settle();
        for client in &mut self.clients {
            client.nothing_is_missing(&self.naive);
            client.ask_progress(&self.naive);
        }
        self.settle();
        for client in &mut self.clients {
            client.progress_was_told(&self.naive);
        }
        self.periodic_progress();
        // Nobody reads for these: their streams are closed.
        self.clients.retain(|client| !client.is_deaf());
        self.settle();
        let stats = self.watches.stats();
        let load = |number: &std::sync::atomic::AtomicU64| number.load(std::sync::atomic::Ordering::Relaxed);
        assert_eq!(load(&stats.slow_watchers), 0, "nobody is behind");
        assert_eq!(load(&stats.streams), self.clients.len() as u64);
        let watchers: usize = self.clients.iter().map(Client::watchers).sum();
        assert_eq!(load(&stats.watchers), watchers as u64);
        self.met
    }

    /// A quiet watcher that asked for it hears of progress each interval.
    fn periodic_progress(&mut self) {
        // The first interval may have had events in it.
        for _ in 0..2 {
            self.now += PROGRESS_INTERVAL * 2;
            for client in &mut self.clients {
                client.forget_periodic_progress();
            }
            self.settle();
        }
        for client in &self.clients {
            client.periodic_progress_was_told(&self.naive);
        }
    }
}

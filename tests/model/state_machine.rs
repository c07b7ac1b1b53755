//! Random programs through apply, over both stores, with restarts and compactions in between: every answer and
//! everything that can be read is what the naive state machine says.

use std::time::Instant;

use decklog::ids::LeaseId;
use decklog::wire::etcdserverpb as pb;
use rand::Rng;

use crate::checks::{Held, Stream};
use crate::naive::{Event, Naive, Pin};
use crate::programs::Programs;
use crate::rig::{Place, Rig};
use crate::transfer::Transfer;

const STEPS: usize = 150;
const MAX_HELD: usize = 3;

#[test]
fn over_the_store_in_memory_it_is_the_naive_one() {
    let transferred: u64 = crate::runs(60).map(|seed| Run::new(seed, Place::memory()).go(STEPS)).sum();
    println!("{transferred} states were transferred");
    assert!(transferred > 0);
}

#[test]
fn over_the_store_on_disk_it_is_the_naive_one() {
    let transferred: u64 = crate::runs(12).map(|seed| Run::new(seed, Place::sled()).go(STEPS)).sum();
    println!("{transferred} states were transferred");
    assert!(transferred > 0);
}

fn everything_at(revision: i64) -> pb::RangeRequest {
    pb::RangeRequest {
        key: vec![0].into(),
        range_end: vec![0].into(),
        revision,
        ..pb::RangeRequest::default()
    }
}

struct Run {
    rig: Rig,
    naive: Naive,
    programs: Programs,
    /// What is visible.
    published: Pin,
    held: Vec<Held>,
    streams: Vec<Stream>,
    /// The state after each entry, for a restart.
    after: Vec<Pin>,
    /// The state that another member is to have, on its way.
    transfer: Option<Transfer>,
    transferred: u64,
}

impl Run {
    fn new(seed: u64, place: Place) -> Self {
        let naive = Naive::default();
        Self {
            programs: Programs::new(seed, matches!(place, Place::Sled(_))),
            rig: Rig::new(place),
            published: naive.pin(),
            after: vec![naive.pin()],
            naive,
            held: Vec::new(),
            streams: Vec::new(),
            transfer: None,
            transferred: 0,
        }
    }

    fn go(mut self, steps: usize) -> u64 {
        for _ in 0..steps {
            match self.programs.random.random_range(0..24) {
                0..=9 => self.entry(),
                10..=12 => self.publish(),
                13 | 14 => {
                    let rounds = self.programs.random.random_range(1..4);
                    match self.programs.random.random_range(0..4) {
                        0 => self.rig.persist_unnoticed(rounds),
                        _ => self.rig.persist(rounds),
                    }
                }
                15 | 16 => self.rig.compact(self.programs.random.random_range(1..60)),
                17 => self.rig.defragment(),
                18 if self.programs.random.random_ratio(1, 4) => self.restart(),
                20..=23 => self.transfer(),
                _ => self.read(),
            }
        }
        self.transfer = None;
        self.publish();
        self.everything();
        self.rig.settle();
        self.everything();
        self.nothing_too_much_is_stored();
        self.restart();
        assert!(!self.rig.is_compacting(), "a compaction that was through is not begun again");
        self.rig.settle();
        self.everything();
        self.nothing_too_much_is_stored();
        self.transferred
    }

    /// A little more of a state's way to another member, which goes on in this one's place.
    fn transfer(&mut self) {
        let Some(mut transfer) = self.transfer.take() else {
            self.publish();
            self.transfer = Transfer::begin(&mut self.rig, &mut self.programs);
            return;
        };
        if !transfer.some_pieces(&mut self.programs) {
            self.transfer = Some(transfer);
            return;
        }
        self.held.clear();
        self.streams.clear();
        let entries = transfer.entries;
        let (follower, held) = transfer.arrive(&self.rig, &mut self.programs, &self.after);
        self.rig = follower;
        self.is_as_after(entries);
        if let Some((held, pin)) = held {
            // What was pinned before is as it was, over the store that it was of.
            for revision in pin.compacted.max(1)..=pin.revision {
                held.range(&self.naive, &everything_at(revision));
            }
        }
        self.rig.replay(entries);
        self.published = self.naive.pin();
        self.everything();
        self.transferred += 1;
    }

    /// Every revision that could be read after so many entries.
    fn is_as_after(&self, entries: usize) {
        let pin = self.after[entries];
        let reader = self.rig.reader();
        assert_eq!((reader.revision().0, reader.compacted().0), (pin.revision, pin.compacted));
        for revision in pin.compacted.max(1)..=pin.revision {
            let all = everything_at(revision);
            let found = reader.snapshot().range(&all).expect("read");
            assert_eq!(Ok(found), self.naive.range(pin, &all), "after entry {entries}");
            if revision % 5 == 0 || revision == pin.revision {
                let hash = reader.snapshot().hash_kv(revision).expect("hashed").hash;
                assert_eq!(Ok(hash), self.naive.hash(pin, revision), "after entry {entries}");
            }
        }
    }

    fn entry(&mut self) {
        let commands: Vec<_> = (0..self.programs.random.random_range(1..4))
            .map(|_| self.programs.command(&self.naive))
            .collect();
        let expected: Vec<_> = commands.iter().map(|command| self.naive.apply(command)).collect();
        let found = self.rig.apply(commands.clone());
        for ((found, expected), command) in found.iter().zip(&expected).zip(&commands) {
            assert_eq!(found, expected, "{command:?}");
        }
        assert_eq!(found.len(), expected.len());
        self.after.push(self.naive.pin());
    }

    fn publish(&mut self) {
        let published = self.rig.publish();
        self.published = self.naive.pin();
        assert_eq!(published.revision.0, self.published.revision);
    }

    fn read(&mut self) {
        self.publish();
        if self.held.len() == MAX_HELD {
            self.held.remove(0);
        }
        self.held.push(Held::new(self.rig.reader(), &self.naive));
        for held in &self.held {
            held.check(&self.naive, &mut self.programs);
        }
        if let Some(newest) = self.held.last() {
            self.streams.extend(newest.stream(&self.naive, &mut self.programs));
        }
        self.streams.retain_mut(|stream| stream.read(&self.naive, &mut self.programs));
    }

    /// Every readable revision, in full and in some random form, with its hash; and every lease.
    fn everything(&mut self) {
        let now = Held::new(self.rig.reader(), &self.naive);
        let readable = self.naive.compacted.max(1)..=self.naive.revision();
        for revision in readable.clone() {
            now.range(&self.naive, &everything_at(revision));
            let some = pb::RangeRequest { revision, ..self.programs.range(&self.naive) };
            now.range(&self.naive, &some);
        }
        for revision in readable.step_by(7).chain([0, self.naive.compacted]) {
            now.hash(&self.naive, revision);
        }
        for _ in 0..20 {
            now.check(&self.naive, &mut self.programs);
        }
        for stream in &mut self.streams {
            while stream.read(&self.naive, &mut self.programs) {}
        }
        self.streams.clear();
        assert_eq!(self.rig.reader().live_keys(), self.naive.now().len() as u64);
        self.leases();
    }

    /// A compaction that is through has removed all that it makes old, and nothing else.
    fn nothing_too_much_is_stored(&mut self) {
        let compacted = self.naive.compacted;
        let survivors = self.naive.survivors(compacted);
        let ids = self.naive.events.iter().map(Event::id);
        let expected: Vec<_> = ids.filter(|id| id.0 > compacted || survivors.contains(id)).collect();
        assert_eq!(self.rig.stored(), expected, "compacted at {compacted}");
    }

    fn leases(&self) {
        assert_eq!(self.rig.alarms(), self.naive.alarms());
        let leases = self.rig.leases();
        let bound: usize = self.naive.leases.keys().map(|id| self.naive.keys_of(*id).len()).sum();
        assert_eq!(leases.counts(), (self.naive.leases.len(), bound));
        for (id, grant) in &self.naive.leases {
            let found = leases.time_to_live(LeaseId(*id), true, Instant::now()).expect("it was granted");
            assert_eq!((found.granted, found.keys), (grant.ttl, self.naive.keys_of(*id)), "lease {id}");
        }
    }

    /// The store holds the state after some entry; the entries behind it lead to the same state as before.
    fn restart(&mut self) {
        self.held.clear();
        self.streams.clear();
        self.transfer = None;
        let applied = self.rig.restart();
        let recovered = self.after[applied];
        let reader = self.rig.reader();
        assert_eq!((reader.revision().0, reader.compacted().0), (recovered.revision, recovered.compacted));
        let everything = everything_at(0);
        let found = reader.snapshot().range(&everything).expect("read");
        assert_eq!(Ok(found), self.naive.range(recovered, &everything), "after entry {applied}");
        let hash = reader.snapshot().hash_kv(0).expect("hashed").hash;
        assert_eq!(Ok(hash), self.naive.hash(recovered, 0), "after entry {applied}");
        self.rig.replay(applied);
        self.published = self.naive.pin();
    }
}

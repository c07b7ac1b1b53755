//! Leases against a naive model with a clock turned by hand: what `apply` does, what the lease service and the
//! expiry job do, and a log between them whose end a crash may lose. A lease never ends before the time that its
//! client was promised, whatever restarts and checkpoints come between.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use decklog::command::Rejection;
use decklog::ids::LeaseId;
use decklog::lease::Leases;
use decklog::mvcc::Attachment;
use decklog::storage::{MemoryStore, Round, Store};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const STEPS: usize = 400;
const LEASES: i64 = 6;
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(30);

#[test]
fn leases_are_the_naive_ones_and_none_ends_early() {
    let mut lived = Lived::default();
    for seed in crate::runs(2000) {
        lived.add(&Run::new(seed).go());
    }
    println!("{lived:?}");
    assert!(lived.expired > 0 && lived.renewed > 0 && lived.lifted > 0 && lived.recovered > 0, "{lived:?}");
}

/// What the runs have met.
#[derive(Debug, Default)]
struct Lived {
    expired: u64,
    renewed: u64,
    lifted: u64,
    recovered: u64,
}

impl Lived {
    fn add(&mut self, other: &Self) {
        self.expired += other.expired;
        self.renewed += other.renewed;
        self.lifted += other.lifted;
        self.recovered += other.recovered;
    }
}

#[derive(Clone, Debug, Default)]
struct Naive {
    ttl: i64,
    /// The last checkpoint; 0 for none.
    remaining: i64,
    keys: BTreeSet<Bytes>,
    /// Unknown before the first look at the clock.
    end: Option<Instant>,
    /// What some client was told.
    promised: Option<Instant>,
}

/// What stands in the log and is not applied.
#[derive(Clone, Debug)]
enum Entry {
    Grant {
        id: i64,
        ttl: i64,
    },
    Revoke(i64),
    Checkpoint(Vec<(i64, i64)>),
    /// The checkpoint of a renewed lease is lifted; its client is told then.
    Lift {
        id: i64,
        promised: Instant,
    },
    Attach {
        key: Bytes,
        id: i64,
    },
    Detach(Bytes),
}

struct Run {
    random: SmallRng,
    store: MemoryStore,
    leases: Leases,
    naive: BTreeMap<i64, Naive>,
    log: VecDeque<Entry>,
    now: Instant,
    /// Leases that the expiry job means to checkpoint.
    to_checkpoint: Vec<LeaseId>,
    lived: Lived,
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).expect("not negative"))
}

impl Naive {
    fn start(&mut self, now: Instant) {
        let left = if self.remaining > 0 { self.remaining } else { self.ttl };
        self.end.get_or_insert(now + seconds(left));
    }

    fn end(&self) -> Instant {
        self.end.expect("somebody has looked")
    }

    /// Seconds left, rounded up or one more, when that says something new.
    fn to_note(&self, now: Instant) -> Option<i64> {
        let left = i64::try_from(self.end().saturating_duration_since(now).as_secs()).expect("small") + 1;
        let noted = if self.remaining > 0 { self.remaining } else { self.ttl };
        (left < noted).then_some(left)
    }
}

impl Run {
    fn new(seed: u64) -> Self {
        Self {
            random: SmallRng::seed_from_u64(seed),
            store: MemoryStore::new(),
            leases: Leases::default(),
            naive: BTreeMap::new(),
            log: VecDeque::new(),
            now: Instant::now(),
            to_checkpoint: Vec::new(),
            lived: Lived::default(),
        }
    }

    fn go(mut self) -> Lived {
        for _ in 0..STEPS {
            match self.random.random_range(0..24) {
                0..=5 => {
                    let entry = self.entry();
                    self.log.push_back(entry);
                }
                6..=11 => self.apply(),
                12..=14 => self.turn_clock(),
                15 | 16 => {
                    let id = self.id();
                    self.renew(id);
                }
                17 => self.expire(),
                18 => self.intend_checkpoint(),
                19 | 20 => self.order_checkpoint(),
                21 => self.look(),
                22 if self.random.random_ratio(1, 4) => self.crash(),
                _ => self.time_to_live(),
            }
        }
        while !self.log.is_empty() {
            self.apply();
        }
        self.look();
        self.crash();
        self.look();
        self.lived
    }

    fn id(&mut self) -> i64 {
        self.random.random_range(1..=LEASES)
    }

    /// Some time on, or to the very end of a lease, or a moment beside it.
    fn turn_clock(&mut self) {
        let end = self.naive.values().filter_map(|lease| lease.end).filter(|end| *end > self.now).min();
        let moment = Duration::from_nanos(1);
        self.now = match (end, self.random.random_range(0..6)) {
            (Some(end), 0) => end,
            (Some(end), 1) => end - moment,
            (Some(end), 2) => end + moment,
            _ => self.now + Duration::from_millis(self.random.random_range(0..20_000)),
        };
    }

    fn entry(&mut self) -> Entry {
        let id = self.id();
        let key = Bytes::from(vec![b'k', self.random.random_range(0..8)]);
        match self.random.random_range(0..12) {
            0..=3 => Entry::Grant { id, ttl: [2, 5, 60, 60, 600][self.random.random_range(0..5)] },
            4 => Entry::Revoke(id),
            5 => Entry::Detach(key),
            _ => Entry::Attach { key, id: if self.random.random_ratio(1, 6) { 0 } else { id } },
        }
    }

    /// The oldest entry of the log takes effect.
    fn apply(&mut self) {
        let Some(entry) = self.log.pop_front() else {
            return;
        };
        match entry {
            Entry::Grant { id, ttl } => {
                let expected =
                    if self.naive.contains_key(&id) { Err(Rejection::LeaseExists) } else { Ok(ttl) };
                assert_eq!(self.leases.grant(LeaseId(id), ttl), expected);
                if expected.is_ok() {
                    self.naive.insert(id, Naive { ttl, ..Naive::default() });
                    // The service begins its time when it answers.
                    self.renew(id);
                }
            }
            Entry::Revoke(id) => {
                let gone = self.naive.remove(&id).ok_or(Rejection::LeaseNotFound);
                let expected = gone.map(|gone| gone.keys.into_iter().collect::<Vec<_>>());
                assert_eq!(self.leases.revoke(LeaseId(id)), expected);
            }
            Entry::Checkpoint(left) => {
                for (id, remaining) in left {
                    self.leases.checkpoint(LeaseId(id), remaining);
                    self.naive.entry(id).and_modify(|lease| lease.remaining = remaining.min(lease.ttl));
                }
            }
            Entry::Lift { id, promised } => {
                self.leases.checkpoint(LeaseId(id), 0);
                if let Some(lease) = self.naive.get_mut(&id) {
                    lease.remaining = 0;
                    // Unless it went, and another came, meanwhile.
                    lease.promised = lease.promised.max(Some(promised.min(lease.end())));
                }
            }
            Entry::Attach { key, id } if id == 0 || self.naive.contains_key(&id) => {
                self.leases.attach(&key, LeaseId(id));
                self.detach(&key);
                if let Some(lease) = self.naive.get_mut(&id) {
                    lease.keys.insert(key);
                }
            }
            Entry::Attach { .. } => {}
            Entry::Detach(key) => {
                self.leases.detach(&key);
                self.detach(&key);
            }
        }
    }

    fn detach(&mut self, key: &Bytes) {
        for lease in self.naive.values_mut() {
            lease.keys.remove(key);
        }
    }

    fn start_all(&mut self) {
        self.naive.values_mut().for_each(|lease| lease.start(self.now));
    }

    /// As the service: a renewal is promised at once, or when the checkpoint is lifted.
    fn renew(&mut self, id: i64) {
        self.start_all();
        let found = self.leases.renew(LeaseId(id), self.now);
        let lease = self.naive.get_mut(&id).filter(|lease| lease.end() > self.now);
        assert_eq!(found.map(|renewed| renewed.ttl), lease.as_ref().map(|lease| lease.ttl));
        let (Some(found), Some(lease)) = (found, lease) else {
            return;
        };
        let promised = self.now + seconds(lease.ttl);
        lease.end = Some(promised);
        assert!(found.is_checkpointed || lease.remaining == 0);
        self.lived.renewed += 1;
        if found.is_checkpointed {
            self.lived.lifted += 1;
            self.log.push_back(Entry::Lift { id, promised });
        } else {
            lease.promised = Some(promised);
        }
    }

    /// As the job: what is due is revoked by the log.
    fn expire(&mut self) {
        self.start_all();
        let mut due: Vec<_> = self.in_order();
        due.retain(|(end, _)| *end <= self.now);
        let limit = self.random.random_range(0..4);
        due.truncate(limit);
        let expected: Vec<_> = due.iter().map(|(_, id)| LeaseId(*id)).collect();
        assert_eq!(self.leases.due(self.now, limit), expected);
        for (_, id) in due {
            let promised = self.naive[&id].promised;
            assert!(promised.is_none_or(|promised| promised <= self.now), "lease {id} ends early");
            self.lived.expired += 1;
            self.log.push_back(Entry::Revoke(id));
        }
    }

    fn in_order(&self) -> Vec<(Instant, i64)> {
        let mut order: Vec<_> = self.naive.iter().map(|(id, lease)| (lease.end(), *id)).collect();
        order.sort();
        order
    }

    fn intend_checkpoint(&mut self) {
        self.start_all();
        let mut found = self.leases.to_checkpoint(self.now, CHECKPOINT_INTERVAL);
        found.sort();
        let long = self.naive.iter().filter(|(_, lease)| seconds(lease.ttl) > CHECKPOINT_INTERVAL);
        let expected: Vec<_> =
            long.filter(|(_, lease)| lease.to_note(self.now).is_some()).map(|(id, _)| LeaseId(*id)).collect();
        assert_eq!(found, expected, "{:?}", self.naive);
        self.to_checkpoint = found;
    }

    fn order_checkpoint(&mut self) {
        let ids = std::mem::take(&mut self.to_checkpoint);
        let left = self.leases.order_checkpoint(&ids, self.now, <[_]>::to_vec);
        let left: Vec<_> = left.into_iter().map(|(id, left)| (id.0, left)).collect();
        let noted = |id: i64| self.naive.get(&id).filter(|lease| lease.end.is_some())?.to_note(self.now);
        let expected: Vec<_> = ids.iter().filter_map(|id| Some((id.0, noted(id.0)?))).collect();
        assert_eq!(left, expected);
        self.log.push_back(Entry::Checkpoint(left));
    }

    fn time_to_live(&mut self) {
        let (id, keys) = (self.id(), self.random.random());
        self.start_all();
        let found = self.leases.time_to_live(LeaseId(id), keys, self.now);
        let expected = self.naive.get(&id).map(|lease| {
            let left =
                i64::try_from(lease.end().saturating_duration_since(self.now).as_secs()).expect("small");
            let keys = if keys { lease.keys.iter().cloned().collect() } else { Vec::new() };
            (left, lease.ttl, keys)
        });
        assert_eq!(found.map(|found| (found.remaining, found.granted, found.keys)), expected);
    }

    fn look(&mut self) {
        self.start_all();
        let expected: Vec<_> = self.in_order().into_iter().map(|(_, id)| LeaseId(id)).collect();
        assert_eq!(self.leases.list(self.now), expected);
        let keys = self.naive.values().map(|lease| lease.keys.len()).sum();
        assert_eq!(self.leases.counts(), (self.naive.len(), keys));
    }

    /// The process ends. Of the log some more is applied, and the rest lost; then all is read back.
    fn crash(&mut self) {
        for _ in 0..self.random.random_range(0..=self.log.len()) {
            self.apply();
        }
        self.log.clear();
        self.to_checkpoint.clear();
        let tables = self.leases.take_rows();
        self.store.write(&Round { tables, ..Round::default() }).expect("written");
        let bound = |(id, lease): (&i64, &Naive)| -> Vec<Attachment> {
            lease.keys.iter().map(|key| Attachment { key: key.clone(), lease: LeaseId(*id) }).collect()
        };
        let attachments: Vec<_> = self.naive.iter().flat_map(bound).collect();
        self.leases = Leases::recover(&self.store, &attachments).expect("recovered");
        self.now += Duration::from_millis(self.random.random_range(0..3000));
        for lease in self.naive.values_mut() {
            lease.end = None;
            lease.start(self.now);
            let promised = lease.promised.unwrap_or(self.now);
            assert!(lease.end() >= promised, "would end {:?} early: {lease:?}", promised - lease.end());
        }
        self.lived.recovered += 1;
        self.look();
    }
}

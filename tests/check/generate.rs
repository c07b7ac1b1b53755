//! Histories that a right cluster could have had: clients beside each other, each request with one moment of effect between
//! start and end, unknown outcomes that were done, late, or never, reads from members that lag, leases that end by
//! themselves, compactions, and watches that are lost and resumed. Every value is put once.

use std::collections::{BTreeMap, VecDeque};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::checker::history::{
    Compare, Event, History, Keys, Operation, Outcome, Pair, RangeRequest, Relation, Request, Response,
    Target,
};
use crate::checker::state::State;
use crate::watching;

const MS: u64 = 1_000_000;
/// States that members which lag may still answer from.
const LAG: usize = 6;

/// How large a history is.
#[derive(Clone, Copy)]
pub struct Size {
    pub clients: u64,
    pub operations: usize,
    pub keys: usize,
}

pub const SMALL: Size = Size { clients: 5, operations: 120, keys: 5 };

/// What happened in the cluster.
pub struct Truth {
    pub history: History,
    /// By revision from 2 on: when it was made, and what it changed.
    pub made: Vec<(u64, Vec<Event>)>,
    /// Compactions: when and at which revision.
    pub compacted: Vec<(u64, i64)>,
}

/// A request's times, before it is known what it asks.
struct Slot {
    client: u64,
    start_ns: u64,
    /// When it is done; `None` for never.
    effect_ns: Option<u64>,
    end_ns: u64,
    fate: Fate,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Ok,
    Failed,
    Unknown,
}

/// The cluster while its history is made.
struct Cluster {
    random: SmallRng,
    size: Size,
    state: State,
    revision: i64,
    /// The newest states with their revisions.
    recent: VecDeque<(i64, State)>,
    values: u64,
    /// Leases that live, with the time that they live at least.
    leases: BTreeMap<i64, u64>,
    next_lease: i64,
    truth: Truth,
}

/// A history with watches, from a seed.
pub fn generate(seed: u64, size: Size) -> Truth {
    let mut random = SmallRng::seed_from_u64(seed);
    let slots = slots(&mut random, size);
    let truth = Truth { history: History::default(), made: Vec::new(), compacted: Vec::new() };
    let mut cluster = Cluster {
        random,
        size,
        state: State::default(),
        revision: 1,
        recent: VecDeque::from([(1, State::default())]),
        values: 0,
        leases: BTreeMap::new(),
        next_lease: 1,
        truth,
    };
    for slot in slots {
        cluster.expire(slot.effect_ns.unwrap_or(slot.end_ns));
        let request = cluster.request();
        cluster.take(&slot, request);
    }
    let Cluster { mut random, mut truth, .. } = cluster;
    watching::watch(&mut truth, &mut random);
    truth
}

/// In the order of their effects.
fn slots(random: &mut SmallRng, size: Size) -> Vec<Slot> {
    let mut slots = Vec::new();
    let mut free: Vec<u64> = (0..size.clients).map(|_| random.random_range(0..50 * MS)).collect();
    for number in 0..size.operations {
        let client = number % free.len();
        let start_ns = free[client] + random.random_range(0..100 * MS);
        let effect_ns = start_ns + random.random_range(0..30 * MS);
        let end_ns = effect_ns + random.random_range(0..30 * MS);
        let (fate, effect_ns) = match random.random_range(0..20) {
            0 => (Fate::Failed, None),
            1 => (Fate::Unknown, None),
            2 => (Fate::Unknown, Some(effect_ns)),
            3 => (Fate::Unknown, Some(end_ns + random.random_range(0..500 * MS))),
            _ => (Fate::Ok, Some(effect_ns)),
        };
        free[client] = end_ns;
        slots.push(Slot { client: client as u64, start_ns, effect_ns, end_ns, fate });
    }
    slots.sort_by_key(|slot| slot.effect_ns.unwrap_or(slot.end_ns));
    slots
}

impl Cluster {
    fn key(&mut self) -> String {
        format!("k{}", self.random.random_range(0..self.size.keys))
    }

    fn keys(&mut self) -> Keys {
        match self.random.random_range(0..4) {
            0 => Keys::all(),
            1 => Keys { key: self.key(), end: "k3".to_owned() },
            _ => Keys::one(&self.key()),
        }
    }

    fn put(&mut self) -> Request {
        self.values += 1;
        let leases: Vec<i64> = self.leases.keys().copied().collect();
        let lease = match self.random.random_range(0..2) {
            0 if !leases.is_empty() => leases[self.random.random_range(0..leases.len())],
            _ => 0,
        };
        let (key, value, prev_kv) = (self.key(), format!("v{}", self.values), self.random.random());
        Request::Put { key, value, lease, prev_kv }
    }

    fn delete(&mut self) -> Request {
        Request::Delete { keys: self.keys(), prev_kv: self.random.random() }
    }

    fn range(&mut self) -> RangeRequest {
        let oldest = self.recent[0].0.max(self.compacted());
        let revision = match self.random.random_range(0..4) {
            0 => self.random.random_range(oldest..=self.revision),
            _ => 0,
        };
        RangeRequest {
            keys: self.keys(),
            revision,
            serializable: self.random.random_ratio(1, 4),
            limit: self.random.random_range(0..3),
            count_only: self.random.random_ratio(1, 8),
        }
    }

    /// Puts to two keys in one, if what is compared holds; or a compare and swap.
    fn txn(&mut self) -> Request {
        let key = self.key();
        let modified = self.state.get(&key).map_or(0, |pair| pair.modified);
        let given = if self.random.random_ratio(1, 3) { modified + 1 } else { modified };
        let compares =
            vec![Compare { keys: Keys::one(&key), target: Target::Mod(given), result: Relation::Equal }];
        self.values += 1;
        let put = |key: String, value: String| Request::Put { key, value, lease: 0, prev_kv: false };
        let mut success = vec![put(key.clone(), format!("v{}", self.values))];
        if self.random.random() {
            success.push(put(format!("{key}-twin"), format!("v{}-twin", self.values)));
        }
        let keys = Keys::one(&key);
        let failure = vec![Request::Range(RangeRequest { keys, ..RangeRequest::default() })];
        Request::Txn { compares, success, failure }
    }

    fn lease(&mut self) -> Request {
        let known: Vec<i64> = self.leases.keys().copied().collect();
        match self.random.random_range(0..4) {
            0 if !known.is_empty() => {
                Request::LeaseRevoke { id: known[self.random.random_range(0..known.len())] }
            }
            1 if self.next_lease > 1 => {
                Request::LeaseKeepAlive { id: self.random.random_range(1..self.next_lease) }
            }
            _ => {
                self.next_lease += 1;
                Request::LeaseGrant { id: self.next_lease - 1, ttl_seconds: self.random.random_range(1..3) }
            }
        }
    }

    fn request(&mut self) -> Request {
        match self.random.random_range(0..100) {
            0..35 => self.put(),
            35..45 => self.delete(),
            45..60 => self.txn(),
            60..88 => Request::Range(self.range()),
            88..98 => self.lease(),
            _ => {
                let lowest = self.compacted() + 1;
                if lowest > self.revision {
                    return self.put();
                }
                Request::Compact { revision: self.random.random_range(lowest..=self.revision) }
            }
        }
    }

    fn compacted(&self) -> i64 {
        self.truth.compacted.last().map_or(0, |(_, revision)| *revision)
    }

    fn take(&mut self, slot: &Slot, request: Request) {
        let answer = slot.effect_ns.map(|at_ns| self.done(at_ns, &request));
        let outcome = match (slot.fate, answer) {
            (Fate::Failed, _) => Outcome::Failed,
            (Fate::Ok, Some((revision, response))) => Outcome::Ok { revision, response },
            _ => Outcome::Unknown,
        };
        let (client, start_ns, end_ns) = (slot.client, slot.start_ns, slot.end_ns);
        let operation = Operation { client, member: client % 3, start_ns, end_ns, request, outcome };
        self.truth.history.operations.push(operation);
    }

    /// Does a request at its moment: the header's revision and the response.
    fn done(&mut self, at_ns: u64, request: &Request) -> (i64, Response) {
        match request {
            Request::Range(range) => return self.read(range),
            Request::LeaseGrant { id, ttl_seconds } => {
                let seconds = u64::try_from(*ttl_seconds).expect("positive");
                self.leases.insert(*id, at_ns + seconds * 1000 * MS);
                return (self.revision, Response::LeaseGrant { id: *id, ttl_seconds: *ttl_seconds });
            }
            Request::LeaseKeepAlive { id } => {
                let ttl_seconds = if self.leases.contains_key(id) { 2 } else { 0 };
                if let Some(until) = self.leases.get_mut(id) {
                    *until = (*until).max(at_ns + 2000 * MS);
                }
                return (self.revision, Response::LeaseKeepAlive { ttl_seconds });
            }
            Request::LeaseRevoke { id } => {
                self.leases.remove(id);
                let events = self.state.end_lease(self.revision + 1, *id);
                self.made(at_ns, events);
                return (self.revision, Response::LeaseRevoke);
            }
            Request::Compact { revision } => self.truth.compacted.push((at_ns, *revision)),
            _ => {}
        }
        let (response, events) = self.state.run(self.revision + 1, request);
        self.made(at_ns, events);
        (self.revision, response)
    }

    fn read(&mut self, range: &RangeRequest) -> (i64, Response) {
        let newest = self.recent.len() - 1;
        let lag = if range.serializable { self.random.random_range(0..=newest) } else { 0 };
        let header = self.recent[newest - lag].0.max(range.revision);
        let at = if range.revision > 0 { range.revision } else { header };
        let content = self.recent.iter().find(|(revision, _)| *revision == at);
        let mut content = content.expect("only what is recent is asked for").1.clone();
        (header, content.run(header + 1, &Request::Range(range.clone())).0)
    }

    fn made(&mut self, at_ns: u64, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        self.revision += 1;
        self.truth.made.push((at_ns, events));
        self.recent.push_back((self.revision, self.state.clone()));
        if self.recent.len() > LAG {
            self.recent.pop_front();
        }
    }

    /// Leases whose time is over end, sooner or later.
    fn expire(&mut self, now_ns: u64) {
        let over: Vec<i64> =
            self.leases.iter().filter(|(_, until)| **until < now_ns).map(|(id, _)| *id).collect();
        for id in over {
            if self.random.random_ratio(1, 2) {
                self.leases.remove(&id);
                let events = self.state.end_lease(self.revision + 1, id);
                self.made(now_ns, events);
            }
        }
    }
}

/// The pair of a key at a revision.
pub fn pair_at(made: &[(u64, Vec<Event>)], key: &str, revision: i64) -> Option<Pair> {
    let count = usize::try_from(revision - 1).expect("not before the first");
    let mut events = made[..count].iter().rev().flat_map(|(_, events)| events);
    let newest = events.find(|event| event.pair.key == key)?;
    (!newest.is_delete).then(|| newest.pair.clone())
}

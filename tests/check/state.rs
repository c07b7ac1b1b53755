//! The key space at one revision, as simple as it can be, and what a request does to it.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::ops::Bound;

use super::history::{Compare, Event, Keys, Pair, RangeRequest, Relation, Request, Response, Target};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    rows: BTreeMap<String, Pair>,
    /// Of all rows together, whatever their order.
    hash: u64,
}

impl State {
    /// What the request answers, and what it changes, at the revision that it makes if it changes anything. It is done
    /// afterwards. Leases that it names are taken to exist; requests about leases and compactions change nothing here.
    pub fn run(&mut self, revision: i64, request: &Request) -> (Response, Vec<Event>) {
        let mut decisions = Vec::new();
        self.decide(request, &mut decisions);
        let mut events = Vec::new();
        let response = self.step(revision, request, &mut decisions.into_iter(), &mut events);
        (response, events)
    }

    /// Deletes the keys of a lease.
    pub fn end_lease(&mut self, revision: i64, lease: i64) -> Vec<Event> {
        let bound = self.rows.values().filter(|pair| pair.lease == lease);
        let keys: Vec<String> = bound.map(|pair| pair.key.clone()).collect();
        keys.into_iter().filter_map(|key| self.delete(revision, key)).collect()
    }

    /// Takes back the newest changes.
    pub fn undo(&mut self, events: &[Event]) {
        for event in events.iter().rev() {
            self.set(event.pair.key.clone(), event.prev.clone());
        }
    }

    /// Leases that keys are attached to, in order.
    pub fn leases(&self) -> Vec<i64> {
        let mut leases: Vec<i64> = self.rows.values().map(|pair| pair.lease).filter(|id| *id != 0).collect();
        leases.sort_unstable();
        leases.dedup();
        leases
    }

    pub fn hash(&self) -> u64 {
        self.hash
    }

    pub fn get(&self, key: &str) -> Option<&Pair> {
        self.rows.get(key)
    }

    /// Which branch each transaction takes, in the order in which they are met: all are chosen before anything is done.
    fn decide(&self, request: &Request, decisions: &mut Vec<bool>) {
        if let Request::Txn { compares, success, failure } = request {
            let succeeded = compares.iter().all(|compare| self.holds(compare));
            decisions.push(succeeded);
            for request in if succeeded { success } else { failure } {
                self.decide(request, decisions);
            }
        }
    }

    fn step(
        &mut self,
        revision: i64,
        request: &Request,
        decisions: &mut impl Iterator<Item = bool>,
        events: &mut Vec<Event>,
    ) -> Response {
        match request {
            Request::Put { key, value, lease, prev_kv } => {
                let event = self.put(revision, key, value, *lease);
                let prev = event.prev.clone().filter(|_| *prev_kv);
                events.push(event);
                Response::Put { prev }
            }
            Request::Delete { keys, prev_kv } => {
                let found: Vec<String> = self.within(keys).map(|pair| pair.key.clone()).collect();
                let gone: Vec<Event> =
                    found.into_iter().filter_map(|key| self.delete(revision, key)).collect();
                let prev = gone.iter().filter(|_| *prev_kv).filter_map(|event| event.prev.clone()).collect();
                let deleted = i64::try_from(gone.len()).expect("few");
                events.extend(gone);
                Response::Delete { deleted, prev }
            }
            Request::Txn { success, failure, .. } => {
                let succeeded = decisions.next().expect("each was decided");
                let requests = if succeeded { success } else { failure };
                let mut responses = Vec::with_capacity(requests.len());
                for request in requests {
                    responses.push(self.step(revision, request, decisions, events));
                }
                Response::Txn { succeeded, responses }
            }
            Request::Range(range) => self.range(range),
            Request::LeaseGrant { id, ttl_seconds } => {
                Response::LeaseGrant { id: *id, ttl_seconds: *ttl_seconds }
            }
            Request::LeaseRevoke { .. } => Response::LeaseRevoke,
            Request::LeaseKeepAlive { .. } => Response::LeaseKeepAlive { ttl_seconds: 0 },
            Request::Compact { .. } => Response::Compact,
        }
    }

    fn range(&self, request: &RangeRequest) -> Response {
        let count = self.within(&request.keys).count();
        if request.count_only {
            return Response::Range {
                pairs: Vec::new(),
                more: false,
                count: i64::try_from(count).expect("few"),
            };
        }
        let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
        let pairs = self.within(&request.keys).take(limit).cloned().collect();
        Response::Range { pairs, more: count > limit, count: i64::try_from(count).expect("few") }
    }

    fn within<'a>(&'a self, keys: &'a Keys) -> impl Iterator<Item = &'a Pair> {
        let from = (Bound::Included(keys.key.as_str()), Bound::Unbounded);
        let rest = self.rows.range::<str, _>(from).map(|(_, pair)| pair);
        rest.take_while(|pair| keys.contains(&pair.key))
    }

    fn put(&mut self, revision: i64, key: &str, value: &str, lease: i64) -> Event {
        let (created, version) =
            self.rows.get(key).map_or((revision, 1), |pair| (pair.created, pair.version + 1));
        let (key, value) = (key.to_owned(), value.to_owned());
        let pair = Pair { key, value, created, modified: revision, version, lease };
        let prev = self.set(pair.key.clone(), Some(pair.clone()));
        Event { is_delete: false, pair, prev }
    }

    fn delete(&mut self, revision: i64, key: String) -> Option<Event> {
        let prev = self.set(key.clone(), None)?;
        let pair = Pair { key, modified: revision, ..Pair::default() };
        Some(Event { is_delete: true, pair, prev: Some(prev) })
    }

    fn set(&mut self, key: String, pair: Option<Pair>) -> Option<Pair> {
        let hasher = BuildHasherDefault::<DefaultHasher>::default();
        self.hash ^= pair.as_ref().map_or(0, |pair| hasher.hash_one(pair));
        let before = match pair {
            Some(pair) => self.rows.insert(key, pair),
            None => self.rows.remove(&key),
        };
        self.hash ^= before.as_ref().map_or(0, |pair| hasher.hash_one(pair));
        before
    }

    fn holds(&self, compare: &Compare) -> bool {
        let mut found = self.within(&compare.keys).peekable();
        if found.peek().is_none() {
            // Nothing has no value to compare; its numbers are 0.
            return !matches!(compare.target, Target::Value(_)) && pair_holds(compare, &Pair::default());
        }
        found.all(|pair| pair_holds(compare, pair))
    }
}

fn pair_holds(compare: &Compare, pair: &Pair) -> bool {
    let order = match &compare.target {
        Target::Value(value) => pair.value.cmp(value),
        Target::Version(number) => pair.version.cmp(number),
        Target::Create(number) => pair.created.cmp(number),
        Target::Mod(number) => pair.modified.cmp(number),
        Target::Lease(number) => pair.lease.cmp(number),
    };
    match compare.result {
        Relation::Equal => order.is_eq(),
        Relation::NotEqual => order.is_ne(),
        Relation::Greater => order.is_gt(),
        Relation::Less => order.is_lt(),
    }
}

//! The state machine as simple as it can be: a whole map for every revision, and every rule as etcd's API has it.
//! Slow, without an index, without anything shared with the real one but the messages.

// By path, because the simulation has this file from another folder.
#[path = "naive/hash.rs"]
mod hash;
#[path = "naive/reads.rs"]
mod reads;
#[path = "naive/txn.rs"]
mod txn;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use decklog::command::{Kind, Outcome, Rejection};
use decklog::wire::etcdserverpb as pb;
use decklog::wire::{EncodedKeyValue, KeyValue};

pub use reads::{Pin, Refused};

/// A key's pair without the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    pub value: Bytes,
    pub created: i64,
    pub modified: i64,
    pub version: i64,
    pub lease: i64,
}

pub type Map = BTreeMap<Bytes, Row>;

/// One change to one key, with the pair of the revision before unless the change makes the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub revision: i64,
    pub sub: u32,
    pub key: Bytes,
    pub row: Option<Row>,
    pub before: Option<Row>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    pub ttl: i64,
    pub remaining: i64,
}

#[derive(Clone)]
pub struct Naive {
    /// The content at each revision; at 0 and 1 there is nothing.
    pub maps: Vec<Arc<Map>>,
    pub events: Vec<Event>,
    pub compacted: i64,
    pub leases: BTreeMap<i64, Grant>,
    alarms: BTreeSet<(u64, i32)>,
}

pub type Answer = Result<Outcome, Rejection>;

/// The keys that `key` and `range_end` of a request mean.
pub fn is_in(key: &Bytes, from: &Bytes, range_end: &Bytes) -> bool {
    match range_end.as_ref() {
        [] => key == from,
        [0] => key >= from,
        _ => key >= from && key < range_end,
    }
}

pub fn to_pair(key: &Bytes, row: &Row) -> EncodedKeyValue {
    (&KeyValue {
        key: key.clone(),
        create_revision: row.created,
        mod_revision: row.modified,
        version: row.version,
        value: row.value.clone(),
        lease: row.lease,
    })
        .into()
}

fn header(revision: i64) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader { revision, ..Default::default() })
}

/// A command at work: nothing of it counts before it is done.
struct Work {
    main: i64,
    map: Map,
    /// The map before the command.
    base: Map,
    events: Vec<Event>,
}

impl Work {
    fn new(main: i64, base: &Map) -> Self {
        Self { main, map: base.clone(), base: base.clone(), events: Vec::new() }
    }

    fn revision(&self) -> i64 {
        if self.events.is_empty() { self.main - 1 } else { self.main }
    }

    fn change(&mut self, key: Bytes, row: Option<Row>) {
        let sub = u32::try_from(self.events.len()).expect("few");
        let creates = row.as_ref().is_some_and(|row| row.version == 1);
        let before = self.base.get(&key).filter(|_| !creates).cloned();
        match &row {
            Some(row) => drop(self.map.insert(key.clone(), row.clone())),
            None => drop(self.map.remove(&key)),
        }
        self.events.push(Event { revision: self.main, sub, key, row, before });
    }

    fn put(&mut self, request: &pb::PutRequest) -> pb::PutResponse {
        let before = self.map.get(&request.key).cloned();
        let (mut value, mut lease) = (request.value.clone(), request.lease);
        if let Some(before) = &before {
            value = if request.ignore_value { before.value.clone() } else { value };
            lease = if request.ignore_lease { before.lease } else { lease };
        }
        let (created, version) =
            before.as_ref().map_or((self.main, 1), |before| (before.created, before.version + 1));
        let row = Row { value, created, modified: self.main, version, lease };
        self.change(request.key.clone(), Some(row));
        let before = before.filter(|_| request.prev_kv);
        let prev_kv = before.map(|before| to_pair(&request.key, &before));
        pb::PutResponse { header: header(self.main), prev_kv }
    }

    fn delete(&mut self, request: &pb::DeleteRangeRequest) -> pb::DeleteRangeResponse {
        let all = self.map.iter().filter(|(key, _)| is_in(key, &request.key, &request.range_end));
        let gone: Vec<_> = all.map(|(key, row)| (key.clone(), row.clone())).collect();
        for (key, _) in &gone {
            self.change(key.clone(), None);
        }
        let deleted = i64::try_from(gone.len()).expect("few");
        let kept = gone.iter().filter(|_| request.prev_kv);
        let prev_kvs = kept.map(|(key, row)| to_pair(key, row)).collect();
        pb::DeleteRangeResponse { header: header(self.revision()), deleted, prev_kvs }
    }
}

impl Default for Naive {
    fn default() -> Self {
        Self {
            maps: vec![Arc::default(), Arc::default()],
            events: Vec::new(),
            compacted: -1,
            leases: BTreeMap::new(),
            alarms: BTreeSet::new(),
        }
    }
}

impl Naive {
    pub fn revision(&self) -> i64 {
        i64::try_from(self.maps.len()).expect("few") - 1
    }

    pub fn now(&self) -> &Map {
        self.maps.last().expect("there is always one")
    }

    pub fn at(&self, revision: i64) -> &Map {
        &self.maps[usize::try_from(revision).expect("not negative")]
    }

    /// The alarms that are raised, by member and kind.
    pub fn alarms(&self) -> Vec<(u64, i32)> {
        self.alarms.iter().copied().collect()
    }

    pub fn pin(&self) -> Pin {
        Pin { revision: self.revision(), compacted: self.compacted }
    }

    /// Does what a command asks, and says what is answered.
    pub fn apply(&mut self, command: &Kind) -> Answer {
        self.check_alarms(command)?;
        match command {
            Kind::Put(request) => {
                self.check_lease(request)?;
                self.check_key(request)?;
                Ok(Outcome::Put(self.work(|work| work.put(request))))
            }
            Kind::DeleteRange(request) => Ok(Outcome::DeleteRange(self.work(|work| work.delete(request)))),
            Kind::Txn(request) => self.txn(request).map(Outcome::Txn),
            Kind::Compact(request) => self.compact(request.revision).map(Outcome::Compact),
            Kind::LeaseGrant(request) => self.grant(request).map(Outcome::LeaseGrant),
            Kind::LeaseRevoke(request) => self.revoke(request.id).map(Outcome::LeaseRevoke),
            Kind::LeaseCheckpoint(request) => {
                for checkpoint in &request.checkpoints {
                    if let Some(lease) = self.leases.get_mut(&checkpoint.id) {
                        lease.remaining = checkpoint.remaining_ttl.min(lease.ttl);
                    }
                }
                Ok(Outcome::LeaseCheckpoint)
            }
            Kind::Alarm(request) => Ok(Outcome::Alarm(self.alarm(request))),
            other => panic!("not modelled: {other:?}"),
        }
    }

    fn work<T>(&mut self, does: impl FnOnce(&mut Work) -> T) -> T {
        let mut work = Work::new(self.revision() + 1, self.now());
        let result = does(&mut work);
        if !work.events.is_empty() {
            self.maps.push(Arc::new(work.map));
            self.events.extend(work.events);
        }
        result
    }

    fn check_alarms(&self, command: &Kind) -> Result<(), Rejection> {
        let is_raised = |kind: pb::AlarmType| self.alarms.iter().any(|(_, raised)| *raised == kind as i32);
        let data = !matches!(command, Kind::LeaseCheckpoint(_) | Kind::Alarm(_));
        if data && is_raised(pb::AlarmType::Corrupt) {
            return Err(Rejection::Corrupt);
        }
        let grows = match command {
            Kind::Put(_) | Kind::LeaseGrant(_) => true,
            Kind::Txn(request) => txn::puts_anywhere(request),
            _ => false,
        };
        if grows && is_raised(pb::AlarmType::Nospace) { Err(Rejection::NoSpace) } else { Ok(()) }
    }

    fn check_lease(&self, request: &pb::PutRequest) -> Result<(), Rejection> {
        if request.lease != 0 && !self.leases.contains_key(&request.lease) {
            return Err(Rejection::LeaseNotFound);
        }
        Ok(())
    }

    fn check_key(&self, request: &pb::PutRequest) -> Result<(), Rejection> {
        let needs_key = request.ignore_value || request.ignore_lease;
        if needs_key && !self.now().contains_key(&request.key) {
            return Err(Rejection::KeyNotFound);
        }
        Ok(())
    }

    /// Whether the same revision changed the key again: a compaction there leaves only what came last.
    pub fn is_superseded(&self, event: &Event) -> bool {
        let mut later = self.events.iter().filter(|other| other.id() > event.id());
        later.any(|other| other.revision == event.revision && other.key == event.key)
    }

    fn compact(&mut self, revision: i64) -> Result<pb::CompactionResponse, Rejection> {
        if revision <= self.compacted {
            return Err(Rejection::Compacted);
        }
        if revision > self.revision() {
            return Err(Rejection::FutureRevision);
        }
        self.compacted = revision;
        Ok(pb::CompactionResponse { header: header(self.revision()) })
    }

    fn grant(&mut self, request: &pb::LeaseGrantRequest) -> Result<pb::LeaseGrantResponse, Rejection> {
        if request.id == 0 {
            return Err(Rejection::LeaseNotFound);
        }
        if request.ttl > 9_000_000_000 {
            return Err(Rejection::LeaseTtlTooLarge);
        }
        if self.leases.contains_key(&request.id) {
            return Err(Rejection::LeaseExists);
        }
        self.leases.insert(request.id, Grant { ttl: request.ttl, remaining: 0 });
        let header = header(self.revision());
        Ok(pb::LeaseGrantResponse { header, id: request.id, ttl: request.ttl, error: String::new() })
    }

    /// The keys of the lease go in order, at one revision.
    fn revoke(&mut self, id: i64) -> Result<pb::LeaseRevokeResponse, Rejection> {
        self.leases.remove(&id).ok_or(Rejection::LeaseNotFound)?;
        let keys = self.keys_of(id);
        self.work(|work| keys.into_iter().for_each(|key| work.change(key, None)));
        Ok(pb::LeaseRevokeResponse { header: header(self.revision()) })
    }

    pub fn keys_of(&self, lease: i64) -> Vec<Bytes> {
        let bound = self.now().iter().filter(|(_, row)| row.lease == lease);
        bound.map(|(key, _)| key.clone()).collect()
    }

    fn alarm(&mut self, request: &pb::AlarmRequest) -> pb::AlarmResponse {
        use pb::alarm_request::AlarmAction;
        let (asked, none) = ((request.member_id, request.alarm), pb::AlarmType::None as i32);
        let told: Vec<_> = match request.action() {
            AlarmAction::Get => {
                let wanted = |kind: i32| request.alarm == none || kind == request.alarm;
                self.alarms.iter().copied().filter(|(_, kind)| wanted(*kind)).collect()
            }
            AlarmAction::Activate if request.alarm == none => Vec::new(),
            AlarmAction::Activate => {
                self.alarms.insert(asked);
                vec![asked]
            }
            AlarmAction::Deactivate => self.alarms.take(&asked).into_iter().collect(),
        };
        let alarms = told.into_iter().map(|(member_id, alarm)| pb::AlarmMember { member_id, alarm });
        pb::AlarmResponse { header: None, alarms: alarms.collect() }
    }
}

//! One client that writes to keys of its own, one request after the other, and remembers what was acknowledged
//! and what is in doubt. The judge of a life: what the history tells of its keys must be exactly that.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use decklog::wire::etcdserverpb::kv_client::KvClient;
use decklog::wire::etcdserverpb::lease_client::LeaseClient;
use decklog::wire::etcdserverpb::request_op::Request;
use decklog::wire::etcdserverpb::{
    DeleteRangeRequest, LeaseGrantRequest, LeaseLeasesRequest, LeaseRevokeRequest, PutRequest, RequestOp,
    ResponseHeader, TxnRequest,
};
use rand::Rng;
use rand::rngs::StdRng;
use tonic::Status;
use tonic::transport::Channel;

use crate::history::{Change, History, value_of};
use crate::journal::{Clock, Note};
use crate::process::Process;

const KEYS: u32 = 4;
/// Longer than any test.
const LEASE_SECONDS: i64 = 3600;
const MAX_LEASES: usize = 6;

/// See the module.
pub struct Writer {
    name: String,
    random: StdRng,
    next_number: u64,
    /// The numbers that it uses are multiples of it: so are the sizes of its values.
    pub number_step: u64,
    /// Leases it holds; `true` with its key attached.
    leases: BTreeMap<i64, bool>,
    /// Acknowledged since the last check, with the revision when the answer names it.
    done: Vec<Done>,
    in_doubt: Option<Attempt>,
    clock: Clock,
    /// Everything that it has done.
    pub journal: Vec<Note<Effect>>,
    /// The highest revision in any answer's header.
    pub highest_revision: i64,
    /// The history is checked through here.
    checked: i64,
    pub acknowledged: u64,
    pub in_doubt_done: u64,
    pub in_doubt_lost: u64,
}

#[derive(Clone, Debug)]
struct Attempt {
    changes: Vec<Change>,
    lease: Option<LeaseChange>,
    sent: u64,
}

/// What a request did: to keys at a revision (known when the history is), to a lease, or both.
#[derive(Clone, Copy, Debug)]
pub struct Effect {
    pub revision: Option<i64>,
    pub lease: Option<LeaseChange>,
}

struct Done {
    changes: Vec<Change>,
    revision: Option<i64>,
    /// Its place in the journal.
    note: usize,
}

/// What a request does to a lease.
#[derive(Clone, Copy, Debug)]
pub enum LeaseChange {
    Grant(i64),
    Attach(i64),
    Revoke(i64),
}

struct Clients {
    kv: KvClient<Channel>,
    lease: LeaseClient<Channel>,
}

fn put(key: &str, number: u64, lease: i64) -> PutRequest {
    PutRequest {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: value_of(number).into(),
        lease,
        ..PutRequest::default()
    }
}

impl Writer {
    pub fn new(name: String, random: StdRng, clock: Clock) -> Self {
        Self {
            name,
            random,
            clock,
            journal: Vec::new(),
            next_number: 1,
            number_step: 1,
            leases: BTreeMap::new(),
            done: Vec::new(),
            in_doubt: None,
            highest_revision: 1,
            checked: 1,
            acknowledged: 0,
            in_doubt_done: 0,
            in_doubt_lost: 0,
        }
    }

    /// Writes until a request fails.
    pub async fn run(&mut self, process: Channel) -> Status {
        let mut clients = Clients { kv: KvClient::new(process.clone()), lease: LeaseClient::new(process) };
        loop {
            if let Err(status) = self.step(&mut clients).await {
                return status;
            }
        }
    }

    async fn step(&mut self, clients: &mut Clients) -> Result<(), Status> {
        match self.random.random_range(0..10) {
            0..4 => self.put(clients).await,
            4..7 => self.put_pair(clients).await,
            7 => self.delete(clients).await,
            8 => self.grant(clients).await,
            _ => self.revoke(clients).await,
        }
    }

    async fn put(&mut self, clients: &mut Clients) -> Result<(), Status> {
        let (key, number) = (self.any_key(), self.number());
        self.attempt(vec![Change { key: key.clone(), number: Some(number) }], None);
        let answer = clients.kv.put(put(&key, number, 0)).await?.into_inner();
        self.acknowledge(answer.header, true);
        Ok(())
    }

    /// Two keys with the same number: both or none.
    async fn put_pair(&mut self, clients: &mut Clients) -> Result<(), Status> {
        let number = self.number();
        let keys = ["a", "b"].map(|half| format!("{}/{half}", self.name));
        self.attempt(
            keys.iter().map(|key| Change { key: key.clone(), number: Some(number) }).collect(),
            None,
        );
        let op = |key| RequestOp { request: Some(Request::RequestPut(put(key, number, 0))) };
        let request =
            TxnRequest { success: keys.iter().map(|key| op(key)).collect(), ..TxnRequest::default() };
        let answer = clients.kv.txn(request).await?.into_inner();
        self.acknowledge(answer.header, true);
        Ok(())
    }

    async fn delete(&mut self, clients: &mut Clients) -> Result<(), Status> {
        let key = self.any_key();
        self.attempt(vec![Change { key: key.clone(), number: None }], None);
        let request = DeleteRangeRequest { key: key.into(), ..DeleteRangeRequest::default() };
        let answer = clients.kv.delete_range(request).await?.into_inner();
        if answer.deleted == 0 {
            self.in_doubt = None;
        } else {
            self.acknowledge(answer.header, true);
        }
        Ok(())
    }

    /// A lease, then a key on it.
    async fn grant(&mut self, clients: &mut Clients) -> Result<(), Status> {
        if self.leases.len() >= MAX_LEASES {
            return self.revoke(clients).await;
        }
        let id = self.random.random_range(1..i64::MAX);
        self.attempt(Vec::new(), Some(LeaseChange::Grant(id)));
        let answer =
            clients.lease.lease_grant(LeaseGrantRequest { ttl: LEASE_SECONDS, id }).await?.into_inner();
        self.acknowledge(answer.header, false);
        let (key, number) = (self.lease_key(id), self.number());
        let change = Change { key: key.clone(), number: Some(number) };
        self.attempt(vec![change], Some(LeaseChange::Attach(id)));
        let answer = clients.kv.put(put(&key, number, id)).await?.into_inner();
        self.acknowledge(answer.header, true);
        Ok(())
    }

    async fn revoke(&mut self, clients: &mut Clients) -> Result<(), Status> {
        let Some((&id, &attached)) = self.leases.first_key_value() else {
            return self.put(clients).await;
        };
        let change = Change { key: self.lease_key(id), number: None };
        self.attempt(attached.then_some(change).into_iter().collect(), Some(LeaseChange::Revoke(id)));
        let answer = clients.lease.lease_revoke(LeaseRevokeRequest { id }).await?.into_inner();
        self.acknowledge(answer.header, false);
        Ok(())
    }

    fn any_key(&mut self) -> String {
        format!("{}/{}", self.name, self.random.random_range(0..KEYS))
    }

    fn lease_key(&self, id: i64) -> String {
        format!("{}/lease-{id}", self.name)
    }

    fn number(&mut self) -> u64 {
        self.next_number = (self.next_number + 1).next_multiple_of(self.number_step);
        self.next_number
    }

    fn attempt(&mut self, changes: Vec<Change>, lease: Option<LeaseChange>) {
        self.in_doubt = Some(Attempt { changes, lease, sent: self.clock.now() });
    }

    /// `names_revision`: the header's revision is the one of the changes, not only one at or above it.
    fn acknowledge(&mut self, header: Option<ResponseHeader>, names_revision: bool) {
        let revision = header.expect("every answer has a header").revision;
        self.highest_revision = self.highest_revision.max(revision);
        let Attempt { changes, lease, sent } = self.in_doubt.take().expect("it was attempted");
        self.apply(lease);
        self.acknowledged += 1;
        let effect = Effect { revision: None, lease };
        self.journal.push(Note { sent, answered: Some(self.clock.now()), effect });
        if !changes.is_empty() {
            let (revision, note) = (names_revision.then_some(revision), self.journal.len() - 1);
            self.done.push(Done { changes, revision, note });
        }
    }

    fn apply(&mut self, change: Option<LeaseChange>) {
        let known = match change {
            Some(LeaseChange::Grant(id)) => self.leases.insert(id, false).is_none(),
            Some(LeaseChange::Attach(id)) => self.leases.insert(id, true) == Some(false),
            Some(LeaseChange::Revoke(id)) => self.leases.remove(&id).is_some(),
            None => true,
        };
        assert!(known, "{change:?} does not fit what this writer knows");
    }

    /// Compares the history through `now` with what was acknowledged since the last check: exactly that, in that
    /// order, at the revisions of the answers, and of the request in doubt all or nothing. Returns the leases
    /// that must be there.
    pub fn check(&mut self, history: &History, now: i64, live_leases: &BTreeSet<i64>) -> Vec<i64> {
        let prefix = format!("{}/", self.name);
        let revisions = history.revisions();
        let mine = |changes: &Vec<Change>| changes.iter().any(|change| change.key.starts_with(&prefix));
        let mut told = revisions.range(self.checked + 1..now + 1).filter(|(_, changes)| mine(changes));
        for Done { changes, revision, note } in self.done.drain(..) {
            let (at, found) =
                told.next().unwrap_or_else(|| panic!("lost: {changes:?} of revision {revision:?}"));
            assert_eq!(*found, changes, "at revision {at}, acknowledged at {revision:?}");
            assert!(
                revision.is_none_or(|revision| revision == *at),
                "{changes:?} moved: {revision:?} to {at}"
            );
            self.journal[note].effect.revision = Some(*at);
        }
        let more = told.next();
        assert_eq!(told.next(), None, "written by nobody");
        drop(told);
        self.checked = now;
        let attempt = self.in_doubt.take();
        if let Some((at, found)) = more {
            let changes = attempt.as_ref().map(|attempt| &attempt.changes);
            assert_eq!(Some(found), changes, "at revision {at}: not the request in doubt");
        }
        if let Some(attempt) = attempt {
            let happened = match attempt.lease {
                _ if !attempt.changes.is_empty() => more.is_some(),
                Some(LeaseChange::Revoke(id)) => !live_leases.contains(&id),
                Some(LeaseChange::Grant(id) | LeaseChange::Attach(id)) => live_leases.contains(&id),
                None => false,
            };
            let revision = more.map(|(at, _)| *at);
            drop(revisions);
            if happened {
                self.apply(attempt.lease);
                let effect = Effect { revision, lease: attempt.lease };
                self.journal.push(Note { sent: attempt.sent, answered: None, effect });
                self.in_doubt_done += 1;
            } else {
                self.in_doubt_lost += 1;
            }
        }
        self.leases.keys().copied().collect()
    }
}

/// The ids of the leases that the server knows.
pub async fn live_leases(process: &Process) -> BTreeSet<i64> {
    let answer = process.lease().lease_leases(LeaseLeasesRequest {}).await.expect("a list of leases");
    answer.into_inner().leases.iter().map(|lease| lease.id).collect()
}

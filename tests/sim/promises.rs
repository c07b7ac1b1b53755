//! What clients were told about the time of their leases. It outlives every crash: no lease may end before.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use decklog::command::Kind;
use decklog::ids::LeaseId;
use decklog::lease::Leases;
use decklog::wire::etcdserverpb as pb;

use crate::naive::Naive;

const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(30);

/// By lease, the time until which it was promised.
#[derive(Default)]
pub struct Promises(BTreeMap<i64, Instant>);

/// A promise that is made when its command is answered.
#[derive(Clone, Copy)]
pub struct Promise {
    id: i64,
    until: Instant,
}

/// What becomes of a renewal.
pub enum Renewed {
    Gone,
    Promised,
    /// The checkpoint that stands, or is on its way, is lifted first.
    ToLift(Kind, Promise),
}

fn checkpoint(left: &[(LeaseId, i64)]) -> Kind {
    let checkpoints = left.iter().map(|(id, left)| pb::LeaseCheckpoint { id: id.0, remaining_ttl: *left });
    Kind::LeaseCheckpoint(pb::LeaseCheckpointRequest { checkpoints: checkpoints.collect() })
}

impl Promise {
    /// Whether its lease is still there.
    pub fn is_of_one_of(&self, leases: &Leases) -> bool {
        leases.exists(LeaseId(self.id))
    }
}

impl Promises {
    /// As the lease service, after a grant and at each keep-alive.
    pub fn renew(&mut self, leases: &Leases, id: i64, now: Instant) -> Renewed {
        let Some(renewed) = leases.renew(LeaseId(id), now) else {
            let early = self.0.get(&id).is_some_and(|until| *until > now) && leases.exists(LeaseId(id));
            assert!(!early, "lease {id} is over before its time");
            return Renewed::Gone;
        };
        let promise = Promise { id, until: now + Duration::from_secs(renewed.ttl.unsigned_abs()) };
        if renewed.is_checkpointed {
            return Renewed::ToLift(checkpoint(&[(LeaseId(id), 0)]), promise);
        }
        self.make(promise);
        Renewed::Promised
    }

    pub fn make(&mut self, promise: Promise) {
        let until = self.0.entry(promise.id).or_insert(promise.until);
        *until = promise.until.max(*until);
    }

    pub fn forget(&mut self, id: i64) {
        self.0.remove(&id);
    }

    /// As the expiry job: what is due is revoked.
    pub fn due(&self, leases: &Leases, now: Instant) -> Vec<Kind> {
        let due = leases.due(now, 3);
        for id in &due {
            assert!(self.0.get(&id.0).is_none_or(|until| *until <= now), "lease {id} ends early");
        }
        due.into_iter().map(|id| Kind::LeaseRevoke(pb::LeaseRevokeRequest { id: id.0 })).collect()
    }

    /// As the expiry job: what long leases have left goes into the log, through `order`.
    pub fn checkpoint(leases: &Leases, now: Instant, order: impl FnOnce(Kind)) {
        let long = leases.to_checkpoint(now, CHECKPOINT_INTERVAL);
        leases.order_checkpoint(&long, now, |left| {
            if !left.is_empty() {
                order(checkpoint(left));
            }
        });
    }

    /// After a crash: leases that are gone by what the log has kept are promised no more, and the others still are.
    pub fn check(&mut self, naive: &Naive, leases: &Leases, now: Instant) {
        self.0.retain(|id, _| naive.leases.contains_key(id));
        for (id, until) in &self.0 {
            let found = leases.time_to_live(LeaseId(*id), false, now).expect("it is there");
            let left = i64::try_from(until.saturating_duration_since(now).as_secs()).expect("small");
            assert!(found.remaining >= left, "lease {id} has {} s left, promised {left}", found.remaining);
        }
    }
}

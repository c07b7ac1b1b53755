//! When leases end, on the member that leads. Owns no lease; forgets what is removed.

use std::collections::{BTreeSet, HashMap};
use std::time::Instant;

use super::Lease;
use crate::ids::LeaseId;

#[derive(Default)]
pub(super) struct Deadlines {
    ends: HashMap<LeaseId, Instant>,
    order: BTreeSet<(Instant, LeaseId)>,
    /// Leases whose time begins at the next look: `apply` has no clock.
    unstarted: Vec<LeaseId>,
}

impl Deadlines {
    pub fn add(&mut self, id: LeaseId) {
        self.unstarted.push(id);
    }

    /// Begins the time of every lease added since the last look.
    pub fn start(&mut self, leases: &HashMap<LeaseId, Lease>, now: Instant) {
        for id in std::mem::take(&mut self.unstarted) {
            if let Some(lease) = leases.get(&id) {
                self.set(id, now + lease.start_with());
            }
        }
    }

    pub fn set(&mut self, id: LeaseId, end: Instant) {
        self.remove(id);
        self.ends.insert(id, end);
        self.order.insert((end, id));
    }

    pub fn remove(&mut self, id: LeaseId) {
        if let Some(end) = self.ends.remove(&id) {
            self.order.remove(&(end, id));
        }
    }

    pub fn of(&self, id: LeaseId) -> Option<Instant> {
        self.ends.get(&id).copied()
    }

    pub fn in_order(&self) -> impl Iterator<Item = LeaseId> {
        self.order.iter().map(|(_, id)| *id)
    }

    pub fn due(&self, now: Instant) -> impl Iterator<Item = LeaseId> {
        self.order.iter().take_while(move |(end, _)| *end <= now).map(|(_, id)| *id)
    }
}

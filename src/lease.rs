//! Leases: replicated state (id, TTL, keys), and beside it the deadlines of the member that leads.
//! `apply` changes the state; the lease service renews; the expiry job asks what is due. Deadlines are never
//! replicated and never shorter than promised: a start or a new leader begins them anew.

mod deadlines;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::command::Rejection;
use crate::ids::{LeaseId, Term};
use crate::mvcc::Attachment;
use crate::storage::{Error, Store, Table, TableWrite};
use deadlines::Deadlines;

/// The longest TTL that may be asked for, in seconds.
pub const MAX_TTL: i64 = 9_000_000_000;

/// All leases. Cheap to clone; all clones see the same. A lock, because `apply` writes and services read; it is
/// held for one lookup or one lease's keys, never across a wait.
#[derive(Clone, Default)]
pub struct Leases(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    leases: HashMap<LeaseId, Lease>,
    by_key: HashMap<Bytes, LeaseId>,
    /// Rows that the store has not been given yet.
    rows: Vec<TableWrite>,
    deadlines: Deadlines,
    /// The term in which this member began the time of its leases as their leader.
    led: Term,
    /// For an id the checkpoints that this member has put into the log and not applied yet. They outlive the lease:
    /// the next of the same id may meet them.
    ordered: HashMap<LeaseId, u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Lease {
    /// Seconds granted.
    ttl: i64,
    /// Seconds that were left at the last checkpoint; 0 for none.
    remaining: i64,
    keys: BTreeSet<Bytes>,
}

/// What `LeaseTimeToLive` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimeToLive {
    /// Seconds, rounded down.
    pub remaining: i64,
    pub granted: i64,
    pub keys: Vec<Bytes>,
}

/// A renewed lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Renewed {
    /// Seconds from now.
    pub ttl: i64,
    /// A checkpoint that says less stands, or is on its way: it must be lifted before the renewal is promised.
    pub is_checkpointed: bool,
}

impl Leases {
    /// # Errors
    /// A fault of the disk, a row that is none of ours, a key with an unknown lease.
    pub fn recover(store: &dyn Store, attachments: &[Attachment]) -> Result<Self, Error> {
        let mut inner = Inner::default();
        for (key, value) in store.table(Table::Lease)? {
            let (id, lease) = from_row(&key, &value).ok_or_else(|| Error::Damaged {
                place: "the lease table".to_owned(),
                detail: format!("the row {key:02x?} has {} bytes", value.len()),
            })?;
            inner.leases.insert(id, lease);
            inner.deadlines.add(id);
        }
        for Attachment { key, lease: id } in attachments {
            let lease = inner.leases.get_mut(id).ok_or_else(|| Error::Damaged {
                place: "the lease table".to_owned(),
                detail: format!("lease {id} of key {key:?} is missing"),
            })?;
            lease.keys.insert(key.clone());
            inner.by_key.insert(key.clone(), *id);
        }
        Ok(Self(Arc::new(Mutex::new(inner))))
    }

    pub fn exists(&self, id: LeaseId) -> bool {
        self.0.lock().leases.contains_key(&id)
    }

    /// Grants `ttl` seconds and returns them.
    ///
    /// # Errors
    /// `LeaseTtlTooLarge`, `LeaseExists`.
    pub fn grant(&self, id: LeaseId, ttl: i64) -> Result<i64, Rejection> {
        if id == LeaseId(0) {
            return Err(Rejection::LeaseNotFound);
        }
        if ttl > MAX_TTL {
            return Err(Rejection::LeaseTtlTooLarge);
        }
        let mut inner = self.0.lock();
        if inner.leases.contains_key(&id) {
            return Err(Rejection::LeaseExists);
        }
        let lease = Lease { ttl, ..Lease::default() };
        inner.rows.push(row(id, Some(&lease)));
        inner.leases.insert(id, lease);
        inner.deadlines.add(id);
        Ok(ttl)
    }

    /// Forgets a lease and returns its keys, in order.
    ///
    /// # Errors
    /// `LeaseNotFound`.
    pub fn revoke(&self, id: LeaseId) -> Result<Vec<Bytes>, Rejection> {
        let mut inner = self.0.lock();
        let lease = inner.leases.remove(&id).ok_or(Rejection::LeaseNotFound)?;
        for key in &lease.keys {
            inner.by_key.remove(key);
        }
        inner.rows.push(row(id, None));
        inner.deadlines.remove(id);
        Ok(lease.keys.into_iter().collect())
    }

    /// Binds a key to a lease that exists, and to no other; 0 unbinds it.
    pub fn attach(&self, key: &Bytes, id: LeaseId) {
        let mut inner = self.0.lock();
        if inner.by_key.get(key) == Some(&id) {
            return;
        }
        inner.detach(key);
        if id != LeaseId(0) {
            // A copy: a slice would keep the whole request in memory.
            let key = Bytes::copy_from_slice(key);
            inner.leases.get_mut(&id).expect("a put is checked before").keys.insert(key.clone());
            inner.by_key.insert(key, id);
        }
    }

    pub fn detach(&self, key: &Bytes) {
        self.0.lock().detach(key);
    }

    /// Notes how many seconds a lease has left, for the next start or leader; 0 means all of them.
    pub fn checkpoint(&self, id: LeaseId, remaining: i64) {
        let mut inner = self.0.lock();
        if remaining != 0 {
            inner.checkpoint_arrived(id);
        }
        let Some(lease) = inner.leases.get_mut(&id) else {
            return;
        };
        lease.remaining = remaining.min(lease.ttl);
        let row = row(id, Some(lease));
        inner.rows.push(row);
    }

    /// Every lease as a row of the lease table, in order.
    pub fn rows(&self) -> Vec<TableWrite> {
        let inner = self.0.lock();
        let mut rows: Vec<_> = inner.leases.iter().map(|(id, lease)| row(*id, Some(lease))).collect();
        rows.sort_unstable_by(|left, right| left.key.cmp(&right.key));
        rows
    }

    /// Takes over a whole other state, which the store has already; the time of every lease begins anew. The checkpoints
    /// that were on their way may have been passed over, or do nothing any more: others lead.
    pub fn replace(&self, other: &Self) {
        let Inner { leases, by_key, deadlines, .. } = std::mem::take(&mut *other.0.lock());
        let inner = &mut *self.0.lock();
        (inner.leases, inner.by_key, inner.deadlines) = (leases, by_key, deadlines);
        inner.rows.clear();
        inner.ordered.clear();
    }

    /// The rows changed since the last call.
    pub fn take_rows(&self) -> Vec<TableWrite> {
        std::mem::take(&mut self.0.lock().rows)
    }

    /// This member leads in `term`, and the newest entry applied here is of the term `applied`. The first time in a term
    /// every lease begins anew, by `extension` longer: so long the leader before may have renewed it unseen. What that one
    /// had put into the log does nothing any more. `false` while an entry of the term is still to be applied: what the
    /// leader before had lifted of a lease's checkpoint, and promised, may not be known here yet.
    pub fn lead(&self, term: Term, applied: Term, now: Instant, extension: Duration) -> bool {
        let inner = &mut *self.0.lock();
        if applied != term || term < inner.led {
            return false;
        }
        if inner.led == term {
            return true;
        }
        let is_first = std::mem::replace(&mut inner.led, term) == Term(0);
        if is_first && extension.is_zero() {
            return true;
        }
        inner.ordered.clear();
        inner.deadlines.start(&inner.leases, now);
        for (id, lease) in &inner.leases {
            inner.deadlines.set(*id, now + lease.start_with() + extension);
        }
        true
    }

    /// Begins a lease's time anew; `None` when there is none, or when it is due and about to go.
    pub fn renew(&self, id: LeaseId, now: Instant) -> Option<Renewed> {
        let inner = &mut *self.0.lock();
        let lease = inner.leases.get(&id)?;
        inner.deadlines.start(&inner.leases, now);
        if inner.deadlines.of(id)? <= now {
            return None;
        }
        inner.deadlines.set(id, now + seconds(lease.ttl));
        let is_checkpointed = lease.remaining != 0 || inner.ordered.contains_key(&id);
        Some(Renewed { ttl: lease.ttl, is_checkpointed })
    }

    /// What is known of a lease; its keys only when asked for.
    pub fn time_to_live(&self, id: LeaseId, keys: bool, now: Instant) -> Option<TimeToLive> {
        let inner = &mut *self.0.lock();
        let lease = inner.leases.get(&id)?;
        inner.deadlines.start(&inner.leases, now);
        let left = inner.deadlines.of(id)?.saturating_duration_since(now);
        let keys = if keys { lease.keys.iter().cloned().collect() } else { Vec::new() };
        Some(TimeToLive { remaining: whole_seconds(left), granted: lease.ttl, keys })
    }

    /// Every lease, the one that is due first in front.
    pub fn list(&self, now: Instant) -> Vec<LeaseId> {
        let inner = &mut *self.0.lock();
        inner.deadlines.start(&inner.leases, now);
        inner.deadlines.in_order().collect()
    }

    /// Up to `limit` leases whose time is over.
    pub fn due(&self, now: Instant, limit: usize) -> Vec<LeaseId> {
        let inner = &mut *self.0.lock();
        inner.deadlines.start(&inner.leases, now);
        inner.deadlines.due(now).take(limit).collect()
    }

    /// Leases longer than `interval` of whose time more has passed than is noted.
    pub fn to_checkpoint(&self, now: Instant, interval: Duration) -> Vec<LeaseId> {
        let inner = &mut *self.0.lock();
        inner.deadlines.start(&inner.leases, now);
        let long = inner.leases.iter().filter(|(_, lease)| seconds(lease.ttl) > interval);
        long.filter(|(id, _)| inner.to_note(**id, now).is_some()).map(|(id, _)| *id).collect()
    }

    /// Hands the seconds that some leases have left to `order`, which puts them into the log without waiting. No
    /// renewal comes between: one before is counted, and one after knows that there is a checkpoint to lift.
    pub fn order_checkpoint<T>(
        &self,
        ids: &[LeaseId],
        now: Instant,
        order: impl FnOnce(&[(LeaseId, i64)]) -> T,
    ) -> T {
        let inner = &mut *self.0.lock();
        let left: Vec<_> = ids.iter().filter_map(|id| Some((*id, inner.to_note(*id, now)?))).collect();
        for (id, _) in &left {
            *inner.ordered.entry(*id).or_default() += 1;
        }
        order(&left)
    }

    /// Number of leases, and of keys bound to one.
    pub fn counts(&self) -> (usize, usize) {
        let inner = self.0.lock();
        (inner.leases.len(), inner.by_key.len())
    }
}

impl Inner {
    /// The seconds that a lease has left, when it is less than what is noted. Rounded up: a lease may live longer
    /// than promised, never shorter.
    fn to_note(&self, id: LeaseId, now: Instant) -> Option<i64> {
        let lease = self.leases.get(&id)?;
        let left = self.deadlines.of(id)?.saturating_duration_since(now);
        let left = whole_seconds(left).saturating_add(1).min(lease.ttl);
        let noted = if lease.remaining == 0 { lease.ttl } else { lease.remaining };
        (left < noted).then_some(left)
    }

    fn checkpoint_arrived(&mut self, id: LeaseId) {
        if let Some(ordered) = self.ordered.get_mut(&id) {
            *ordered -= 1;
            if *ordered == 0 {
                self.ordered.remove(&id);
            }
        }
    }

    fn detach(&mut self, key: &Bytes) {
        if let Some(id) = self.by_key.remove(key)
            && let Some(lease) = self.leases.get_mut(&id)
        {
            lease.keys.remove(key);
        }
    }
}

impl Lease {
    /// How long it lives from its start on a new leader.
    fn start_with(&self) -> Duration {
        seconds(if self.remaining > 0 { self.remaining } else { self.ttl })
    }
}

/// At most the longest TTL: a time that can be added to any.
fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds.min(MAX_TTL)).unwrap_or(0))
}

fn whole_seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX)
}

/// A lease's row: id, then TTL and remaining TTL, all big endian. Its keys stand in the pairs.
fn row(id: LeaseId, lease: Option<&Lease>) -> TableWrite {
    let value = lease.map(|lease| {
        let mut value = lease.ttl.to_be_bytes().to_vec();
        value.extend_from_slice(&lease.remaining.to_be_bytes());
        value.into()
    });
    TableWrite { table: Table::Lease, key: Bytes::copy_from_slice(&id.0.to_be_bytes()), value }
}

fn from_row(key: &[u8], value: &[u8]) -> Option<(LeaseId, Lease)> {
    let id = i64::from_be_bytes(key.try_into().ok()?);
    let (ttl, remaining) = value.split_first_chunk::<8>()?;
    let remaining = i64::from_be_bytes(remaining.try_into().ok()?);
    Some((LeaseId(id), Lease { ttl: i64::from_be_bytes(*ttl), remaining, keys: BTreeSet::new() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn a_key_has_one_lease_and_goes_with_it() {
        let leases = Leases::default();
        leases.grant(LeaseId(1), 10).expect("granted");
        leases.grant(LeaseId(2), 10).expect("granted");
        assert_eq!(leases.grant(LeaseId(2), 10), Err(Rejection::LeaseExists));
        leases.attach(&key("b"), LeaseId(1));
        leases.attach(&key("a"), LeaseId(1));
        leases.attach(&key("c"), LeaseId(1));
        leases.attach(&key("c"), LeaseId(2));
        leases.attach(&key("b"), LeaseId(0));
        assert_eq!(leases.revoke(LeaseId(1)), Ok(vec![key("a")]));
        assert_eq!(leases.revoke(LeaseId(1)), Err(Rejection::LeaseNotFound));
        assert_eq!(leases.revoke(LeaseId(2)), Ok(vec![key("c")]));
        assert_eq!(leases.counts(), (0, 0));
    }

    #[test]
    fn time_runs_from_the_first_look_and_from_each_renewal() {
        let (leases, start) = (Leases::default(), Instant::now());
        leases.grant(LeaseId(7), 10).expect("granted");
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(leases.due(at(0), 10).is_empty());
        assert_eq!(leases.renew(LeaseId(7), at(9)), Some(Renewed { ttl: 10, is_checkpointed: false }));
        assert!(leases.due(at(18), 10).is_empty());
        assert_eq!(leases.time_to_live(LeaseId(7), false, at(18)).map(|t| t.remaining), Some(1));
        assert_eq!(leases.due(at(19), 10), [LeaseId(7)]);
        assert_eq!(leases.renew(LeaseId(7), at(19)), None);
    }

    /// Found by the simulated clusters: the new leader began the time that the checkpoint left, and applied its lift after.
    #[test]
    fn a_new_leader_begins_no_time_before_it_knows_what_the_one_before_has_promised() {
        let (leases, now) = (Leases::default(), Instant::now());
        leases.grant(LeaseId(7), 1000).expect("granted");
        leases.checkpoint(LeaseId(7), 10);
        let lead = |applied| leases.lead(Term(3), Term(applied), now, Duration::from_secs(1));
        assert!(!lead(2));
        leases.checkpoint(LeaseId(7), 0);
        assert!(lead(3));
        assert!(leases.due(now + Duration::from_secs(900), 1).is_empty());
        assert!(!leases.lead(Term(2), Term(2), now, Duration::from_secs(1)), "an older term");
    }

    #[test]
    fn a_checkpoint_is_where_a_restart_goes_on() {
        let (leases, now) = (Leases::default(), Instant::now());
        leases.grant(LeaseId(7), 1000).expect("granted");
        assert!(leases.due(now, 1).is_empty());
        let later = now + Duration::from_millis(400_500);
        let interval = Duration::from_secs(300);
        assert_eq!(leases.to_checkpoint(later, interval), [LeaseId(7)]);
        let left = leases.order_checkpoint(&[LeaseId(7)], later, <[_]>::to_vec);
        assert_eq!(left, [(LeaseId(7), 600)]);
        leases.checkpoint(LeaseId(7), 600);
        let store = crate::storage::MemoryStore::new();
        let tables = leases.take_rows();
        store.write(&crate::storage::Round { tables, ..Default::default() }).expect("written");
        let again = Leases::recover(&store, &[]).expect("recovered");
        assert_eq!(
            again.time_to_live(LeaseId(7), false, now).map(|t| (t.remaining, t.granted)),
            Some((600, 1000))
        );
        assert!(again.renew(LeaseId(7), now).is_some_and(|renewed| renewed.is_checkpointed));
    }
}

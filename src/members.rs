//! Who belongs to the cluster. `Membership` is plain data with etcd's rules for changing it, the same on every member;
//! `Members` is the state that `apply` writes and everybody reads.
//! Owns ids, names and URLs; knows nothing of who can be reached.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;

use crate::command::{MemberChange, Rejection};
use crate::ids::MemberId;
use crate::storage::{Error, Store, Table, TableWrite};
use crate::wire::etcdserverpb::Member;
use crate::wire::log::member_change::Kind as Change;
use crate::wire::membershippb::ClusterMemberAttrSetRequest;

/// No member has this id: raft's voters must not have it. What was written before the rules refused it counts for nothing.
const NOBODY: u64 = 0;

/// Rows of removed members begin with this, before the id.
const REMOVED: u8 = b'r';

/// The members by id, and those that were and never may be again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Membership {
    members: BTreeMap<MemberId, Member>,
    removed: BTreeSet<MemberId>,
}

impl Membership {
    pub fn new(members: Vec<Member>) -> Self {
        let members = members.into_iter().map(|member| (MemberId(member.id), member)).collect();
        Self { members, removed: BTreeSet::new() }
    }

    /// What the store holds; empty when it holds nothing.
    ///
    /// # Errors
    /// A fault of the disk, or a row that is none of ours.
    pub fn of_store(store: &dyn Store) -> Result<Self, Error> {
        let mut found = Self::default();
        for (key, value) in store.table(Table::Member)? {
            let damaged = |detail: String| {
                let place = format!("the member table, row {key:02x?}");
                Error::Damaged { place, detail }
            };
            if let [REMOVED, id @ ..] = key.as_ref()
                && let Ok(id) = <[u8; 8]>::try_from(id)
            {
                found.removed.insert(MemberId(u64::from_be_bytes(id)));
                continue;
            }
            let member = Member::decode(value).map_err(|source| damaged(source.to_string()))?;
            if member.id == NOBODY {
                continue;
            }
            if key != member.id.to_be_bytes().as_slice() {
                return Err(damaged("it is of another member".to_owned()));
            }
            found.members.insert(MemberId(member.id), member);
        }
        Ok(found)
    }

    /// All of it as rows of the member table.
    pub fn rows(&self) -> Vec<TableWrite> {
        let members = self.members.iter().map(|(id, member)| row(*id, Some(member)));
        members.chain(self.removed.iter().map(|id| removed_row(*id))).collect()
    }

    /// Ids for raft.
    pub fn voters(&self) -> Vec<u64> {
        self.members.values().filter(|member| !member.is_learner).map(|member| member.id).collect()
    }

    /// Ids for raft.
    pub fn learners(&self) -> Vec<u64> {
        self.members.values().filter(|member| member.is_learner).map(|member| member.id).collect()
    }

    /// Every member, by id.
    pub fn list(&self) -> Vec<Member> {
        self.members.values().cloned().collect()
    }

    pub fn get(&self, id: MemberId) -> Option<&Member> {
        self.members.get(&id)
    }

    pub fn contains(&self, id: MemberId) -> bool {
        self.members.contains_key(&id)
    }

    pub fn is_removed(&self, id: MemberId) -> bool {
        self.removed.contains(&id)
    }

    /// Every id that was removed.
    pub fn removed(&self) -> impl Iterator<Item = MemberId> + '_ {
        self.removed.iter().copied()
    }

    /// What the rules say of a change, in etcd's order.
    ///
    /// # Errors
    /// Why it is refused.
    pub fn check(&self, change: &MemberChange) -> Result<(), Rejection> {
        let known = |id: u64| {
            let id = MemberId(id);
            if self.is_removed(id) { None } else { self.get(id) }.ok_or(Rejection::MemberNotFound)
        };
        let urls_are_free = |member: &Member| {
            let others = self.members.values().filter(|other| other.id != member.id);
            let taken: BTreeSet<_> = others.flat_map(|other| &other.peer_ur_ls).collect();
            match member.peer_ur_ls.iter().any(|url| taken.contains(url)) {
                true => Err(Rejection::PeerUrlsExist),
                false => Ok(()),
            }
        };
        match &change.kind {
            Some(Change::Add(member)) if member.id == NOBODY || self.is_removed(MemberId(member.id)) => {
                Err(Rejection::MemberNotFound)
            }
            Some(Change::Add(member)) if self.contains(MemberId(member.id)) => Err(Rejection::MemberExists),
            Some(Change::Add(member)) => {
                urls_are_free(member)?;
                let learners = self.learners().len() as u64;
                let is_full = change.max_learners.is_some_and(|most| learners >= most);
                if member.is_learner && is_full { Err(Rejection::TooManyLearners) } else { Ok(()) }
            }
            // Nobody could go on; changes that wait for each other are not seen by the check before the log.
            Some(Change::Remove(id)) if !known(*id)?.is_learner && self.voters().len() == 1 => {
                Err(Rejection::LastVoter)
            }
            Some(Change::Remove(_)) => Ok(()),
            Some(Change::Promote(id)) if known(*id)?.is_learner => Ok(()),
            Some(Change::Promote(_)) => Err(Rejection::MemberNotLearner),
            Some(Change::Update(member)) => known(member.id).and_then(|_| urls_are_free(member)),
            None => Err(Rejection::UnknownCommand),
        }
    }

    /// Makes a change that the rules allow.
    ///
    /// # Errors
    /// See `check`: nothing is changed.
    pub fn apply(&mut self, change: &MemberChange) -> Result<(), Rejection> {
        self.check(change)?;
        match &change.kind {
            Some(Change::Add(member)) => {
                self.members.insert(MemberId(member.id), member.clone());
            }
            Some(Change::Remove(id)) => {
                self.members.remove(&MemberId(*id));
                self.removed.insert(MemberId(*id));
            }
            Some(Change::Promote(id)) => {
                if let Some(member) = self.members.get_mut(&MemberId(*id)) {
                    member.is_learner = false;
                }
            }
            Some(Change::Update(update)) => {
                if let Some(member) = self.members.get_mut(&MemberId(update.id)) {
                    member.peer_ur_ls.clone_from(&update.peer_ur_ls);
                }
            }
            None => {}
        }
        Ok(())
    }

    /// Name and client URLs that a member announces of itself; `false` when it is unknown.
    fn set_attributes(&mut self, request: &ClusterMemberAttrSetRequest) -> bool {
        let member = self.members.get_mut(&MemberId(request.member_id));
        let (Some(member), Some(attributes)) = (member, &request.member_attributes) else {
            return false;
        };
        member.name.clone_from(&attributes.name);
        member.client_ur_ls.clone_from(&attributes.client_urls);
        true
    }
}

fn row(id: MemberId, member: Option<&Member>) -> TableWrite {
    let key = Bytes::copy_from_slice(&id.0.to_be_bytes());
    TableWrite { table: Table::Member, key, value: member.map(|member| member.encode_to_vec().into()) }
}

fn removed_row(id: MemberId) -> TableWrite {
    let key = [&[REMOVED][..], &id.0.to_be_bytes()].concat().into();
    TableWrite { table: Table::Member, key, value: Some(Bytes::new()) }
}

/// The members as applied. Cheap to clone; all clones see the same.
#[derive(Clone)]
pub struct Members {
    membership: Arc<ArcSwap<Membership>>,
    /// Rows that the store has not been given yet: only `apply` comes here.
    rows: Arc<Mutex<Vec<TableWrite>>>,
}

impl Members {
    pub fn new(membership: Membership) -> Self {
        Self { membership: Arc::new(ArcSwap::from_pointee(membership)), rows: Arc::default() }
    }

    /// Every member, by id.
    pub fn list(&self) -> Vec<Member> {
        self.membership.load().list()
    }

    pub fn get(&self, id: MemberId) -> Option<Member> {
        self.membership.load().get(id).cloned()
    }

    /// All of it, as of now.
    pub fn now(&self) -> Arc<Membership> {
        self.membership.load_full()
    }

    /// Changes who belongs to the cluster, and returns who does now.
    ///
    /// # Errors
    /// See `Membership::check`.
    pub fn apply(&self, change: &MemberChange) -> Result<Vec<Member>, Rejection> {
        let mut membership = Membership::clone(&self.membership.load());
        membership.apply(change)?;
        let mut rows = self.rows.lock();
        if let Some(Change::Remove(id)) = &change.kind {
            rows.push(row(MemberId(*id), None));
            rows.push(removed_row(MemberId(*id)));
        }
        let changed = match &change.kind {
            Some(Change::Add(member) | Change::Update(member)) => membership.get(MemberId(member.id)),
            Some(Change::Promote(id)) => membership.get(MemberId(*id)),
            Some(Change::Remove(_)) | None => None,
        };
        rows.extend(changed.map(|member| row(MemberId(member.id), Some(member))));
        drop(rows);
        let list = membership.list();
        self.membership.store(Arc::new(membership));
        Ok(list)
    }

    /// Name and client URLs that a member announces of itself; an unknown member changes nothing.
    pub fn set_attributes(&self, request: &ClusterMemberAttrSetRequest) {
        let mut membership = Membership::clone(&self.membership.load());
        if membership.set_attributes(request) {
            let id = MemberId(request.member_id);
            self.rows.lock().push(row(id, membership.get(id)));
            self.membership.store(Arc::new(membership));
        }
    }

    /// Takes over a whole other state, which the store has already.
    pub fn replace(&self, membership: Membership) {
        self.rows.lock().clear();
        self.membership.store(Arc::new(membership));
    }

    /// The rows changed since the last call.
    pub fn take_rows(&self) -> Vec<TableWrite> {
        std::mem::take(&mut self.rows.lock())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::{MemoryStore, Round};

    fn member(id: u64, url: &str, is_learner: bool) -> Member {
        Member { id, peer_ur_ls: vec![url.to_owned()], is_learner, ..Member::default() }
    }

    fn change(kind: Change) -> MemberChange {
        MemberChange { kind: Some(kind), max_learners: Some(1) }
    }

    #[test]
    fn the_rules_are_those_of_etcd() {
        let mut members =
            Membership::new(vec![member(1, "http://a:1", false), member(2, "http://b:1", false)]);
        let mut apply = |kind| members.apply(&change(kind));
        assert_eq!(apply(Change::Add(member(1, "http://c:1", false))), Err(Rejection::MemberExists));
        assert_eq!(apply(Change::Add(member(3, "http://a:1", false))), Err(Rejection::PeerUrlsExist));
        assert_eq!(apply(Change::Add(member(3, "http://c:1", true))), Ok(()));
        assert_eq!(apply(Change::Add(member(4, "http://c:1", true))), Err(Rejection::PeerUrlsExist));
        assert_eq!(apply(Change::Add(member(4, "http://e:1", true))), Err(Rejection::TooManyLearners));
        assert_eq!(apply(Change::Promote(2)), Err(Rejection::MemberNotLearner));
        assert_eq!(apply(Change::Promote(9)), Err(Rejection::MemberNotFound));
        assert_eq!(apply(Change::Promote(3)), Ok(()));
        assert_eq!(apply(Change::Update(member(3, "http://b:1", false))), Err(Rejection::PeerUrlsExist));
        assert_eq!(apply(Change::Update(member(3, "http://d:1", false))), Ok(()));
        assert_eq!(apply(Change::Remove(2)), Ok(()));
        assert_eq!(apply(Change::Remove(2)), Err(Rejection::MemberNotFound));
        assert_eq!(apply(Change::Add(member(2, "http://b:1", false))), Err(Rejection::MemberNotFound));
        assert_eq!(members.voters(), [1, 3]);
        assert_eq!(members.learners(), [0_u64; 0]);
        assert!(members.is_removed(MemberId(2)));
        let mut apply = |kind| members.apply(&change(kind));
        assert_eq!(apply(Change::Add(member(5, "http://f:1", true))), Ok(()));
        assert_eq!(apply(Change::Remove(1)), Ok(()));
        assert_eq!(apply(Change::Remove(3)), Err(Rejection::LastVoter));
        assert_eq!(apply(Change::Remove(5)), Ok(()));
        assert_eq!(members.voters(), [3]);
    }

    /// It was added, and no member could start any more: raft has no such voter.
    #[test]
    fn nobody_has_the_id_0() {
        let initial = Membership::new(vec![member(1, "http://a:1", false)]);
        for is_learner in [false, true] {
            let mut members = initial.clone();
            let added = members.apply(&change(Change::Add(member(0, "http://b:1", is_learner))));
            assert_eq!((added, members), (Err(Rejection::MemberNotFound), initial.clone()));
        }
        // As it was written when it was still allowed.
        let store = MemoryStore::new();
        let tables = [initial.rows(), vec![row(MemberId(0), Some(&member(0, "http://b:1", false)))]].concat();
        store.write(&Round { tables, ..Round::default() }).expect("written");
        assert_eq!(Membership::of_store(&store).expect("read"), initial);
    }

    #[test]
    fn the_store_gives_back_what_it_was_given() {
        let initial = Membership::new(vec![member(1, "http://a:1", false), member(2, "http://b:1", false)]);
        let (store, members) = (MemoryStore::new(), Members::new(initial.clone()));
        let write = |tables| store.write(&Round { tables, ..Round::default() }).expect("written");
        write(initial.rows());
        members.apply(&change(Change::Add(member(3, "http://c:1", true)))).expect("allowed");
        members.apply(&change(Change::Remove(2))).expect("allowed");
        write(members.take_rows());
        assert_eq!(Membership::of_store(&store).expect("read"), *members.now());
    }
}

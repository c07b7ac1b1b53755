//! What a reader finds, and the end of a run.

use decklog::wire::etcdserverpb as pb;

use super::clients::Asked;
use super::{Life, Machine, World};

impl World {
    /// A linearizable read has been granted.
    pub(super) fn check_read(&mut self, asked: &Asked, key: usize) {
        let Some(life) = &self.machines[asked.machine].life else { return };
        self.met.count("read");
        let snapshot = life.reader.snapshot();
        let found = revision_of(life, key);
        let seed = self.seed;
        assert!(snapshot.revision().0 >= asked.acknowledged, "seed {seed}: a read of an older revision");
        assert!(found >= asked.of_key, "seed {seed}: a stale read: {found} of at least {}", asked.of_key);
    }

    fn members(&self) -> impl Iterator<Item = &Machine> {
        self.machines.iter().filter(|machine| self.truth.members.contains_key(&machine.id.0))
    }

    /// Everybody who is a member runs and has all there is, and somebody leads.
    pub(super) fn is_even(&self) -> bool {
        let index = self.truth.index();
        let has_all = |machine: &Machine| {
            machine.life.as_ref().is_some_and(|life| life.applied().index.0 == index)
                && machine.flush_ends.is_none()
        };
        let leads = |machine: &Machine| machine.life.as_ref().is_some_and(|life| life.node.is_leader());
        self.members().all(has_all) && self.members().any(leads) && self.asked.is_empty()
    }

    /// Those who were removed, have ever started, and know somebody who can tell them.
    pub(super) fn removed_have_left(&self) -> bool {
        self.machines.iter().all(|machine| {
            let may_be_told = machine.life.as_ref().is_some_and(|life| {
                life.node.members().list().iter().any(|known| self.truth.members.contains_key(&known.id))
            });
            !self.truth.removed.contains(&machine.id.0) || machine.has_left || !may_be_told
        })
    }

    pub(super) fn check_end(&mut self) {
        let seed = self.seed;
        let mut hash = None;
        for machine in self.members() {
            let life = machine.life.as_ref().expect("it is even");
            let found = life.hash();
            assert_eq!(*hash.get_or_insert(found), found, "seed {seed}: members differ");
            assert_eq!(life.reader.revision().0, self.truth.naive.revision(), "seed {seed}");
            assert_eq!(life.leases.counts(), (0, 0), "seed {seed}: leases are left");
            let (of_raft, of_apply) = (life.node.members(), life.members.now());
            let expected: Vec<_> = self.truth.members.values().cloned().collect();
            assert_eq!(of_raft.list(), expected, "seed {seed}: the members that raft has");
            assert_eq!(of_apply.list(), expected, "seed {seed}: the members that apply has");
            let removed: Vec<_> = of_apply.removed().map(|id| id.0).collect();
            assert_eq!(removed, self.truth.removed.iter().copied().collect::<Vec<_>>(), "seed {seed}");
            let is_learner = self.truth.members[&machine.id.0].is_learner;
            assert_eq!(life.node.is_learner(), is_learner, "seed {seed}");
            for (key, revision) in self.of_keys.iter().enumerate() {
                assert!(revision_of(life, key) >= *revision, "seed {seed}: an acknowledged write is missing");
            }
        }
        self.check_watches();
    }
}

fn revision_of(life: &Life, key: usize) -> i64 {
    let request = pb::RangeRequest { key: format!("key-{key}").into(), ..pb::RangeRequest::default() };
    let answer = decklog::mvcc::range_response(&life.reader.snapshot(), &request).expect("no fault is armed");
    answer.kvs.first().map_or(0, |pair| pair.decode().expect("a pair").mod_revision)
}

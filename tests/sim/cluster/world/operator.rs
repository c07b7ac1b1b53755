//! Who changes the members: at any time, without asking whether it is wise, several at once.

use decklog::command::{Command, Kind, MemberChange};
use decklog::wire::etcdserverpb as pb;
use decklog::wire::log::member_change::Kind as Change;
use rand::Rng;
use rand::seq::IndexedRandom;

use super::clients::Waiting;
use super::{Machine, World, member, place_of};

const MOST_MEMBERS: usize = 6;
/// Ids that there may be, of members and of those that were.
const MOST_IDS: usize = 9;
/// How much of the leader's log a learner must have before it votes, of 100.
const READY_PERCENT: u64 = 90;

impl World {
    /// Asks whoever takes itself for the leader.
    pub(super) fn change_members(&mut self) {
        let places = 0..self.machines.len();
        let leading: Vec<_> = places
            .filter(|place| {
                let life = self.machines[*place].life.as_ref();
                self.is_awake(*place) && life.is_some_and(|life| life.node.is_leader())
            })
            .collect();
        let Some(place) = leading.choose(&mut self.random).copied() else { return };
        for _ in 0..self.random.random_range(1..3) {
            let Some(kind) = self.random_change(place) else { continue };
            let max_learners = Some(self.random.random_range(1..3));
            let change = MemberChange { kind: Some(kind), max_learners };
            let command = Command::from(Kind::MemberChange(change));
            self.ask(place, 0, |life| Waiting::Change { answer: life.propose_change(&command) });
        }
        self.run_machine(place);
    }

    fn random_change(&mut self, leader: usize) -> Option<Change> {
        let known: Vec<pb::Member> = self.truth.members.values().cloned().collect();
        let anybody = known.choose(&mut self.random)?.id;
        let url = self.random.random_range(1..1000);
        match self.random.random_range(0..12) {
            0..=4 if known.len() < MOST_MEMBERS && self.machines.len() < MOST_IDS => {
                let is_learner = self.random.random();
                Some(Change::Add(self.added(is_learner)))
            }
            0..=2 => Some(Change::Remove(anybody)),
            3 | 4 if known.len() > 2 => Some(Change::Remove(self.machines[leader].id.0)),
            5..=8 => {
                let learners: Vec<_> = known.iter().filter(|member| member.is_learner).collect();
                let learner = learners.choose(&mut self.random)?.id;
                let life = self.machines[leader].life.as_ref()?;
                let percent = life.node.percent_of_log(decklog::ids::MemberId(learner));
                percent.is_some_and(|percent| percent >= READY_PERCENT).then_some(Change::Promote(learner))
            }
            9 => Some(Change::Promote(anybody)),
            10 => {
                // Now and then another member's URL.
                let whose = if self.random.random() { anybody } else { known[0].id };
                let url = member(whose, if self.random.random() { url } else { 0 }, false);
                Some(Change::Update(pb::Member { id: anybody, ..url }))
            }
            _ => {
                let id = self.truth.removed.iter().next().copied().unwrap_or(anybody);
                Some(Change::Add(member(id, url, false)))
            }
        }
    }

    /// A machine that is not started before it is a member.
    fn added(&mut self, is_learner: bool) -> pb::Member {
        let id = self.machines.len() as u64 + 1;
        let mut machine = Machine::new(id, &mut self.random);
        machine.back_at = u64::MAX;
        machine.joins = Some(std::collections::BTreeSet::new());
        self.machines.push(machine);
        member(id, 0, is_learner)
    }

    /// A change of members has been carried out somewhere.
    pub(super) fn members_changed(&mut self, change: &MemberChange) {
        match change.kind.as_ref().expect("there is one") {
            Change::Add(member) => {
                self.met.count(if member.is_learner { "learner added" } else { "voter added" });
                let soon = self.now + self.random.random_range(1..200);
                let machine = &mut self.machines[place_of(member.id)];
                assert_eq!(machine.starts, 0, "seed {}: id {} is used again", self.seed, member.id);
                // It asks when it starts; these are all that it can have heard of.
                machine.joins = Some(self.truth.members.keys().copied().collect());
                machine.back_at = soon;
            }
            Change::Remove(_) => self.met.count("removed"),
            Change::Promote(_) => self.met.count("promoted"),
            Change::Update(_) => self.met.count("updated"),
        }
    }
}

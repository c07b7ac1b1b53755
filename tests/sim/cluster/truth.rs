//! What the cluster has decided: the entries in their order, and what they do to the naive model and to a plain list of
//! members. Whoever applies an entry first adds it; everybody else must find the same entry with the same outcomes.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use decklog::command::{Command, CommandResult, Kind, MemberChange, Outcome, Rejection, decode};
use decklog::consensus::BEGINNING;
use decklog::wire::etcdserverpb as pb;
use decklog::wire::log::member_change::Kind as Change;

use super::machine::Applied;
use crate::naive::Naive;

struct Entry {
    term: u64,
    data: Bytes,
    outcomes: Vec<CommandResult>,
}

/// See the module.
pub struct Truth {
    pub naive: Naive,
    pub members: BTreeMap<u64, pb::Member>,
    pub removed: BTreeSet<u64>,
    /// Those behind the beginning.
    entries: Vec<Entry>,
}

/// A command that was carried out, with who proposed it and in which term.
pub struct Done {
    pub command: Command,
    pub proposer: u64,
    pub term: u64,
}

impl Truth {
    pub fn new(members: &[pb::Member]) -> Self {
        let members = members.iter().map(|member| (member.id, member.clone())).collect();
        Self { naive: Naive::default(), members, removed: BTreeSet::new(), entries: Vec::new() }
    }

    /// Of the newest entry.
    pub fn index(&self) -> u64 {
        BEGINNING.index.0 + self.entries.len() as u64
    }

    /// A member has applied an entry: what it did, if nobody has before.
    pub fn applied(&mut self, seed: u64, applied: Applied) -> Vec<Done> {
        let Applied { position, data, outcomes } = applied;
        let index = position.index.0;
        assert!(index <= self.index() + 1, "seed {seed}: entry {index} comes before the one it follows");
        let place = usize::try_from(index - BEGINNING.index.0 - 1).expect("few");
        if let Some(known) = self.entries.get(place) {
            assert_eq!(
                (known.term, &known.data),
                (position.term.0, &data),
                "seed {seed}: entry {index} differs between members"
            );
            assert_eq!(known.outcomes, outcomes, "seed {seed}: entry {index} does not the same everywhere");
            return Vec::new();
        }
        let mut done = Vec::new();
        let batch = decode(index, &data).expect("it is one of ours");
        let mut expected = Vec::new();
        for command in batch.commands {
            let term = position.term.0;
            let is_stale = command.only_in_term != 0 && command.only_in_term != term;
            let outcome = if is_stale { Err(Rejection::OtherTerm) } else { self.command(&command) };
            if outcome.is_ok() {
                done.push(Done { command, proposer: batch.proposer, term });
            }
            expected.push(outcome);
        }
        assert_eq!(outcomes, expected, "seed {seed}: entry {index}");
        self.entries.push(Entry { term: position.term.0, data, outcomes });
        done
    }

    fn command(&mut self, command: &Command) -> CommandResult {
        match command.kind.as_ref().expect("there is one") {
            Kind::MemberChange(change) => {
                self.change(change)?;
                Ok(Outcome::Members(self.members.values().cloned().collect()))
            }
            kind => self.naive.apply(kind),
        }
    }

    fn change(&mut self, change: &MemberChange) -> Result<(), Rejection> {
        let url_is_taken = |member: &pb::Member| {
            let mut others = self.members.values().filter(|other| other.id != member.id);
            others.any(|other| other.peer_ur_ls == member.peer_ur_ls)
        };
        match change.kind.as_ref().expect("there is one") {
            Change::Add(member) if self.removed.contains(&member.id) => {
                return Err(Rejection::MemberNotFound);
            }
            Change::Add(member) if self.members.contains_key(&member.id) => {
                return Err(Rejection::MemberExists);
            }
            Change::Update(member) if !self.members.contains_key(&member.id) => {
                return Err(Rejection::MemberNotFound);
            }
            Change::Add(member) | Change::Update(member) if url_is_taken(member) => {
                return Err(Rejection::PeerUrlsExist);
            }
            Change::Add(member) => {
                let learners = self.members.values().filter(|member| member.is_learner).count() as u64;
                if member.is_learner && change.max_learners.is_some_and(|most| learners >= most) {
                    return Err(Rejection::TooManyLearners);
                }
                self.members.insert(member.id, member.clone());
            }
            Change::Remove(id) => {
                let member = self.members.get(id).ok_or(Rejection::MemberNotFound)?;
                if !member.is_learner && self.voters().len() == 1 {
                    return Err(Rejection::LastVoter);
                }
                self.members.remove(id);
                self.removed.insert(*id);
            }
            Change::Promote(id) => {
                let member = self.members.get_mut(id).ok_or(Rejection::MemberNotFound)?;
                if !std::mem::take(&mut member.is_learner) {
                    return Err(Rejection::MemberNotLearner);
                }
            }
            Change::Update(update) => {
                let member = self.members.get_mut(&update.id).ok_or(Rejection::MemberNotFound)?;
                member.peer_ur_ls.clone_from(&update.peer_ur_ls);
            }
        }
        Ok(())
    }

    pub fn voters(&self) -> Vec<u64> {
        self.members.values().filter(|member| !member.is_learner).map(|member| member.id).collect()
    }
}

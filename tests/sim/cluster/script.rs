//! A cluster on a network that loses nothing, step by step: for short tests of what once went wrong.

use std::collections::VecDeque;

use decklog::command::{Command, Kind, MemberChange};
use decklog::consensus::Message;
use decklog::ids::MemberId;
use decklog::metrics::Metrics;
use decklog::wire::etcdserverpb as pb;
use decklog::wire::log::member_change::Kind as Change;

use super::disks::Disks;
use super::machine::{Answer, Begin, ELECTION_TICKS, Life, Outgoing};

/// See the module. Members are 1 and so on.
pub struct Script {
    members: Vec<pb::Member>,
    disks: Vec<Disks>,
    lives: Vec<Option<Life>>,
    starts: u64,
    metrics: Metrics,
}

impl Script {
    pub fn new(size: u64) -> Self {
        let members: Vec<_> = (1..=size).map(|id| pb::Member { id, ..pb::Member::default() }).collect();
        let disks = members.iter().map(|_| Disks::default()).collect();
        let lives = members.iter().map(|_| None).collect();
        let mut script = Self { members, disks, lives, starts: 0, metrics: Metrics::new(false) };
        (1..=size).for_each(|id| script.start(id));
        script
    }

    fn place(id: u64) -> usize {
        usize::try_from(id - 1).expect("few")
    }

    pub fn start(&mut self, id: u64) {
        self.starts += 1;
        let begin = Begin::New(&self.members);
        let life =
            Life::start(MemberId(id), &begin, &self.disks[Self::place(id)], &self.metrics, self.starts);
        self.lives[Self::place(id)] = Some(life.unwrap_or_else(|_| panic!("{id} does not start")));
    }

    /// The power goes: the store keeps what it was given, the log what was synced.
    pub fn crash(&mut self, id: u64) {
        self.lives[Self::place(id)] = None;
        self.disks[Self::place(id)].crash(7);
    }

    pub fn life(&mut self, id: u64) -> &mut Life {
        self.lives[Self::place(id)].as_mut().expect("it runs")
    }

    /// Runs a member: the messages that it sends.
    pub fn run(&mut self, id: u64) -> Vec<Message> {
        let mut outgoing = Outgoing::new(&self.disks[Self::place(id)]);
        if let Some(life) = &mut self.lives[Self::place(id)] {
            life.run(&mut outgoing, false).expect("no fault is armed");
        }
        outgoing.messages
    }

    /// Until nothing is on its way any more; what `passes` refuses is lost.
    pub fn settle(&mut self, mut passes: impl FnMut(&Message) -> bool) {
        let mut mail = VecDeque::new();
        for id in 1..=self.members.len() as u64 {
            mail.extend(self.run(id));
        }
        while let Some(message) = mail.pop_front() {
            let to = message.to;
            if passes(&message)
                && let Some(life) = &mut self.lives[Self::place(to)]
            {
                life.node.receive(message).expect("nothing is lost");
                mail.extend(self.run(to));
            }
        }
    }

    /// Lets a member's clock run until it leads.
    pub fn lead(&mut self, id: u64) {
        self.lead_while(id, |_| true);
    }

    /// As `lead`, while only what `passes` is heard.
    pub fn lead_while(&mut self, id: u64, mut passes: impl FnMut(&Message) -> bool) {
        for _ in 0..20 * ELECTION_TICKS {
            if self.life(id).node.is_leader() {
                return self.settle(passes);
            }
            self.life(id).node.tick();
            self.settle(&mut passes);
        }
        panic!("{id} does not lead");
    }

    pub fn remove(&mut self, leader: u64, id: u64) -> Answer {
        let change = MemberChange { kind: Some(Change::Remove(id)), max_learners: None };
        let command = Command::from(Kind::MemberChange(change));
        self.life(leader).propose_change(&command)
    }

    pub fn knows_removed(&mut self, id: u64, removed: u64) -> bool {
        self.life(id).members.now().is_removed(MemberId(removed))
    }
}

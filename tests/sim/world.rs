//! One machine through its lives: what is on its disks, what was asked and answered, who was promised what.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use decklog::command::{Kind, Outcome};
use decklog::consensus::ConsensusError;
use decklog::ids::Term;
use decklog::storage::disk::Fault;
use decklog::wire::etcdserverpb as pb;
use rand::Rng;

use crate::checks::Held;
use crate::member::{Answer, Disks, Member, Stopped};
use crate::met::Met;
use crate::naive::Naive;
use crate::programs::Programs;
use crate::promises::{Promise, Promises, Renewed};
use crate::subscriber::{Subscriber, random_create};

const STEPS: usize = 60;

/// A command without an answer, and what its client is promised with one.
struct Asked {
    command: Kind,
    promise: Option<Promise>,
}

/// A fault to come, before the start or after it.
#[derive(Clone, Copy)]
pub enum Arm {
    LogAtStart(u64, Fault),
    Log(u64, Fault),
    Store(u64, Fault),
    Nothing,
}

pub struct World {
    disks: Disks,
    naive: Naive,
    programs: Programs,
    now: Instant,
    /// The newest that a member has led in.
    term: Term,
    asked: VecDeque<Asked>,
    promises: Promises,
    subscriber: Subscriber,
    pub met: Met,
}

impl World {
    pub fn new(seed: u64) -> Self {
        Self {
            disks: Disks::default(),
            naive: Naive::default(),
            programs: Programs::new(seed, false),
            now: Instant::now(),
            term: Term(0),
            asked: VecDeque::new(),
            promises: Promises::default(),
            subscriber: Subscriber::default(),
            met: Met::default(),
        }
    }

    /// Some later call of log or store fails: mostly the machine stops there.
    pub fn random_arm(&mut self) -> Arm {
        let random = &mut self.programs.random;
        let fault = match random.random_range(0..10) {
            0 => Fault::Io,
            1 | 2 => Fault::Full,
            _ => Fault::Stop,
        };
        match random.random_range(0..12) {
            0 | 1 => Arm::LogAtStart(random.random_range(0..8), fault),
            2..=7 => Arm::Log(random.random_range(0..150), fault),
            8..=10 => Arm::Store(random.random_range(0..40), fault),
            _ => Arm::Nothing,
        }
    }

    /// Calls of log and store so far.
    pub fn calls(&self) -> (u64, u64) {
        (self.disks.log.calls(), self.disks.store.calls())
    }

    /// A member starts, works, and ends: by a fault, by the power going, now and then in order.
    pub fn life(&mut self, arm: Arm) {
        if let Arm::LogAtStart(call, fault) = arm {
            self.disks.log.fail_at(call, fault);
        }
        match Member::start(&self.disks) {
            Ok(mut member) => {
                self.begin(&mut member);
                match arm {
                    Arm::Log(call, fault) => self.disks.log.fail_at(call, fault),
                    Arm::Store(call, fault) => self.disks.store.fail_at(call, fault),
                    Arm::LogAtStart(..) | Arm::Nothing => {}
                }
                let worked = self.work(&mut member);
                let in_order = self.programs.random.random_ratio(1, 3);
                if worked.is_ok() && in_order && member.stop().is_ok() {
                    self.met.stopped_in_order += 1;
                }
                member.turn_hub(self.now);
            }
            Err(error) => assert!(self.failed_call().is_some(), "cannot start: {error}"),
        }
        self.crash();
    }

    fn failed_call(&self) -> Option<String> {
        let of_log = self.disks.log.failed_call().map(|(what, name)| match name.rsplit_once('.') {
            Some((_, kind)) => format!("log: {what} .{kind}"),
            None => format!("log: {what}"),
        });
        of_log.or_else(|| self.disks.store.failed_call().map(|what| format!("store: {what}")))
    }

    /// The power goes and comes back; then it is found out which of the commands in doubt were kept: some first ones.
    fn crash(&mut self) {
        self.met.crash(self.failed_call());
        let random = &mut self.programs.random;
        let machine_goes_on = matches!(self.disks.log.failed_call(), Some(("sync", _))) && random.random();
        if machine_goes_on {
            // What a failed sync has forgotten is still shown.
            self.disks.log.restart();
            self.met.restarts += 1;
        } else {
            self.disks.log.crash(random.random());
        }
        self.disks.store.crash(random.random());
        self.now += Duration::from_millis(random.random_range(0..3000));
        let member = Member::start(&self.disks).unwrap_or_else(|error| panic!("cannot start: {error}"));
        self.has_new_term(&member);
        let mut candidate = self.naive.clone();
        let in_doubt: Vec<_> = self.asked.drain(..).collect();
        for kept in 0..=in_doubt.len() {
            if member.is(&candidate, self.now) {
                self.met.kept_in_doubt += kept as u64;
                self.met.lost_in_doubt += (in_doubt.len() - kept) as u64;
                self.naive = candidate;
                for asked in &in_doubt[..kept] {
                    if let Kind::LeaseRevoke(request) = &asked.command {
                        self.promises.forget(request.id);
                    }
                }
                // What the member said before the end must be true of what is left.
                self.subscriber.read(&self.naive, usize::MAX);
                return self.promises.check(&self.naive, &member.leases, self.now);
            }
            if let Some(next) = in_doubt.get(kept) {
                // Refused or not: then it does nothing, as the member.
                drop(candidate.apply(&next.command));
            }
        }
        panic!("the state after the crash is that of no prefix with everything acknowledged");
    }

    /// Term and vote are durable before anything is done with them: no term is led in twice.
    fn has_new_term(&mut self, member: &Member) {
        assert!(member.term() > self.term, "term {} again", member.term());
        self.term = member.term();
    }

    fn begin(&mut self, member: &mut Member) {
        self.has_new_term(member);
        assert!(member.is(&self.naive, self.now), "not the state that was left");
        self.check(member);
        let (naive, programs) = (&self.naive, &mut self.programs);
        self.subscriber.resume(&member.watches, naive, |id| random_create(naive, programs, id));
    }

    /// Everything that can be read is what the naive one says.
    fn check(&mut self, member: &Member) {
        let held = Held::new(&member.reader, &self.naive);
        held.check(&self.naive, &mut self.programs);
        if let Some(mut stream) = held.stream(&self.naive, &mut self.programs) {
            while stream.read(&self.naive, &mut self.programs) {}
        }
        self.promises.check(&self.naive, &member.leases, self.now);
    }

    /// Random work until it is done or the machine stops.
    fn work(&mut self, member: &mut Member) -> Result<(), Stopped> {
        for _ in 0..STEPS {
            match self.programs.random.random_range(0..16) {
                0..=4 => self.ask(member),
                5 | 6 => member.persist(self.programs.random.random_range(1..4))?,
                7 => member.compact_slice()?,
                8 => member.cut_log()?,
                9 => self.renew(member),
                10 => {
                    let due = self.promises.due(&member.leases, self.now);
                    self.met.expired += due.len() as u64;
                    due.into_iter().for_each(|revoke| self.propose(member, revoke, None));
                }
                11 => {
                    let leases = member.leases.clone();
                    Promises::checkpoint(&leases, self.now, |command| self.propose(member, command, None));
                }
                12 => self.now += Duration::from_millis(self.programs.random.random_range(0..20_000)),
                13 => member.defragment()?,
                14 => self.subscriber.ask_progress(),
                _ => {}
            }
            self.answers(member)?;
            if self.programs.random.random() {
                member.turn_hub(self.now);
                self.subscriber.read(&self.naive, self.programs.random.random_range(0..10));
            }
            if self.programs.random.random_ratio(1, 10) {
                self.check(member);
            }
        }
        let mut quiet = 0;
        while quiet < 10 {
            member.turn_hub(self.now);
            quiet = if self.subscriber.read(&self.naive, usize::MAX) == 0 { quiet + 1 } else { 0 };
        }
        self.subscriber.has_everything(&self.naive);
        Ok(())
    }

    fn propose(&mut self, member: &mut Member, command: Kind, promise: Option<Promise>) {
        member.propose(std::slice::from_ref(&command));
        self.asked.push_back(Asked { command, promise });
    }

    /// Some commands in one entry. Checkpoints are the expiry job's alone: others would break promises.
    fn ask(&mut self, member: &mut Member) {
        let mut commands = Vec::new();
        for _ in 0..self.programs.random.random_range(1..4) {
            match self.programs.command(&self.naive) {
                Kind::LeaseCheckpoint(_) => {}
                Kind::LeaseGrant(request) => {
                    let ttl = [2, 5, 60, 600, 9_000_000_001][self.programs.random.random_range(0..5)];
                    commands.push(Kind::LeaseGrant(pb::LeaseGrantRequest { ttl, ..request }));
                }
                command => commands.push(command),
            }
        }
        self.met.commands += commands.len() as u64;
        member.propose(&commands);
        self.asked.extend(commands.into_iter().map(|command| Asked { command, promise: None }));
    }

    fn renew(&mut self, member: &mut Member) {
        let id = self.programs.random.random_range(1..6);
        self.begin_time(member, id);
    }

    fn begin_time(&mut self, member: &mut Member, id: i64) {
        match self.promises.renew(&member.leases, id, self.now) {
            Renewed::Gone => {}
            Renewed::Promised => self.met.renewed += 1,
            Renewed::ToLift(lift, promise) => self.propose(member, lift, Some(promise)),
        }
    }

    /// Takes the answers that there are; each is what the naive one says.
    fn answers(&mut self, member: &mut Member) -> Result<(), Stopped> {
        for answer in member.settle()? {
            let asked = self.asked.pop_front().expect("something was asked");
            self.answer(member, &asked, answer);
        }
        Ok(())
    }

    fn answer(&mut self, member: &mut Member, asked: &Asked, answer: Answer) {
        let found = match answer {
            Ok(outcome) => Ok(outcome),
            Err(ConsensusError::Rejected(rejection)) => Err(rejection),
            // Refused before the log: nothing was done.
            Err(ConsensusError::NoSpace) => {
                assert!(self.failed_call().is_some(), "there is space");
                self.met.refused_for_space += 1;
                return;
            }
            Err(error) => panic!("{error}: {:?}", asked.command),
        };
        let expected = self.naive.apply(&asked.command);
        assert_eq!(found, expected, "{:?}", asked.command);
        if let Some(promise) = asked.promise.filter(|promise| promise.is_of_one_of(&member.leases)) {
            self.promises.make(promise);
            self.met.lifted += 1;
        }
        match &found {
            Ok(Outcome::Compact(_)) => self.met.compactions += 1,
            Ok(Outcome::LeaseGrant(granted)) => self.begin_time(member, granted.id),
            Ok(Outcome::LeaseRevoke(_)) => {
                if let Kind::LeaseRevoke(request) = &asked.command {
                    self.promises.forget(request.id);
                }
            }
            _ => {}
        }
    }

    /// Adds what this machine has met to a total.
    pub fn add_to(mut self, total: &mut Met) {
        self.met.events = self.subscriber.told.events;
        self.met.with_previous = self.subscriber.told.with_previous;
        self.met.without_previous = self.subscriber.told.without_previous;
        self.met.watchers_compacted = self.subscriber.compacted;
        self.met.progress = self.subscriber.progress;
        total.add(&self.met);
    }
}

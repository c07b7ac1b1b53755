//! Clients with leases, and the expiry job of every member by its own clock. A lease never ends before its client was
//! promised, by the client's clock with the drift that there can be; only the leader of the entry's term ends it; without
//! renewals all of them end. What the members do is what `rpc::leading` and `background::leases` do.

use std::collections::BTreeMap;
use std::time::Duration;

use decklog::command::{Command, Kind, Rejection};
use decklog::ids::{LeaseId, MemberId};
use decklog::wire::etcdserverpb as pb;
use rand::Rng;
use rand::seq::IteratorRandom;
use tokio::sync::oneshot::error::TryRecvError;

use super::super::machine::{Answer, Read};
use super::super::truth::Done;
use super::clients::{Waiting, put};
use super::{ELECTION_UNITS, QUIET_UNITS, REQUEST_TIMEOUT, TICK, UNIT, World, place_of};

const MOST_SECONDS: i64 = 6;
const UNITS_PER_SECOND: u64 = 100;
const LOOK_UNITS: u64 = 5 * TICK;
const CHECKPOINT_UNITS: u64 = 15 * TICK;
const DUE_AT_ONCE: usize = 3;
/// How long the longest lease lives that nobody renews: a leader, all its time by the slowest clock, the way into the log.
pub(super) const LONGEST_UNITS: u64 =
    QUIET_UNITS + (MOST_SECONDS as u64 * UNITS_PER_SECOND + ELECTION_UNITS) * 11 / 10 + 2 * LOOK_UNITS;

/// A lease as its client knows it.
#[derive(Default)]
struct Lease {
    seconds: i64,
    promised_until: u64,
    /// A client has asked for its end.
    is_given_up: bool,
    /// The asking has been answered.
    is_revoked: bool,
    /// A leader ended it then.
    expired_at: Option<u64>,
}

/// A renewal, and where it is.
struct Renewal {
    id: i64,
    asked_at: u64,
    /// It was asked for after its end was acknowledged.
    is_after_end: bool,
    asked: usize,
    leader: usize,
    stage: Stage,
}

enum Stage {
    ToLeader {
        arrives: u64,
    },
    /// The leader, in this start and term, waits until it knows all that was granted.
    Barrier {
        starts: u64,
        term: u64,
        granted: Read,
    },
    Lift {
        starts: u64,
        term: u64,
        answer: Answer,
        seconds: i64,
    },
    Confirm {
        starts: u64,
        term: u64,
        granted: Read,
        seconds: i64,
    },
    Back {
        arrives: u64,
        seconds: i64,
    },
}

#[derive(Default)]
pub(super) struct LeaseClients {
    leases: BTreeMap<i64, Lease>,
    renewals: Vec<Renewal>,
}

/// For so many units of true time a lease lives at least, by the fastest clock.
fn least_units(seconds: i64) -> u64 {
    seconds.unsigned_abs() * UNITS_PER_SECOND * (TICK - 1) / TICK - 1
}

fn checkpoint(left: &[(LeaseId, i64)]) -> Kind {
    let checkpoints = left.iter().map(|(id, left)| pb::LeaseCheckpoint { id: id.0, remaining_ttl: *left });
    Kind::LeaseCheckpoint(pb::LeaseCheckpointRequest { checkpoints: checkpoints.collect() })
}

impl World {
    pub(super) fn grant(&mut self, place: usize) {
        let id = self.leases.leases.len() as i64 + 1;
        let ttl = self.random.random_range(1..=MOST_SECONDS);
        self.leases.leases.insert(id, Lease { seconds: ttl, ..Lease::default() });
        let command = Command::from(Kind::LeaseGrant(pb::LeaseGrantRequest { id, ttl }));
        self.ask(place, 0, |life| Waiting::Grant { id, answer: life.propose(&command) });
    }

    pub(super) fn granted(&mut self, id: i64, asked_at: u64) {
        self.met.count("lease granted");
        let seconds = self.leases.leases[&id].seconds;
        self.promise(id, asked_at, seconds);
    }

    fn some_lease(&mut self) -> Option<i64> {
        let alive = self.truth.naive.leases.keys().copied();
        alive.choose(&mut self.random)
    }

    /// A key that goes with a lease.
    pub(super) fn bind(&mut self, place: usize) {
        if let Some(id) = self.some_lease() {
            let key = format!("lease-{}", self.random.random_range(0..5));
            self.propose(place, Kind::Put(put(key, id.to_string(), id)), &[Rejection::LeaseNotFound]);
        }
    }

    pub(super) fn revoke(&mut self, place: usize) {
        if let Some(id) = self.some_lease()
            && self.random.random_ratio(1, 3)
            && self.is_awake(place)
        {
            self.leases.leases.get_mut(&id).expect("it is one of ours").is_given_up = true;
            let command = Command::from(Kind::LeaseRevoke(pb::LeaseRevokeRequest { id }));
            self.ask(place, 0, |life| Waiting::Revoke { id, answer: life.propose(&command) });
        }
    }

    pub(super) fn revoked(&mut self, id: i64) {
        self.met.count("lease revoked");
        self.leases.leases.get_mut(&id).expect("it is one of ours").is_revoked = true;
    }

    /// A client has heard that a lease has so much time from when it asked.
    fn promise(&mut self, id: i64, asked_at: u64, seconds: i64) {
        let until = asked_at + least_units(seconds);
        let lease = self.leases.leases.get_mut(&id).expect("it is one of ours");
        if let Some(expired_at) = lease.expired_at
            && !lease.is_given_up
        {
            assert!(
                expired_at >= until,
                "seed {}: lease {id} ended at {expired_at}, promised {until}",
                self.seed
            );
        }
        lease.promised_until = lease.promised_until.max(until);
    }

    /// A command has been carried out somewhere.
    pub(super) fn done(&mut self, done: &Done) {
        let seed = self.seed;
        match &done.command.kind {
            Some(Kind::MemberChange(change)) => self.members_changed(change),
            Some(Kind::LeaseRevoke(request)) if done.command.only_in_term != 0 => {
                self.met.count("lease expired");
                let leader = self.leaders.get(&done.term).copied();
                assert_eq!(
                    leader,
                    Some(MemberId(done.proposer)),
                    "seed {seed}: who does not lead ends a lease"
                );
                let lease = self.leases.leases.get_mut(&request.id).expect("it is one of ours");
                let until = lease.promised_until;
                lease.expired_at = Some(self.now);
                assert!(
                    lease.is_given_up || until <= self.now,
                    "seed {seed}: lease {} ended at {}, promised until {until}",
                    request.id,
                    self.now
                );
            }
            Some(Kind::Compact(_)) => self.met.count("compaction"),
            _ => {}
        }
    }

    /// As the expiry job: the time begins, what is due ends, what is left is noted.
    pub(super) fn look_at_leases(&mut self, place: usize) {
        if self.machines[place].next_look > self.now {
            return;
        }
        self.machines[place].next_look = self.now + LOOK_UNITS;
        let is_leader = self.machines[place].life.as_ref().is_some_and(|life| life.node.is_leader());
        if !is_leader || !self.lead(place) {
            return;
        }
        let clock = self.clock(place);
        let checkpoints = self.machines[place].next_checkpoint <= self.now;
        if checkpoints {
            self.machines[place].next_checkpoint = self.now + CHECKPOINT_UNITS;
        }
        let Some(life) = &mut self.machines[place].life else { return };
        let term = life.node.term().0;
        for id in life.leases.due(clock, DUE_AT_ONCE) {
            let kind = Kind::LeaseRevoke(pb::LeaseRevokeRequest { id: id.0 });
            drop(life.propose(&Command { kind: Some(kind), only_in_term: term }));
        }
        if checkpoints {
            let leases = life.leases.clone();
            let mut long = leases.to_checkpoint(clock, UNIT * 100);
            // Its order is none that a seed has.
            long.sort_unstable();
            leases.order_checkpoint(&long, clock, |left| {
                if !left.is_empty() {
                    self.met.count("checkpoint");
                    drop(life.propose(&Command { kind: Some(checkpoint(left)), only_in_term: term }));
                }
            });
        }
        self.run_machine(place);
    }

    /// As `Leading::lead`.
    fn lead(&mut self, place: usize) -> bool {
        let clock = self.clock(place);
        let Some(life) = &self.machines[place].life else { return false };
        let extension = if life.members.now().voters().len() == 1 {
            Duration::ZERO
        } else {
            UNIT * u32::try_from(ELECTION_UNITS).expect("small")
        };
        life.leases.lead(life.node.term(), life.applied().term, clock, extension)
    }

    /// A client renews a lease through any member.
    pub(super) fn renew(&mut self, asked: usize) {
        let Some(id) = self.some_lease() else { return };
        let Some(life) = self.awake(asked) else { return };
        let leader = life.node.leader().0;
        let from = self.machines[asked].id.0;
        if leader == 0 || (leader != from && self.is_lost(from, leader)) {
            return;
        }
        let way = if leader == from { 0 } else { self.random.random_range(1..30) };
        let is_after_end = self.leases.leases[&id].is_revoked;
        let (stage, leader) = (Stage::ToLeader { arrives: self.now + way }, place_of(leader));
        self.leases.renewals.push(Renewal { id, asked_at: self.now, is_after_end, asked, leader, stage });
    }

    pub(super) fn renewals(&mut self) {
        for renewal in std::mem::take(&mut self.leases.renewals) {
            if self.now - renewal.asked_at > REQUEST_TIMEOUT {
                self.met.count("renewal unknown");
                continue;
            }
            if let Some(renewal) = self.renewal(renewal) {
                self.leases.renewals.push(renewal);
            }
        }
    }

    /// One step of it; none is left when it has ended.
    fn renewal(&mut self, mut renewal: Renewal) -> Option<Renewal> {
        let (now, place, id) = (self.now, renewal.leader, renewal.id);
        let starts = self.machines[place].starts;
        let is_there = |began: u64| began == starts && self.machines[place].life.is_some();
        renewal.stage = match renewal.stage {
            Stage::ToLeader { arrives } | Stage::Back { arrives, .. } if arrives > now => {
                return Some(renewal);
            }
            Stage::Back { seconds, .. } => {
                self.renewed(&renewal, seconds);
                return None;
            }
            Stage::ToLeader { .. } => {
                let life = self.awake(place).filter(|life| life.node.is_leader())?;
                let (term, granted) = (life.node.term().0, life.read());
                self.run_machine(place);
                Stage::Barrier { starts, term, granted }
            }
            Stage::Barrier { starts, .. } | Stage::Lift { starts, .. } | Stage::Confirm { starts, .. }
                if !is_there(starts) =>
            {
                return None;
            }
            _ if !self.is_running(place) => return Some(renewal),
            Stage::Barrier { starts, term, mut granted } => match granted.try_recv() {
                Ok(Ok(())) => self.begin_time(place, id, starts, term)?,
                Err(TryRecvError::Empty) => Stage::Barrier { starts, term, granted },
                _ => return None,
            },
            Stage::Lift { starts, term, mut answer, seconds } => match answer.try_recv() {
                Ok(Ok(_)) => {
                    self.met.count("checkpoint lifted");
                    let life = self.machines[place].life.as_mut()?;
                    let seconds = if life.leases.exists(LeaseId(id)) { seconds } else { 0 };
                    let granted = life.read();
                    self.run_machine(place);
                    Stage::Confirm { starts, term, granted, seconds }
                }
                Err(TryRecvError::Empty) => Stage::Lift { starts, term, answer, seconds },
                _ => return None,
            },
            Stage::Confirm { starts, term, mut granted, seconds } => match granted.try_recv() {
                Ok(Ok(())) => {
                    let life = self.machines[place].life.as_ref()?;
                    if !life.node.is_leader() || life.node.term().0 != term {
                        return None;
                    }
                    let (from, to) = (self.machines[place].id.0, self.machines[renewal.asked].id.0);
                    if from != to && self.is_lost(from, to) {
                        return None;
                    }
                    Stage::Back { arrives: now + self.random.random_range(1..30), seconds }
                }
                Err(TryRecvError::Empty) => Stage::Confirm { starts, term, granted, seconds },
                _ => return None,
            },
        };
        Some(renewal)
    }

    /// As `Leading::begin_time`.
    fn begin_time(&mut self, place: usize, id: i64, starts: u64, term: u64) -> Option<Stage> {
        if !self.lead(place) {
            return None;
        }
        let clock = self.clock(place);
        let life = self.machines[place].life.as_mut()?;
        let renewed = life.leases.renew(LeaseId(id), clock);
        let stage = match renewed {
            Some(renewed) if renewed.is_checkpointed => {
                let answer = life.propose(&Command::from(checkpoint(&[(LeaseId(id), 0)])));
                Stage::Lift { starts, term, answer, seconds: renewed.ttl }
            }
            renewed => {
                let seconds = renewed.map_or(0, |renewed| renewed.ttl);
                Stage::Confirm { starts, term, granted: life.read(), seconds }
            }
        };
        self.run_machine(place);
        Some(stage)
    }

    /// The client is told.
    fn renewed(&mut self, renewal: &Renewal, seconds: i64) {
        let (seed, id, now) = (self.seed, renewal.id, self.now);
        if seconds > 0 {
            self.met.count("lease renewed");
            assert!(!renewal.is_after_end, "seed {seed}: lease {id} is renewed after its end");
            return self.promise(id, renewal.asked_at, seconds);
        }
        self.met.count("lease gone");
        let lease = &self.leases.leases[&id];
        assert!(
            lease.is_given_up || lease.promised_until <= now,
            "seed {seed}: lease {id} is told to be gone at {now}, promised until {}",
            lease.promised_until
        );
    }

    pub(super) fn has_no_leases(&self) -> bool {
        self.truth.naive.leases.is_empty() && self.leases.renewals.is_empty()
    }
}

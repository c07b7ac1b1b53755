//! A whole cluster under a seed: its machines, the messages between them, its clients, and what goes wrong. Owns time.
//!
//! Checked all the time: one leader in a term; the same entry with the same outcomes at an index everywhere; what is
//! acknowledged comes after everything that was acknowledged before it was asked for; no read is older than that; leases
//! and watches as `leases` and `watches` say. At the end, with the faults gone: the cluster of whoever is a member comes
//! to life within a bounded time, all members are equal, nothing acknowledged is missing, who was removed has stopped.

mod checks;
mod clients;
mod faults;
mod leases;
mod machines;
mod operator;
mod watches;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hasher};
use std::time::{Duration, Instant};

use decklog::consensus::Message;
use decklog::ids::MemberId;
use decklog::metrics::Metrics;
use decklog::wire::etcdserverpb as pb;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::disks::Disks;
use super::machine::{ELECTION_TICKS, Life, StateInMail};
use super::met::Met;
use super::truth::Truth;
use clients::Asked;
use leases::LeaseClients;
use watches::WatchClient;

/// A heartbeat takes so many units of time.
const TICK: u64 = 10;
/// A heartbeat takes 100 ms.
const UNIT: Duration = Duration::from_millis(10);
const FAULTY_UNITS: u64 = 6000;
const ELECTION_UNITS: u64 = TICK * ELECTION_TICKS as u64;
/// With all faults gone, a leader must be there and everybody even within this time: some elections may be split.
const QUIET_UNITS: u64 = 40 * ELECTION_UNITS;
/// As with etcd's defaults.
const REQUEST_TIMEOUT: u64 = 70 * TICK;
const KEYS: usize = 6;

struct Machine {
    id: MemberId,
    disks: Disks,
    life: Option<Life>,
    /// It was added to a cluster that was there, whose members were then these.
    joins: Option<BTreeSet<u64>>,
    starts: u64,
    /// Units between its ticks, which drift.
    period: u64,
    next_tick: u64,
    /// Neither ticks nor hears anything until then.
    paused_until: u64,
    /// It starts then, if it does not run; never, if it has never been a member.
    back_at: u64,
    /// A flush of its log takes so long, from and to, until the time is over.
    slow: (u64, u64),
    slow_until: u64,
    /// A flush is under way until then; these messages wait for it.
    flush_ends: Option<u64>,
    late: Vec<Message>,
    /// Those who came to it in this life without being known as members.
    guests: BTreeSet<u64>,
    /// It knows that it was removed, and stops then.
    leaves_at: Option<u64>,
    has_left: bool,
    /// When it looks next which leases are due, and notes what they have left.
    next_look: u64,
    next_checkpoint: u64,
}

pub struct World {
    random: SmallRng,
    seed: u64,
    now: u64,
    base: Instant,
    machines: Vec<Machine>,
    truth: Truth,
    initial: Vec<pb::Member>,
    /// By arrival; the number keeps those of one moment apart.
    mail: BTreeMap<(u64, u64), Message>,
    /// States by arrival.
    states: BTreeMap<(u64, u64), StateInMail>,
    sent: u64,
    /// Ways that carry nothing now: from, to.
    cut: BTreeSet<(u64, u64)>,
    loss_percent: u32,
    asked: Vec<Asked>,
    puts: u64,
    leaders: BTreeMap<u64, MemberId>,
    acknowledged: i64,
    of_keys: [i64; KEYS],
    revisions: BTreeSet<i64>,
    leases: LeaseClients,
    watches: Vec<WatchClient>,
    metrics: Metrics,
    trace: DefaultHasher,
    pub met: Met,
}

impl Machine {
    fn new(id: u64, random: &mut SmallRng) -> Self {
        Self {
            id: MemberId(id),
            disks: Disks::default(),
            life: None,
            joins: None,
            starts: 0,
            period: random.random_range(TICK - 1..=TICK + 1),
            next_tick: random.random_range(0..TICK),
            paused_until: 0,
            back_at: 0,
            slow: (0, 0),
            slow_until: 0,
            flush_ends: None,
            late: Vec::new(),
            guests: BTreeSet::new(),
            leaves_at: None,
            has_left: false,
            next_look: 0,
            next_checkpoint: 0,
        }
    }
}

fn member(id: u64, url: u64, is_learner: bool) -> pb::Member {
    pb::Member { id, peer_ur_ls: vec![format!("http://{id}:{url}")], is_learner, ..pb::Member::default() }
}

fn place_of(id: u64) -> usize {
    usize::try_from(id - 1).expect("a machine's place")
}

impl World {
    pub fn new(seed: u64, size: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let machines = (1..=size).map(|id| Machine::new(id, &mut random)).collect();
        let initial: Vec<_> = (1..=size).map(|id| member(id, 0, false)).collect();
        Self {
            random,
            seed,
            now: 0,
            base: Instant::now(),
            machines,
            truth: Truth::new(&initial),
            initial,
            mail: BTreeMap::new(),
            states: BTreeMap::new(),
            sent: 0,
            cut: BTreeSet::new(),
            loss_percent: 0,
            asked: Vec::new(),
            puts: 0,
            leaders: BTreeMap::new(),
            acknowledged: 1,
            of_keys: [0; KEYS],
            revisions: BTreeSet::new(),
            leases: LeaseClients::default(),
            watches: (0..3).map(|_| WatchClient::default()).collect(),
            metrics: Metrics::new(false),
            trace: DefaultHasher::new(),
            met: Met::default(),
        }
    }

    /// Faults and load, then quiet. Returns what all of it hashes to.
    pub fn run(&mut self) -> u64 {
        while self.now < FAULTY_UNITS {
            if self.random.random_ratio(1, 120) {
                self.fault();
            }
            if self.random.random_ratio(1, 250) {
                self.change_members();
            }
            self.unit();
        }
        self.heal();
        let before = self.acknowledged;
        self.until("it does not come to life", QUIET_UNITS, |world| {
            world.ask_until_live();
            world.acknowledged > before
        });
        self.cure();
        self.until("its members do not become even", QUIET_UNITS, |world| world.is_even());
        self.until("leases do not end", leases::LONGEST_UNITS, |world| world.has_no_leases());
        self.until("members that were removed do not stop", QUIET_UNITS, |world| world.removed_have_left());
        self.until("it does not become even again", QUIET_UNITS, |world| world.is_even());
        // A grant of which nobody waited any more may have been on its way.
        self.until("leases that came late do not end", leases::LONGEST_UNITS, |world| {
            world.has_no_leases() && world.is_even()
        });
        self.check_end();
        self.trace.finish()
    }

    fn until(&mut self, what: &str, units: u64, mut is_so: impl FnMut(&mut Self) -> bool) {
        let deadline = self.now + units;
        while !is_so(self) {
            assert!(self.now < deadline, "seed {}: {what}: {}", self.seed, self.state());
            self.unit();
        }
    }

    fn is_quiet(&self) -> bool {
        self.now >= FAULTY_UNITS
    }

    /// One unit of time.
    fn unit(&mut self) {
        self.now += 1;
        for place in 0..self.machines.len() {
            let machine = &mut self.machines[place];
            if machine.life.is_none() && !machine.has_left && machine.back_at <= self.now {
                self.start(place);
            }
        }
        while let Some(first) = self.mail.first_entry()
            && first.key().0 <= self.now
        {
            let message = first.remove();
            self.deliver(message);
        }
        while let Some(first) = self.states.first_entry()
            && first.key().0 <= self.now
        {
            let state = first.remove();
            self.deliver_state(&state);
        }
        for place in 0..self.machines.len() {
            self.turn(place);
        }
        self.load();
        self.answers();
        self.renewals();
        self.watch();
    }

    /// The time by a machine's own clock.
    fn clock(&self, place: usize) -> Instant {
        let micros = self.now * u64::try_from(UNIT.as_micros()).expect("small") * TICK;
        self.base + Duration::from_micros(micros / self.machines[place].period)
    }

    fn is_running(&self, place: usize) -> bool {
        let machine = &self.machines[place];
        machine.life.is_some() && machine.paused_until <= self.now
    }

    /// Its consensus takes what comes.
    fn is_awake(&self, place: usize) -> bool {
        self.is_running(place) && self.machines[place].flush_ends.is_none()
    }

    fn awake(&mut self, place: usize) -> Option<&mut Life> {
        if self.is_awake(place) { self.machines[place].life.as_mut() } else { None }
    }

    fn random_place(&mut self) -> usize {
        self.random.random_range(0..self.machines.len())
    }

    fn state(&self) -> String {
        let state = |machine: &Machine| match &machine.life {
            Some(life) => format!(
                "{}: term {}, leader {}, applied {:?}, members {:?}",
                machine.id,
                life.node.term(),
                life.node.leader(),
                life.applied(),
                life.node.members().list().iter().map(|member| member.id).collect::<Vec<_>>()
            ),
            None => format!("{} is down", machine.id),
        };
        let states = self.machines.iter().map(state).collect::<Vec<_>>().join("; ");
        let voters = self.truth.voters();
        format!("at {}, index {}, voters {voters:?}: {states}", self.now, self.truth.index())
    }
}

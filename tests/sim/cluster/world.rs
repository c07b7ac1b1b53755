//! A whole cluster under a seed: its machines, the messages between them, its clients, and what goes wrong. Owns time.
//!
//! Checked all the time: one leader in a term; the same entry at an index everywhere; what is acknowledged comes after
//! everything that was acknowledged before it was asked for; no read is older than that. At the end, with the faults
//! gone: the cluster comes to life within a bounded time, all members are equal, nothing acknowledged is missing.

mod checks;

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};

use decklog::consensus::Message;
use decklog::ids::MemberId;
use decklog::storage::disk::Fault;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::machine::{Answer, Disks, ELECTION_TICKS, Life, Outgoing, Read, StateInMail, Stopped};
use super::met::Met;

/// A heartbeat takes so many units of time.
const TICK: u64 = 10;
const FAULTY_UNITS: u64 = 6000;
/// With all faults gone, a leader must be there and everybody even within this time: some elections may be split.
const QUIET_UNITS: u64 = TICK * ELECTION_TICKS as u64 * 40;
/// As with etcd's defaults.
const REQUEST_TIMEOUT: u64 = 70 * TICK;
const KEYS: usize = 6;

struct Machine {
    id: MemberId,
    disks: Disks,
    life: Option<Life>,
    starts: u64,
    /// Units between its ticks, which drift.
    period: u64,
    next_tick: u64,
    /// Neither ticks nor hears anything until then.
    paused_until: u64,
    back_at: u64,
}

enum Waiting {
    Put { key: usize, answer: Answer },
    Read { key: usize, granted: Read },
}

struct Asked {
    at: u64,
    machine: usize,
    /// The highest revision that was acknowledged before, in all and of the key.
    acknowledged: i64,
    of_key: i64,
    waiting: Waiting,
}

pub struct World {
    random: SmallRng,
    seed: u64,
    now: u64,
    machines: Vec<Machine>,
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
    entries: BTreeMap<u64, (u64, u64)>,
    acknowledged: i64,
    of_keys: [i64; KEYS],
    revisions: BTreeSet<i64>,
    trace: DefaultHasher,
    pub met: Met,
}

impl World {
    pub fn new(seed: u64, size: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let machines = (1..=size).map(|id| Machine {
            id: MemberId(id),
            disks: Disks::default(),
            life: None,
            starts: 0,
            period: random.random_range(TICK - 1..=TICK + 1),
            next_tick: random.random_range(0..TICK),
            paused_until: 0,
            back_at: 0,
        });
        let machines = machines.collect();
        Self {
            random,
            seed,
            now: 0,
            machines,
            mail: BTreeMap::new(),
            states: BTreeMap::new(),
            sent: 0,
            cut: BTreeSet::new(),
            loss_percent: 0,
            asked: Vec::new(),
            puts: 0,
            leaders: BTreeMap::new(),
            entries: BTreeMap::new(),
            acknowledged: 1,
            of_keys: [0; KEYS],
            revisions: BTreeSet::new(),
            trace: DefaultHasher::new(),
            met: Met::default(),
        }
    }

    /// Faults and load, then quiet. Returns what all of it hashes to.
    pub fn run(&mut self) -> u64 {
        while self.now < FAULTY_UNITS {
            if self.random.random_ratio(1, 150) {
                self.fault();
            }
            self.unit();
        }
        self.heal();
        let deadline = self.now + QUIET_UNITS;
        let last = self.machines.len() - 1;
        let before = self.acknowledged;
        while !(self.acknowledged > before && self.is_even()) {
            assert!(self.now < deadline, "seed {}: it does not come to life: {}", self.seed, self.state());
            self.unit();
            if self.asked.is_empty() && self.acknowledged == before {
                self.put(last);
                self.run_machine(last);
            }
        }
        self.check_end();
        self.trace.finish()
    }

    /// One unit of time.
    fn unit(&mut self) {
        self.now += 1;
        for place in 0..self.machines.len() {
            let machine = &mut self.machines[place];
            if machine.life.is_none() && machine.back_at <= self.now {
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
            let machine = &mut self.machines[place];
            if machine.next_tick > self.now || machine.paused_until > self.now {
                continue;
            }
            machine.next_tick = self.now + machine.period;
            if let Some(life) = &mut machine.life {
                life.node.tick();
                self.run_machine(place);
            }
        }
        self.load();
        self.answers();
    }

    fn load(&mut self) {
        if self.now > FAULTY_UNITS && self.now.is_multiple_of(5 * TICK) {
            // Stores go on when all is quiet: a state that has come makes room for the next.
            for place in 0..self.machines.len() {
                let persisted = self.machines[place].life.as_mut().map(|life| life.persist(usize::MAX));
                if persisted.is_some_and(|persisted| persisted.is_err()) {
                    self.crash(place);
                }
            }
        }
        if self.now > FAULTY_UNITS || !self.random.random_ratio(1, 8) {
            return;
        }
        let place = self.random.random_range(0..self.machines.len());
        match self.random.random_range(0..6) {
            0..=2 => self.put(place),
            3 | 4 => self.read(place),
            _ => {
                let rounds = self.random.random_range(0..20);
                let machine = &mut self.machines[place];
                if machine.life.as_mut().is_some_and(|life| life.persist(rounds).is_err()) {
                    self.crash(place);
                }
            }
        }
        self.run_machine(place);
    }

    fn put(&mut self, place: usize) {
        let key = self.random.random_range(0..KEYS);
        self.puts += 1;
        let value = self.puts.to_string();
        let (acknowledged, of_key) = (self.acknowledged, self.of_keys[key]);
        if let Some(life) = self.awake(place) {
            let answer = life.put(&format!("key-{key}"), &value);
            self.asked.push(Asked {
                at: self.now,
                machine: place,
                acknowledged,
                of_key,
                waiting: Waiting::Put { key, answer },
            });
        }
    }

    fn read(&mut self, place: usize) {
        let key = self.random.random_range(0..KEYS);
        let (acknowledged, of_key) = (self.acknowledged, self.of_keys[key]);
        if let Some(life) = self.awake(place) {
            let granted = life.read();
            self.asked.push(Asked {
                at: self.now,
                machine: place,
                acknowledged,
                of_key,
                waiting: Waiting::Read { key, granted },
            });
        }
    }

    fn awake(&mut self, place: usize) -> Option<&mut Life> {
        let machine = &mut self.machines[place];
        if machine.paused_until > self.now { None } else { machine.life.as_mut() }
    }

    fn fault(&mut self) {
        let place = self.random.random_range(0..self.machines.len());
        let id = self.machines[place].id.0;
        let everybody: Vec<u64> = self.machines.iter().map(|machine| machine.id.0).collect();
        match self.random.random_range(0..9) {
            0 => {
                self.met.crashes += 1;
                self.crash(place);
            }
            1 => {
                self.met.torn += 1;
                let call = self.random.random_range(0..6);
                self.machines[place].disks.log.fail_at(call, Fault::Stop);
            }
            2 => {
                self.met.pauses += 1;
                self.machines[place].paused_until = self.now + self.random.random_range(20..600);
            }
            3 => {
                self.met.partitions += 1;
                let side: Vec<bool> = everybody.iter().map(|_| self.random.random()).collect();
                for (from, left) in everybody.iter().zip(&side) {
                    for (to, right) in everybody.iter().zip(&side) {
                        if left != right {
                            self.cut.insert((*from, *to));
                        }
                    }
                }
            }
            4 => {
                self.met.isolations += 1;
                for other in everybody {
                    self.cut.extend([(id, other), (other, id)]);
                }
            }
            5 => {
                self.met.one_way += 1;
                let other = everybody[self.random.random_range(0..everybody.len())];
                self.cut.insert((id, other));
            }
            6 => {
                self.met.lossy += 1;
                self.loss_percent = self.random.random_range(5..50);
            }
            _ => {
                self.cut.clear();
                self.loss_percent = 0;
            }
        }
    }

    fn heal(&mut self) {
        self.cut.clear();
        self.loss_percent = 0;
        for machine in &mut self.machines {
            machine.paused_until = 0;
            machine.back_at = machine.back_at.min(self.now + TICK);
        }
    }

    fn start(&mut self, place: usize) {
        let everybody: Vec<u64> = self.machines.iter().map(|machine| machine.id.0).collect();
        let machine = &mut self.machines[place];
        machine.starts += 1;
        let seed = self.seed ^ (machine.id.0 << 32) ^ (machine.starts << 48);
        match Life::start(machine.id, &everybody, &machine.disks, seed) {
            Ok(life) => machine.life = Some(life),
            Err(Stopped) => self.crash(place),
        }
    }

    /// The power goes: what was not synced is there or not.
    fn crash(&mut self, place: usize) {
        let pick = self.random.random();
        let machine = &mut self.machines[place];
        machine.life = None;
        machine.disks.crash(pick);
        machine.back_at = self.now + self.random.random_range(1..800);
        if self.now > FAULTY_UNITS {
            self.machines[place].back_at = self.now + 1;
        }
    }

    fn deliver(&mut self, message: Message) {
        let place = usize::try_from(message.to - 1).expect("a machine's place");
        let machine = &mut self.machines[place];
        if machine.paused_until > self.now {
            // Its system keeps it.
            self.sent += 1;
            let at = machine.paused_until;
            self.mail.insert((at, self.sent), message);
            return;
        }
        (self.now, message.from, message.to, message.term, message.index, message.get_msg_type() as u32)
            .hash(&mut self.trace);
        if let Some(life) = &mut machine.life {
            life.node.receive(message).expect("no entries are lost");
            self.run_machine(place);
        }
    }

    /// Its stream ends at both ends: the receiver has all of it, or the sender hears that it failed.
    fn deliver_state(&mut self, state: &StateInMail) {
        let place = |id: u64| usize::try_from(id - 1).expect("a machine's place");
        let (from, to) = (place(state.message.from), place(state.message.to));
        let way = (state.message.from, state.message.to);
        let is_lost = self.cut.contains(&way) || self.random.random_range(0..100) < self.loss_percent;
        let arrived = !is_lost && self.awake(to).is_some_and(|life| life.receive_state(state));
        self.met.states_arrived += u64::from(arrived);
        self.run_machine(to);
        // One that is paused hears of it afterwards.
        if let Some(life) = &mut self.machines[from].life {
            life.node.state_sent(MemberId(state.message.to), arrived);
            self.run_machine(from);
        }
    }

    fn run_machine(&mut self, place: usize) {
        let machine = &mut self.machines[place];
        if machine.paused_until > self.now {
            return;
        }
        let Some(life) = &mut machine.life else { return };
        let mut outgoing = Outgoing::default();
        let mut result = life.run(&mut outgoing);
        if machine.disks.log.failed_call().is_some() {
            // Also when the call was one that may be refused.
            result = Err(Stopped);
        }
        let (term, leads) = (life.node.term().0, life.node.is_leader());
        let id = machine.id;
        if leads && result.is_ok() {
            let known = *self.leaders.entry(term).or_insert(id);
            assert_eq!(known, id, "seed {}: two leaders in term {term}", self.seed);
        }
        for message in outgoing.messages {
            self.send(message);
        }
        match result {
            Ok((applied, states)) => {
                for state in states {
                    self.sent += 1;
                    self.met.states += 1;
                    let arrival = self.now + self.random.random_range(1..150);
                    self.states.insert((arrival, self.sent), state);
                }
                for entry in applied {
                    let mut hasher = DefaultHasher::new();
                    entry.data.hash(&mut hasher);
                    let found = (entry.position.term.0, hasher.finish());
                    let known = *self.entries.entry(entry.position.index.0).or_insert(found);
                    let index = entry.position.index;
                    assert_eq!(known, found, "seed {}: entry {index} differs between members", self.seed);
                }
            }
            Err(Stopped) => self.crash(place),
        }
    }

    fn send(&mut self, message: Message) {
        let way = (message.from, message.to);
        if self.cut.contains(&way) || self.random.random_range(0..100) < self.loss_percent {
            self.met.lost += 1;
            return;
        }
        let copies = if self.random.random_ratio(1, 50) { 2 } else { 1 };
        for _ in 0..copies {
            let delay = if self.random.random_ratio(1, 20) {
                self.random.random_range(1..200)
            } else {
                self.random.random_range(1..4)
            };
            self.sent += 1;
            self.mail.insert((self.now + delay, self.sent), message.clone());
        }
    }

    fn state(&self) -> String {
        let state = |machine: &Machine| match &machine.life {
            Some(life) => format!(
                "{}: term {}, leader {}, applied {:?}",
                machine.id,
                life.node.term(),
                life.node.leader(),
                life.applied()
            ),
            None => format!("{} is down", machine.id),
        };
        self.machines.iter().map(state).collect::<Vec<_>>().join("; ")
    }

    fn is_even(&self) -> bool {
        let mut states = self.machines.iter().map(|machine| machine.life.as_ref().map(Life::applied));
        let first = states.next().flatten();
        let leads = |machine: &Machine| machine.life.as_ref().is_some_and(|life| life.node.is_leader());
        first.is_some() && states.all(|state| state == first) && self.machines.iter().any(leads)
    }
}

//! Machines and the network between them: starts and crashes, ticks, slow flushes, messages and states on their way.

use std::hash::Hash;

use decklog::consensus::{Message, MessageType};
use decklog::ids::MemberId;
use rand::Rng;

use super::super::machine::{Begin, Did, Life, NoStart, Outgoing, StateInMail, Stopped};
use super::{TICK, World, place_of};

/// A member that has been removed goes on so long.
const FAREWELL: u64 = 10 * TICK;

impl World {
    pub(super) fn start(&mut self, place: usize) {
        let machine = &mut self.machines[place];
        machine.starts += 1;
        let seed = self.seed ^ (machine.id.0 << 32) ^ (machine.starts << 48);
        let begin = if machine.joins.is_some() { Begin::Joins } else { Begin::New(&self.initial) };
        match Life::start(machine.id, &begin, &machine.disks, &self.metrics, seed) {
            Ok(life) => {
                machine.life = Some(life);
                self.run_machine(place);
            }
            Err(NoStart::Stopped) => self.crash(place),
            Err(NoStart::Removed) => self.leave(place),
        }
    }

    /// The power goes: what was not synced is there or not.
    pub(super) fn crash(&mut self, place: usize) {
        let pick = self.random.random();
        self.machines[place].disks.crash(pick);
        self.process_ends(place);
    }

    /// It comes back some time.
    pub(super) fn process_ends(&mut self, place: usize) {
        let away = if self.is_quiet() { 1 } else { self.random.random_range(1..800) };
        let machine = &mut self.machines[place];
        machine.life = None;
        machine.late.clear();
        machine.flush_ends = None;
        machine.guests.clear();
        machine.back_at = self.now + away;
    }

    /// It is no member any more, knows it, and never comes back.
    fn leave(&mut self, place: usize) {
        let machine = &mut self.machines[place];
        assert!(
            self.truth.removed.contains(&machine.id.0),
            "seed {}: {} stops and was not removed",
            self.seed,
            machine.id
        );
        (machine.life, machine.has_left) = (None, true);
        self.met.count("removed member stopped");
    }

    /// What a machine does by itself in a unit of time.
    pub(super) fn turn(&mut self, place: usize) {
        if !self.is_running(place) {
            return;
        }
        if self.machines[place].leaves_at.is_some_and(|at| at <= self.now) {
            return self.leave(place);
        }
        let has_flushed = self.machines[place].flush_ends.is_some_and(|at| at <= self.now);
        if has_flushed {
            self.end_flush(place);
        }
        self.look_at_leases(place);
        let now = self.now;
        let machine = &mut self.machines[place];
        if machine.flush_ends.is_some() {
            return;
        }
        // As in the server's loop, before what waits is flushed: a disk that is busy all the time leaves time for ticks.
        let is_due = machine.next_tick <= now;
        if is_due {
            machine.next_tick = now + machine.period;
            let Some(life) = &mut machine.life else { return };
            life.node.tick();
            if life.cut_log().is_err() {
                return self.crash(place);
            }
        }
        if has_flushed || is_due {
            self.run_machine(place);
        }
        if is_due {
            self.knock(place);
        }
    }

    pub(super) fn run_machine(&mut self, place: usize) {
        if !self.is_awake(place) {
            return;
        }
        let machine = &mut self.machines[place];
        let is_slow = machine.slow_until > self.now;
        let mut outgoing = Outgoing::new(&machine.disks);
        let Some(life) = &mut machine.life else { return };
        let mut result = life.run(&mut outgoing, is_slow);
        if machine.disks.log.failed_call().is_some() {
            // Also when the call was one that may be refused.
            result = Err(Stopped);
        }
        for message in outgoing.messages {
            self.send(place, message);
        }
        match result {
            Ok(did) => {
                if did.is_flushing {
                    self.met.count("slow flush");
                    let (from, to) = self.machines[place].slow;
                    let ends = self.now + self.random.random_range(from..to);
                    self.machines[place].flush_ends = Some(ends);
                    self.machines[place].late = outgoing.late;
                }
                self.did(place, did);
            }
            Err(Stopped) => self.crash(place),
        }
    }

    fn end_flush(&mut self, place: usize) {
        let machine = &mut self.machines[place];
        machine.flush_ends = None;
        let late = std::mem::take(&mut machine.late);
        let Some(life) = &mut machine.life else { return };
        let did = life.end_flush();
        for message in late {
            self.send(place, message);
        }
        self.did(place, did);
    }

    /// Takes over what a machine has done.
    fn did(&mut self, place: usize, did: Did) {
        for applied in did.applied {
            for done in self.truth.applied(self.seed, applied) {
                self.done(&done);
            }
        }
        for state in did.states {
            self.sent += 1;
            self.met.count("state sent");
            let arrival = self.now + self.random.random_range(1..150);
            self.states.insert((arrival, self.sent), state);
        }
        let machine = &mut self.machines[place];
        let Some(life) = &machine.life else { return };
        if life.node.is_leader() && !did.is_flushing {
            let term = life.node.term().0;
            let known = *self.leaders.entry(term).or_insert(machine.id);
            assert_eq!(known, machine.id, "seed {}: two leaders in term {term}", self.seed);
        }
        if !did.is_flushing && life.node.members().is_removed(machine.id) {
            machine.leaves_at.get_or_insert(self.now + FAREWELL);
        }
    }

    pub(super) fn is_lost(&mut self, from: u64, to: u64) -> bool {
        self.cut.contains(&(from, to)) || self.random.random_range(0..100) < self.loss_percent
    }

    /// Whether a machine has a link to another: it knows it as a member, or has found it when it joined.
    fn has_link(&self, place: usize, to: u64) -> bool {
        let machine = &self.machines[place];
        let Some(life) = &machine.life else { return false };
        let members = life.node.members();
        match &machine.joins {
            Some(found) if members.voters().is_empty() && found.contains(&to) => true,
            _ => members.contains(MemberId(to)) || machine.guests.contains(&to),
        }
    }

    fn send(&mut self, place: usize, message: Message) {
        let (from, to) = (message.from, message.to);
        let has_link = self.has_link(place, to);
        if !has_link || self.is_lost(from, to) {
            self.met.count("lost");
            let is_noticed = !has_link || self.random.random_ratio(1, 4);
            if is_noticed && let Some(life) = &mut self.machines[place].life {
                life.node.unreachable(MemberId(to));
            }
            return;
        }
        // A link repeats nothing; raft does not mind, but a proposal would be carried out twice.
        let may_repeat = message.get_msg_type() != MessageType::MsgPropose;
        let copies = if may_repeat && self.random.random_ratio(1, 50) { 2 } else { 1 };
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

    pub(super) fn deliver(&mut self, message: Message) {
        let place = place_of(message.to);
        let machine = &self.machines[place];
        let later = machine.paused_until.max(machine.flush_ends.unwrap_or(0));
        if later > self.now {
            // Its system keeps it.
            self.sent += 1;
            self.mail.insert((later, self.sent), message);
            return;
        }
        if self.turns_away(place, message.from) {
            return;
        }
        (self.now, message.from, message.to, message.term, message.index, message.get_msg_type() as u32)
            .hash(&mut self.trace);
        if let Some(life) = &mut self.machines[place].life {
            life.node.receive(message).expect("no entries are lost");
            self.run_machine(place);
        }
    }

    /// A member hears nothing of one that it knows as removed, and tells it so.
    fn turns_away(&mut self, place: usize, from: u64) -> bool {
        let Some(life) = &self.machines[place].life else { return true };
        if !life.members.now().is_removed(MemberId(from)) {
            self.machines[place].guests.insert(from);
            return false;
        }
        let way_back = (self.machines[place].id.0, from);
        if !self.cut.contains(&way_back) && self.is_running(place_of(from)) {
            self.machines[place_of(from)].leaves_at.get_or_insert(self.now + 1);
        }
        true
    }

    /// Links are opened anew now and then, also by one that has nothing to say.
    fn knock(&mut self, place: usize) {
        if !self.random.random_ratio(1, 10) || !self.is_running(place) {
            return;
        }
        let (from, other) = (self.machines[place].id.0, self.random_place());
        let to = self.machines[other].id.0;
        let reaches = self.has_link(place, to) && !self.is_lost(from, to) && self.is_running(other);
        if reaches && other != place {
            self.turns_away(other, from);
        }
    }

    /// Its stream ends at both ends: the receiver has all of it, or the sender hears that it failed.
    pub(super) fn deliver_state(&mut self, state: &StateInMail) {
        let (from, to) = (place_of(state.message.from), place_of(state.message.to));
        let is_lost = self.is_lost(state.message.from, state.message.to);
        let arrived = !is_lost
            && self.is_awake(to)
            && !self.turns_away(to, state.message.from)
            && self.awake(to).is_some_and(|life| life.receive_state(state));
        if arrived {
            self.met.count("state arrived");
        }
        self.run_machine(to);
        // One that is paused hears of it afterwards.
        if let Some(life) = &mut self.machines[from].life {
            life.node.state_sent(MemberId(state.message.to), arrived);
            self.run_machine(from);
        }
    }
}

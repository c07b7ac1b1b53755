//! What goes wrong, and its end.

use decklog::storage::disk::Fault;
use rand::Rng;

use super::{ELECTION_UNITS, FAULTY_UNITS, TICK, World};

impl World {
    pub(super) fn fault(&mut self) {
        let place = self.random_place();
        let id = self.machines[place].id.0;
        let everybody: Vec<u64> = self.machines.iter().map(|machine| machine.id.0).collect();
        let kind = self.random.random_range(0..18);
        match kind {
            0..=2 if self.machines[place].life.is_some() => self.stop(place, kind),
            3 => {
                self.met.count("pause");
                self.machines[place].paused_until = self.now + self.random.random_range(20..600);
            }
            4 => {
                self.met.count("partition");
                let side: Vec<bool> = everybody.iter().map(|_| self.random.random()).collect();
                for (from, left) in everybody.iter().zip(&side) {
                    for (to, right) in everybody.iter().zip(&side) {
                        if left != right {
                            self.cut.insert((*from, *to));
                        }
                    }
                }
            }
            5 => {
                self.met.count("isolation");
                for other in everybody {
                    self.cut.extend([(id, other), (other, id)]);
                }
            }
            6 => {
                self.met.count("one-way cut");
                let other = everybody[self.random.random_range(0..everybody.len())];
                self.cut.insert((id, other));
            }
            7 => {
                self.met.count("loss");
                self.loss_percent = self.random.random_range(5..50);
            }
            8..=10 => self.slow_disks(),
            11 => self.transfer(),
            _ => {
                self.cut.clear();
                self.loss_percent = 0;
            }
        }
    }

    /// By a crash, in order, or by a crash at a call to come.
    fn stop(&mut self, place: usize, kind: u32) {
        match kind {
            0 => {
                self.met.count("crash");
                self.crash(place);
            }
            1 => {
                self.met.count("crash at a call");
                let call = self.random.random_range(0..8);
                self.machines[place].disks.log.fail_at(call, Fault::Stop);
            }
            _ => {
                let closed = self.awake(place).map(|life| life.close().is_ok());
                if closed == Some(true) {
                    self.met.count("restart");
                    self.process_ends(place);
                }
            }
        }
    }

    /// Flushes take their time, on one machine or on some, below the election timeout or above it.
    fn slow_disks(&mut self) {
        let slow = match self.random.random_range(0..3) {
            0 => (1, 2 * TICK),
            1 => (2 * TICK, ELECTION_UNITS),
            _ => (ELECTION_UNITS, 4 * ELECTION_UNITS),
        };
        let everywhere = self.random.random_ratio(1, 4);
        let one = self.random_place();
        for place in 0..self.machines.len() {
            if place == one || everywhere {
                self.met.count("slow disk");
                let until = self.now + self.random.random_range(100..1000);
                let machine = &mut self.machines[place];
                (machine.slow, machine.slow_until) = (slow, until);
            }
        }
    }

    fn transfer(&mut self) {
        for place in 0..self.machines.len() {
            let Some(life) = self.awake(place).filter(|life| life.node.is_leader()) else { continue };
            if let Some(to) = life.node.best_successor() {
                life.node.transfer_leadership(to);
                self.met.count("transfer");
                self.run_machine(place);
            }
        }
    }

    /// The end of all faults but one slow disk, in a part of the runs.
    pub(super) fn heal(&mut self) {
        self.cut.clear();
        self.loss_percent = 0;
        for place in 0..self.machines.len() {
            let is_member = self.truth.members.contains_key(&self.machines[place].id.0);
            let machine = &mut self.machines[place];
            machine.paused_until = 0;
            machine.slow_until = 0;
            if machine.joins.is_none() || machine.starts > 0 || is_member {
                machine.back_at = machine.back_at.min(self.now + TICK);
            }
        }
        if self.truth.voters().len() > 2 && self.random.random() {
            self.met.count("one disk stays slow");
            let place = self.random_place();
            let to = if self.random.random() { ELECTION_UNITS } else { 4 * ELECTION_UNITS };
            let machine = &mut self.machines[place];
            (machine.slow, machine.slow_until) = ((to / 2, to), 10 * FAULTY_UNITS);
        }
    }

    /// The end of that one.
    pub(super) fn cure(&mut self) {
        for machine in &mut self.machines {
            machine.slow_until = 0;
        }
    }
}

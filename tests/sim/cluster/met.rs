//! What a run of clusters has met: what never happened was not tested.

use std::collections::BTreeMap;

/// What counts as a fault.
pub const FAULTS: [&str; 9] = [
    "crash",
    "restart",
    "crash at a call",
    "pause",
    "partition",
    "isolation",
    "one-way cut",
    "loss",
    "slow disk",
];

/// Counts by name.
#[derive(Debug, Default)]
pub struct Met(BTreeMap<&'static str, u64>);

impl Met {
    pub fn count(&mut self, what: &'static str) {
        *self.0.entry(what).or_default() += 1;
    }

    pub fn add_many(&mut self, what: &'static str, many: u64) {
        *self.0.entry(what).or_default() += many;
    }

    pub fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    pub fn faults(&self) -> u64 {
        FAULTS.iter().map(|fault| self.of(fault)).sum()
    }

    pub fn add(&mut self, other: &Self) {
        for (what, count) in &other.0 {
            *self.0.entry(what).or_default() += count;
        }
    }
}

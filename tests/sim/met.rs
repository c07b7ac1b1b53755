//! What the runs have met, so that a test that tests nothing is seen.

use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub struct Met {
    pub commands: u64,
    pub crashes: u64,
    pub stopped_in_order: u64,
    /// Starts on a machine that went on.
    pub restarts: u64,
    /// Commands without an answer that a crash kept, and lost.
    pub kept_in_doubt: u64,
    pub lost_in_doubt: u64,
    pub refused_for_space: u64,
    pub compactions: u64,
    pub renewed: u64,
    pub lifted: u64,
    pub expired: u64,
    pub events: u64,
    pub with_previous: u64,
    pub without_previous: u64,
    pub watchers_compacted: u64,
    pub progress: u64,
    /// Faults, by the call that met them.
    pub points: BTreeMap<String, u64>,
}

/// Every kind of call that writes: each must have met a fault.
const POINTS: [&str; 13] = [
    "log: create .spare",
    "log: write .spare",
    "log: sync .spare",
    "log: rename .spare",
    "log: write .wal",
    "log: sync .wal",
    "log: sync the directory",
    "log: rename .wal",
    "log: remove .wal",
    "store: write",
    "store: flush",
    "store: retain",
    "store: defragment",
];

impl Met {
    pub fn crash(&mut self, point: Option<String>) {
        self.crashes += 1;
        if let Some(point) = point {
            *self.points.entry(point).or_default() += 1;
        }
    }

    pub fn add(&mut self, other: &Self) {
        self.commands += other.commands;
        self.crashes += other.crashes;
        self.stopped_in_order += other.stopped_in_order;
        self.restarts += other.restarts;
        self.kept_in_doubt += other.kept_in_doubt;
        self.lost_in_doubt += other.lost_in_doubt;
        self.refused_for_space += other.refused_for_space;
        self.compactions += other.compactions;
        self.renewed += other.renewed;
        self.lifted += other.lifted;
        self.expired += other.expired;
        self.events += other.events;
        self.with_previous += other.with_previous;
        self.without_previous += other.without_previous;
        self.watchers_compacted += other.watchers_compacted;
        self.progress += other.progress;
        for (point, count) in &other.points {
            *self.points.entry(point.clone()).or_default() += count;
        }
    }

    /// After enough runs.
    pub fn everything(&self) {
        let counts = [
            self.kept_in_doubt,
            self.lost_in_doubt,
            self.refused_for_space,
            self.stopped_in_order,
            self.restarts,
            self.compactions,
            self.renewed,
            self.lifted,
            self.expired,
            self.events,
            self.watchers_compacted,
            self.progress,
        ];
        assert!(counts.iter().all(|count| *count > 0), "{self:#?}");
        self.every_point();
    }

    pub fn every_point(&self) {
        let missing: Vec<_> = POINTS.iter().filter(|point| !self.points.contains_key(**point)).collect();
        assert!(missing.is_empty(), "no fault at {missing:?}: {self:#?}");
    }
}

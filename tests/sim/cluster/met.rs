//! What a run of clusters has met: what never happened was not tested.

#[derive(Debug, Default)]
pub struct Met {
    pub crashes: u64,
    pub torn: u64,
    pub pauses: u64,
    pub partitions: u64,
    pub isolations: u64,
    pub one_way: u64,
    pub lossy: u64,
    pub lost: u64,
    pub writes: u64,
    pub reads: u64,
    pub unknown: u64,
    pub states: u64,
    pub states_arrived: u64,
}

impl Met {
    pub fn faults(&self) -> u64 {
        self.crashes + self.torn + self.pauses + self.partitions + self.isolations + self.one_way + self.lossy
    }

    pub fn add(&mut self, other: &Self) {
        self.crashes += other.crashes;
        self.torn += other.torn;
        self.pauses += other.pauses;
        self.partitions += other.partitions;
        self.isolations += other.isolations;
        self.one_way += other.one_way;
        self.lossy += other.lossy;
        self.lost += other.lost;
        self.writes += other.writes;
        self.reads += other.reads;
        self.unknown += other.unknown;
        self.states += other.states;
        self.states_arrived += other.states_arrived;
    }
}

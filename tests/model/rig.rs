//! The real state machine over a real store, without threads: apply, publication, rounds, compaction, restart.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use decklog::alarm::Alarms;
use decklog::apply::{Applier, Published};
use decklog::command::{Batch, CommandResult, Kind};
use decklog::consensus::Progress;
use decklog::ids::{FullRevision, LogIndex, LogPosition, Revision, Term};
use decklog::lease::Leases;
use decklog::members::Members;
use decklog::metrics::Metrics;
use decklog::mvcc::{Keyspace, Reader};
use decklog::persist::{Persist, PersistMetrics, PersistParts};
use decklog::storage::{Error, MemoryStore, Round, SledOptions, SledStore, Store, StoredChange};
use decklog::wire::etcdserverpb::AlarmType;
use prost::Message;
use tempfile::TempDir;

/// Where a rig keeps its state.
pub enum Place {
    Memory(Arc<MemoryStore>),
    Sled(TempDir),
}

impl Place {
    pub fn memory() -> Self {
        Self::Memory(Arc::default())
    }

    pub fn sled() -> Self {
        Self::Sled(tempfile::tempdir().expect("a directory"))
    }

    fn open(&self) -> Arc<dyn Store> {
        match self {
            Self::Memory(store) => store.clone(),
            Self::Sled(directory) => Arc::new(open_sled(directory.path())),
        }
    }
}

/// sled lets go of its lock some time after the last handle is dropped.
fn open_sled(directory: &Path) -> SledStore {
    let options = SledOptions { cache_bytes: 1 << 20, engine_cache_bytes: 1 << 20 };
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        match SledStore::open(directory, &options) {
            Err(Error::Locked { .. }) if Instant::now() < deadline => std::thread::yield_now(),
            opened => return opened.expect("opened"),
        }
    }
}

/// What runs between two restarts.
struct Running {
    applier: Applier,
    persist: Persist,
    reader: Reader,
    leases: Leases,
    alarms: Alarms,
    store: Arc<dyn Store>,
    /// Rounds that the store has not been given.
    rounds: VecDeque<(Round, Option<Revision>)>,
}

pub struct Rig {
    place: Place,
    running: Option<Running>,
    /// Every entry, as the log would have it.
    log: Vec<Bytes>,
}

impl Running {
    fn start(place: &Place) -> Self {
        let store = place.open();
        let recovered = Keyspace::recover(store.clone()).expect("recovered");
        let leases = Leases::recover(&*store, &recovered.attachments).expect("recovered");
        let alarms = Alarms::recover(&*store).expect("recovered");
        let members = Members::recover(&*store, Vec::new()).expect("recovered");
        let (reader, tail) = (recovered.keyspace.reader(), recovered.keyspace.tail());
        let parts = PersistParts {
            store: store.clone(),
            reader: reader.clone(),
            tail,
            progress: Arc::new(Progress::default()),
            metrics: persist_metrics(&Metrics::new(false)),
        };
        let (persist, _) = Persist::new(parts, recovered.compaction_is_open);
        let applier =
            Applier::new(recovered.keyspace, leases.clone(), alarms.clone(), members, store.applied());
        Self { applier, persist, reader, leases, alarms, store, rounds: VecDeque::new() }
    }

    fn publish(&mut self) -> Published {
        let published = self.applier.publish();
        self.rounds.push_back((published.round.clone(), published.compacted));
        published
    }
}

impl Rig {
    pub fn new(place: Place) -> Self {
        let running = Running::start(&place);
        Self { place, running: Some(running), log: Vec::new() }
    }

    fn running(&mut self) -> &mut Running {
        self.running.as_mut().expect("it runs but for a moment")
    }

    pub fn reader(&self) -> &Reader {
        &self.running.as_ref().expect("it runs but for a moment").reader
    }

    pub fn leases(&self) -> &Leases {
        &self.running.as_ref().expect("it runs but for a moment").leases
    }

    /// The alarms that are raised, by member and kind.
    pub fn alarms(&self) -> Vec<(u64, i32)> {
        let alarms = &self.running.as_ref().expect("it runs but for a moment").alarms;
        alarms.list(AlarmType::None).iter().map(|alarm| (alarm.member_id, alarm.alarm)).collect()
    }

    /// One entry with some commands; not visible yet.
    pub fn apply(&mut self, commands: Vec<Kind>) -> Vec<CommandResult> {
        let commands = commands.into_iter().map(Into::into).collect();
        let entry: Bytes = Batch { proposer: 1, sequence: 1, commands }.encode_to_vec().into();
        self.log.push(entry.clone());
        let position = position(self.log.len());
        self.running().applier.apply(position, &entry, &mut |_, _| {}).expect("applied")
    }

    pub fn publish(&mut self) -> Published {
        self.running().publish()
    }

    /// Gives the store up to so many rounds as one, as the mailbox merges them.
    pub fn persist(&mut self, rounds: usize) {
        let (merged, compact) = self.merge(rounds);
        let running = self.running();
        if merged.applied.index > running.store.applied().index {
            running.persist.write(&merged).expect("written");
        }
        if let Some(revision) = compact {
            running.persist.begin_compaction(revision);
        }
    }

    /// The same, but readers have not heard yet that the store has it: what is in both must be seen once.
    pub fn persist_unnoticed(&mut self, rounds: usize) {
        let (merged, compact) = self.merge(rounds);
        let running = self.running();
        if merged.applied.index > running.store.applied().index {
            running.store.write(&merged).expect("written");
        }
        if let Some(revision) = compact {
            running.persist.begin_compaction(revision);
        }
    }

    fn merge(&mut self, rounds: usize) -> (Round, Option<Revision>) {
        let running = self.running();
        let (mut merged, mut compact) = (Round::default(), None);
        let rounds = rounds.min(running.rounds.len());
        for (round, compacted) in running.rounds.drain(..rounds) {
            merged.applied = round.applied;
            merged.changes.extend(round.changes);
            merged.tables.extend(round.tables);
            compact = compacted.or(compact);
        }
        (merged, compact)
    }

    pub fn compact(&mut self, changes: usize) {
        self.running().persist.step_compaction(changes).expect("compacted");
    }

    pub fn is_compacting(&mut self) -> bool {
        self.running().persist.is_compacting()
    }

    pub fn defragment(&mut self) {
        self.running().store.defragment().expect("defragmented");
    }

    /// Persists and compacts until nothing is left to do.
    pub fn settle(&mut self) {
        self.persist(usize::MAX);
        while self.is_compacting() {
            self.compact(7);
        }
        while self.running().applier.is_pruning() {
            self.publish();
        }
        self.persist(usize::MAX);
    }

    /// Every change that the store holds, by revision and place in it.
    pub fn stored(&mut self) -> Vec<(i64, u32)> {
        let mut stored = Vec::new();
        let end = FullRevision::start_of(Revision(i64::MAX));
        let visit = &mut |change: &StoredChange| {
            stored.push((change.at.main.0, change.at.sub));
            ControlFlow::Continue(())
        };
        self.running().store.scan(FullRevision::default(), end, visit).expect("scanned");
        stored
    }

    /// Forgets what is in memory and starts again from the store; the entries that it has not seen are applied by
    /// `replay`. Returns how many it has.
    pub fn restart(&mut self) -> usize {
        self.running = None;
        let running = Running::start(&self.place);
        let applied = running.store.applied().index.0;
        self.running = Some(running);
        usize::try_from(applied).expect("few")
    }

    pub fn replay(&mut self, applied: usize) {
        for number in applied..self.log.len() {
            let entry = self.log[number].clone();
            self.running().applier.apply(position(number + 1), &entry, &mut |_, _| {}).expect("applied");
            if number % 3 == 0 {
                self.publish();
            }
        }
        self.publish();
    }
}

fn position(index: usize) -> LogPosition {
    LogPosition { index: LogIndex(index as u64), term: Term(1) }
}

fn persist_metrics(metrics: &Metrics) -> PersistMetrics {
    PersistMetrics {
        write_seconds: metrics.store_write_seconds.clone(),
        flush_seconds: metrics.store_flush_seconds.clone(),
        slice_milliseconds: metrics.compaction_pause_milliseconds.clone(),
        compaction_milliseconds: metrics.compaction_milliseconds.clone(),
        compacted_keys: metrics.compaction_keys.clone(),
        last_compaction: metrics.compaction_last.clone(),
        defragment_in_flight: metrics.defragment_in_flight.clone(),
    }
}

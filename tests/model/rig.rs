//! The real state machine over a real store, without threads: apply, publication, rounds, compaction, restart.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use decklog::alarm::Alarms;
use decklog::apply::{Applier, Published};
use decklog::command::{Batch, Command, CommandResult, Kind};
use decklog::consensus::Progress;
use decklog::ids::{FullRevision, LogIndex, LogPosition, Revision, Term};
use decklog::lease::Leases;
use decklog::members::{Members, Membership};
use decklog::metrics::Metrics;
use decklog::mvcc::{Keyspace, Reader};
use decklog::persist::{Persist, PersistParts};
use decklog::server::persist_metrics;
use decklog::snapshot::{Capture, Importer, Received, Replacement};
use decklog::storage::{Error, MemoryStore, Round, SledOptions, SledStore, Store, StoredChange, TableWrite};
use decklog::wire::etcdserverpb::{AlarmType, CompactionRequest};
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
        self.open_after(None)
    }

    /// Under a log that begins after an entry.
    fn open_after(&self, begins_after: Option<LogPosition>) -> Arc<dyn Store> {
        match self {
            Self::Memory(store) => store.clone(),
            Self::Sled(directory) => Arc::new(open_sled(directory.path(), begins_after)),
        }
    }

    /// Where a state from elsewhere comes in: in memory into the store that is returned.
    pub fn importer(&self) -> (Importer, Option<Arc<MemoryStore>>) {
        match self {
            Self::Memory(_) => {
                let store = Arc::new(MemoryStore::new());
                let into = store.clone();
                (Importer::new(move || Ok(into.clone() as Arc<dyn Store>)), Some(store))
            }
            Self::Sled(directory) => {
                let path = directory.path().to_owned();
                let begin = move || Ok(Arc::new(SledStore::begin_beside(&path, &SMALL)?) as Arc<dyn Store>);
                (Importer::new(begin), None)
            }
        }
    }
}

const SMALL: SledOptions = SledOptions { cache_bytes: 1 << 20, engine_cache_bytes: 1 << 20 };

/// sled lets go of its lock some time after the last handle is dropped. What is told while it opens is what a scan finds.
fn open_sled(directory: &Path, begins_after: Option<LogPosition>) -> SledStore {
    let deadline = Instant::now() + Duration::from_secs(60);
    let (mut told, mut scanned) = (Vec::new(), Vec::new());
    let store = loop {
        match SledStore::open_after(directory, &SMALL, begins_after, &mut |change| told.push(change.clone()))
        {
            Err(Error::Locked { .. }) if Instant::now() < deadline => std::thread::yield_now(),
            opened => break opened.expect("opened"),
        }
    };
    let end = FullRevision::start_of(Revision(i64::MAX));
    let scan = store.scan(FullRevision::default(), end, &mut |change| {
        scanned.push(change.clone());
        ControlFlow::Continue(())
    });
    scan.expect("scanned");
    assert_eq!(told, scanned);
    store
}

/// What runs between two restarts.
struct Running {
    applier: Applier,
    persist: Persist,
    reader: Reader,
    leases: Leases,
    alarms: Alarms,
    members: Members,
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
    fn start(store: Arc<dyn Store>) -> Self {
        let recovered = Keyspace::recover(store.clone()).expect("recovered");
        let leases = Leases::recover(&*store, &recovered.attachments).expect("recovered");
        let alarms = Alarms::recover(&*store).expect("recovered");
        let members = Members::new(Membership::of_store(&*store).expect("read"));
        let (reader, tail) = (recovered.keyspace.reader(), recovered.keyspace.tail());
        let parts = PersistParts {
            store: store.clone(),
            reader: reader.clone(),
            tail,
            progress: Arc::new(Progress::default()),
            metrics: persist_metrics(&Metrics::new(false)),
        };
        let (persist, _) = Persist::new(parts, recovered.compaction_is_open);
        let applier = Applier::new(
            recovered.keyspace,
            leases.clone(),
            alarms.clone(),
            members.clone(),
            store.applied(),
        );
        Self { applier, persist, reader, leases, alarms, members, store, rounds: VecDeque::new() }
    }

    fn publish(&mut self) -> Published {
        let published = self.applier.publish();
        self.rounds.push_back((published.round.clone(), published.compacted));
        published
    }
}

impl Rig {
    pub fn new(place: Place) -> Self {
        let running = Running::start(place.open());
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
        self.apply_commands(commands.into_iter().map(Into::into).collect())
    }

    /// The same, of commands that count in one term alone; the rig's is 1.
    pub fn apply_commands(&mut self, commands: Vec<Command>) -> Vec<CommandResult> {
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
        self.running().store.defragment(64).expect("defragmented");
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
        let running = Running::start(self.place.open());
        let applied = running.store.applied().index.0;
        self.running = Some(running);
        usize::try_from(applied).expect("few")
    }

    pub fn replay(&mut self, applied: usize) {
        self.replay_to(applied, self.log.len());
    }

    fn replay_to(&mut self, applied: usize, end: usize) {
        for number in applied..end {
            let entry = self.log[number].clone();
            self.running().applier.apply(position(number + 1), &entry, &mut |_, _| {}).expect("applied");
            if number % 3 == 0 {
                self.publish();
            }
        }
        self.publish();
    }
}

/// States on their way.
impl Rig {
    pub fn entries(&self) -> usize {
        self.log.len()
    }

    /// The state as of the newest entry; everything is published.
    pub fn capture(&mut self, until: Instant) -> Capture {
        self.running().applier.capture(until)
    }

    /// What stands beside the key space.
    pub fn beside(&mut self) -> (Vec<TableWrite>, Vec<TableWrite>, Membership) {
        let running = self.running();
        (running.leases.rows(), running.alarms.rows(), Membership::clone(&running.members.now()))
    }

    /// An entry that compacts, visible at once.
    pub fn order_compaction(&mut self, revision: i64) {
        let compaction = CompactionRequest { revision, physical: false };
        self.apply(vec![Kind::Compact(compaction)]);
        self.publish();
    }

    /// Another member of the same log, which has applied so many of its entries.
    pub fn follower(&self, place: Place, entries: usize) -> Self {
        let mut follower = Self::new(place);
        follower.log.clone_from(&self.log);
        follower.replay_to(0, entries);
        follower
    }

    /// Takes over the log of another member, as far as it goes now.
    pub fn hear(&mut self, other: &Self) {
        self.log.clone_from(&other.log);
    }

    pub fn importer(&self) -> (Importer, Option<Arc<MemoryStore>>) {
        self.place.importer()
    }

    /// Puts a received state in the place of the running one. `stored` before the store's thread has heard of it.
    pub fn install(&mut self, received: Received, store: Option<Arc<MemoryStore>>) -> Replacement {
        if let Some(store) = store {
            self.place = Place::Memory(store);
        }
        let running = self.running();
        running.rounds.clear();
        let replacement = running.applier.install(received);
        running.store = replacement.draft.store.clone();
        replacement
    }

    /// What the store's thread does then.
    pub fn persist_installed(&mut self, replacement: &Replacement) {
        self.running().persist.install(replacement).expect("installed");
    }

    /// The process stops when the log has decided for a received state, and starts again.
    pub fn restart_after(&mut self, received: Received, store: Option<Arc<MemoryStore>>) {
        let begin = received.position();
        received.decide();
        drop(received);
        if let Some(store) = store {
            self.place = Place::Memory(store);
        }
        self.restart_at(begin);
    }

    /// A restart under a log that begins after an entry, with nothing written since.
    pub fn restart_at(&mut self, begin: LogPosition) {
        self.running = None;
        let store = self.place.open_after(Some(begin));
        assert_eq!(store.applied(), begin);
        self.running = Some(Running::start(store));
    }
}

fn position(index: usize) -> LogPosition {
    LogPosition { index: LogIndex(index as u64), term: Term(1) }
}

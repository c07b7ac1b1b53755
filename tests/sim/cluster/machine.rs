//! One member of a simulated cluster: raft, log, apply and key space as they are, on a disk and a store that lose what
//! was not synced.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use decklog::alarm::Alarms;
use decklog::apply::Applier;
use decklog::command::{Command, Kind, Outcome};
use decklog::consensus::{
    BEGINNING, ConsensusError, Granted, LogTimers, Message, MessageType, Network, Node, NodeOptions,
    Proposal, RaftLog, ReadReply, ReceivedState, to_wire,
};
use decklog::courier::{Courier, Outbox};
use decklog::ids::{ClusterId, LogIndex, LogPosition, MemberId};
use decklog::lease::Leases;
use decklog::members::{Members, Membership};
use decklog::metrics::Metrics;
use decklog::mvcc::{Keyspace, Reader};
use decklog::snapshot::{Capture, Importer, Replacement};
use decklog::storage::disk::MemoryDisk;
use decklog::storage::wal::{HardState, Owner, Wal, WalOptions};
use decklog::storage::{MemoryStore, Round, Store};
use decklog::wire::etcdserverpb as pb;
use parking_lot::Mutex;
use prost::Message as _;
use tokio::sync::oneshot;

const CLUSTER: ClusterId = ClusterId(5);
const SMALL_SEGMENTS: WalOptions = WalOptions { segment_bytes: 4096 };
pub const ELECTION_TICKS: usize = 10;
/// What survives a crash.
#[derive(Clone, Default)]
pub struct Disks {
    pub log: MemoryDisk,
    stores: Arc<Mutex<Stores>>,
}

/// The store, and one that a received state comes into.
#[derive(Default)]
struct Stores {
    live: Arc<MemoryStore>,
    beside: Option<Arc<MemoryStore>>,
}

impl Disks {
    /// The power goes and comes back.
    pub fn crash(&self, pick: u64) {
        self.log.crash(pick);
        let stores = self.stores.lock();
        for store in [Some(&stores.live), stores.beside.as_ref()].into_iter().flatten() {
            store.crash(pick);
        }
    }

    /// What a start opens: the state that the log counts on, if it is not in its place yet.
    fn open(&self, begins_after: Option<LogPosition>) -> Arc<MemoryStore> {
        let mut stores = self.stores.lock();
        let beside = stores.beside.take();
        if let Some(begin) = begins_after
            && stores.live.applied().index < begin.index
        {
            let received = beside.expect("the state that the log counts on is there");
            assert_eq!(received.applied(), begin);
            stores.live = received;
        }
        stores.live.clone()
    }

    fn importer(&self) -> Importer {
        let stores = self.stores.clone();
        Importer::new(move || {
            let store = Arc::new(MemoryStore::new());
            stores.lock().beside = Some(store.clone());
            Ok(store)
        })
    }

    fn exchange(&self) -> Arc<MemoryStore> {
        let mut stores = self.stores.lock();
        stores.live = stores.beside.take().expect("it has come whole");
        stores.live.clone()
    }
}

/// A state on its way, with raft's message for it.
pub struct StateInMail {
    pub message: Message,
    pub pieces: Vec<Bytes>,
}

/// The machine has stopped at a call.
#[derive(Debug)]
pub struct Stopped;

pub type Answer = oneshot::Receiver<Result<Outcome, ConsensusError>>;
pub type Read = oneshot::Receiver<Result<(), ConsensusError>>;

/// Messages on their way out.
#[derive(Default)]
pub struct Outgoing {
    pub messages: Vec<Message>,
    /// Raft wants these states to be sent.
    states: Vec<Message>,
}

impl Network for Outgoing {
    fn send(&mut self, message: Message) {
        if message.get_msg_type() == MessageType::MsgSnapshot {
            return self.states.push(message);
        }
        // As they would travel: what does not survive that must not be relied on.
        let message = decklog::consensus::from_wire(to_wire(message)).expect("it is one of ours");
        self.messages.push(message);
    }
}

/// A committed entry as it was applied somewhere.
pub struct Applied {
    pub position: LogPosition,
    pub data: Bytes,
}

/// From a start to a crash.
pub struct Life {
    pub node: Node,
    applier: Applier,
    pub reader: Reader,
    disks: Disks,
    store: Arc<MemoryStore>,
    importer: Importer,
    /// A state that is in its place in memory, and not yet as the store.
    replacement: Option<Replacement>,
    captures: HashMap<u64, Capture>,
    catch_up_entries: u64,
    rounds: VecDeque<Round>,
    granted: Vec<Granted>,
    flushed: LogIndex,
}

impl Life {
    /// Starts a member; `seed` is of this start alone.
    pub fn start(id: MemberId, everybody: &[u64], disks: &Disks, seed: u64) -> Result<Self, Stopped> {
        let owner = Owner { member: id, cluster: CLUSTER };
        let opened = Wal::open(Arc::new(disks.log.clone()), owner, SMALL_SEGMENTS);
        let (mut wal, mut content) = opened.map_err(|error| stopped(disks, &error))?;
        let store = disks.open(content.begins_after);
        if store.applied().index == LogIndex(0) && content.begins_at_the_beginning() {
            if content.hard_state == HardState::default() {
                RaftLog::bootstrap(&mut wal).map_err(|error| stopped(disks, &error))?;
                content.hard_state = HardState { term: BEGINNING.term.0, vote: 0, commit: BEGINNING.index.0 };
            }
            let members = everybody.iter().map(|id| pb::Member { id: *id, ..pb::Member::default() });
            let tables = Membership::new(members.collect()).rows();
            store
                .write(&Round { applied: BEGINNING, changes: Vec::new(), tables })
                .expect("no fault is armed");
            store.flush().expect("no fault is armed");
        }
        let recovered = Keyspace::recover(store.clone()).expect("it is whole");
        let leases = Leases::recover(&*store, &recovered.attachments).expect("they are whole");
        let alarms = Alarms::recover(&*store).expect("they are whole");
        let membership = Membership::of_store(&*store).expect("it is whole");
        let applied = store.applied();
        let metrics = Metrics::new(false);
        let timers =
            LogTimers { write: metrics.log_write_seconds.clone(), flush: metrics.log_flush_seconds.clone() };
        let log = RaftLog::new(wal, content, applied, &membership, timers).expect("log and store fit");
        let options = NodeOptions {
            id,
            election_ticks: ELECTION_TICKS,
            heartbeat_ticks: 1,
            pre_vote: true,
            applied: applied.index,
            members: membership.clone(),
            seed,
        };
        let keyspace = recovered.keyspace;
        Ok(Self {
            node: Node::new(log, &options).expect("raft takes the log"),
            reader: keyspace.reader(),
            applier: Applier::new(keyspace, leases, alarms, Members::new(membership), applied),
            disks: disks.clone(),
            store,
            importer: disks.importer(),
            replacement: None,
            captures: HashMap::new(),
            catch_up_entries: 1 + seed % 40,
            rounds: VecDeque::new(),
            granted: Vec::new(),
            flushed: applied.index,
        })
    }

    pub fn put(&mut self, key: &str, value: &str) -> Answer {
        let request = pb::PutRequest {
            key: key.to_owned().into(),
            value: value.to_owned().into(),
            ..pb::PutRequest::default()
        };
        let (reply, answer) = oneshot::channel();
        let command = Command::from(Kind::Put(request)).encode_to_vec().into();
        self.node.propose([Proposal { command, reply, courier: Courier::here() }]);
        answer
    }

    pub fn read(&mut self) -> Read {
        let (reply, granted) = oneshot::channel();
        self.node.read(ReadReply { reply, courier: Courier::here() });
        granted
    }

    /// Does everything that can be done: what was applied, and messages on their way.
    pub fn run(&mut self, outgoing: &mut Outgoing) -> Result<(Vec<Applied>, Vec<StateInMail>), Stopped> {
        let mut done = Vec::new();
        self.node.move_on();
        while self.node.has_ready() {
            let step = self.node.step(outgoing).map_err(|error| match error {
                decklog::consensus::Error::Log(_) => Stopped,
                other => panic!("{other}"),
            })?;
            if let Some(install) = step.install {
                let before = self.reader.revision();
                self.replacement = Some(self.applier.install(*install.state));
                assert!(self.reader.revision() >= before, "the revision goes back");
                self.rounds.clear();
            }
            for entry in step.committed {
                let outcomes =
                    self.applier.apply(entry.position, &entry.data, &mut |_, _| {}).expect("applied");
                let published = self.applier.publish();
                self.rounds.push_back(published.round);
                entry.replies.answer(outcomes, &mut Outbox::default());
                done.push(Applied { position: entry.position, data: entry.data });
            }
            self.granted.extend(step.granted);
            let applied = self.applier.position().index;
            self.node.applied(applied);
            for granted in self.granted.extract_if(.., |granted| granted.index <= applied) {
                for reader in granted.readers {
                    reader.answer(Ok(()), &mut Outbox::default());
                }
            }
            self.node.move_on();
        }
        Ok((done, self.states(outgoing)))
    }

    /// The states that raft wants to be sent now; one that is wanted and not made is made.
    fn states(&mut self, outgoing: &mut Outgoing) -> Vec<StateInMail> {
        if let Some(to) = self.node.take_wanted_state() {
            let capture = self.applier.capture(Instant::now() + Duration::from_secs(3600));
            self.node.offer_state(to, capture.position(), capture.members());
            self.captures.insert(to.0, capture);
        }
        let mut states = Vec::new();
        for message in outgoing.states.drain(..) {
            let index = message.get_snapshot().get_metadata().index;
            let capture = self.captures.remove(&message.to);
            let Some(capture) = capture.filter(|capture| capture.position().index.0 == index) else {
                // Raft sends again what is on its way already.
                self.node.state_sent(MemberId(message.to), false);
                continue;
            };
            let pieces = capture.pieces().map(|piece| piece.expect("no fault is armed")).collect();
            states.push(StateInMail { message, pieces });
        }
        states
    }

    /// Takes in a state that has come whole; `false` when another is under way.
    pub fn receive_state(&mut self, state: &StateInMail) -> bool {
        let Ok(mut incoming) = self.importer.begin() else {
            return false;
        };
        for piece in &state.pieces {
            incoming.write(piece).expect("it is as it was sent");
        }
        let received = incoming.finish().expect("it is whole");
        let mut message = Message::default();
        (message.from, message.to, message.term) = (state.message.from, state.message.to, state.message.term);
        let (position, members) = (received.position(), received.members.clone());
        self.node.receive_state(ReceivedState { message, position, members, state: Box::new(received) });
        true
    }

    /// The store takes so many rounds, and the log is cut behind them.
    pub fn persist(&mut self, rounds: usize) -> Result<(), Stopped> {
        if let Some(replacement) = self.replacement.take() {
            replacement.draft.take_place().expect("no fault is armed");
            self.store = self.disks.exchange();
        }
        for round in self.rounds.drain(..rounds.min(self.rounds.len())) {
            self.store.write(&round).expect("no fault is armed");
        }
        self.flushed = self.store.flush().expect("no fault is armed").index;
        let applied = self.applier.position().index;
        self.node.progressed(applied, self.flushed, self.catch_up_entries).map_err(|_stopped| Stopped)
    }

    pub fn applied(&self) -> LogPosition {
        self.applier.position()
    }

    /// Of the whole key space.
    pub fn hash(&self) -> (u32, i64) {
        let hash = self.reader.hash_kv(0).expect("no fault is armed");
        (hash.hash, hash.revision.0)
    }
}

fn stopped(disks: &Disks, error: &decklog::storage::Error) -> Stopped {
    assert!(disks.log.failed_call().is_some(), "cannot start: {error}");
    Stopped
}

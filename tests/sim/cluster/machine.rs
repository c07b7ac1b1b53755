//! One member of a simulated cluster from a start to a crash: raft, log, apply, key space, leases, members, persistence
//! and watch hub as they are, on a disk and a store that lose what was not synced.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use decklog::alarm::Alarms;
use decklog::apply::Applier;
use decklog::command::{Command, CommandResult, Outcome};
use decklog::consensus::{
    ConsensusError, Granted, Message, MessageType, Network, Node, NodeOptions, Progress, Proposal, RaftLog,
    ReadReply, ReceivedState, Step, to_wire,
};
use decklog::courier::{Courier, Outbox};
use decklog::ids::{ClusterId, LogPosition, MemberId, Revision};
use decklog::lease::Leases;
use decklog::members::{Members, Membership};
use decklog::metrics::Metrics;
use decklog::mvcc::{Keyspace, Reader};
use decklog::persist::{Persist, PersistParts};
use decklog::server::{bootstrap, persist_metrics};
use decklog::snapshot::{Capture, Importer, Replacement};
use decklog::storage::disk::MemoryDisk;
use decklog::storage::wal::{Owner, Wal, WalOptions};
use decklog::storage::{Round, Store};
use decklog::watch::{HubInput, HubLimits, HubOptions, HubThread, WatchHub, connect};
use decklog::wire::etcdserverpb as pb;
use prost::Message as _;
use tokio::sync::oneshot;

use super::disks::Disks;

const CLUSTER: ClusterId = ClusterId(5);
const SMALL_SEGMENTS: WalOptions = WalOptions { segment_bytes: 4096 };
pub const ELECTION_TICKS: usize = 10;
/// Small, so that watchers fall behind.
const LIMITS: HubLimits =
    HubLimits { queued_batches: 4, queued_sends: 3, changes_per_slice: 5, ..HubLimits::DEFAULT };

/// How a member comes into its cluster.
pub enum Begin<'a> {
    /// With others: these.
    New(&'a [pb::Member]),
    /// Added to one that is there.
    Joins,
}

/// A state on its way, with raft's message for it.
pub struct StateInMail {
    pub message: Message,
    pub pieces: Vec<Bytes>,
}

/// The machine has stopped at a call.
#[derive(Debug)]
pub struct Stopped;

/// Why a member does not start.
pub enum NoStart {
    Stopped,
    Removed,
}

pub type Answer = oneshot::Receiver<Result<Outcome, ConsensusError>>;
pub type Read = oneshot::Receiver<Result<(), ConsensusError>>;

/// Messages on their way out.
pub struct Outgoing {
    disk: MemoryDisk,
    /// These have left.
    pub messages: Vec<Message>,
    /// These wait until a flush is over that takes its time.
    pub late: Vec<Message>,
    /// Raft wants these states to be sent.
    states: Vec<Message>,
}

impl Outgoing {
    pub fn new(disks: &Disks) -> Self {
        let (messages, late, states) = (Vec::new(), Vec::new(), Vec::new());
        Self { disk: disks.log.clone(), messages, late, states }
    }
}

impl Network for Outgoing {
    fn send(&mut self, message: Message) {
        if message.get_msg_type() == MessageType::MsgSnapshot {
            return self.states.push(message);
        }
        // As they would travel: what does not survive that must not be relied on.
        let message = decklog::consensus::from_wire(to_wire(message)).expect("it is one of ours");
        if self.disk.is_syncing() { self.late.push(message) } else { self.messages.push(message) }
    }
}

/// A committed entry as it was applied somewhere.
pub struct Applied {
    pub position: LogPosition,
    pub data: Bytes,
    pub outcomes: Vec<CommandResult>,
}

/// What a run of a member has done.
#[derive(Default)]
pub struct Did {
    pub applied: Vec<Applied>,
    pub states: Vec<StateInMail>,
    /// A flush has begun that takes its time: nothing goes on before `end_flush`.
    pub is_flushing: bool,
}

/// See the module.
pub struct Life {
    pub node: Node,
    applier: Applier,
    pub reader: Reader,
    pub leases: Leases,
    pub members: Members,
    hub: HubThread,
    input: HubInput,
    pub watches: WatchHub,
    persist: Persist,
    progress: Arc<Progress>,
    disks: Disks,
    importer: Importer,
    /// A state that is in its place in memory, and not yet as the store.
    replacement: Option<Replacement>,
    captures: HashMap<u64, Capture>,
    wanted: Vec<Message>,
    catch_up_entries: u64,
    /// Whether all entries of a step are published at once.
    publishes_together: bool,
    rounds: VecDeque<(Round, Option<Revision>)>,
    granted: Vec<Granted>,
    reads_need_no_round: bool,
    /// What comes after the flush that takes its time.
    unfinished: Option<Step>,
}

impl Life {
    /// Starts a member; `seed` is of this start alone.
    pub fn start(
        id: MemberId,
        begin: &Begin,
        disks: &Disks,
        metrics: &Metrics,
        seed: u64,
    ) -> Result<Self, NoStart> {
        let owner = Owner { member: id, cluster: CLUSTER };
        let opened = Wal::open(Arc::new(disks.log.clone()), owner, SMALL_SEGMENTS);
        let (mut wal, mut content) = opened.map_err(|error| stopped(disks, &error))?;
        let store = disks.open(content.begins_after);
        if let Begin::New(members) = begin {
            let members = Membership::new(members.to_vec());
            bootstrap(&members, &mut wal, &mut content, &*store).map_err(|error| stopped(disks, &error))?;
        }
        let recovered = Keyspace::recover(store.clone()).expect("it is whole");
        let leases = Leases::recover(&*store, &recovered.attachments).expect("they are whole");
        let alarms = Alarms::recover(&*store).expect("they are whole");
        let membership = Membership::of_store(&*store).expect("it is whole");
        if membership.is_removed(id) {
            return Err(NoStart::Removed);
        }
        let applied = store.applied();
        let log = RaftLog::new(wal, content, applied, &membership, metrics.log_timers())
            .expect("log and store fit");
        let options = NodeOptions {
            id,
            election_ticks: ELECTION_TICKS,
            heartbeat_ticks: 1,
            pre_vote: true,
            applied: applied.index,
            members: membership.clone(),
            seed,
        };
        let mut node = Node::new(log, &options).expect("raft takes the log");
        node.campaign_if_alone().expect("it may stand");
        let keyspace = recovered.keyspace;
        let (reader, tail) = (keyspace.reader(), keyspace.tail());
        let progress = Arc::new(Progress::default());
        let parts = PersistParts {
            store,
            reader: reader.clone(),
            tail,
            progress: progress.clone(),
            metrics: persist_metrics(metrics),
        };
        let (persist, _) = Persist::new(parts, recovered.compaction_is_open);
        let options = HubOptions { progress_interval: Duration::from_secs(3600), limits: LIMITS };
        let (hub, input, watches) = connect(reader.clone(), options);
        let members = Members::new(membership);
        Ok(Self {
            node,
            reader,
            applier: Applier::new(keyspace, leases.clone(), alarms, members.clone(), applied),
            leases,
            members,
            hub,
            input,
            watches,
            persist,
            progress,
            disks: disks.clone(),
            importer: disks.importer(),
            replacement: None,
            captures: HashMap::new(),
            wanted: Vec::new(),
            catch_up_entries: seed % 20,
            publishes_together: seed.count_ones().is_multiple_of(2),
            rounds: VecDeque::new(),
            granted: Vec::new(),
            reads_need_no_round: false,
            unfinished: None,
        })
    }

    /// Puts a command in line for the log.
    pub fn propose(&mut self, command: &Command) -> Answer {
        let (proposal, answer) = proposal(command);
        self.node.propose([proposal]);
        answer
    }

    /// Asks for a change of members, if this member leads.
    pub fn propose_change(&mut self, command: &Command) -> Answer {
        let (proposal, answer) = proposal(command);
        self.node.propose_change(proposal);
        answer
    }

    /// As `Handle::read_barrier`.
    pub fn read(&mut self) -> Read {
        let (reply, granted) = oneshot::channel();
        if self.reads_need_no_round {
            reply.send(Ok(())).expect("it is there");
        } else {
            self.node.read(ReadReply { reply, courier: Courier::here() });
        }
        granted
    }

    /// Does everything that can be done. With a slow disk until the first flush.
    pub fn run(&mut self, outgoing: &mut Outgoing, is_slow: bool) -> Result<Did, Stopped> {
        let mut did = Did::default();
        self.node.move_on();
        while self.node.has_ready() {
            self.disks.log.slow_down(is_slow);
            let step = self.node.step(outgoing).map_err(|error| match error {
                decklog::consensus::Error::Log(_) => Stopped,
                other => panic!("{other}"),
            })?;
            self.disks.log.slow_down(false);
            self.wanted.append(&mut outgoing.states);
            if self.disks.log.is_syncing() {
                self.unfinished = Some(step);
                did.is_flushing = true;
                return Ok(did);
            }
            self.finish(step, &mut did);
        }
        self.send_states(&mut did);
        let alone = self.node.is_only_voter() && self.node.is_leader();
        self.reads_need_no_round = alone && self.applier.position().term == self.node.term();
        Ok(did)
    }

    /// The flush that took its time is over.
    pub fn end_flush(&mut self) -> Did {
        self.disks.log.end_sync();
        let mut did = Did::default();
        let step = self.unfinished.take().expect("a flush was under way");
        self.finish(step, &mut did);
        self.send_states(&mut did);
        did
    }

    /// What follows a flush: installs, applies, publishes, answers.
    fn finish(&mut self, step: Step, did: &mut Did) {
        if let Some(install) = step.install {
            let before = self.reader.revision();
            self.replacement = Some(self.applier.install(*install.state));
            assert!(self.reader.revision() >= before, "the revision goes back");
            self.input.installed(self.reader.revision());
            self.rounds.clear();
        }
        let mut answers = Vec::new();
        for entry in step.committed {
            let is_new = entry.position.index > self.applier.position().index;
            let outcomes = self.applier.apply(entry.position, &entry.data, &mut |_, _| {}).expect("applied");
            if is_new {
                let (position, data, outcomes) = (entry.position, entry.data, outcomes.clone());
                did.applied.push(Applied { position, data, outcomes });
            }
            answers.push((entry.replies, outcomes));
            if !self.publishes_together {
                self.publish();
            }
        }
        if self.publishes_together {
            self.publish();
        }
        for (replies, outcomes) in answers {
            replies.answer(outcomes, &mut Outbox::default());
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

    fn publish(&mut self) {
        let published = self.applier.publish();
        if !published.changes.is_empty() {
            self.input.publish(published.revision, published.changes);
        }
        self.rounds.push_back((published.round, published.compacted));
    }

    /// The states that raft wants to be sent now; one that is wanted and not made is made.
    fn send_states(&mut self, did: &mut Did) {
        if let Some(to) = self.node.take_wanted_state() {
            let capture = self.applier.capture(Instant::now() + Duration::from_secs(3600));
            self.node.offer_state(to, capture.position(), capture.members());
            self.captures.insert(to.0, capture);
        }
        for message in std::mem::take(&mut self.wanted) {
            let index = message.get_snapshot().get_metadata().index;
            let capture = self.captures.remove(&message.to);
            let Some(capture) = capture.filter(|capture| capture.position().index.0 == index) else {
                // Raft sends again what is on its way already.
                self.node.state_sent(MemberId(message.to), false);
                continue;
            };
            let pieces = capture.pieces().map(|piece| piece.expect("no fault is armed")).collect();
            did.states.push(StateInMail { message, pieces });
        }
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

    /// The store takes so many rounds and a slice of a compaction.
    pub fn persist(&mut self, rounds: usize) {
        if let Some(replacement) = self.replacement.take() {
            self.persist.install(&replacement).expect("no fault is armed");
            self.disks.exchange();
        }
        for (round, compacted) in self.rounds.drain(..rounds.min(self.rounds.len())) {
            self.persist.write(&round).expect("no fault is armed");
            if let Some(revision) = compacted {
                self.persist.begin_compaction(revision);
            }
        }
        self.persist.step_compaction(5).expect("no fault is armed");
    }

    /// The log is cut behind what the store has.
    pub fn cut_log(&mut self) -> Result<(), Stopped> {
        let (applied, flushed) = (self.applier.position().index, self.progress.flushed());
        self.node.progressed(applied, flushed, self.catch_up_entries).map_err(|_stopped| Stopped)
    }

    /// What the hub does between two waits.
    pub fn turn_hub(&mut self, now: Instant) {
        self.hub.turn(now).expect("no fault is armed");
    }

    /// The process stops in order.
    pub fn close(&mut self) -> Result<(), Stopped> {
        self.node.close().map_err(|_stopped| Stopped)
    }

    pub fn applied(&self) -> LogPosition {
        self.applier.position()
    }

    /// Of the whole key space.
    pub fn hash(&self) -> (u32, i64, Revision) {
        let hash = self.reader.hash_kv(0).expect("no fault is armed");
        (hash.hash, hash.revision.0, self.reader.compacted())
    }
}

fn proposal(command: &Command) -> (Proposal, Answer) {
    let (reply, answer) = oneshot::channel();
    let makes_room = false;
    (
        Proposal { command: command.encode_to_vec().into(), makes_room, reply, courier: Courier::here() },
        answer,
    )
}

fn stopped(disks: &Disks, error: &dyn std::fmt::Display) -> NoStart {
    assert!(disks.log.failed_call().is_some(), "cannot start: {error}");
    NoStart::Stopped
}

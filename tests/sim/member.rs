//! A member without threads, clock or files: raft, log, apply, key space, leases, store and watch hub as they are.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use decklog::alarm::Alarms;
use decklog::apply::Applier;
use decklog::command::{Command, Kind, Outcome};
use decklog::consensus::{ConsensusError, Message, Network, Node, NodeOptions, Progress, Proposal, RaftLog};
use decklog::courier::{Courier, Outbox};
use decklog::ids::{ClusterId, LeaseId, LogIndex, MemberId, Revision, Term};
use decklog::lease::Leases;
use decklog::members::{Members, Membership};
use decklog::metrics::Metrics;
use decklog::mvcc::{Keyspace, Reader};
use decklog::persist::{self, Persist, PersistParts};
use decklog::server::persist_metrics;
use decklog::storage::disk::MemoryDisk;
use decklog::storage::wal::{Owner, Wal, WalOptions};
use decklog::storage::{Error, MemoryStore, Round, Store};
use decklog::watch::{HubInput, HubLimits, HubOptions, HubThread, WatchHub, connect};
use decklog::wire::etcdserverpb as pb;
use prost::Message as _;
use tokio::sync::oneshot;

use crate::naive::Naive;

const ID: MemberId = MemberId(7);
const OWNER: Owner = Owner { member: ID, cluster: ClusterId(8) };
const SMALL_SEGMENTS: WalOptions = WalOptions { segment_bytes: 1024 };
/// Small, so that watchers fall behind.
const LIMITS: HubLimits =
    HubLimits { queued_batches: 4, queued_sends: 3, changes_per_slice: 5, ..HubLimits::DEFAULT };

/// What survives a crash.
#[derive(Clone, Default)]
pub struct Disks {
    pub log: MemoryDisk,
    pub store: Arc<MemoryStore>,
}

/// The machine has stopped at a call.
#[derive(Debug)]
pub struct Stopped;

pub type Answer = Result<Outcome, ConsensusError>;

pub struct Member {
    node: Node,
    applier: Applier,
    persist: Persist,
    progress: Arc<Progress>,
    store: Arc<dyn Store>,
    hub: HubThread,
    input: HubInput,
    pub watches: WatchHub,
    pub reader: Reader,
    pub leases: Leases,
    alarms: Alarms,
    /// Rounds that the store has not been given; the first may have met a full disk.
    rounds: VecDeque<(Round, Option<Revision>)>,
    waiting: VecDeque<oneshot::Receiver<Answer>>,
}

impl Member {
    pub fn start(disks: &Disks) -> Result<Self, Box<dyn std::error::Error>> {
        let metrics = Metrics::new(false);
        let store: Arc<dyn Store> = disks.store.clone();
        let recovered = Keyspace::recover(store.clone())?;
        let keyspace = recovered.keyspace;
        let leases = Leases::recover(&*store, &recovered.attachments)?;
        let (alarms, members) = (Alarms::recover(&*store)?, Members::new(alone()));
        let node = node(disks, &*store, &metrics)?;
        let progress = Arc::new(Progress::default());
        progress.set_applied(store.applied());
        let (reader, tail) = (keyspace.reader(), keyspace.tail());
        let parts = PersistParts {
            store: store.clone(),
            reader: reader.clone(),
            tail,
            progress: progress.clone(),
            metrics: persist_metrics(&metrics),
        };
        let (persist, _) = Persist::new(parts, recovered.compaction_is_open);
        let options = HubOptions { progress_interval: Duration::from_secs(600), limits: LIMITS };
        let (hub, input, watches) = connect(reader.clone(), options);
        let applied = store.applied();
        let applier = Applier::new(keyspace, leases.clone(), alarms.clone(), members, applied);
        let (rounds, waiting) = (VecDeque::new(), VecDeque::new());
        let mut member = Self {
            node,
            applier,
            persist,
            progress,
            store,
            hub,
            input,
            watches,
            reader,
            leases,
            alarms,
            rounds,
            waiting,
        };
        member.settle().map_err(|Stopped| "the machine stopped while starting")?;
        Ok(member)
    }

    /// Puts commands in line; they are answered in order.
    pub fn propose(&mut self, commands: &[Kind]) {
        let mut proposals = Vec::new();
        for command in commands {
            let (reply, answer) = oneshot::channel();
            self.waiting.push_back(answer);
            let command = Command::from(command.clone()).encode_to_vec().into();
            proposals.push(Proposal { command, makes_room: false, reply, courier: Courier::here() });
        }
        self.node.propose(proposals);
    }

    /// Steps until nothing moves; the answers that came, in order.
    pub fn settle(&mut self) -> Result<Vec<Answer>, Stopped> {
        while self.node.has_ready() {
            let step = self.node.step(&mut Nobody).map_err(|_stopped| Stopped)?;
            for entry in step.committed {
                let applied = self.applier.apply(entry.position, &entry.data, &mut |_, _| {});
                let outcomes = applied.unwrap_or_else(|error| panic!("apply failed: {error}"));
                let published = self.applier.publish();
                self.progress.set_applied(published.round.applied);
                if !published.changes.is_empty() {
                    self.input.publish(published.revision, published.changes);
                }
                self.rounds.push_back((published.round, published.compacted));
                entry.replies.answer(outcomes, &mut Outbox::default());
            }
        }
        Ok(self.take_answers())
    }

    /// The answers that are there.
    pub fn take_answers(&mut self) -> Vec<Answer> {
        let mut answers = Vec::new();
        while let Some(first) = self.waiting.front_mut()
            && let Ok(answer) = first.try_recv()
        {
            answers.push(answer);
            self.waiting.pop_front();
        }
        answers
    }

    /// Gives the store up to so many rounds as one, as the mailbox merges them, and flushes it.
    pub fn persist(&mut self, rounds: usize) -> Result<(), Stopped> {
        let Some((mut merged, mut compact)) = self.rounds.pop_front() else {
            return Ok(());
        };
        let others = rounds.saturating_sub(1).min(self.rounds.len());
        for (round, compacted) in self.rounds.drain(..others) {
            merged.applied = round.applied;
            merged.changes.extend(round.changes);
            merged.tables.extend(round.tables);
            compact = compacted.or(compact);
        }
        match self.persist.write(&merged) {
            Ok(()) => {
                if let Some(revision) = compact {
                    self.persist.begin_compaction(revision);
                }
                Ok(())
            }
            // It is tried again.
            Err(Error::Full { .. }) => {
                self.rounds.push_front((merged, compact));
                Ok(())
            }
            Err(_stopped) => Err(Stopped),
        }
    }

    pub fn compact_slice(&mut self) -> Result<(), Stopped> {
        match self.persist.step_compaction(3) {
            Ok(())
            | Err(
                persist::Error::Store(Error::Full { .. })
                | persist::Error::Compaction(decklog::mvcc::Error::Storage(Error::Full { .. })),
            ) => Ok(()),
            Err(_stopped) => Err(Stopped),
        }
    }

    pub fn defragment(&mut self) -> Result<(), Stopped> {
        match self.store.defragment(64) {
            Ok(_) | Err(Error::Full { .. }) => Ok(()),
            Err(_stopped) => Err(Stopped),
        }
    }

    pub fn cut_log(&mut self) -> Result<(), Stopped> {
        let (applied, flushed) = (self.progress.applied().index, self.progress.flushed());
        self.node.progressed(applied, flushed, 0).map_err(|_stopped| Stopped)
    }

    /// Through where the store says that it has everything for good.
    pub fn flushed(&self) -> LogIndex {
        self.progress.flushed()
    }

    pub fn term(&self) -> Term {
        self.node.term()
    }

    /// What the hub does between two waits.
    pub fn turn_hub(&mut self, now: Instant) {
        self.hub.turn(now).expect("no fault");
    }

    /// Stops in order.
    pub fn stop(&mut self) -> Result<(), Stopped> {
        self.persist(usize::MAX)?;
        self.node.close().map_err(|_stopped| Stopped)
    }

    /// Whether the newest state is the naive one, leases with the time that they begin with.
    pub fn is(&self, naive: &Naive, now: Instant) -> bool {
        let everything = pb::RangeRequest {
            key: vec![0].into(),
            range_end: vec![0].into(),
            ..pb::RangeRequest::default()
        };
        let pin = naive.pin();
        let alarms = self.alarms.list(pb::AlarmType::None);
        let alarms: Vec<_> = alarms.iter().map(|alarm| (alarm.member_id, alarm.alarm)).collect();
        (self.reader.revision().0, self.reader.compacted().0) == (pin.revision, pin.compacted)
            && self.reader.snapshot().range(&everything).ok() == naive.range(pin, &everything).ok()
            && alarms == naive.alarms()
            && self.has_leases_of(naive, now)
    }

    fn has_leases_of(&self, naive: &Naive, now: Instant) -> bool {
        let same = naive.leases.iter().all(|(id, grant)| {
            let left = if grant.remaining > 0 { grant.remaining } else { grant.ttl };
            let found = self.leases.time_to_live(LeaseId(*id), true, now);
            found.is_some_and(|found| {
                (found.granted, found.remaining, found.keys) == (grant.ttl, left, naive.keys_of(*id))
            })
        });
        same && self.leases.counts().0 == naive.leases.len()
    }
}

/// There is nobody to send to.
struct Nobody;

impl Network for Nobody {
    fn send(&mut self, message: Message) {
        panic!("a member alone sends {message:?}");
    }
}

fn alone() -> Membership {
    Membership::new(vec![pb::Member { id: ID.0, ..pb::Member::default() }])
}

fn node(disks: &Disks, store: &dyn Store, metrics: &Metrics) -> Result<Node, Box<dyn std::error::Error>> {
    let (wal, content) = Wal::open(Arc::new(disks.log.clone()), OWNER, SMALL_SEGMENTS)?;
    let applied = store.applied();
    let log = RaftLog::new(wal, content, applied, &alone(), metrics.log_timers())?;
    let options = NodeOptions {
        id: ID,
        election_ticks: 10,
        heartbeat_ticks: 1,
        pre_vote: true,
        applied: applied.index,
        members: alone(),
        seed: 1,
    };
    let mut node = Node::new(log, &options)?;
    node.campaign_if_alone()?;
    Ok(node)
}

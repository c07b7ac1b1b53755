//! A member without threads, clock or files.

use std::ops::ControlFlow;
use std::sync::Arc;

use bytes::Bytes;
use decklog::alarm::Alarms;
use decklog::apply::Applier;
use decklog::command::{Kind, Outcome};
use decklog::consensus::{ConsensusError, LogTimers, Node, NodeOptions, Progress, Proposal, RaftLog};
use decklog::courier::{Courier, Outbox};
use decklog::ids::{MemberId, Revision};
use decklog::lease::Leases;
use decklog::members::Members;
use decklog::metrics::Metrics;
use decklog::mvcc::{ChangeKind, Keyspace, Reader};
use decklog::persist::{Persist, PersistMetrics, PersistParts};
use decklog::storage::disk::MemoryDisk;
use decklog::storage::wal::{Wal, WalOptions};
use decklog::storage::{MemoryStore, Round, Store};
use decklog::wire::etcdserverpb as pb;
use decklog::wire::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use decklog::wire::etcdserverpb::request_op::Request;
use prost::Message;
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::sync::oneshot;

use crate::model::{Answer, Command, Model, Pair};

const ID: MemberId = MemberId(7);
const SMALL_SEGMENTS: WalOptions = WalOptions { segment_bytes: 4096 };

/// What survives a crash.
#[derive(Clone, Default)]
pub struct Disks {
    pub log: MemoryDisk,
    pub store: Arc<MemoryStore>,
}

/// The machine has stopped at a call.
pub struct Stopped;

type Reply = oneshot::Receiver<Result<Outcome, ConsensusError>>;

pub struct Member {
    node: Node,
    applier: Applier,
    persist: Persist,
    progress: Arc<Progress>,
    reader: Reader,
    /// Rounds that the store has not been given.
    rounds: Vec<(Round, Option<Revision>)>,
    waiting: Vec<Reply>,
}

impl Member {
    pub fn start(disks: &Disks) -> Result<Self, Box<dyn std::error::Error>> {
        let metrics = Metrics::new(false);
        let store: Arc<dyn Store> = disks.store.clone();
        let recovered = Keyspace::recover(store.clone())?;
        let keyspace = recovered.keyspace;
        let leases = Leases::recover(&*store, &recovered.attachments)?;
        let (alarms, members) = (Alarms::recover(&*store)?, Members::recover(&*store, Vec::new())?);
        let (wal, content) = Wal::open(Arc::new(disks.log.clone()), SMALL_SEGMENTS)?;
        let applied = store.applied();
        let timers =
            LogTimers { write: metrics.log_write_seconds.clone(), flush: metrics.log_flush_seconds.clone() };
        let log = RaftLog::new(wal, content, applied, ID, timers)?;
        let options = NodeOptions {
            id: ID,
            election_ticks: 10,
            heartbeat_ticks: 1,
            pre_vote: true,
            applied: applied.index,
        };
        let mut node = Node::new(log, &options)?;
        node.campaign_if_alone()?;
        let progress = Arc::new(Progress::default());
        progress.set_applied(applied);
        let (reader, tail) = (keyspace.reader(), keyspace.tail());
        let parts = PersistParts {
            store,
            reader: reader.clone(),
            tail,
            progress: progress.clone(),
            metrics: persist_metrics(&metrics),
        };
        let (persist, _) = Persist::new(parts, recovered.compaction_is_open);
        let applier = Applier::new(keyspace, leases, alarms, members, applied);
        let mut member =
            Self { node, applier, persist, progress, reader, rounds: Vec::new(), waiting: Vec::new() };
        member.settle().map_err(|Stopped| "the machine stopped while starting")?;
        Ok(member)
    }

    pub fn propose(&mut self, commands: &[Command]) {
        let proposals: Vec<_> = commands
            .iter()
            .map(|command| {
                let (reply, answer) = oneshot::channel();
                self.waiting.push(answer);
                let command: decklog::command::Command = to_kind(command).into();
                Proposal { command: command.encode_to_vec().into(), reply, courier: Courier::here() }
            })
            .collect();
        self.node.propose(proposals);
    }

    /// Steps until nothing moves; the answers that came, in order.
    pub fn settle(&mut self) -> Result<Vec<Answer>, Stopped> {
        while self.node.has_ready() {
            let step = self.node.step().map_err(|_stopped| Stopped)?;
            for entry in step.committed {
                let outcomes = self
                    .applier
                    .apply(entry.position, &entry.data, &mut |_, _| {})
                    .unwrap_or_else(|error| panic!("apply failed: {error}"));
                let published = self.applier.publish();
                self.progress.set_applied(published.round.applied);
                self.rounds.push((published.round, published.compacted));
                entry.replies.answer(outcomes, &mut Outbox::default());
            }
        }
        let mut answers = Vec::new();
        while let Some(first) = self.waiting.first_mut() {
            match first.try_recv() {
                Ok(Err(ConsensusError::NoSpace | ConsensusError::NoLeader)) => return Err(Stopped),
                Ok(outcome) => answers.push(to_answer(outcome)),
                Err(_not_yet) => break,
            }
            self.waiting.remove(0);
        }
        Ok(answers)
    }

    /// Gives the oldest round to the store and flushes it.
    pub fn persist(&mut self) -> Result<(), Stopped> {
        if self.rounds.is_empty() {
            return Ok(());
        }
        let (round, compacts) = self.rounds.remove(0);
        self.persist.write(&round).map_err(|_stopped| Stopped)?;
        if let Some(revision) = compacts {
            self.persist.begin_compaction(revision);
        }
        Ok(())
    }

    pub fn compact_slice(&mut self) -> Result<(), Stopped> {
        self.persist.step_compaction(3).map_err(|_stopped| Stopped)
    }

    pub fn cut_log(&mut self) -> Result<(), Stopped> {
        let (applied, flushed) = (self.progress.applied().index, self.progress.flushed());
        self.node.progressed(applied, flushed, 0).map_err(|_stopped| Stopped)
    }

    /// Whether the newest state is the model's.
    pub fn is(&self, model: &Model) -> bool {
        self.reader.revision() == Revision(model.revision)
            && self.reader.compacted() == Revision(model.compacted)
            && self.all(0) == Some(model.all(model.revision))
    }

    /// Everything that can be read is what the model says.
    pub fn check(&self, model: &Model, random: &mut SmallRng, context: &str) {
        assert!(self.is(model), "{context}: {:?} is not {model:?}", self.all(0));
        let revision = random.random_range(1..=model.revision);
        let expected = (revision >= model.compacted).then(|| model.all(revision));
        assert_eq!(self.all(revision), expected, "{context}: at revision {revision}");
        let from = random.random_range(model.compacted.max(1)..=model.revision);
        assert_eq!(self.changes(from), expected_changes(model, from), "{context}: changes from {from}");
    }

    /// Every pair at a revision (0: the newest); `None` when it is compacted.
    fn all(&self, revision: i64) -> Option<Vec<Pair>> {
        let everything = Bytes::from_static(&[0]);
        let request = pb::RangeRequest {
            key: everything.clone(),
            range_end: everything,
            revision,
            ..Default::default()
        };
        let answer = self.reader.snapshot().range(&request).ok()?;
        assert_eq!(usize::try_from(answer.count), Ok(answer.pairs.len()));
        let pairs = answer.pairs.iter().map(|pair| {
            let pair = pair.decode().expect("a pair");
            (pair.key[1], pair.value[0], pair.create_revision, pair.mod_revision, pair.version)
        });
        Some(pairs.collect())
    }

    fn changes(&self, from: i64) -> Vec<(i64, u8, bool)> {
        let mut changes = Vec::new();
        self.reader
            .snapshot()
            .changes(Revision(from), self.reader.revision(), &mut |change| {
                changes.push((change.at.main.0, change.key[1], change.kind == ChangeKind::Put));
                ControlFlow::Continue(())
            })
            .expect("read");
        changes
    }
}

/// Changes after the compacted revision are all there; at it, only what was visible.
fn expected_changes(model: &Model, from: i64) -> Vec<(i64, u8, bool)> {
    let is_newest_at = |change: &crate::model::Change| {
        let newest = model
            .changes
            .iter()
            .rev()
            .find(|other| other.key == change.key && other.revision <= model.compacted);
        newest.is_some_and(|newest| newest.revision == change.revision)
    };
    let changes = model.changes.iter().filter(|change| change.revision >= from);
    changes
        .filter(|change| change.revision > model.compacted || is_newest_at(change))
        .map(|change| (change.revision, change.key, change.pair.is_some()))
        .collect()
}

fn key(key: u8) -> Bytes {
    vec![b'k', key].into()
}

fn put(number: u8, value: u8) -> pb::PutRequest {
    pb::PutRequest { key: key(number), value: vec![value].into(), ..Default::default() }
}

fn to_kind(command: &Command) -> Kind {
    match command {
        Command::Put(key, value) => Kind::Put(put(*key, *value)),
        Command::Delete(from, to) => {
            // An empty end would mean one key: a span of nothing is asked for as such.
            Kind::DeleteRange(pb::DeleteRangeRequest { key: key(*from), range_end: key(*to), prev_kv: false })
        }
        Command::Txn { keys, version, value } => {
            let compare = pb::Compare {
                result: CompareResult::Equal.into(),
                target: CompareTarget::Version.into(),
                key: key(keys[0]),
                target_union: Some(TargetUnion::Version(*version)),
                ..Default::default()
            };
            let op = |request| pb::RequestOp { request: Some(request) };
            let success = keys.iter().map(|number| op(Request::RequestPut(put(*number, *value))));
            let failure = keys.iter().map(|number| {
                let delete = pb::DeleteRangeRequest { key: key(*number), ..Default::default() };
                op(Request::RequestDeleteRange(delete))
            });
            let (success, failure) = (success.collect(), failure.collect());
            Kind::Txn(pb::TxnRequest { compare: vec![compare], success, failure })
        }
        Command::Compact(revision) => {
            Kind::Compact(pb::CompactionRequest { revision: *revision, physical: false })
        }
    }
}

fn to_answer(outcome: Result<Outcome, ConsensusError>) -> Answer {
    let revision = |header: Option<pb::ResponseHeader>| header.expect("every answer has one").revision;
    match outcome.map_err(|error| error.to_string())? {
        Outcome::Put(response) => Ok((1, revision(response.header))),
        Outcome::DeleteRange(response) => Ok((response.deleted, revision(response.header))),
        Outcome::Txn(response) => {
            let changed = response.responses.iter().map(|response| match &response.response {
                Some(pb::response_op::Response::ResponseDeleteRange(response)) => response.deleted,
                _ => 1,
            });
            Ok((changed.sum(), revision(response.header)))
        }
        Outcome::Compact(response) => Ok((0, revision(response.header))),
        other => panic!("not asked for: {other:?}"),
    }
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

//! Apply: the state machine. One entry in, its outcomes out; synchronous, deterministic, the only writer.
//! Owns the key space, leases, alarms and members. No clock, no randomness, nothing but state and entry.

mod kv;
mod lease;
mod txn;

use std::time::Instant;

use bytes::Bytes;

use crate::alarm::Alarms;
use crate::command::{self, Batch, Command, CommandResult, Kind, Outcome, Rejection};
use crate::ids::{LogPosition, MemberId, Revision};
use crate::lease::Leases;
use crate::members::Members;
use crate::mvcc::{self, Change, Keyspace, Operations};
use crate::snapshot::{Capture, Received, Replacement};
use crate::storage::{Round, TableWrite};
use crate::wire::etcdserverpb as pb;
use crate::wire::etcdserverpb::alarm_request::AlarmAction;

/// Leaves of the index that are pruned after each batch while a compaction is under way.
const PRUNED_LEAVES_PER_BATCH: usize = 64;

/// Why the state machine cannot go on. The process must stop: to skip an entry is to diverge.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Store(#[from] mvcc::Error),
    #[error(transparent)]
    Entry(#[from] command::UndecodableEntry),
}

/// Why a command did nothing: refused, the same on every member, or stopped by a fault of this one.
enum Failure {
    Rejected(Rejection),
    Fatal(mvcc::Error),
}

impl From<Rejection> for Failure {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

impl From<mvcc::Error> for Failure {
    fn from(error: mvcc::Error) -> Self {
        match error {
            mvcc::Error::Compacted => Self::Rejected(Rejection::Compacted),
            mvcc::Error::FutureRevision => Self::Rejected(Rejection::FutureRevision),
            fault => Self::Fatal(fault),
        }
    }
}

/// What the entries since the last publication did.
#[derive(Debug, Default)]
pub struct Published {
    pub revision: Revision,
    /// For the store.
    pub round: Round,
    /// For watchers.
    pub changes: Vec<Change>,
    /// A compaction was ordered: its revision.
    pub compacted: Option<Revision>,
    /// What the commands asked for.
    pub operations: Operations,
}

/// The state machine.
pub struct Applier {
    keyspace: Keyspace,
    leases: Leases,
    alarms: Alarms,
    members: Members,
    position: LogPosition,
    tables: Vec<TableWrite>,
    compacted: Option<Revision>,
}

impl Applier {
    /// `position` is the entry that the recovered state stands for.
    pub fn new(
        keyspace: Keyspace,
        leases: Leases,
        alarms: Alarms,
        members: Members,
        position: LogPosition,
    ) -> Self {
        Self { keyspace, leases, alarms, members, position, tables: Vec::new(), compacted: None }
    }

    /// The newest entry applied.
    pub fn position(&self) -> LogPosition {
        self.position
    }

    /// Applies one entry; the outcomes stand in the order of its commands. An entry at or below the position
    /// is in the state already and does nothing. Each command is told to `applied` by its name with what it did.
    ///
    /// # Errors
    /// See `Error`: the process must stop.
    pub fn apply(
        &mut self,
        position: LogPosition,
        data: &Bytes,
        applied: &mut dyn FnMut(&'static str, &CommandResult),
    ) -> Result<Vec<CommandResult>, Error> {
        if position.index <= self.position.index {
            return Ok(Vec::new());
        }
        let batch = if data.is_empty() { Batch::default() } else { command::decode(position.index.0, data)? };
        let mut outcomes = Vec::with_capacity(batch.commands.len());
        for command in batch.commands {
            let name = command::name(&command);
            let is_stale = command.only_in_term != 0 && command.only_in_term != position.term.0;
            let done = if is_stale { Err(Rejection::OtherTerm.into()) } else { self.command(command) };
            let outcome = match done {
                Ok(outcome) => Ok(outcome),
                Err(Failure::Rejected(rejection)) => Err(rejection),
                Err(Failure::Fatal(fault)) => return Err(fault.into()),
            };
            applied(name, &outcome);
            outcomes.push(outcome);
        }
        self.position = position;
        Ok(outcomes)
    }

    /// Makes what was applied visible to readers at once and hands out what store and watchers need, after a
    /// slice of pruning.
    pub fn publish(&mut self) -> Published {
        self.prune();
        self.publish_unpruned()
    }

    /// Prunes a slice of the index for the newest compaction, if there is anything to prune.
    pub fn prune(&mut self) {
        self.keyspace.prune(PRUNED_LEAVES_PER_BATCH);
    }

    /// As `publish`, for a caller that prunes by itself.
    pub fn publish_unpruned(&mut self) -> Published {
        let publication = self.keyspace.publish();
        let mut tables = publication.tables;
        tables.append(&mut self.tables);
        tables.append(&mut self.leases.take_rows());
        tables.append(&mut self.members.take_rows());
        Published {
            revision: publication.revision,
            round: Round { applied: self.position, changes: publication.stored, tables },
            changes: publication.changes,
            compacted: self.compacted.take(),
            operations: publication.operations,
        }
    }

    /// The whole state as of the newest entry; until then compactions leave what it names.
    ///
    /// # Panics
    /// When something is not published.
    pub fn capture(&self, until: Instant) -> Capture {
        let mut rows = self.leases.rows();
        rows.append(&mut self.alarms.rows());
        let members = (*self.members.now()).clone();
        let bytes = self.bytes_in_use();
        Capture::new(self.position, self.keyspace.pinned_snapshot(until), members, rows, bytes)
    }

    /// Bytes that stored revisions take.
    pub fn bytes_in_use(&self) -> u64 {
        self.keyspace.reader().sizes().in_use
    }

    /// Puts a received state in the place of everything applied so far, and returns what the store's thread needs to go on.
    /// Everybody who holds the key space's readers, the leases, alarms or members sees it from here on.
    ///
    /// # Panics
    /// When something is not published, or the state is not newer.
    pub fn install(&mut self, received: Received) -> Replacement {
        let position = received.position();
        assert!(position.index > self.position.index, "a state is received only from further on");
        assert!(self.tables.is_empty() && self.compacted.is_none(), "everything was published");
        received.decide();
        let Received { keyspace, leases, alarms, members, replacement } = received;
        self.keyspace.replace(keyspace);
        self.leases.replace(&leases);
        self.alarms.replace(&alarms);
        self.members.replace(members);
        self.position = position;
        replacement
    }

    /// The revision that readers see.
    pub fn revision(&self) -> Revision {
        self.keyspace.revision()
    }

    /// Whether the index is still being pruned: then `publish` has work to do without entries.
    pub fn is_pruning(&self) -> bool {
        self.keyspace.is_pruning()
    }

    fn command(&mut self, command: Command) -> Result<Outcome, Failure> {
        let Some(kind) = command.kind else {
            return Err(Rejection::UnknownCommand.into());
        };
        self.check_alarms(&kind)?;
        match kind {
            Kind::Put(request) => self.put(request).map(Outcome::Put),
            Kind::DeleteRange(request) => self.delete_range(&request).map(Outcome::DeleteRange),
            Kind::Txn(request) => self.txn(&request).map(Outcome::Txn),
            Kind::Compact(request) => self.compact(&request).map(Outcome::Compact),
            Kind::LeaseGrant(request) => self.lease_grant(&request).map(Outcome::LeaseGrant),
            Kind::LeaseRevoke(request) => self.lease_revoke(&request).map(Outcome::LeaseRevoke),
            Kind::LeaseCheckpoint(request) => Ok(self.lease_checkpoint(&request)),
            Kind::Alarm(request) => Ok(Outcome::Alarm(self.alarm(&request))),
            Kind::MemberAttributes(request) => {
                self.members.set_attributes(&request);
                Ok(Outcome::Member)
            }
            Kind::MemberChange(change) => Ok(Outcome::Members(self.members.apply(&change)?)),
            // The cluster's version is the lowest of its members; with one it is its own.
            Kind::ClusterVersion(_) => Ok(Outcome::Member),
        }
    }

    /// What NOSPACE and CORRUPT forbid; reads, deletions and the way out stay open under NOSPACE.
    fn check_alarms(&self, kind: &Kind) -> Result<(), Rejection> {
        let changes_data = matches!(
            kind,
            Kind::Put(_)
                | Kind::DeleteRange(_)
                | Kind::Txn(_)
                | Kind::Compact(_)
                | Kind::LeaseGrant(_)
                | Kind::LeaseRevoke(_)
        );
        if changes_data && self.alarms.is_active(pb::AlarmType::Corrupt) {
            return Err(Rejection::Corrupt);
        }
        let needs_space = match kind {
            Kind::Put(_) | Kind::LeaseGrant(_) => true,
            Kind::Txn(request) => txn::has_put(request),
            _ => false,
        };
        if needs_space && self.alarms.is_active(pb::AlarmType::Nospace) {
            return Err(Rejection::NoSpace);
        }
        Ok(())
    }

    fn compact(&mut self, request: &pb::CompactionRequest) -> Result<pb::CompactionResponse, Failure> {
        self.keyspace.compact(request.revision)?;
        self.compacted = Some(Revision(request.revision));
        Ok(pb::CompactionResponse { header: Some(header(self.keyspace.revision())) })
    }

    fn alarm(&mut self, request: &pb::AlarmRequest) -> pb::AlarmResponse {
        let member = MemberId(request.member_id);
        let kind = request.alarm();
        let alarms = match request.action() {
            AlarmAction::Get => self.alarms.list(kind),
            AlarmAction::Activate if kind == pb::AlarmType::None => Vec::new(),
            AlarmAction::Activate => {
                let (alarm, row) = self.alarms.activate(member, kind);
                self.tables.extend(row);
                vec![alarm]
            }
            AlarmAction::Deactivate => match self.alarms.deactivate(member, kind) {
                Some((alarm, row)) => {
                    self.tables.push(row);
                    vec![alarm]
                }
                None => Vec::new(),
            },
        };
        pb::AlarmResponse { header: None, alarms }
    }
}

/// A header that says only the revision; the rest is the answering member's to fill in.
fn header(revision: Revision) -> pb::ResponseHeader {
    pb::ResponseHeader { revision: revision.0, ..pb::ResponseHeader::default() }
}

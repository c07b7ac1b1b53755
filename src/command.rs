//! What goes into the log and what comes back: typed, protobuf, versioned.
//! Owns the encoding of entries; decides nothing about their effect (`apply` does).

use bytes::Bytes;
use prost::Message;

use crate::wire::etcdserverpb as pb;
use crate::wire::log;
pub use crate::wire::log::command::Kind;

/// Commands proposed together: the data of one log entry.
pub type Batch = log::EntryBatch;

/// One change to the replicated state.
pub type Command = log::Command;

/// A change of who belongs to the cluster.
pub type MemberChange = log::MemberChange;

impl From<Kind> for Command {
    fn from(kind: Kind) -> Self {
        Self { kind: Some(kind), only_in_term: 0 }
    }
}

/// Why a log entry cannot be read. The member must stop: applying on would diverge.
#[derive(Debug, thiserror::Error)]
#[error("log entry {index} is not one of ours: {source}")]
pub struct UndecodableEntry {
    pub index: u64,
    pub source: prost::DecodeError,
}

/// # Errors
/// When the bytes are no entry of ours.
pub fn decode(index: u64, data: &Bytes) -> Result<Batch, UndecodableEntry> {
    Batch::decode(data.clone()).map_err(|source| UndecodableEntry { index, source })
}

/// A command's name, as etcd's metrics have it.
pub fn name(command: &Command) -> &'static str {
    match &command.kind {
        Some(Kind::Put(_)) => "Put",
        Some(Kind::DeleteRange(_)) => "DeleteRange",
        Some(Kind::Txn(_)) => "Txn",
        Some(Kind::Compact(_)) => "Compaction",
        Some(Kind::LeaseGrant(_)) => "LeaseGrant",
        Some(Kind::LeaseRevoke(_)) => "LeaseRevoke",
        Some(Kind::LeaseCheckpoint(_)) => "LeaseCheckpoint",
        Some(Kind::Alarm(_)) => "Alarm",
        Some(Kind::MemberAttributes(_)) => "ClusterMemberAttrSet",
        Some(Kind::ClusterVersion(_)) => "ClusterVersionSet",
        Some(Kind::MemberChange(_)) => "MemberChange",
        None => "Unknown",
    }
}

/// Whether a command only gives room back, or is what an operator needs to get some: it is taken on a full disk, too.
pub fn makes_room(command: &Command) -> bool {
    match &command.kind {
        Some(
            Kind::DeleteRange(_)
            | Kind::Compact(_)
            | Kind::LeaseRevoke(_)
            | Kind::Alarm(_)
            | Kind::MemberAttributes(_)
            | Kind::MemberChange(_),
        ) => true,
        Some(Kind::Txn(txn)) => txn_makes_room(txn),
        Some(Kind::Put(_) | Kind::LeaseGrant(_) | Kind::LeaseCheckpoint(_) | Kind::ClusterVersion(_))
        | None => false,
    }
}

/// Whether the data of an entry holds nothing else.
pub fn batch_makes_room(data: &Bytes) -> bool {
    decode(0, data).is_ok_and(|batch| batch.commands.iter().all(makes_room))
}

fn txn_makes_room(txn: &pb::TxnRequest) -> bool {
    use pb::request_op::Request;
    txn.success.iter().chain(&txn.failure).all(|op| match &op.request {
        Some(Request::RequestPut(_)) => false,
        Some(Request::RequestTxn(inner)) => txn_makes_room(inner),
        Some(Request::RequestRange(_) | Request::RequestDeleteRange(_)) | None => true,
    })
}

/// What a command did. Response headers carry only the revision; `rpc` fills in the rest.
#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Put(pb::PutResponse),
    DeleteRange(pb::DeleteRangeResponse),
    Txn(pb::TxnResponse),
    Compact(pb::CompactionResponse),
    LeaseGrant(pb::LeaseGrantResponse),
    LeaseRevoke(pb::LeaseRevokeResponse),
    LeaseCheckpoint,
    Alarm(pb::AlarmResponse),
    Member,
    /// Who belongs to the cluster now.
    Members(Vec<pb::Member>),
}

/// Why apply refused a command. The same on every member; nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("key not found")]
    KeyNotFound,
    #[error("required revision has been compacted")]
    Compacted,
    #[error("required revision is a future revision")]
    FutureRevision,
    #[error("requested lease not found")]
    LeaseNotFound,
    #[error("lease already exists")]
    LeaseExists,
    #[error("too large lease TTL")]
    LeaseTtlTooLarge,
    #[error("database space exceeded")]
    NoSpace,
    #[error("corrupt cluster")]
    Corrupt,
    #[error("unknown command")]
    UnknownCommand,
    #[error("member not found")]
    MemberNotFound,
    #[error("member ID already exist")]
    MemberExists,
    #[error("Peer URLs already exists")]
    PeerUrlsExist,
    #[error("can only promote a learner member")]
    MemberNotLearner,
    #[error("too many learner members in cluster")]
    TooManyLearners,
    #[error("the last voting member cannot be removed")]
    LastVoter,
    /// The leader that ordered it is none any more.
    #[error("ordered by the leader of another term")]
    OtherTerm,
}

/// What the proposer of a command is told.
pub type CommandResult = Result<Outcome, Rejection>;

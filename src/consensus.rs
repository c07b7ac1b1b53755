//! Consensus: one loop owns raft and its log; everybody else holds a `Handle`.
//! Owns the order of commands and their durability; never looks into a command.

use crate::command::{Command, Outcome, Rejection};
use crate::ids::{LogPosition, MemberId};

/// Why a proposal or a linearizable read failed. Only `Rejected` says that nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConsensusError {
    /// Apply refused the command.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// More than 5000 entries are committed but not applied, or the queue of proposals is full.
    #[error("too many requests")]
    TooManyRequests,
    /// The encoded command is above `--max-request-bytes`.
    #[error("request is too large")]
    TooLarge,
    #[error("no leader")]
    NoLeader,
    #[error("leader changed")]
    LeaderChanged,
    #[error("request timed out")]
    Timeout,
    #[error("server stopped")]
    Stopped,
    /// The disk is full: the log took nothing of it.
    #[error("no space left for the log")]
    NoSpace,
}

/// What consensus knows about itself right now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// 0 when there is none.
    pub leader: MemberId,
    pub is_leader: bool,
    pub is_learner: bool,
    /// Newest committed entry.
    pub committed: LogPosition,
    /// Newest entry whose effect is visible.
    pub applied: LogPosition,
}

/// The way in for everybody else: propose, wait for a read point, ask for the status. Cheap to clone.
#[derive(Clone)]
pub struct Handle {}

impl Handle {
    /// Puts a command through the log and returns what it did, after it is durable and visible.
    ///
    /// # Errors
    /// See `ConsensusError`; on `Timeout`, `LeaderChanged` and `Stopped` the outcome is unknown.
    pub async fn propose(&self, _command: Command) -> Result<Outcome, ConsensusError> {
        Err(ConsensusError::Stopped)
    }

    /// Returns when everything acknowledged before this call is visible to a `Reader`.
    ///
    /// # Errors
    /// `NoLeader`, `LeaderChanged`, `Timeout`, `Stopped`.
    pub async fn read_barrier(&self) -> Result<(), ConsensusError> {
        Err(ConsensusError::Stopped)
    }

    pub fn status(&self) -> Status {
        Status::default()
    }
}

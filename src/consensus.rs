//! Consensus: one loop owns raft and its log; everybody else holds a `Handle`.
//! Owns the order of commands and their durability; never looks into a command.

mod event_loop;
mod handle;
mod log;
mod node;
mod proposal;

use crate::command::Rejection;
use crate::ids::{LogPosition, MemberId, Term};

pub use event_loop::{Loop, LoopOptions, Stopper};
pub use handle::{Handle, Ordered, Progress};
pub use log::{LogTimers, RaftLog};
pub use node::{CommittedEntry, Error, Node, NodeOptions, Step};
pub use proposal::{Proposal, Replies};

/// Entries that may be committed and not yet applied before proposals are refused, as in etcd.
pub const MAX_APPLY_BACKLOG: u64 = 5000;

/// Why a proposal or a linearizable read failed. Only `Rejected` and the refusals before the log
/// (`TooManyRequests`, `TooLarge`, `NoLeader`, `NoSpace`) say that nothing was changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConsensusError {
    /// Apply refused the command.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Too much is committed and not applied, or the queue of proposals is full.
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
    pub term: Term,
    /// 0 when there is none.
    pub leader: MemberId,
    pub is_leader: bool,
    pub is_learner: bool,
    /// Newest committed entry.
    pub committed: LogPosition,
    /// Newest entry whose effect is visible.
    pub applied: LogPosition,
}

//! Consensus: one loop owns raft and its log; everybody else holds a `Handle`.
//! Owns the order of commands and their durability. Of what a command says it looks at changes of members, and at whether
//! it makes room on a full disk; everything else is for `apply`.

mod connections;
mod event_loop;
mod handle;
mod lobby;
mod log;
mod message;
mod node;
mod offline;
mod progress;
mod proposal;
mod reads;
mod turns;
mod waiting;

pub use raft::eraftpb::{Message, MessageType};

use crate::command::Rejection;
use crate::ids::{LogPosition, MemberId, Term};
use crate::members::Membership;
use crate::snapshot::Received;

pub use connections::{Connected, Connections};
#[cfg(test)]
pub(crate) use event_loop::tests::idle_loop;
pub use event_loop::{Committed, Loop, LoopOptions, LoopParts, Outside, Stopper};
pub use handle::{Handle, Ordered};
pub use log::{BEGINNING, LogTimers, RaftLog};
pub use message::{BadMessage, from_wire, to_wire};
pub use node::{CommittedEntry, Error, Network, Node, NodeOptions, Step};
pub use offline::{NeededState, changes_in, go_on_after, needed_state, removed_in, stand_alone};
pub use progress::Progress;
pub use proposal::{Proposal, Replies};
pub use reads::{Granted, ReadReply};

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
    /// This member does not lead, and what was asked is the leader's to do.
    #[error("not leader")]
    NotLeader,
    #[error("request timed out")]
    Timeout,
    /// There was no leader to propose to for as long as the request could wait.
    #[error("context deadline exceeded")]
    TimeoutWithoutLeader,
    /// The leader was lost while the request was on its way.
    #[error("request timed out, possibly due to previous leader failure")]
    TimeoutLeaderFailed,
    /// The leader, or as the leader a quorum, could not be reached all the time.
    #[error("request timed out, possibly due to connection lost")]
    TimeoutConnectionLost,
    #[error("server stopped")]
    Stopped,
    /// The disk is full: the log took nothing of it.
    #[error("no space left for the log")]
    NoSpace,
}

impl ConsensusError {
    /// Its time was over.
    pub fn is_timeout(&self) -> bool {
        matches!(
            self,
            Self::Timeout
                | Self::TimeoutWithoutLeader
                | Self::TimeoutLeaderFailed
                | Self::TimeoutConnectionLost
        )
    }
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

/// A state that a leader has sent, whole, with raft's message for it.
#[derive(Debug)]
pub struct ReceivedState {
    pub message: Message,
    pub position: LogPosition,
    pub members: Membership,
    pub state: State,
}

/// A received state that takes the place of the present one.
#[derive(Debug)]
pub struct Install {
    pub position: LogPosition,
    pub state: State,
}

/// A received state, whole and durable.
pub type State = Box<Received>;

//! THE table from our errors to gRPC codes and etcd's texts. Clients compare the texts letter by letter.

use tonic::{Code, Status};

use crate::command::Rejection;
use crate::consensus::ConsensusError;
use crate::mvcc;

macro_rules! client_errors {
    ($($name:ident = $code:ident $text:literal;)*) => {
        /// An error as etcd's clients know it, named as in etcd's own table.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum ClientError { $($name),* }

        impl ClientError {
            /// Every error of the table, also those that only later versions give.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            pub fn code(self) -> Code {
                match self { $(Self::$name => Code::$code),* }
            }

            pub fn text(self) -> &'static str {
                match self { $(Self::$name => concat!("etcdserver: ", $text)),* }
            }

            pub fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }
        }
    };
}

client_errors! {
    EmptyKey = InvalidArgument "key is not provided";
    KeyNotFound = InvalidArgument "key not found";
    ValueProvided = InvalidArgument "value is provided";
    LeaseProvided = InvalidArgument "lease is provided";
    TooManyOps = InvalidArgument "too many operations in txn request";
    DuplicateKey = InvalidArgument "duplicate key given in txn request";
    InvalidClientAPIVersion = InvalidArgument "invalid client api version";
    InvalidSortOption = InvalidArgument "invalid sort option";
    Compacted = OutOfRange "mvcc: required revision has been compacted";
    FutureRev = OutOfRange "mvcc: required revision is a future revision";
    NoSpace = ResourceExhausted "mvcc: database space exceeded";
    LeaseNotFound = NotFound "requested lease not found";
    LeaseExist = FailedPrecondition "lease already exists";
    LeaseTTLTooLarge = OutOfRange "too large lease TTL";
    WatchCanceled = Cancelled "watch canceled";
    MemberExist = FailedPrecondition "member ID already exist";
    PeerURLExist = FailedPrecondition "Peer URLs already exists";
    // etcd sends this one without its code, and its clients find it by the text.
    MemberNotEnoughStarted = Unknown "re-configuration failed due to not enough started members";
    MemberBadURLs = InvalidArgument "given member URLs are invalid";
    MemberNotFound = NotFound "member not found";
    MemberNotLearner = FailedPrecondition "can only promote a learner member";
    LearnerNotReady = FailedPrecondition "can only promote a learner member which is in sync with leader";
    TooManyLearners = FailedPrecondition "too many learner members in cluster";
    ClusterIDMismatch = FailedPrecondition "cluster ID mismatch";
    RequestTooLarge = InvalidArgument "request is too large";
    // etcd sends this one without its code, and its clients find it by the text.
    RequestTooManyRequests = Unknown "too many requests";
    RootUserNotExist = FailedPrecondition "root user does not exist";
    RootRoleNotExist = FailedPrecondition "root user does not have root role";
    UserAlreadyExist = FailedPrecondition "user name already exists";
    UserEmpty = InvalidArgument "user name is empty";
    UserNotFound = FailedPrecondition "user name not found";
    RoleAlreadyExist = FailedPrecondition "role name already exists";
    RoleNotFound = FailedPrecondition "role name not found";
    RoleEmpty = InvalidArgument "role name is empty";
    AuthFailed = InvalidArgument "authentication failed, invalid user ID or password";
    PermissionNotGiven = InvalidArgument "permission not given";
    PermissionDenied = PermissionDenied "permission denied";
    RoleNotGranted = FailedPrecondition "role is not granted to the user";
    PermissionNotGranted = FailedPrecondition "permission is not granted to the role";
    AuthNotEnabled = FailedPrecondition "authentication is not enabled";
    InvalidAuthToken = Unauthenticated "invalid auth token";
    InvalidAuthMgmt = InvalidArgument "invalid auth management";
    AuthOldRevision = InvalidArgument "revision of auth store is old";
    NoLeader = Unavailable "no leader";
    NotLeader = FailedPrecondition "not leader";
    LeaderChanged = Unavailable "leader changed";
    NotCapable = FailedPrecondition "not capable";
    Stopped = Unavailable "server stopped";
    Timeout = Unavailable "request timed out";
    TimeoutDueToLeaderFail = Unavailable "request timed out, possibly due to previous leader failure";
    TimeoutDueToConnectionLost = Unavailable "request timed out, possibly due to connection lost";
    TimeoutWaitAppliedIndex = Unavailable "request timed out, waiting for the applied index took too long";
    Unhealthy = Unavailable "unhealthy cluster";
    Corrupt = DataLoss "corrupt cluster";
    NotSupportedForLearner = FailedPrecondition "rpc not supported for learner";
    BadLeaderTransferee = FailedPrecondition "bad leader transferee";
    WrongDowngradeVersionFormat = InvalidArgument "wrong downgrade target version format";
    InvalidDowngradeTargetVersion = InvalidArgument "invalid downgrade target version";
    ClusterVersionUnavailable = FailedPrecondition "cluster version not found during downgrade";
    DowngradeInProcess = FailedPrecondition "cluster has a downgrade job in progress";
    NoInflightDowngrade = FailedPrecondition "no inflight downgrade job";
    Canceled = Cancelled "request canceled";
    DeadlineExceeded = DeadlineExceeded "context deadline exceeded";
}

impl From<ClientError> for Status {
    fn from(error: ClientError) -> Self {
        Self::new(error.code(), error.text())
    }
}

impl From<Rejection> for ClientError {
    fn from(rejection: Rejection) -> Self {
        match rejection {
            // An operation or command with nothing set has this text in etcd, too.
            Rejection::KeyNotFound | Rejection::UnknownCommand => Self::KeyNotFound,
            Rejection::Compacted => Self::Compacted,
            Rejection::FutureRevision => Self::FutureRev,
            Rejection::LeaseNotFound => Self::LeaseNotFound,
            Rejection::LeaseExists => Self::LeaseExist,
            Rejection::LeaseTtlTooLarge => Self::LeaseTTLTooLarge,
            Rejection::NoSpace => Self::NoSpace,
            Rejection::Corrupt => Self::Corrupt,
            Rejection::MemberNotFound => Self::MemberNotFound,
            Rejection::MemberExists => Self::MemberExist,
            Rejection::PeerUrlsExist => Self::PeerURLExist,
            Rejection::MemberNotLearner => Self::MemberNotLearner,
            Rejection::TooManyLearners => Self::TooManyLearners,
            // What the check before the log says, had it known of the change that came before.
            Rejection::LastVoter => Self::MemberNotEnoughStarted,
            Rejection::OtherTerm => Self::LeaderChanged,
        }
    }
}

impl From<ConsensusError> for ClientError {
    fn from(error: ConsensusError) -> Self {
        match error {
            ConsensusError::Rejected(rejection) => rejection.into(),
            ConsensusError::TooManyRequests => Self::RequestTooManyRequests,
            ConsensusError::TooLarge => Self::RequestTooLarge,
            ConsensusError::NoLeader => Self::NoLeader,
            ConsensusError::LeaderChanged => Self::LeaderChanged,
            ConsensusError::NotLeader => Self::NotLeader,
            ConsensusError::Timeout => Self::Timeout,
            // As etcd, which waits for a leader under the request's own deadline.
            ConsensusError::TimeoutWithoutLeader => Self::DeadlineExceeded,
            ConsensusError::TimeoutLeaderFailed => Self::TimeoutDueToLeaderFail,
            ConsensusError::TimeoutConnectionLost => Self::TimeoutDueToConnectionLost,
            ConsensusError::Stopped => Self::Stopped,
            ConsensusError::NoSpace => Self::NoSpace,
        }
    }
}

/// Another member did not begin to lead in time. etcd has no code for it, and so it is none of the table.
pub fn transfer_timed_out() -> Status {
    Status::unknown("etcdserver: request timed out, leader transfer took too long")
}

/// Whether a status has one of etcd's texts: it comes from a member's answer, not from the way to it.
pub fn is_of_etcd(status: &Status) -> bool {
    status.message().starts_with("etcdserver: ")
}

/// The status of a failed read. A fault of the disk is told with its cause, as etcd does for what it cannot map.
pub fn of_read(error: mvcc::Error) -> Status {
    match error {
        mvcc::Error::Compacted => ClientError::Compacted.into(),
        mvcc::Error::FutureRevision => ClientError::FutureRev.into(),
        fault => {
            tracing::error!(error = %fault, "a read failed");
            Status::unknown(format!("decklog: {fault}"))
        }
    }
}

//! What a server answered to one request, whole.

use decklog::wire::etcdserverpb::{
    CompactionResponse, DeleteRangeResponse, HashKvResponse, LeaseGrantResponse, LeaseKeepAliveResponse,
    LeaseLeasesResponse, LeaseRevokeResponse, LeaseTimeToLiveResponse, PutResponse, RangeResponse,
    ResponseHeader, TxnResponse,
};
use tonic::{Code, Response, Status};

/// Remaining lease times of the two servers may be this far apart, in seconds.
const TTL_TOLERANCE: u64 = 2;

#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Range(RangeResponse),
    Put(PutResponse),
    DeleteRange(DeleteRangeResponse),
    Txn(TxnResponse),
    Compact(CompactionResponse),
    HashKv(HashKvResponse),
    LeaseGrant(LeaseGrantResponse),
    LeaseRevoke(LeaseRevokeResponse),
    LeaseTimeToLive(LeaseTimeToLiveResponse),
    LeaseLeases(LeaseLeasesResponse),
    LeaseKeepAlive(LeaseKeepAliveResponse),
    Failed { code: Code, text: String },
}

impl Answer {
    /// The answer in what a client's call returned.
    pub fn of<T>(result: Result<Response<T>, Status>, wrap: fn(T) -> Self) -> Self {
        match result {
            Ok(response) => wrap(response.into_inner()),
            Err(status) => Self::Failed { code: status.code(), text: status.message().to_owned() },
        }
    }

    pub fn header(&mut self) -> Option<&mut ResponseHeader> {
        match self {
            Self::Range(answer) => answer.header.as_mut(),
            Self::Put(answer) => answer.header.as_mut(),
            Self::DeleteRange(answer) => answer.header.as_mut(),
            Self::Txn(answer) => answer.header.as_mut(),
            Self::Compact(answer) => answer.header.as_mut(),
            Self::HashKv(answer) => answer.header.as_mut(),
            Self::LeaseGrant(answer) => answer.header.as_mut(),
            Self::LeaseRevoke(answer) => answer.header.as_mut(),
            Self::LeaseTimeToLive(answer) => answer.header.as_mut(),
            Self::LeaseLeases(answer) => answer.header.as_mut(),
            Self::LeaseKeepAlive(answer) => answer.header.as_mut(),
            Self::Failed { .. } => None,
        }
    }

    /// The answer's type, or the error's code and text.
    pub fn kind(&self) -> String {
        match self {
            Self::Failed { code, text } => format!("{code:?}: {text}"),
            _ => format!("{self:?}").split('(').next().unwrap_or_default().to_owned(),
        }
    }

    /// Without the order of leases: it is that of their deadlines, which only the leader has.
    pub fn forget_order(&mut self) {
        if let Self::LeaseLeases(answer) = self {
            answer.leases.sort_by_key(|lease| lease.id);
        }
    }

    /// Equal in everything but the clock's part of remaining lease times.
    pub fn same_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::LeaseTimeToLive(one), Self::LeaseTimeToLive(two)) => {
                let near = one.ttl.abs_diff(two.ttl) <= TTL_TOLERANCE && (one.ttl < 0) == (two.ttl < 0);
                near && *one == LeaseTimeToLiveResponse { ttl: one.ttl, ..two.clone() }
            }
            _ => self == other,
        }
    }
}

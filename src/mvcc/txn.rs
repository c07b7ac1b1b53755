//! What a transaction reads: the path through its compares, the ranges on it.
//! The same for one that only reads and for one that is being applied.

use super::{Error, Readable, all_hold};
use crate::wire::etcdserverpb as pb;
use crate::wire::etcdserverpb::request_op::Request;
use crate::wire::etcdserverpb::response_op::Response;

/// The branch taken, with those of its nested transactions: decided on the state before all of them.
pub struct TxnPath<'a> {
    pub succeeded: bool,
    pub operations: Vec<(&'a pb::RequestOp, Option<TxnPath<'a>>)>,
}

impl<'a> TxnPath<'a> {
    /// # Errors
    /// A fault of the disk.
    pub fn choose(state: &impl Readable, request: &'a pb::TxnRequest) -> Result<Self, Error> {
        let succeeded = all_hold(state, &request.compare)?;
        let branch = if succeeded { &request.success } else { &request.failure };
        let mut operations = Vec::with_capacity(branch.len());
        for operation in branch {
            let nested = match &operation.request {
                Some(Request::RequestTxn(nested)) => Some(Self::choose(state, nested)?),
                _ => None,
            };
            operations.push((operation, nested));
        }
        Ok(Self { succeeded, operations })
    }

    /// What the path's ranges need of the state before the transaction.
    ///
    /// # Errors
    /// `FutureRevision`, `Compacted`.
    pub fn check_ranges(&self, state: &impl Readable) -> Result<(), Error> {
        for (operation, nested) in &self.operations {
            if let Some(nested) = nested {
                nested.check_ranges(state)?;
            }
            let Some(Request::RequestRange(range)) = &operation.request else {
                continue;
            };
            if range.revision > state.revision().0 {
                return Err(Error::FutureRevision);
            }
            if range.revision != 0 && range.revision < state.compacted().0 {
                return Err(Error::Compacted);
            }
        }
        Ok(())
    }
}

/// The answer of a transaction whose operations are all ranges; its header says only the revision.
///
/// # Errors
/// `FutureRevision`, `Compacted`, a fault of the disk.
pub fn read_txn(state: &impl Readable, request: &pb::TxnRequest) -> Result<pb::TxnResponse, Error> {
    let path = TxnPath::choose(state, request)?;
    path.check_ranges(state)?;
    let mut responses = Vec::with_capacity(path.operations.len());
    for (operation, _) in &path.operations {
        let response = match &operation.request {
            Some(Request::RequestRange(range)) => {
                Some(Response::ResponseRange(range_response(state, range)?))
            }
            _ => None,
        };
        responses.push(pb::ResponseOp { response });
    }
    let header = Some(revision_header(state));
    Ok(pb::TxnResponse { header, succeeded: path.succeeded, responses })
}

/// # Errors
/// `FutureRevision`, `Compacted`, a fault of the disk.
pub fn range_response(state: &impl Readable, request: &pb::RangeRequest) -> Result<pb::RangeResponse, Error> {
    let answer = state.range(request)?;
    Ok(pb::RangeResponse {
        header: Some(revision_header(state)),
        kvs: answer.pairs,
        more: answer.more,
        count: answer.count,
    })
}

fn revision_header(state: &impl Readable) -> pb::ResponseHeader {
    pb::ResponseHeader { revision: state.revision().0, ..pb::ResponseHeader::default() }
}

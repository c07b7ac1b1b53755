//! Transactions that write: the path through all compares first, then every check, then the operations.
//! Nothing is written before everything that can refuse has passed.

use super::kv::{check_key, check_lease, delete_range, put};
use super::{Applier, Failure, header};
use crate::command::Rejection;
use crate::lease::Leases;
use crate::mvcc::{self, KeyRange, TxnPath, Write};
use crate::wire::etcdserverpb as pb;
use crate::wire::etcdserverpb::request_op::Request;
use crate::wire::etcdserverpb::response_op::Response;

impl Applier {
    pub(super) fn txn(&mut self, request: &pb::TxnRequest) -> Result<pb::TxnResponse, Failure> {
        let mut write = self.keyspace.write();
        let path = TxnPath::choose(&write, request)?;
        check_puts(&write, &self.leases, &path, &mut Vec::new())?;
        path.check_ranges(&write)?;
        write.count_apart();
        let mut response = execute(&mut write, &mut self.leases, &path)?;
        response.header = Some(header(write.revision()));
        Ok(response)
    }
}

/// Whether any branch has a put: then the transaction costs space.
pub(super) fn has_put(request: &pb::TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).any(|operation| match &operation.request {
        Some(Request::RequestPut(_)) => true,
        Some(Request::RequestTxn(nested)) => has_put(nested),
        _ => false,
    })
}

/// `deleted`: what the operations before have deleted. A put that keeps what its key has finds nothing there; only a
/// deletion without an end gets so far (`rpc::validate`), and etcd's members crash on it.
fn check_puts(
    write: &Write<'_>,
    leases: &Leases,
    path: &TxnPath<'_>,
    deleted: &mut Vec<KeyRange>,
) -> Result<(), Rejection> {
    for (operation, nested) in &path.operations {
        if let Some(nested) = nested {
            check_puts(write, leases, nested, deleted)?;
        }
        match &operation.request {
            Some(Request::RequestPut(put)) => {
                check_key(write, put)?;
                let keeps = put.ignore_value || put.ignore_lease;
                if keeps && deleted.iter().any(|range| range.contains(&put.key)) {
                    return Err(Rejection::KeyNotFound);
                }
                check_lease(leases, put)?;
            }
            Some(Request::RequestDeleteRange(delete)) => {
                deleted.push(KeyRange::new(&delete.key, &delete.range_end));
            }
            _ => {}
        }
    }
    Ok(())
}

fn execute(
    write: &mut Write<'_>,
    leases: &mut Leases,
    path: &TxnPath<'_>,
) -> Result<pb::TxnResponse, Failure> {
    let mut responses = Vec::with_capacity(path.operations.len());
    for (operation, nested) in &path.operations {
        let response = match &operation.request {
            Some(Request::RequestRange(request)) => {
                Some(Response::ResponseRange(mvcc::range_response(write, request)?))
            }
            Some(Request::RequestPut(request)) => {
                Some(Response::ResponsePut(put(write, leases, request.clone())?))
            }
            Some(Request::RequestDeleteRange(request)) => {
                Some(Response::ResponseDeleteRange(delete_range(write, leases, request)?))
            }
            Some(Request::RequestTxn(_)) => match nested {
                Some(nested) => Some(Response::ResponseTxn(execute(write, leases, nested)?)),
                None => None,
            },
            None => None,
        };
        responses.push(pb::ResponseOp { response });
    }
    // The whole transaction's caller gives it a revision; a nested one's header stays empty, as in etcd.
    let header = Some(pb::ResponseHeader::default());
    Ok(pb::TxnResponse { header, succeeded: path.succeeded, responses })
}

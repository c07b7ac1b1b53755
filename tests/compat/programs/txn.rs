//! Random Txn requests: all compares, nested ones, duplicates, too many or empty operations.

use decklog::wire::etcdserverpb::compare::TargetUnion;
use decklog::wire::etcdserverpb::request_op::Request;
use decklog::wire::etcdserverpb::{Compare, RequestOp, TxnRequest};

use super::Chooser;

/// etcd's default for the most operations in one Txn.
const MAX_TXN_OPS: usize = 128;

impl Chooser {
    /// A Txn with others nested in it up to `depth` levels.
    pub fn txn(&mut self, depth: u32) -> TxnRequest {
        if self.one_in(30) {
            return self.txn_near_limit();
        }
        let mut request = TxnRequest::default();
        for _ in 0..self.pick(&[0, 1, 1, 1, 2, 3]) {
            request.compare.push(self.compare());
        }
        for _ in 0..self.pick(&[0, 1, 1, 2, 3]) {
            request.success.push(self.op(depth));
        }
        for _ in 0..self.pick(&[0, 1, 1, 2, 3]) {
            request.failure.push(self.op(depth));
        }
        request
    }

    fn compare(&mut self) -> Compare {
        let key = self.key();
        let range_end = if self.one_in(4) { self.range_end(&key) } else { bytes::Bytes::new() };
        let mut result = self.pick(&[0, 0, 0, 1, 2, 3]);
        let mut target = self.pick(&[0, 1, 2, 3, 4]);
        let union_of = if self.one_in(20) { self.pick(&[0, 1, 2, 3, 4, 5]) } else { target };
        if self.one_in(40) {
            result = self.pick(&[4, -1, 77]);
        }
        if self.one_in(40) {
            target = self.pick(&[5, -1, 77]);
        }
        let target_union = match union_of {
            0 => Some(TargetUnion::Version(self.pick(&[0, 1, 1, 2, 3, -1]))),
            1 => Some(TargetUnion::CreateRevision(self.revision())),
            2 => Some(TargetUnion::ModRevision(self.revision())),
            3 => Some(TargetUnion::Value(self.pick(&["", "1", "2", "3", "one\0two"]).into())),
            4 => Some(TargetUnion::Lease(self.lease_id())),
            _ => None,
        };
        let target_union = if self.one_in(20) { None } else { target_union };
        Compare { result, target, key, target_union, range_end }
    }

    fn op(&mut self, depth: u32) -> RequestOp {
        let request = match self.below(40) {
            0 => None,
            1..13 => Some(Request::RequestRange(self.range())),
            13..27 => Some(Request::RequestPut(self.put())),
            27..35 => Some(Request::RequestDeleteRange(self.delete_range())),
            _ if depth > 0 => Some(Request::RequestTxn(self.txn(depth - 1))),
            _ => Some(Request::RequestRange(self.range())),
        };
        RequestOp { request }
    }

    /// As many operations as are allowed, one fewer or one more, in compares, in a branch or in a nested Txn.
    fn txn_near_limit(&mut self) -> TxnRequest {
        let count = MAX_TXN_OPS + self.below(3) as usize - 1;
        let key = self.key();
        let range =
            Request::RequestRange(decklog::wire::etcdserverpb::RangeRequest { key, ..Default::default() });
        let ops = |count: usize| vec![RequestOp { request: Some(range.clone()) }; count];
        let mut request = TxnRequest::default();
        match self.below(4) {
            0 => request.compare = vec![self.compare(); count],
            1 => request.success = ops(count),
            2 => request.failure = ops(count),
            _ => {
                // Inside a nested Txn what the parent has taken is missing.
                let inner = TxnRequest { success: ops(count - 2), ..Default::default() };
                request.success = ops(1);
                request.success.push(RequestOp { request: Some(Request::RequestTxn(inner)) });
            }
        }
        request
    }
}

/// etcd takes a deletion without an end beside a put that keeps what its key has, and its members crash when they
/// apply it, since the key is gone by then: such a Txn is changed here. Decklog refuses it (`apply/txn.rs`).
pub fn harmless(mut request: TxnRequest) -> TxnRequest {
    if deletes_to_the_end(&request) {
        keep_nothing(&mut request);
    }
    request
}

fn deletes_to_the_end(request: &TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).any(|op| match &op.request {
        Some(Request::RequestDeleteRange(request)) => request.range_end.as_ref() == b"\0",
        Some(Request::RequestTxn(request)) => deletes_to_the_end(request),
        _ => false,
    })
}

fn keep_nothing(request: &mut TxnRequest) {
    for op in request.success.iter_mut().chain(&mut request.failure) {
        match &mut op.request {
            Some(Request::RequestPut(request)) => {
                (request.ignore_value, request.ignore_lease) = (false, false)
            }
            Some(Request::RequestTxn(request)) => keep_nothing(request),
            _ => {}
        }
    }
}

//! Transactions: compares on the state before, every check before any change, then the operations in order.

use bytes::Bytes;
use decklog::command::Rejection;
use decklog::wire::etcdserverpb as pb;
use decklog::wire::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use decklog::wire::etcdserverpb::request_op::Request;
use decklog::wire::etcdserverpb::response_op::Response;

use super::{Map, Naive, Row, Work, header, is_in};

/// Whether a put stands anywhere in it, in the branch taken or not.
pub fn puts_anywhere(request: &pb::TxnRequest) -> bool {
    request.success.iter().chain(&request.failure).any(|op| match &op.request {
        Some(Request::RequestPut(_)) => true,
        Some(Request::RequestTxn(nested)) => puts_anywhere(nested),
        _ => false,
    })
}

fn branch<'a>(map: &Map, request: &'a pb::TxnRequest) -> (bool, &'a [pb::RequestOp]) {
    let succeeded = request.compare.iter().all(|compare| holds(map, compare));
    (succeeded, if succeeded { &request.success } else { &request.failure })
}

fn holds(map: &Map, compare: &pb::Compare) -> bool {
    let rows: Vec<&Row> = map
        .iter()
        .filter(|(key, _)| is_in(key, &compare.key, &compare.range_end))
        .map(|(_, row)| row)
        .collect();
    if rows.is_empty() {
        let nothing = Row { value: Bytes::new(), created: 0, modified: 0, version: 0, lease: 0 };
        return compare.target() != CompareTarget::Value && row_holds(compare, &nothing);
    }
    rows.into_iter().all(|row| row_holds(compare, row))
}

fn row_holds(compare: &pb::Compare, row: &Row) -> bool {
    let union = compare.target_union.clone();
    let number = |found: i64, given: Option<i64>| found.cmp(&given.unwrap_or(0));
    let order = match compare.target() {
        CompareTarget::Value => {
            let given = if let Some(TargetUnion::Value(value)) = union { value } else { Bytes::new() };
            row.value.cmp(&given)
        }
        CompareTarget::Version => {
            number(row.version, if let Some(TargetUnion::Version(n)) = union { Some(n) } else { None })
        }
        CompareTarget::Create => {
            number(row.created, if let Some(TargetUnion::CreateRevision(n)) = union { Some(n) } else { None })
        }
        CompareTarget::Mod => {
            number(row.modified, if let Some(TargetUnion::ModRevision(n)) = union { Some(n) } else { None })
        }
        CompareTarget::Lease => {
            number(row.lease, if let Some(TargetUnion::Lease(n)) = union { Some(n) } else { None })
        }
    };
    match compare.result() {
        CompareResult::Equal => order.is_eq(),
        CompareResult::NotEqual => order.is_ne(),
        CompareResult::Greater => order.is_gt(),
        CompareResult::Less => order.is_lt(),
    }
}

impl Naive {
    pub(super) fn txn(&mut self, request: &pb::TxnRequest) -> Result<pb::TxnResponse, Rejection> {
        self.check_puts(request, &mut Vec::new())?;
        self.check_ranges(request)?;
        let mut work = Work::new(self.revision() + 1, self.now());
        let mut response = self.run(&mut work, request);
        response.header = header(work.revision());
        self.work(|counted| *counted = work);
        Ok(response)
    }

    /// `gone`: what the operations before delete; a put that keeps something of a key finds nothing there.
    fn check_puts<'a>(
        &self,
        request: &'a pb::TxnRequest,
        gone: &mut Vec<&'a pb::DeleteRangeRequest>,
    ) -> Result<(), Rejection> {
        for op in branch(self.now(), request).1 {
            match &op.request {
                Some(Request::RequestPut(put)) => {
                    self.check_key(put)?;
                    let keeps = put.ignore_value || put.ignore_lease;
                    if keeps && gone.iter().any(|range| is_in(&put.key, &range.key, &range.range_end)) {
                        return Err(Rejection::KeyNotFound);
                    }
                    self.check_lease(put)?;
                }
                Some(Request::RequestTxn(nested)) => self.check_puts(nested, gone)?,
                Some(Request::RequestDeleteRange(range)) => gone.push(range),
                _ => {}
            }
        }
        Ok(())
    }

    fn check_ranges(&self, request: &pb::TxnRequest) -> Result<(), Rejection> {
        for op in branch(self.now(), request).1 {
            match &op.request {
                Some(Request::RequestRange(range)) if range.revision > self.revision() => {
                    return Err(Rejection::FutureRevision);
                }
                Some(Request::RequestRange(range))
                    if range.revision != 0 && range.revision < self.compacted =>
                {
                    return Err(Rejection::Compacted);
                }
                Some(Request::RequestTxn(nested)) => self.check_ranges(nested)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Runs the branch that the state before all of it chooses.
    fn run(&self, work: &mut Work, request: &pb::TxnRequest) -> pb::TxnResponse {
        let (succeeded, ops) = branch(self.now(), request);
        let mut responses = Vec::new();
        for op in ops {
            let response = match op.request.as_ref().expect("programs leave nothing out") {
                Request::RequestPut(put) => Response::ResponsePut(work.put(put)),
                Request::RequestDeleteRange(delete) => Response::ResponseDeleteRange(work.delete(delete)),
                Request::RequestTxn(nested) => Response::ResponseTxn(self.run(work, nested)),
                Request::RequestRange(range) => {
                    let map = if range.revision > 0 { self.at(range.revision) } else { &work.map };
                    let found = super::reads::range_in(map, range);
                    Response::ResponseRange(pb::RangeResponse {
                        header: header(work.revision()),
                        kvs: found.pairs,
                        more: found.more,
                        count: found.count,
                    })
                }
            };
            responses.push(pb::ResponseOp { response: Some(response) });
        }
        pb::TxnResponse { header: header(0), succeeded, responses }
    }
}

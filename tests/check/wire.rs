//! Histories from what the API's messages say.
//!
//! # Panics
//! All of it, on what a history cannot hold: text that is not UTF-8, orders and filters of ranges.

use decklog::wire::etcdserverpb as pb;
use decklog::wire::etcdserverpb::compare::TargetUnion;
use decklog::wire::etcdserverpb::request_op::Request as Op;
use decklog::wire::etcdserverpb::response_op::Response as OpResponse;
use decklog::wire::etcdserverpb::watch_create_request::FilterType;
use decklog::wire::{EncodedEvent, EncodedKeyValue, EventType};

use super::history::{
    Compare, Event, Keys, Pair, RangeRequest, Relation, Request, Response, Target, Told, WatchRequest, What,
};

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("recorded keys and values are text")
}

fn keys(key: &[u8], end: &[u8]) -> Keys {
    Keys { key: text(key), end: text(end) }
}

fn pairs(pairs: &[EncodedKeyValue]) -> Vec<Pair> {
    pairs.iter().map(Pair::from).collect()
}

impl From<&EncodedKeyValue> for Pair {
    fn from(pair: &EncodedKeyValue) -> Self {
        let pair = pair.decode().expect("a pair");
        Self {
            key: text(&pair.key),
            value: text(&pair.value),
            created: pair.create_revision,
            modified: pair.mod_revision,
            version: pair.version,
            lease: pair.lease,
        }
    }
}

impl From<&EncodedEvent> for Event {
    fn from(event: &EncodedEvent) -> Self {
        let event = event.decode().expect("an event");
        Self {
            is_delete: event.r#type == EventType::Delete as i32,
            pair: Pair::from(&event.kv.expect("an event's pair")),
            prev: event.prev_kv.as_ref().map(Pair::from),
        }
    }
}

impl From<&pb::PutRequest> for Request {
    fn from(put: &pb::PutRequest) -> Self {
        assert!(!put.ignore_value && !put.ignore_lease, "histories have no such puts");
        let (key, value) = (text(&put.key), text(&put.value));
        Self::Put { key, value, lease: put.lease, prev_kv: put.prev_kv }
    }
}

impl From<&pb::DeleteRangeRequest> for Request {
    fn from(delete: &pb::DeleteRangeRequest) -> Self {
        Self::Delete { keys: keys(&delete.key, &delete.range_end), prev_kv: delete.prev_kv }
    }
}

impl From<&pb::RangeRequest> for Request {
    fn from(range: &pb::RangeRequest) -> Self {
        let plain = pb::RangeRequest {
            key: range.key.clone(),
            range_end: range.range_end.clone(),
            revision: range.revision,
            serializable: range.serializable,
            limit: range.limit,
            count_only: range.count_only,
            ..pb::RangeRequest::default()
        };
        assert_eq!(*range, plain, "histories have ranges in the order of their keys, unfiltered");
        Self::Range(RangeRequest {
            keys: keys(&range.key, &range.range_end),
            revision: range.revision,
            serializable: range.serializable,
            limit: range.limit,
            count_only: range.count_only,
        })
    }
}

impl From<&pb::TxnRequest> for Request {
    fn from(txn: &pb::TxnRequest) -> Self {
        let ops = |ops: &[pb::RequestOp]| ops.iter().map(Request::from).collect();
        let compares = txn.compare.iter().map(Compare::from).collect();
        Self::Txn { compares, success: ops(&txn.success), failure: ops(&txn.failure) }
    }
}

impl From<&pb::RequestOp> for Request {
    fn from(op: &pb::RequestOp) -> Self {
        match op.request.as_ref().expect("an operation") {
            Op::RequestPut(put) => put.into(),
            Op::RequestDeleteRange(delete) => delete.into(),
            Op::RequestRange(range) => range.into(),
            Op::RequestTxn(txn) => txn.into(),
        }
    }
}

impl From<&pb::Compare> for Compare {
    fn from(compare: &pb::Compare) -> Self {
        use pb::compare::CompareResult;
        let target = match compare.target_union.clone().expect("what it compares with") {
            TargetUnion::Value(value) => Target::Value(text(&value)),
            TargetUnion::Version(number) => Target::Version(number),
            TargetUnion::CreateRevision(number) => Target::Create(number),
            TargetUnion::ModRevision(number) => Target::Mod(number),
            TargetUnion::Lease(number) => Target::Lease(number),
        };
        let result = match compare.result() {
            CompareResult::Equal => Relation::Equal,
            CompareResult::NotEqual => Relation::NotEqual,
            CompareResult::Greater => Relation::Greater,
            CompareResult::Less => Relation::Less,
        };
        Self { keys: keys(&compare.key, &compare.range_end), target, result }
    }
}

impl From<&pb::PutResponse> for Response {
    fn from(put: &pb::PutResponse) -> Self {
        Self::Put { prev: put.prev_kv.as_ref().map(Pair::from) }
    }
}

impl From<&pb::DeleteRangeResponse> for Response {
    fn from(delete: &pb::DeleteRangeResponse) -> Self {
        Self::Delete { deleted: delete.deleted, prev: pairs(&delete.prev_kvs) }
    }
}

impl From<&pb::RangeResponse> for Response {
    fn from(range: &pb::RangeResponse) -> Self {
        Self::Range { pairs: pairs(&range.kvs), more: range.more, count: range.count }
    }
}

impl From<&pb::TxnResponse> for Response {
    fn from(txn: &pb::TxnResponse) -> Self {
        let responses = txn.responses.iter().map(|op| match op.response.as_ref().expect("a response") {
            OpResponse::ResponsePut(put) => put.into(),
            OpResponse::ResponseDeleteRange(delete) => delete.into(),
            OpResponse::ResponseRange(range) => range.into(),
            OpResponse::ResponseTxn(txn) => txn.into(),
        });
        Self::Txn { succeeded: txn.succeeded, responses: responses.collect() }
    }
}

impl From<&pb::LeaseGrantResponse> for Response {
    fn from(granted: &pb::LeaseGrantResponse) -> Self {
        Self::LeaseGrant { id: granted.id, ttl_seconds: granted.ttl }
    }
}

impl From<&pb::LeaseKeepAliveResponse> for Response {
    fn from(kept: &pb::LeaseKeepAliveResponse) -> Self {
        Self::LeaseKeepAlive { ttl_seconds: kept.ttl }
    }
}

impl From<&pb::WatchCreateRequest> for WatchRequest {
    fn from(create: &pb::WatchCreateRequest) -> Self {
        Self {
            keys: keys(&create.key, &create.range_end),
            start_revision: create.start_revision,
            no_put: create.filters.contains(&(FilterType::Noput as i32)),
            no_delete: create.filters.contains(&(FilterType::Nodelete as i32)),
            prev_kv: create.prev_kv,
        }
    }
}

impl Told {
    pub fn new(at_ns: u64, response: &pb::WatchResponse) -> Self {
        let what = if response.canceled {
            What::Canceled { compacted: response.compact_revision }
        } else if response.created {
            What::Created
        } else if response.events.is_empty() {
            What::Progress
        } else {
            let events = response.events.iter().map(Event::from).collect();
            What::Events { events, goes_on: response.fragment }
        };
        Self { at_ns, revision: response.header.as_ref().expect("a header").revision, what }
    }
}

//! Bad requests of the KV service.

use decklog::wire::etcdserverpb::request_op::Request;
use decklog::wire::etcdserverpb::{
    CompactionRequest, Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp,
    TxnRequest,
};
use tonic::Code::{InvalidArgument, NotFound, OutOfRange, ResourceExhausted, Unimplemented};

use super::{Ask, Etcd35, Row};
use crate::programs::{FIRST_LITERAL_REVISION, Step};

const EMPTY_KEY: &str = "etcdserver: key is not provided";
const KEY_NOT_FOUND: &str = "etcdserver: key not found";
const VALUE_PROVIDED: &str = "etcdserver: value is provided";
const LEASE_PROVIDED: &str = "etcdserver: lease is provided";
const LEASE_NOT_FOUND: &str = "etcdserver: requested lease not found";
const INVALID_SORT: &str = "etcdserver: invalid sort option";
const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
const FUTURE: &str = "etcdserver: mvcc: required revision is a future revision";
const TOO_MANY_OPS: &str = "etcdserver: too many operations in txn request";
const DUPLICATE: &str = "etcdserver: duplicate key given in txn request";

/// Makes revisions 2 to 5 of which those below 4 are compacted, key `k` and lease 1.
pub fn preparation() -> Vec<Step> {
    let mut steps = vec![Step::LeaseGrant(LeaseGrantRequest { ttl: 6_000, id: 1 })];
    steps.extend([(); 4].map(|()| Step::Put(put("k"))));
    steps.push(Step::Compact(CompactionRequest { revision: 4, physical: true }));
    steps
}

pub fn rows() -> Vec<Row> {
    [range_rows(), write_rows(), txn_shape_rows(), txn_content_rows()].into_iter().flatten().collect()
}

fn range_rows() -> Vec<Row> {
    let bad = |what, request, code, text| Row::new(what, Ask::Step(Step::Range(request)), code, text);
    let k = || RangeRequest { key: "k".into(), range_end: "l".into(), ..Default::default() };
    let crash = || Etcd35::NotAsked("it crashes");
    let sorts = || Etcd35::NotAsked("it answers in the order of keys");
    vec![
        bad("Range: no key", RangeRequest::default(), InvalidArgument, EMPTY_KEY),
        bad("Range: only range_end", RangeRequest { key: "".into(), ..k() }, InvalidArgument, EMPTY_KEY),
        bad("Range: order 3", RangeRequest { sort_order: 3, ..k() }, InvalidArgument, INVALID_SORT)
            .in_35(sorts()),
        bad("Range: order -1", RangeRequest { sort_order: -1, ..k() }, InvalidArgument, INVALID_SORT)
            .in_35(sorts()),
        bad("Range: target 5", RangeRequest { sort_target: 5, ..k() }, InvalidArgument, INVALID_SORT)
            .in_35(crash()),
        bad("Range: target -1", RangeRequest { sort_target: -1, ..k() }, InvalidArgument, INVALID_SORT)
            .in_35(crash()),
        bad("Range: compacted", RangeRequest { revision: 3, ..k() }, OutOfRange, COMPACTED),
        bad("Range: future", RangeRequest { revision: 6, ..k() }, OutOfRange, FUTURE),
        bad("Range: far future", RangeRequest { revision: i64::MAX, ..k() }, OutOfRange, FUTURE),
        bad(
            "Range: compacted, serializable",
            RangeRequest { revision: 1, serializable: true, ..k() },
            OutOfRange,
            COMPACTED,
        ),
        bad(
            "Range: future, count only",
            RangeRequest { revision: 6, count_only: true, ..k() },
            OutOfRange,
            FUTURE,
        ),
        Row::new(
            "KV: unknown method",
            Ask::Unknown("/etcdserverpb.KV/Nothing"),
            Unimplemented,
            "unknown method Nothing for service etcdserverpb.KV",
        ),
        Row::new(
            "unknown service",
            Ask::Unknown("/etcdserverpb.Nothing/Nothing"),
            Unimplemented,
            "unknown service etcdserverpb.Nothing",
        ),
    ]
}

fn write_rows() -> Vec<Row> {
    let bad = |what, request, code, text| Row::new(what, Ask::Step(Step::Put(request)), code, text);
    let delete = |request| Ask::Step(Step::DeleteRange(request));
    let compact = |revision| Ask::Step(Step::Compact(CompactionRequest { revision, physical: false }));
    let empty = || PutRequest { value: "".into(), ..put("k") };
    let missing = || PutRequest { value: "".into(), ..put("missing") };
    let big = |bytes| PutRequest { value: vec![b'x'; bytes].into(), ..put("k") };
    vec![
        bad("Put: no key", put(""), InvalidArgument, EMPTY_KEY),
        bad(
            "Put: value ignored and given",
            PutRequest { ignore_value: true, ..put("k") },
            InvalidArgument,
            VALUE_PROVIDED,
        ),
        bad(
            "Put: lease ignored and given",
            PutRequest { ignore_lease: true, lease: 1, ..put("k") },
            InvalidArgument,
            LEASE_PROVIDED,
        ),
        bad(
            "Put: both ignored and given",
            PutRequest { ignore_value: true, ignore_lease: true, lease: 1, ..put("k") },
            InvalidArgument,
            VALUE_PROVIDED,
        ),
        bad(
            "Put: value of no key",
            PutRequest { ignore_value: true, ..missing() },
            InvalidArgument,
            KEY_NOT_FOUND,
        ),
        bad(
            "Put: lease of no key",
            PutRequest { ignore_lease: true, ..missing() },
            InvalidArgument,
            KEY_NOT_FOUND,
        ),
        bad("Put: unknown lease", PutRequest { lease: 9, ..put("k") }, NotFound, LEASE_NOT_FOUND),
        bad("Put: unknown lease -1", PutRequest { lease: -1, ..put("k") }, NotFound, LEASE_NOT_FOUND),
        bad(
            "Put: unknown lease, value ignored",
            PutRequest { lease: 9, ignore_value: true, ..empty() },
            NotFound,
            LEASE_NOT_FOUND,
        ),
        bad("Put: unknown lease, no key", PutRequest { lease: 9, ..put("") }, InvalidArgument, EMPTY_KEY),
        bad("Put: 1.5 MiB", big(3 << 19), InvalidArgument, "etcdserver: request is too large"),
        bad(
            "Put: 3 MiB",
            big(3 << 20),
            ResourceExhausted,
            "grpc: received message larger than max (3145736 vs. 2097152)",
        ),
        Row::new("DeleteRange: no key", delete(DeleteRangeRequest::default()), InvalidArgument, EMPTY_KEY),
        Row::new(
            "DeleteRange: only range_end",
            delete(DeleteRangeRequest { range_end: "z".into(), ..Default::default() }),
            InvalidArgument,
            EMPTY_KEY,
        ),
        Row::new("Compact: at the compact revision", compact(4), OutOfRange, COMPACTED),
        Row::new("Compact: below it", compact(1), OutOfRange, COMPACTED),
        Row::new("Compact: 0", compact(0), OutOfRange, COMPACTED),
        Row::new("Compact: -1", compact(-1), OutOfRange, COMPACTED),
        Row::new("Compact: future", compact(6), OutOfRange, FUTURE),
        Row::new("Compact: far future", compact(FIRST_LITERAL_REVISION), OutOfRange, FUTURE),
    ]
}

fn txn_shape_rows() -> Vec<Row> {
    let bad = |what, request, text| Row::new(what, Ask::Step(Step::Txn(request)), InvalidArgument, text);
    let compare = Compare { key: "k".into(), ..Default::default() };
    let many = |count| vec![range_op(RangeRequest { key: "k".into(), ..Default::default() }); count];
    let success = |success| TxnRequest { success, ..Default::default() };
    let failure = |failure| TxnRequest { failure, ..Default::default() };
    vec![
        bad(
            "Txn: 129 compares",
            TxnRequest { compare: vec![compare; 129], ..Default::default() },
            TOO_MANY_OPS,
        ),
        bad("Txn: 129 successes", success(many(129)), TOO_MANY_OPS),
        bad("Txn: 129 failures", failure(many(129)), TOO_MANY_OPS),
        bad("Txn: nested, 128 inside", success(vec![txn_op(success(many(128)))]), TOO_MANY_OPS),
        bad(
            "Txn: empty compare key",
            TxnRequest { compare: vec![Compare::default()], ..Default::default() },
            EMPTY_KEY,
        ),
        bad("Txn: success without request", success(vec![RequestOp { request: None }]), KEY_NOT_FOUND),
        bad("Txn: failure without request", failure(vec![RequestOp { request: None }]), KEY_NOT_FOUND),
        bad(
            "Txn: nested without request",
            failure(vec![txn_op(success(vec![RequestOp { request: None }]))]),
            KEY_NOT_FOUND,
        ),
        bad("Txn: two puts of one key", success(vec![put_op(put("k")), put_op(put("k"))]), DUPLICATE),
        bad("Txn: two puts, failure", failure(vec![put_op(put("k")), put_op(put("k"))]), DUPLICATE),
        bad("Txn: put, then delete", success(vec![put_op(put("k")), delete_op("a", "z")]), DUPLICATE),
        bad("Txn: delete, then put", success(vec![delete_op("k", ""), put_op(put("k"))]), DUPLICATE),
        bad(
            "Txn: put beside a nested put",
            success(vec![put_op(put("k")), txn_op(success(vec![put_op(put("k"))]))]),
            DUPLICATE,
        ),
        bad(
            "Txn: put beside a nested delete",
            success(vec![txn_op(failure(vec![delete_op("k", "")])), put_op(put("k"))]),
            DUPLICATE,
        ),
        bad(
            "Txn: delete beside a nested put",
            success(vec![delete_op("a", "z"), txn_op(failure(vec![put_op(put("k"))]))]),
            DUPLICATE,
        ),
        bad(
            "Txn: two nested puts",
            success(vec![txn_op(success(vec![put_op(put("k"))])), txn_op(failure(vec![put_op(put("k"))]))]),
            DUPLICATE,
        ),
    ]
}

fn txn_content_rows() -> Vec<Row> {
    let bad = |what, op, code, text| {
        let request = TxnRequest { success: vec![put_op(put("other")), op], ..Default::default() };
        Row::new(what, Ask::Step(Step::Txn(request)), code, text)
    };
    let k = || RangeRequest { key: "k".into(), ..Default::default() };
    let ignoring = |key| PutRequest { value: "".into(), ignore_value: true, ..put(key) };
    vec![
        bad("Txn: Range without key", range_op(RangeRequest::default()), InvalidArgument, EMPTY_KEY),
        bad(
            "Txn: Range, order 3",
            range_op(RangeRequest { sort_order: 3, ..k() }),
            InvalidArgument,
            INVALID_SORT,
        )
        .in_35(Etcd35::NotAsked("it answers in the order of keys")),
        bad(
            "Txn: Range, target 5",
            range_op(RangeRequest { sort_target: 5, ..k() }),
            InvalidArgument,
            INVALID_SORT,
        )
        .in_35(Etcd35::NotAsked("it crashes")),
        bad("Txn: Range, compacted", range_op(RangeRequest { revision: 3, ..k() }), OutOfRange, COMPACTED),
        bad("Txn: Range, future", range_op(RangeRequest { revision: 6, ..k() }), OutOfRange, FUTURE),
        bad(
            "Txn: Range, its own revision",
            range_op(RangeRequest { revision: 7, ..k() }),
            OutOfRange,
            FUTURE,
        ),
        bad("Txn: Put without key", put_op(put("")), InvalidArgument, EMPTY_KEY),
        bad(
            "Txn: Put, value ignored and given",
            put_op(PutRequest { ignore_value: true, ..put("k") }),
            InvalidArgument,
            VALUE_PROVIDED,
        ),
        bad(
            "Txn: Put, lease ignored and given",
            put_op(PutRequest { ignore_lease: true, lease: 1, ..put("k") }),
            InvalidArgument,
            LEASE_PROVIDED,
        ),
        bad("Txn: Put, value of no key", put_op(ignoring("missing")), InvalidArgument, KEY_NOT_FOUND),
        bad(
            "Txn: Put, unknown lease",
            put_op(PutRequest { lease: 9, ..put("k") }),
            NotFound,
            LEASE_NOT_FOUND,
        ),
        bad("Txn: DeleteRange without key", delete_op("", "z"), InvalidArgument, EMPTY_KEY),
        bad(
            "Txn: nested Put without key",
            txn_op(TxnRequest { failure: vec![put_op(put(""))], ..Default::default() }),
            InvalidArgument,
            EMPTY_KEY,
        ),
        bad(
            "Txn: nested Put, unknown lease",
            txn_op(TxnRequest {
                success: vec![put_op(PutRequest { lease: 9, ..put("k") })],
                ..Default::default()
            }),
            NotFound,
            LEASE_NOT_FOUND,
        ),
    ]
}

fn put(key: &'static str) -> PutRequest {
    PutRequest { key: key.into(), value: "v".into(), ..Default::default() }
}

fn put_op(request: PutRequest) -> RequestOp {
    RequestOp { request: Some(Request::RequestPut(request)) }
}

fn range_op(request: RangeRequest) -> RequestOp {
    RequestOp { request: Some(Request::RequestRange(request)) }
}

fn delete_op(key: &'static str, range_end: &'static str) -> RequestOp {
    let request = DeleteRangeRequest { key: key.into(), range_end: range_end.into(), prev_kv: false };
    RequestOp { request: Some(Request::RequestDeleteRange(request)) }
}

fn txn_op(request: TxnRequest) -> RequestOp {
    RequestOp { request: Some(Request::RequestTxn(request)) }
}

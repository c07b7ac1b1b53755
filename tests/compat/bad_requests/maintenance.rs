//! Bad requests of the Maintenance service. An alarm request with an unknown action is not among them: etcd's
//! members crash when they apply it.

use decklog::wire::etcdserverpb::{DowngradeRequest, HashKvRequest, MoveLeaderRequest};
use tonic::Code::{FailedPrecondition, InvalidArgument, OutOfRange, Unknown};

use super::{Ask, Row};
use crate::programs::Step;

const BAD_TRANSFEREE: &str = "etcdserver: bad leader transferee";
const BAD_VERSION_FORMAT: &str = "etcdserver: wrong downgrade target version format";
const BAD_VERSION: &str = "etcdserver: invalid downgrade target version";
const UNKNOWN_METHOD: &str = "etcdserver: unknown method";

pub fn rows() -> Vec<Row> {
    let hash = |revision| Ask::Step(Step::HashKv(HashKvRequest { revision }));
    let downgrade =
        |action, version: &str| Ask::Downgrade(DowngradeRequest { action, version: version.to_owned() });
    let move_to = |target_id| Ask::MoveLeader(MoveLeaderRequest { target_id });
    vec![
        Row::new(
            "HashKV: compacted",
            hash(3),
            OutOfRange,
            "etcdserver: mvcc: required revision has been compacted",
        ),
        Row::new(
            "HashKV: future",
            hash(99),
            OutOfRange,
            "etcdserver: mvcc: required revision is a future revision",
        ),
        Row::new("MoveLeader: nobody", move_to(0), FailedPrecondition, BAD_TRANSFEREE),
        Row::new("MoveLeader: unknown", move_to(404), FailedPrecondition, BAD_TRANSFEREE),
        Row::new("Downgrade: no version", downgrade(0, ""), InvalidArgument, BAD_VERSION_FORMAT),
        Row::new("Downgrade: no number", downgrade(0, "new"), InvalidArgument, BAD_VERSION_FORMAT),
        Row::new("Downgrade: too far", downgrade(0, "2.3.0"), InvalidArgument, BAD_VERSION),
        Row::new("Downgrade: upwards", downgrade(1, "9.9.0"), InvalidArgument, BAD_VERSION),
        Row::new("Downgrade: unknown action", downgrade(9, "3.5.0"), Unknown, UNKNOWN_METHOD),
        Row::new(
            "Downgrade: nothing to cancel",
            downgrade(2, ""),
            FailedPrecondition,
            "etcdserver: no inflight downgrade job",
        ),
    ]
}

//! Bad requests of the Lease service.

use decklog::wire::etcdserverpb::{LeaseGrantRequest, LeaseRevokeRequest};
use tonic::Code::{FailedPrecondition, NotFound, OutOfRange, Unimplemented};

use super::{Ask, Row};
use crate::programs::Step;

const EXISTS: &str = "etcdserver: lease already exists";
const TTL_TOO_LARGE: &str = "etcdserver: too large lease TTL";
const NOT_FOUND: &str = "etcdserver: requested lease not found";

pub fn rows() -> Vec<Row> {
    let grant = |ttl, id| Ask::Step(Step::LeaseGrant(LeaseGrantRequest { ttl, id }));
    let revoke = |id| Ask::Step(Step::LeaseRevoke(LeaseRevokeRequest { id }));
    vec![
        Row::new("LeaseGrant: taken id", grant(60, 1), FailedPrecondition, EXISTS),
        Row::new("LeaseGrant: TTL above the limit", grant(9_000_000_001, 2), OutOfRange, TTL_TOO_LARGE),
        Row::new("LeaseGrant: greatest TTL", grant(i64::MAX, 2), OutOfRange, TTL_TOO_LARGE),
        Row::new(
            "LeaseGrant: taken id and TTL above the limit",
            grant(i64::MAX, 1),
            OutOfRange,
            TTL_TOO_LARGE,
        ),
        Row::new("LeaseRevoke: id 0", revoke(0), NotFound, NOT_FOUND),
        Row::new("LeaseRevoke: unknown id", revoke(9), NotFound, NOT_FOUND),
        Row::new("LeaseRevoke: negative id", revoke(-9), NotFound, NOT_FOUND),
        Row::new(
            "Lease: unknown method",
            Ask::Unknown("/etcdserverpb.Lease/Nothing"),
            Unimplemented,
            "unknown method Nothing for service etcdserverpb.Lease",
        ),
    ]
}

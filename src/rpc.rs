//! The gRPC services: validate, propose or read, reply. Own no state; every text a client sees of an error
//! comes from `status`.

mod auth;
mod cluster;
mod election;
mod header;
mod health;
mod kv;
mod leading;
mod lease;
mod lock;
mod maintenance;
mod quota;
mod reconfiguration;
mod status;
mod validate;
mod watch;

pub use auth::AuthService;
pub use cluster::ClusterService;
pub use election::ElectionService;
pub use header::Headers;
pub use health::HealthService;
pub use kv::KvService;
pub use leading::Leading;
pub use lease::LeaseService;
pub use lock::LockService;
pub use maintenance::MaintenanceService;
pub use quota::Quota;
pub use status::{ClientError, of_read};
pub use watch::WatchService;

use tonic::Code;

use crate::metrics::Metrics;

/// The answer of an RPC that a later version brings.
fn later(rpc: &str) -> tonic::Status {
    tonic::Status::unimplemented(format!("decklog: {rpc} is not implemented in this version"))
}

/// Apply answered a command with another's outcome: a defect of ours, not the client's.
fn mismatched(method: &str) -> tonic::Status {
    tonic::Status::internal(format!("decklog: {method} was answered with the outcome of another command"))
}

/// A client's stream has broken: counted when what came cannot be taken, not when the client just went away.
fn count_failure(metrics: &Metrics, api: &str, status: &tonic::Status) {
    if matches!(status.code(), Code::Internal | Code::ResourceExhausted | Code::Unimplemented) {
        metrics.stream_failures.with_label_values(&["receive", api]).inc();
    }
}

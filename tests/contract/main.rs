//! Our tables against etcd's interface as tables: wire, errors, flags, metrics. And what a running server does
//! with every RPC and every metric that they name.
//!
//! The tables are looked for beside the project, or in the folder that `DECKLOG_ETCD_API` names.

#[path = "../common/peers.rs"]
mod peers;
#[path = "../common/servers.rs"]
mod servers;

mod errors;
mod flags;
mod metrics;
mod rpcs;
mod tables;
mod wire;

//! Decklog: a replicated key-value server that speaks the etcd v3 API.
//!
//! ```text
//! client -> rpc -> consensus (raft) -> log (flushed) -> apply -> mvcc (index + store) -> watch -> client
//!            |                                                    ^
//!            +------------- read: barrier, then the Reader -------+
//! ```
//!
//! The modules in reading order.

pub mod alarm;
pub mod apply;
pub mod command;
pub mod consensus;
pub mod ids;
pub mod lease;
pub mod members;
pub mod metrics;
pub mod mvcc;
pub mod storage;
pub mod version;
pub mod watch;
pub mod wire;

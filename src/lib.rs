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
pub mod background;
pub mod bench;
pub mod command;
pub mod config;
pub mod consensus;
pub mod courier;
pub mod datadir;
pub mod give_way;
pub mod health;
pub mod ids;
pub mod inbox;
pub mod inspect;
pub mod lease;
pub mod logging;
pub mod members;
pub mod metrics;
pub mod mvcc;
pub mod peers;
pub mod persist;
pub mod process;
pub mod rpc;
pub mod server;
pub mod snapshot;
pub mod storage;
pub mod version;
pub mod watch;
pub mod wire;

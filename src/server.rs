//! Wiring: opens what is on disk, connects the stages, serves, and stops in order.
//! Owns the threads; every rule is somebody else's.

mod apply_stage;
mod body;
mod coalesce;
mod dispatch;
mod first_start;
mod http;
mod in_flight;
mod listener;
mod long_body;
mod open;
mod peer_http;
mod peer_thread;
mod places;
mod refill;
mod remember;
mod sniff;
mod stages;
mod stop;
mod tuning;
mod unary;
mod until;

use std::io;
use std::net::SocketAddr;

use crate::config::{Config, UrlError};
use crate::ids::LogIndex;
use crate::{datadir, mvcc, storage};

pub use open::bootstrap;
use places::Places;
pub use stop::{Ended, Running};
pub use tuning::persist_metrics;
pub use unary::{Reply, Unary, call as plain_call};

/// Why the server cannot start or go on. One line that says what and where.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    DataDir(#[from] datadir::Error),
    #[error("cannot read the store: {0}")]
    Store(#[from] storage::Error),
    #[error(
        "the store {path} stands for entry {applied}, but the raft log begins with entry {first}: the entries between are missing"
    )]
    StoreBehind { path: String, applied: LogIndex, first: LogIndex },
    #[error("cannot use the log: {0}")]
    Log(storage::Error),
    #[error("cannot read the key space: {0}")]
    Keyspace(#[from] mvcc::Error),
    #[error("cannot begin consensus: {0}")]
    Consensus(#[from] crate::consensus::Error),
    #[error(transparent)]
    Url(#[from] UrlError),
    #[error(
        "cannot listen on {address}: {source}; end what listens there, or choose other addresses for the --listen flags"
    )]
    Listen { address: SocketAddr, source: io::Error },
    #[error("cannot start a thread: {0}")]
    Thread(#[from] io::Error),
    #[error("{stage} stopped: {reason}")]
    Stage { stage: &'static str, reason: String },
    #[error("cannot join the cluster: {0}")]
    FirstStart(String),
    #[error(
        "member {:x} has been permanently removed from the cluster; to come back, empty its data directory and add it \
         as a new member", .0.0
    )]
    Removed(crate::ids::MemberId),
    #[error("not ready: {0}")]
    NotReady(crate::consensus::ConsensusError),
}

impl Error {
    /// The store is not what it was, or not there; the log is whole.
    fn is_lost_store(&self) -> bool {
        use mvcc::Error::{DamagedPair, MissingPair, Storage};
        match self {
            Self::Store(fault) | Self::Keyspace(Storage(fault)) => {
                matches!(fault, storage::Error::Damaged { .. })
            }
            Self::StoreBehind { .. } | Self::Keyspace(DamagedPair { .. } | MissingPair { .. }) => true,
            _ => false,
        }
    }

    /// There is nothing in the store that could be kept.
    fn store_is_empty(&self) -> bool {
        matches!(self, Self::StoreBehind { applied: LogIndex(0), .. })
    }
}

/// Opens everything and serves. `max_open_files`: the system's limit for this process.
///
/// # Errors
/// See `Error`. Listeners are opened first: a taken port touches nothing on disk.
pub async fn start(config: Config, max_open_files: usize) -> Result<Running, Error> {
    let listeners = open::listeners(&config.listen)?;
    let first = first_start::first_start(&config).await?;
    let opened = open::open(&config, first).await?;
    let stages = stages::start(&config, opened)?;
    stages.serve(&config, listeners, Places::new(max_open_files)).await
}

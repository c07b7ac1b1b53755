//! Wiring: opens what is on disk, connects the stages, serves, and stops in order.
//! Owns the threads; every rule is somebody else's.

mod apply_stage;
mod body;
mod coalesce;
mod dispatch;
mod http;
mod in_flight;
mod listener;
mod open;
mod peer_thread;
mod places;
mod sniff;
mod stages;
mod stop;
mod until;

use std::io;
use std::net::SocketAddr;

use crate::config::{Config, UrlError};
use crate::{datadir, mvcc, storage};

use places::Places;
pub use stop::{Ended, Running};

/// Why the server cannot start or go on. One line that says what and where.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    DataDir(#[from] datadir::Error),
    #[error("cannot read the store: {0}")]
    Store(#[from] storage::Error),
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

/// Opens everything and serves. `max_open_files`: the system's limit for this process.
///
/// # Errors
/// See `Error`. Listeners are opened first: a taken port touches nothing on disk.
pub async fn start(config: Config, max_open_files: usize) -> Result<Running, Error> {
    let listeners = open::listeners(&config.listen)?;
    let first = open::first_start(&config).await?;
    let opened = open::open(&config, first)?;
    let stages = stages::start(&config, opened)?;
    stages.serve(&config, listeners, Places::new(max_open_files)).await
}

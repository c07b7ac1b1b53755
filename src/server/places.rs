//! How many connections may be open at once; more wait to be accepted. The store and the log open files while they
//! work, and the server stops when they cannot: connections must leave room for them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use super::dispatch::{HttpScope, Serves};

/// Open files that are not connections: what etcd keeps back, too. The server itself needs some 30.
const RESERVED_FILES: usize = 150;
const MAX_METRICS_CONNECTIONS: usize = 20;
/// Of the other members, of which each has some.
const MAX_PEER_CONNECTIONS: usize = 64;
/// That connections wait is told so often at most.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Places {
    clients: Arc<Semaphore>,
    /// Apart, so that probes of health do not fail when clients take every place.
    metrics: Arc<Semaphore>,
    /// Apart, so that clients in any number leave the members connected.
    peers: Arc<Semaphore>,
    max_open_files: usize,
}

impl Places {
    /// As many as the limit of open files leaves room for.
    pub fn new(max_open_files: usize) -> Self {
        let clients = max_open_files.saturating_sub(RESERVED_FILES).max(max_open_files / 2);
        Self {
            clients: Arc::new(Semaphore::new(clients.min(Semaphore::MAX_PERMITS))),
            metrics: Arc::new(Semaphore::new(MAX_METRICS_CONNECTIONS)),
            peers: Arc::new(Semaphore::new(MAX_PEER_CONNECTIONS)),
            max_open_files,
        }
    }

    /// The next place; when there is none at once, says so. `told` is when that was last said.
    ///
    /// # Errors
    /// Never: the semaphores are not closed.
    pub async fn take(
        &self,
        serves: Serves,
        told: &mut Option<Instant>,
    ) -> Result<OwnedSemaphorePermit, AcquireError> {
        let is_metrics = !serves.grpc && serves.http == HttpScope::Metrics;
        let is_peer = serves.peer && !serves.grpc;
        let places = match (is_metrics, is_peer) {
            (true, _) => &self.metrics,
            (_, true) => &self.peers,
            _ => &self.clients,
        };
        if let Ok(place) = places.clone().try_acquire_owned() {
            return Ok(place);
        }
        if told.is_none_or(|last| last.elapsed() > TELL_INTERVAL) {
            let max_open_files = self.max_open_files;
            tracing::warn!(
                max_open_files,
                "as many connections are open as the limit allows; more must wait"
            );
            *told = Some(Instant::now());
        }
        places.clone().acquire_owned().await
    }
}

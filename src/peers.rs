//! The other members: a link to each, what they are asked, what they say. Owns the connections between members and
//! what is known of them; the messages are raft's.
//!
//! A link is one long-lived stream of batches in order. Its queue is bounded: what finds no room, or no connection, is
//! lost, and raft sends it again. States go by connections of their own, so that they delay no heartbeat.

mod ask;
mod batch;
mod guests;
mod lending;
mod link;
mod outbound;
mod queue;
mod service;
mod states;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};
use tonic::Status;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tonic::transport::{Channel, Endpoint};

use crate::consensus::Handle;
use crate::datadir::{Birth, DataDir, KnownMembers};
use crate::ids::{ClusterId, MemberId};
use crate::members::Membership;
use crate::metrics::Metrics;
use crate::snapshot::Capture;

pub use ask::{AskError, KnownCluster, ask_change, ask_members};
pub use lending::{BorrowError, WantedState};
use link::Link;
pub use outbound::Outbound;
pub use service::{Leader, PeerService};

/// Who sends, to whom, in which cluster: ids in hexadecimal.
const CLUSTER: &str = "decklog-cluster";
const FROM: &str = "decklog-from";
const TO: &str = "decklog-to";
/// Where the sender is reached: URLs with commas between them.
const URLS: &str = "decklog-urls";
/// Drawn when a member began: whoever has forgotten what it promised has another.
const BIRTH: &str = "decklog-birth";
/// What a member is told that comes back with an empty directory.
const REBORN: &str = "the member was here before, and has lost its data since";
/// What a removed member is told.
const REMOVED: &str = "the member has been permanently removed from the cluster";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
const KEEPALIVE: Duration = Duration::from_secs(3);
/// Room of a connection for what its receiver has not taken.
const WINDOW_BYTES: u32 = 8 << 20;
/// Above what raft puts into a message, and a link into a batch.
const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// What a batch holds at most, on both sides: far above what a turn of consensus has for one member.
const MAX_BATCH_MESSAGES: usize = 4096;

/// What a message of a peer may have: a command may be as large as `--max-request-bytes` allows.
fn max_message_bytes(max_request_bytes: usize) -> usize {
    MAX_MESSAGE_BYTES.saturating_add(max_request_bytes)
}

/// The links. Cheap to clone.
#[derive(Clone)]
pub struct Peers(Arc<Shared>);

struct Shared {
    cluster: ClusterId,
    member: MemberId,
    runtime: tokio::runtime::Handle,
    metrics: Metrics,
    /// A lock, because consensus changes the links and services look one up; it is held for that.
    links: Mutex<BTreeMap<MemberId, Link>>,
    /// Streams of guests so far: each has a number.
    streams: AtomicU64,
    removed: watch::Sender<bool>,
    /// Removed by the log of this member as it started, whatever its store says: they are neither spoken to nor heard.
    removed_in_log: BTreeSet<MemberId>,
    /// Where this member is reached, as far as it knows itself: told to those it connects to.
    own_urls: Mutex<Vec<String>>,
    birth: Birth,
    known: Arc<KnownMembers>,
    /// Another member has met this one with another birth.
    is_reborn: watch::Sender<bool>,
    /// States that raft has not sent yet.
    offered: Mutex<BTreeMap<MemberId, Capture>>,
    /// One state at a time is given to who has lost its own.
    lending: Arc<Semaphore>,
}

impl Peers {
    /// No links yet. They run on `runtime`; none goes to those whom the log has removed.
    pub fn new(
        data_dir: &DataDir,
        removed_in_log: BTreeSet<MemberId>,
        runtime: tokio::runtime::Handle,
        metrics: Metrics,
    ) -> Self {
        Self(Arc::new(Shared {
            cluster: data_dir.cluster(),
            member: data_dir.member(),
            runtime,
            metrics,
            links: Mutex::default(),
            streams: AtomicU64::new(0),
            removed: watch::channel(false).0,
            removed_in_log,
            own_urls: Mutex::default(),
            birth: data_dir.birth(),
            known: data_dir.known().clone(),
            is_reborn: watch::channel(false).0,
            offered: Mutex::default(),
            lending: Arc::new(Semaphore::new(1)),
        }))
    }

    /// Consensus' way out to the peers: to `found` until it knows members.
    pub fn outbound(&self, consensus: &Handle, found: Membership) -> Outbound {
        Outbound::new(self.clone(), consensus.clone(), found)
    }

    /// Becomes true when this member is no member any more.
    pub fn removed(&self) -> watch::Receiver<bool> {
        self.0.removed.subscribe()
    }

    /// Becomes true when another member knows that this one has lost its data.
    pub fn is_reborn(&self) -> watch::Receiver<bool> {
        self.0.is_reborn.subscribe()
    }

    /// Whether a link goes to somebody: a member, or one that has come.
    fn has_link(&self, to: MemberId) -> bool {
        self.0.links.lock().contains_key(&to)
    }

    /// What a member knows of this one ends it. A guest is nobody to say so.
    fn heed(&self, is_guest: bool, said: &Status) {
        if is_guest {
            return;
        }
        if says_removed(said) {
            tracing::error!("{}", said.message());
            self.0.removed.send_replace(true);
        }
        if says_reborn(said) {
            self.0.is_reborn.send_replace(true);
        }
    }

    fn urls(&self, member: MemberId) -> Vec<String> {
        self.0.links.lock().get(&member).map(|link| link.urls().to_vec()).unwrap_or_default()
    }

    fn queue(&self, member: MemberId) -> Option<queue::Queue> {
        self.0.links.lock().get(&member).map(Link::queue)
    }

    fn channel(&self, member: MemberId) -> Option<Channel> {
        self.0.links.lock().get(&member).map(|link| link.channel())
    }

    fn request<T>(&self, to: MemberId, message: T) -> tonic::Request<T> {
        let mut request = tonic::Request::new(message);
        *request.metadata_mut() = metadata(self.0.cluster, (self.0.member, self.0.birth), to);
        match self.0.own_urls.lock().join(",").parse() {
            Ok(urls) => drop(request.metadata_mut().insert(URLS, urls)),
            Err(error) => tracing::debug!(%error, "the URLs of this member cannot be told"),
        }
        request
    }
}

fn metadata(cluster: ClusterId, (from, birth): (MemberId, Birth), to: MemberId) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    for (key, id) in [(CLUSTER, cluster.0), (FROM, from.0), (TO, to.0), (BIRTH, birth.0)] {
        metadata.insert(key, hexadecimal(id));
    }
    metadata
}

fn hexadecimal(id: u64) -> MetadataValue<Ascii> {
    format!("{id:016x}").parse().expect("digits are ASCII")
}

/// Whether a peer says that this member is no member any more.
pub fn says_removed(status: &Status) -> bool {
    status.code() == tonic::Code::PermissionDenied && status.message() == REMOVED
}

/// Whether a peer has met this member with another birth.
fn says_reborn(status: &Status) -> bool {
    status.code() == tonic::Code::PermissionDenied && status.message() == REBORN
}

/// # Errors
/// When it is no address that can be connected to.
fn endpoint(url: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(url.to_owned())?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES))
}

#[cfg(test)]
mod tests;

//! Clients that write to and read from every member all the time, and what they were told.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use decklog::wire::etcdserverpb::kv_client::KvClient;
use decklog::wire::etcdserverpb::{PutRequest, RangeRequest};
use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::members::{Cluster, channel};

const CLIENTS_PER_MEMBER: usize = 2;
const KEYS: usize = 20;
const TIMEOUT: Duration = Duration::from_secs(3);
const LIMIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);

/// What clients were told.
#[derive(Default)]
pub struct History {
    /// The newest acknowledged revision of each key.
    pub acknowledged: BTreeMap<String, i64>,
    revisions: BTreeSet<i64>,
    reads: u64,
    failed: BTreeMap<String, u64>,
}

impl fmt::Display for History {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} writes, {} reads; failed: {:?}", self.revisions.len(), self.reads, self.failed)
    }
}

struct Shared {
    history: Mutex<History>,
    /// The highest acknowledged revision.
    acknowledged: AtomicI64,
    writes: AtomicU64,
    stop: AtomicBool,
}

/// See the module.
pub struct Load {
    shared: Arc<Shared>,
    clients: JoinSet<()>,
}

impl Load {
    pub fn begin(cluster: &Cluster, seed: u64) -> Self {
        let shared = Arc::new(Shared {
            history: Mutex::default(),
            acknowledged: AtomicI64::new(1),
            writes: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        });
        let mut clients = JoinSet::new();
        for (place, url) in cluster.urls().iter().enumerate() {
            for number in 0..CLIENTS_PER_MEMBER {
                let client = Client {
                    kv: KvClient::new(channel(url)),
                    random: SmallRng::seed_from_u64(seed ^ (place * 64 + number) as u64),
                    shared: shared.clone(),
                };
                clients.spawn(client.run());
            }
        }
        Self { shared, clients }
    }

    /// So many more are acknowledged: the cluster lives.
    pub async fn wait_for_writes(&self, count: u64) {
        let until = self.shared.writes.load(Ordering::Relaxed) + count;
        let mut looks = tokio::time::interval(LOOK);
        let came = tokio::time::timeout(LIMIT, async {
            while self.shared.writes.load(Ordering::Relaxed) < until {
                looks.tick().await;
            }
        });
        assert!(came.await.is_ok(), "writes do not go on");
    }

    pub async fn end(mut self) -> History {
        self.shared.stop.store(true, Ordering::Relaxed);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("no client found anything wrong");
        }
        std::mem::take(&mut *self.shared.history.lock())
    }
}

struct Client {
    kv: KvClient<Channel>,
    random: SmallRng,
    shared: Arc<Shared>,
}

impl Client {
    async fn run(mut self) {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let key = format!("key-{}", self.random.random_range(0..KEYS));
            let before = self.shared.acknowledged.load(Ordering::Acquire);
            let of_key = self.shared.history.lock().acknowledged.get(&key).copied().unwrap_or(0);
            let done = tokio::time::timeout(TIMEOUT, async {
                match self.random.random_range(0..2) {
                    0 => self.put(&key, before).await,
                    _ => self.read(&key, before, of_key).await,
                }
            });
            let failed = match done.await {
                Ok(Ok(())) => continue,
                Ok(Err(status)) => {
                    assert!(is_expected(&status), "{status}");
                    status.message().to_owned()
                }
                Err(_elapsed) => "the client's own time was over".to_owned(),
            };
            *self.shared.history.lock().failed.entry(failed).or_default() += 1;
            crate::let_pass(LOOK).await;
        }
    }

    async fn put(&mut self, key: &str, before: i64) -> Result<(), Status> {
        let value = self.random.random::<u64>().to_string();
        let request = PutRequest { key: key.to_owned().into(), value: value.into(), ..PutRequest::default() };
        let answer = self.kv.put(request).await?.into_inner();
        let revision = answer.header.expect("a header").revision;
        assert!(revision > before, "a write at {revision}, after {before} was acknowledged");
        let mut history = self.shared.history.lock();
        assert!(history.revisions.insert(revision), "revision {revision} was given twice");
        let newest = history.acknowledged.entry(key.to_owned()).or_default();
        *newest = revision.max(*newest);
        drop(history);
        self.shared.acknowledged.fetch_max(revision, Ordering::AcqRel);
        self.shared.writes.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    async fn read(&mut self, key: &str, before: i64, of_key: i64) -> Result<(), Status> {
        let request = RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() };
        let answer = self.kv.range(request).await?.into_inner();
        let revision = answer.header.expect("a header").revision;
        assert!(revision >= before, "a read at {revision}, after {before} was acknowledged");
        let found = answer.kvs.first().map_or(0, |pair| pair.decode().expect("a pair").mod_revision);
        assert!(found >= of_key, "a stale read: {found}, after {of_key} was acknowledged");
        self.shared.history.lock().reads += 1;
        Ok(())
    }
}

/// What a client may be told while members go and come.
fn is_expected(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Cancelled)
        || status.message().contains("too many requests")
        || status.message().contains("transport error")
        || status.message().contains("h2 protocol error")
}

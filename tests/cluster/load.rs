//! The load of a run: clients of every kind on every member at once, begun together and ended in order.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use decklog::wire::etcdserverpb as pb;
use decklog::wire::etcdserverpb::kv_client::KvClient;
use decklog::wire::etcdserverpb::lease_client::LeaseClient;
use decklog::wire::etcdserverpb::watch_create_request::FilterType;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinSet;

use crate::checker::history::{History, Watcher};
use crate::clients::kv::KvLoad;
use crate::clients::leases::LeaseLoad;
use crate::clients::watches::WatchLoad;
use crate::clients::{PREFIX, PREFIX_END};
use crate::members::{Cluster, channel};
use crate::recorder::{Ends, Recorder};
use crate::until::{LIMIT, found};

const KV_PER_MEMBER: usize = 2;
const WRITES_OF_A_LIVING: u64 = 5;
/// Of clients that look at the end.
const LAST: u64 = 1000;

/// See the module.
pub struct Load {
    pub recorder: Arc<Recorder>,
    clients: JoinSet<()>,
    watchers: JoinSet<()>,
    last_revision: Arc<AtomicI64>,
}

impl Load {
    pub fn begin(cluster: &Cluster, seed: u64) -> Self {
        let last_revision = Arc::new(AtomicI64::new(i64::MAX));
        let recorder = Arc::new(Recorder::new(cluster.urls().len()));
        let mut load = Self { recorder, clients: JoinSet::new(), watchers: JoinSet::new(), last_revision };
        let mut random = SmallRng::seed_from_u64(seed);
        let mut client = 0;
        for (member, url) in cluster.urls().iter().enumerate() {
            let mut ends = || {
                client += 1;
                (Ends { client, member }, SmallRng::from_rng(&mut random), load.recorder.clone())
            };
            for _ in 0..KV_PER_MEMBER {
                let (ends, random, recorder) = ends();
                let kv = KvClient::new(channel(url));
                let client = KvLoad { ends, kv, random, recorder, written: 0, seen: BTreeMap::new() };
                load.clients.spawn(client.run());
            }
            let (ends, random, recorder) = ends();
            let (kv, lease) = (KvClient::new(channel(url)), LeaseClient::new(channel(url)));
            load.clients.spawn(LeaseLoad { ends, kv, lease, random, recorder, granted: 0 }.run());
        }
        for create in [everything(), some()] {
            for member in 0..cluster.urls().len() {
                client += 1;
                let watch = WatchLoad {
                    member,
                    urls: cluster.urls().to_vec(),
                    random: SmallRng::seed_from_u64(random.random()),
                    recorder: load.recorder.clone(),
                    create: create.clone(),
                    watcher: Watcher { client, sessions: Vec::new() },
                    last_revision: load.last_revision.clone(),
                };
                load.watchers.spawn(watch.run());
            }
        }
        load
    }

    /// So many more are acknowledged: the cluster lives.
    pub async fn wait_for_writes(&self, count: u64) {
        let until = self.recorder.writes() + count;
        self.wait_until("writes do not go on", || self.recorder.writes() >= until).await;
    }

    /// Some more are acknowledged by every member: all live.
    pub async fn wait_for_every_member(&self) {
        for member in 0..self.recorder.members() {
            let until = self.recorder.writes_at(member) + WRITES_OF_A_LIVING;
            let failure = format!("member {member} acknowledges no writes");
            self.wait_until(&failure, || self.recorder.writes_at(member) >= until).await;
        }
    }

    async fn wait_until(&self, failure: &str, is_so: impl Fn() -> bool) {
        let came = found(async || is_so().then_some(())).await;
        assert!(came.is_some(), "{failure}: {}", self.recorder);
    }

    /// All clients end, then each member is asked for everything, and the watchers are waited for.
    pub async fn end(mut self, cluster: &Cluster) -> History {
        self.recorder.end();
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("no client found anything wrong");
        }
        let mut last = 0;
        for (member, url) in cluster.urls().iter().enumerate() {
            last = self.read_everything(member, url).await;
        }
        self.last_revision.store(last, Ordering::Relaxed);
        let told = tokio::time::timeout(LIMIT, async {
            while let Some(ended) = self.watchers.join_next().await {
                ended.expect("no watcher found anything wrong");
            }
        });
        assert!(told.await.is_ok(), "watchers are not told everything through {last}");
        println!("{}", self.recorder);
        self.recorder.take()
    }

    /// The revision of what a member shows.
    async fn read_everything(&self, member: usize, url: &str) -> i64 {
        let ends = Ends { client: LAST + member as u64, member };
        let pb::WatchCreateRequest { key, range_end, .. } = everything();
        let request = pb::RangeRequest { key, range_end, ..pb::RangeRequest::default() };
        let mut kv = KvClient::new(channel(url));
        let read = tokio::time::timeout(LIMIT, async {
            loop {
                let answer = self.recorder.ask(ends, (&request).into(), kv.range(request.clone()));
                if let Ok(answer) = answer.await {
                    return answer.header.expect("a header").revision;
                }
            }
        });
        read.await.unwrap_or_else(|_elapsed| panic!("member {member} answers no reads: {}", self.recorder))
    }
}

/// All keys from the beginning, with what was before.
fn everything() -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        start_revision: 1,
        prev_kv: true,
        ..pb::WatchCreateRequest::default()
    }
}

/// What is put under the shared keys, from now on.
fn some() -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        key: PREFIX.into(),
        range_end: PREFIX_END.into(),
        filters: vec![FilterType::Nodelete as i32],
        ..pb::WatchCreateRequest::default()
    }
}

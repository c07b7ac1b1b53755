//! One client that compacts, defragments and asks for checksums while others write, and after a crash finds its
//! answers again.

use decklog::wire::etcdserverpb::kv_client::KvClient;
use decklog::wire::etcdserverpb::maintenance_client::MaintenanceClient;
use decklog::wire::etcdserverpb::{
    CompactionRequest, DefragmentRequest, HashKvRequest, HashKvResponse, RangeRequest,
};
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::time::Duration;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::history::History;
use crate::journal::{Clock, Note};
use crate::process::Process;

/// Between two of its requests: the others shall get their turn.
const PAUSE: Duration = Duration::from_millis(10);
/// How many of the newest revisions are never compacted.
const MIN_KEPT: i64 = 40;

/// See the module.
pub struct Keeper {
    random: StdRng,
    /// The highest compaction that was acknowledged, and the highest that was asked for.
    compacted: i64,
    compacting: i64,
    hash: Option<HashKvResponse>,
    clock: Clock,
    /// Whether it does so, or compacts more often instead.
    pub defragments: bool,
    compacting_since: u64,
    /// The compactions done, and when there were defragmentations.
    pub journal: Vec<Note<i64>>,
    pub defragmentation_times: Vec<std::ops::Range<u64>>,
    /// Every checksum told, by the revision and what it was compacted to.
    pub hashes: BTreeMap<(i64, i64), u32>,
    pub compactions: u64,
    pub defragmentations: u64,
    pub hashes_compared: u64,
}

impl Keeper {
    pub fn new(random: StdRng, clock: Clock) -> Self {
        Self {
            random,
            clock,
            defragments: true,
            compacting_since: 0,
            journal: Vec::new(),
            defragmentation_times: Vec::new(),
            hashes: BTreeMap::new(),
            compacted: 0,
            compacting: 0,
            hash: None,
            compactions: 0,
            defragmentations: 0,
            hashes_compared: 0,
        }
    }

    /// Goes on until a request fails.
    pub async fn run(&mut self, channel: Channel, history: &History) -> Status {
        let mut maintenance = MaintenanceClient::new(channel.clone());
        let mut kv = KvClient::new(channel);
        let mut turns = tokio::time::interval(PAUSE);
        loop {
            turns.tick().await;
            let done = match self.random.random_range(0..8) {
                0 => self.compact(&mut kv, history).await,
                1 if self.defragments => self.defragment(&mut maintenance).await,
                1 => self.compact(&mut kv, history).await,
                _ => self.take_hash(&mut maintenance).await,
            };
            if let Err(status) = done {
                return status;
            }
        }
    }

    /// Never what the watch has not told yet.
    async fn compact(&mut self, kv: &mut KvClient<Channel>, history: &History) -> Result<(), Status> {
        let (from, through) = (self.compacting + 1, history.last() - MIN_KEPT);
        if from > through {
            return Ok(());
        }
        let revision = self.random.random_range(from..=through);
        (self.compacting, self.compacting_since) = (revision, self.clock.now());
        let physical = self.random.random();
        kv.compact(CompactionRequest { revision, physical }).await?;
        self.compacted = revision;
        self.compactions += 1;
        let (sent, answered) = (self.compacting_since, Some(self.clock.now()));
        self.journal.push(Note { sent, answered, effect: revision });
        Ok(())
    }

    async fn defragment(&mut self, maintenance: &mut MaintenanceClient<Channel>) -> Result<(), Status> {
        let since = self.clock.now();
        let done = maintenance.defragment(DefragmentRequest {}).await;
        self.defragmentation_times.push(since..self.clock.now());
        done?;
        self.defragmentations += 1;
        Ok(())
    }

    async fn take_hash(&mut self, maintenance: &mut MaintenanceClient<Channel>) -> Result<(), Status> {
        let hash = maintenance.hash_kv(HashKvRequest { revision: 0 }).await?.into_inner();
        self.remember(&hash);
        self.hash = Some(hash);
        Ok(())
    }

    fn remember(&mut self, hash: &HashKvResponse) {
        let before = self.hashes.insert((hash.hash_revision, hash.compact_revision), hash.hash);
        assert!(before.is_none_or(|before| before == hash.hash), "{hash:?}: it was {before:?}");
    }

    /// After a crash: the acknowledged compaction holds, and the checksum of before is the one of now.
    pub async fn check(&mut self, process: &Process) {
        let now = process.maintenance().hash_kv(HashKvRequest { revision: 0 }).await;
        let now = now.expect("a checksum of everything").into_inner();
        self.remember(&now);
        let compacted = now.compact_revision.max(0);
        let allowed = [self.compacted, self.compacting];
        assert!(
            allowed.contains(&compacted),
            "compacted at {compacted}, acknowledged and asked for: {allowed:?}"
        );
        if compacted > self.compacted {
            self.journal.push(Note { sent: self.compacting_since, answered: None, effect: compacted });
        }
        (self.compacted, self.compacting) = (compacted, compacted);
        if compacted > 1 {
            let request =
                RangeRequest { key: "k".into(), revision: compacted - 1, ..RangeRequest::default() };
            let refused = process.kv().range(request).await.expect_err("a read of what is compacted");
            assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
        }
        let Some(before) = self.hash.take() else {
            return;
        };
        if before.hash_revision >= compacted && before.compact_revision.max(0) == compacted {
            let request = HashKvRequest { revision: before.hash_revision };
            let after = process.maintenance().hash_kv(request).await.expect("a checksum").into_inner();
            let what = |hash: &HashKvResponse| (hash.hash_revision, hash.compact_revision, hash.hash);
            assert_eq!(what(&after), what(&before), "the checksum (revision, compacted, hash) changed");
            self.hashes_compared += 1;
        }
    }

    pub fn compacted(&self) -> i64 {
        self.compacted
    }
}

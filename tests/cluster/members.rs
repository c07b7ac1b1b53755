//! The members as processes.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use bytes::Bytes;
use decklog::wire::etcdserverpb::kv_client::KvClient;
use decklog::wire::etcdserverpb::maintenance_client::MaintenanceClient;
use decklog::wire::etcdserverpb::{
    HashKvRequest, MoveLeaderRequest, PutRequest, RangeRequest, StatusRequest,
};
use futures_util::future::join_all;
use tempfile::TempDir;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::network::Network;
use crate::recorder::is_expected;
use crate::servers::{Launch, Process, Server};
use crate::small_disk::SmallDisk;
use crate::until::{found, until};

/// What is not answered so long is asked again: it may have gone to a leader that was lost.
const PATIENCE: Duration = Duration::from_secs(1);
/// The log keeps two segments ready, and the store needs some.
const SMALL_DISK_MEBIBYTES: u32 = 200;

pub struct Cluster {
    servers: Vec<Option<Server>>,
    launches: Vec<Option<Launch>>,
    urls: Vec<String>,
    ids: Vec<u64>,
    /// Names and peer URLs of all.
    initial: Vec<String>,
    /// Between the members.
    pub network: Network,
    /// What those who join are, and are started with.
    program: PathBuf,
    flags: Vec<String>,
    /// Each goes before the folder that it is mounted in.
    disks: BTreeMap<usize, (SmallDisk, TempDir)>,
}

/// The newest acknowledged revision of each key.
pub type Acknowledged = BTreeMap<String, i64>;

/// What a cluster is to be like.
pub struct Options {
    /// Decklog, or another with etcd's flags.
    pub program: PathBuf,
    /// Of what happens in the network by chance.
    pub seed: u64,
    pub flags: Vec<String>,
    /// The place of a member with a small disk of its own.
    pub small_disk: Option<usize>,
}

impl Options {
    pub fn with_flags(flags: &[&str]) -> Self {
        Self { flags: flags.iter().map(ToString::to_string).collect(), ..Self::default() }
    }

    /// Members are replaced without waiting until connections count as sound.
    pub fn without_patience(seed: u64) -> Self {
        Self { seed, ..Self::with_flags(&["--strict-reconfig-check=false"]) }
    }
}

impl Default for Options {
    fn default() -> Self {
        let program = PathBuf::from(env!("CARGO_BIN_EXE_decklog"));
        Self { program, seed: 0, flags: Vec::new(), small_disk: None }
    }
}

impl Cluster {
    pub async fn start(size: usize) -> Self {
        Self::start_with(size, Options::default()).await
    }

    pub async fn start_with(size: usize, options: Options) -> Self {
        Self::start_changed(size, options, |_, _| ()).await
    }

    /// `change` has the last word about how a member at a place is started.
    pub async fn start_changed(
        size: usize,
        options: Options,
        mut change: impl FnMut(usize, &mut Launch),
    ) -> Self {
        let mut cluster = Self {
            servers: Vec::new(),
            launches: Vec::new(),
            urls: Vec::new(),
            ids: Vec::new(),
            initial: Vec::new(),
            network: Network::new(options.seed),
            program: options.program.clone(),
            flags: options.flags.clone(),
            disks: BTreeMap::new(),
        };
        for _ in 0..size {
            cluster.add_place(&options.program, &options.flags).await;
        }
        if let Some(place) = options.small_disk {
            cluster.give_small_disk(place);
        }
        for (place, launch) in cluster.launches.iter_mut().flatten().enumerate() {
            launch.more_flags.push(format!("--initial-cluster={}", cluster.initial.join(",")));
            change(place, launch);
        }
        cluster.launch_all().await;
        cluster
    }

    /// The data of a member that is down will be on a small disk, where this process may mount one.
    fn give_small_disk(&mut self, place: usize) {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (test, path) = ("the full disk of a cluster's member", folder.path().join("small"));
        if let Some(disk) = SmallDisk::mount(test, &path, SMALL_DISK_MEBIBYTES) {
            let flag = format!("--data-dir={}", path.join("data").display());
            self.launches[place].as_mut().expect("it is down").more_flags.push(flag);
            self.disks.insert(place, (disk, folder));
        }
    }

    /// A place for one more member; others reach it by the network's port for it.
    async fn add_place(&mut self, program: &Path, flags: &[String]) -> (usize, String) {
        let place = self.launches.len();
        let mut launch = Launch::new(program, &[]);
        let url = format!("http://127.0.0.1:{}", self.network.add(place, launch.peer_port).await);
        self.initial.push(format!("m{place}={url}"));
        launch.more_flags = vec![format!("--name=m{place}"), format!("--initial-advertise-peer-urls={url}")];
        launch.more_flags.extend_from_slice(flags);
        self.urls.push(launch.client_url());
        self.launches.push(Some(launch));
        self.servers.push(None);
        self.ids.push(0);
        (place, url)
    }

    /// One more member, which is to join: its place and peer URL. Nobody knows it yet.
    pub async fn newcomer(&mut self) -> (usize, String) {
        let (place, url) = {
            let (program, flags) = (self.program.clone(), self.flags.clone());
            self.add_place(&program, &flags).await
        };
        self.will_join(place);
        (place, url)
    }

    /// The next start at a place is of a member that joins.
    fn will_join(&mut self, place: usize) {
        let initial = format!("--initial-cluster={}", self.initial.join(","));
        let launch = self.launches[place].as_mut().expect("it is down");
        launch.more_flags.extend([initial, "--initial-cluster-state=existing".to_owned()]);
    }

    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    pub fn peer_url(&self, place: usize) -> String {
        self.initial[place].split_once('=').expect("a name with its URL").1.to_owned()
    }

    pub async fn launch(&mut self, place: usize) {
        self.launch_places(&[place]).await;
    }

    /// All that are down, together.
    pub async fn launch_all(&mut self) {
        let all: Vec<usize> = (0..self.launches.len()).collect();
        self.launch_places(&all).await;
    }

    /// Those of these places that are down, together.
    pub async fn launch_places(&mut self, places: &[usize]) {
        let mut started = Vec::new();
        for place in places {
            if let Some(launch) = self.launches[*place].take() {
                let server = Server::begin(launch);
                self.network.runs(*place, server.process.0.id());
                started.push((*place, server));
            }
        }
        join_all(started.iter_mut().map(|(_, server)| server.wait_until_it_serves())).await;
        for (place, server) in started {
            self.servers[place] = Some(server);
            self.ids[place] = self.status(place).await.header.expect("a header").member_id;
        }
    }

    pub fn kill(&mut self, place: usize) {
        let Server { process, launch, .. } = self.servers[place].take().expect("it runs");
        drop(process);
        self.launches[place] = Some(launch);
    }

    /// Whether a member has ended by itself; it can be launched again then.
    pub fn has_ended(&mut self, place: usize) -> bool {
        let Some(server) = self.servers[place].as_mut() else { return true };
        let end = server.end();
        if let Some(end) = &end {
            println!("member {place} ended: {end}");
            self.kill(place);
        }
        end.is_some()
    }

    /// The disk of a member that has a small one.
    pub fn disk(&self, place: usize) -> Option<&SmallDisk> {
        self.disks.get(&place).map(|(disk, _)| disk)
    }

    /// Whether it says that its disk is full.
    pub fn is_full(&self, place: usize) -> bool {
        let log = self.log(place);
        let newest = |text| log.rfind(text).map_or(0, |at| at + 1);
        newest("the disk is full") > newest("there is space on the disk again")
    }

    /// A member that is down loses all that it has, and starts as one that joins.
    pub fn lose_data(&mut self, place: usize) {
        fs::remove_dir_all(self.data(place)).expect("it is there");
        self.will_join(place);
    }

    /// The data directory of a member, up or down.
    pub fn data(&self, place: usize) -> PathBuf {
        let own = self.launch_of(place).folder.path().join("data");
        self.disk(place).map_or(own, |disk| disk.path.join("data"))
    }

    /// What a member has written since its start.
    pub fn log(&self, place: usize) -> String {
        self.launch_of(place).log()
    }

    /// For a member that is down: more flags at its next starts.
    pub fn add_flags(&mut self, place: usize, flags: &[&str]) {
        let launch = self.launches[place].as_mut().expect("it is down");
        launch.more_flags.extend(flags.iter().map(ToString::to_string));
    }

    /// For a member that is down: without the flags that `add_flags` gave last.
    pub fn drop_flags(&mut self, place: usize, count: usize) {
        let flags = &mut self.launches[place].as_mut().expect("it is down").more_flags;
        flags.truncate(flags.len() - count);
    }

    /// For a member that is down: its data are gone.
    pub fn empty(&self, place: usize) {
        fs::remove_dir_all(self.data(place)).expect("it can be removed");
    }

    /// Waits until a member that was spawned has ended with a fault; what it wrote.
    pub async fn has_failed(&self, place: usize, mut process: Process) -> String {
        let status = end_of(&mut process).await;
        let log = self.log(place);
        assert_eq!(status.and_then(|status| status.code()), Some(1), "{log}");
        log
    }

    /// Waits until a log says something.
    pub async fn wait_for_log(&self, place: usize, text: &str) {
        self.wait_for_log_of(place, &[text]).await;
    }

    /// Waits until a log says one of these.
    async fn wait_for_log_of(&self, place: usize, texts: &[&str]) {
        let said = async || texts.iter().any(|text| self.log(place).contains(text)).then_some(());
        assert!(found(said).await.is_some(), "it says none of {texts:?}: {}", self.log(place));
    }

    /// Starts a member that is down, and kills it some time after it has said one of these.
    pub async fn start_and_kill(&self, place: usize, said: &[&str], after: Duration) {
        let process = self.spawn(place);
        self.wait_for_log_of(place, said).await;
        drop(tokio::time::timeout(after, std::future::pending::<()>()).await);
        drop(process);
    }

    /// Starts a member that is down, and waits for nothing.
    pub fn spawn(&self, place: usize) -> Process {
        let process = self.launches[place].as_ref().expect("it is down").spawn();
        self.network.runs(place, process.0.id());
        process
    }

    fn launch_of(&self, place: usize) -> &Launch {
        let up = self.servers[place].as_ref().map(|server| &server.launch);
        self.launches[place].as_ref().or(up).expect("it is up or down")
    }

    pub fn signal(&self, place: usize, signal: &str) {
        let server = self.servers[place].as_ref().expect("it runs");
        let sent = Command::new("kill").args(["-s", signal, &server.process.0.id().to_string()]).status();
        assert!(sent.is_ok_and(|status| status.success()));
    }

    /// Where a member listens for the others.
    pub fn peer_port(&self, place: usize) -> u16 {
        self.launch_of(place).peer_port
    }

    /// Where a member keeps what it writes.
    pub fn folder(&self, place: usize) -> &Path {
        self.launch_of(place).folder.path()
    }

    pub fn id(&self, place: usize) -> u64 {
        self.ids[place]
    }

    /// As a supervisor would.
    pub async fn stop(&mut self, place: usize) {
        self.signal(place, "TERM");
        self.ends(place).await;
    }

    /// Waits until a member has ended in order; what it wrote.
    pub async fn ends(&mut self, place: usize) -> String {
        let server = self.servers[place].as_mut().expect("it runs");
        let status = end_of(&mut server.process).await;
        let log = server.launch.log();
        assert_eq!(status.and_then(|status| status.code()), Some(0), "{log}");
        self.kill(place);
        log
    }

    /// Starts a member that must end with a fault; what it wrote.
    pub async fn fails(&mut self, place: usize) -> String {
        self.has_failed(place, self.spawn(place)).await
    }

    pub async fn status(&self, place: usize) -> decklog::wire::etcdserverpb::StatusResponse {
        let mut client = MaintenanceClient::new(channel(&self.urls[place]));
        client.status(StatusRequest {}).await.expect("it answers").into_inner()
    }

    pub async fn term(&self, place: usize) -> u64 {
        self.status(place).await.raft_term
    }

    /// The place of the leader, once a running member knows one that runs.
    pub async fn leader(&self) -> usize {
        let up = self.servers.iter().position(Option::is_some).expect("some member runs");
        self.leader_seen_by(up).await
    }

    pub async fn leader_seen_by(&self, place: usize) -> usize {
        let leader = found(async || {
            let leader = self.status(place).await.leader;
            let known = self.ids.iter().position(|id| *id == leader);
            known.filter(|leader| self.servers[*leader].is_some())
        });
        leader.await.expect("a leader is elected")
    }

    /// Makes a member lead. On a busy machine a hand-over may come to nothing: then it is asked for again.
    pub async fn hand_over_to(&self, place: usize) {
        let request = MoveLeaderRequest { target_id: self.id(place) };
        until("it takes over", async || {
            let leader = self.leader_seen_by(place).await;
            if leader != place {
                drop(MaintenanceClient::new(channel(&self.urls[leader])).move_leader(request).await);
            }
            self.status(place).await.leader == self.id(place)
        })
        .await;
    }

    /// Writes by one member until it is acknowledged; at which revision.
    pub async fn put_at(&self, place: usize, key: impl Into<Bytes>, value: impl Into<Bytes>) -> i64 {
        let request = PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() };
        let mut client = KvClient::new(channel(&self.urls[place]));
        let answer = answered(async || client.put(request.clone()).await).await;
        answer.into_inner().header.expect("a header").revision
    }

    /// How many there are of a key, by a linearizable read of one member.
    pub async fn count_at(&self, place: usize, key: &'static str) -> i64 {
        let request = RangeRequest { key: key.into(), ..RangeRequest::default() };
        let mut client = KvClient::new(channel(&self.urls[place]));
        answered(async || client.range(request.clone()).await).await.into_inner().count
    }

    /// All members come to the same, and it holds everything acknowledged.
    pub async fn check(&self, acknowledged: &Acknowledged) {
        self.check_places(&(0..self.urls.len()).collect::<Vec<_>>(), acknowledged).await;
    }

    /// These members come to the same, and it holds everything acknowledged.
    pub async fn check_places(&self, places: &[usize], acknowledged: &Acknowledged) {
        let urls: Vec<_> = places.iter().map(|place| &self.urls[*place]).collect();
        become_equal(&urls).await;
        for url in urls {
            for (key, revision) in acknowledged {
                let request = RangeRequest { key: key.clone().into(), ..RangeRequest::default() };
                let mut client = KvClient::new(channel(url));
                let answer = answered(async || client.range(request.clone()).await).await.into_inner();
                let found = answer.kvs.first().map(|pair| pair.decode().expect("a pair").mod_revision);
                assert!(found >= Some(*revision), "{key}: acknowledged at {revision}, found {found:?}");
            }
        }
    }

    /// All members come to the same.
    pub async fn become_equal(&self) {
        become_equal(&self.urls.iter().collect::<Vec<_>>()).await;
    }
}

/// Asks until there is an answer: leaders and connections may be lost meanwhile.
pub async fn answered<T>(mut ask: impl AsyncFnMut() -> Result<T, Status>) -> T {
    let mut last = None;
    let answer = found(async || {
        match tokio::time::timeout(PATIENCE, ask()).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(status)) => {
                assert!(is_expected(&status), "{status}");
                last = Some(status);
            }
            Err(_elapsed) => {}
        }
        None
    });
    let answer = answer.await;
    answer.unwrap_or_else(|| panic!("no answer: {last:?}"))
}

async fn become_equal(urls: &[&String]) {
    let mut seen = Vec::new();
    let even = found(async || {
        seen.clear();
        for url in urls {
            let mut client = MaintenanceClient::new(channel(url));
            // One that has just been promoted may not know it yet, and has no answer.
            let answer = client.hash_kv(HashKvRequest { revision: 0 }).await.ok();
            seen.push(answer.map(|answer| (answer.get_ref().hash, answer.get_ref().hash_revision)));
        }
        (seen[0].is_some() && seen.iter().collect::<BTreeSet<_>>().len() == 1).then_some(())
    });
    let is_even = even.await.is_some();
    assert!(is_even, "members differ: {seen:?}");
}

/// `None` when it has not ended in time.
async fn end_of(process: &mut Process) -> Option<ExitStatus> {
    found(async || process.0.try_wait().expect("a child of this process")).await
}

pub fn channel(url: &str) -> Channel {
    Endpoint::from_shared(url.to_owned()).expect("a valid address").connect_lazy()
}

#[tokio::test]
async fn what_a_lost_leader_refuses_is_asked_again() {
    let mut asked = 0;
    let answer = answered(async || {
        asked += 1;
        if asked == 3 { Ok(asked) } else { Err(Status::unavailable("etcdserver: leader changed")) }
    });
    assert_eq!(answer.await, 3);
}

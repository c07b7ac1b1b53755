//! The members as processes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use decklog::wire::etcdserverpb::kv_client::KvClient;
use decklog::wire::etcdserverpb::maintenance_client::MaintenanceClient;
use decklog::wire::etcdserverpb::{HashKvRequest, PutRequest, RangeRequest, StatusRequest};
use futures_util::future::join_all;
use tonic::transport::{Channel, Endpoint};

use crate::load::History;
use crate::servers::{Launch, Process, Server};

const LIMIT: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);

pub struct Cluster {
    launches: Vec<Option<Launch>>,
    servers: Vec<Option<Server>>,
    urls: Vec<String>,
    ids: Vec<u64>,
    /// Names and peer URLs of all.
    initial: Vec<String>,
}

impl Cluster {
    pub async fn start(size: usize) -> Self {
        Self::start_with(size, &[]).await
    }

    /// With more flags for every member.
    pub async fn start_with(size: usize, flags: &[&str]) -> Self {
        let program = Path::new(env!("CARGO_BIN_EXE_decklog"));
        let mut launches: Vec<Launch> = (0..size).map(|_| Launch::new(program, flags)).collect();
        let peer = |launch: &Launch| format!("http://127.0.0.1:{}", launch.peer_port);
        let names = launches.iter().enumerate();
        let initial: Vec<String> =
            names.map(|(place, launch)| format!("m{place}={}", peer(launch))).collect();
        for (place, launch) in launches.iter_mut().enumerate() {
            let own = [format!("--name=m{place}"), format!("--initial-cluster={}", initial.join(","))];
            launch.more_flags.extend(own);
        }
        let urls = launches.iter().map(Launch::client_url).collect();
        let mut cluster = Self {
            launches: launches.into_iter().map(Some).collect(),
            servers: (0..size).map(|_| None).collect(),
            urls,
            ids: vec![0; size],
            initial,
        };
        cluster.launch_all().await;
        for place in 0..size {
            cluster.ids[place] = cluster.status(place).await.header.expect("a header").member_id;
        }
        cluster
    }

    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    pub async fn launch(&mut self, place: usize) {
        let launch = self.launches[place].take().expect("it is down");
        self.servers[place] = Some(Server::launch(launch).await);
        self.ids[place] = self.status(place).await.header.expect("a header").member_id;
    }

    /// One more member, which is to join: its place and peer URL. Nobody knows it yet.
    pub fn newcomer(&mut self) -> (usize, String) {
        let place = self.launches.len();
        let mut launch = Launch::new(Path::new(env!("CARGO_BIN_EXE_decklog")), &[]);
        let url = format!("http://127.0.0.1:{}", launch.peer_port);
        self.initial.push(format!("m{place}={url}"));
        launch.more_flags = vec![
            format!("--name=m{place}"),
            format!("--initial-cluster={}", self.initial.join(",")),
            "--initial-cluster-state=existing".to_owned(),
        ];
        self.urls.push(launch.client_url());
        self.launches.push(Some(launch));
        self.servers.push(None);
        self.ids.push(0);
        (place, url)
    }

    /// All that are down, together.
    pub async fn launch_all(&mut self) {
        let all: Vec<usize> = (0..self.launches.len()).collect();
        self.launch_places(&all).await;
    }

    /// Those of these places that are down, together.
    pub async fn launch_places(&mut self, places: &[usize]) {
        let launches = self.launches.iter_mut().enumerate();
        let launches = launches.map(|(place, launch)| launch.take_if(|_| places.contains(&place)));
        let started = join_all(launches.map(|launch| async { Some(Server::launch(launch?).await) })).await;
        for (server, started) in self.servers.iter_mut().zip(started) {
            *server = started.or(server.take());
        }
    }

    pub fn kill(&mut self, place: usize) {
        let Server { process, launch, .. } = self.servers[place].take().expect("it runs");
        drop(process);
        self.launches[place] = Some(launch);
    }

    /// The data directory of a member, up or down.
    pub fn data(&self, place: usize) -> PathBuf {
        self.launch_of(place).folder.path().join("data")
    }

    /// What a member has written since its start.
    pub fn log(&self, place: usize) -> String {
        self.launch_of(place).log()
    }

    /// Starts a member that is down, waits for nothing, and kills it after a time.
    pub async fn start_and_kill(&self, place: usize, after: Duration) {
        let process = self.launches[place].as_ref().expect("it is down").spawn();
        drop(tokio::time::timeout(after, std::future::pending::<()>()).await);
        drop(process);
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
        let launch = self.launches[place].as_ref().expect("it is down");
        let mut process = launch.spawn();
        let status = end_of(&mut process).await;
        let log = launch.log();
        assert_eq!(status.and_then(|status| status.code()), Some(1), "{log}");
        log
    }

    async fn status(&self, place: usize) -> decklog::wire::etcdserverpb::StatusResponse {
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
        let mut looks = tokio::time::interval(LOOK);
        let found = tokio::time::timeout(LIMIT, async {
            loop {
                looks.tick().await;
                let leader = self.status(place).await.leader;
                let known = self.ids.iter().position(|id| *id == leader);
                if let Some(leader) = known.filter(|leader| self.servers[*leader].is_some()) {
                    return leader;
                }
            }
        });
        found.await.expect("a leader is elected")
    }

    pub async fn put_at(&self, place: usize, key: &'static str, value: &'static str) {
        let request = PutRequest { key: key.into(), value: value.into(), ..PutRequest::default() };
        KvClient::new(channel(&self.urls[place])).put(request).await.expect("it is written");
    }

    /// All members come to the same, and it holds everything acknowledged.
    pub async fn check(&self, history: &History) {
        let mut looks = tokio::time::interval(LOOK);
        let mut seen = Vec::new();
        let even = tokio::time::timeout(LIMIT, async {
            loop {
                looks.tick().await;
                seen.clear();
                for url in &self.urls {
                    let mut client = MaintenanceClient::new(channel(url));
                    let answer = client.hash_kv(HashKvRequest { revision: 0 }).await.expect("it answers");
                    seen.push((answer.get_ref().hash, answer.get_ref().hash_revision));
                }
                if seen.iter().collect::<BTreeSet<_>>().len() == 1 {
                    return;
                }
            }
        });
        assert!(even.await.is_ok(), "members differ: {seen:?}");
        for url in &self.urls {
            for (key, revision) in &history.acknowledged {
                let request = RangeRequest { key: key.clone().into(), ..RangeRequest::default() };
                let answer =
                    KvClient::new(channel(url)).range(request).await.expect("it answers").into_inner();
                let found = answer.kvs.first().map(|pair| pair.decode().expect("a pair").mod_revision);
                assert!(found >= Some(*revision), "{key}: acknowledged at {revision}, found {found:?}");
            }
        }
    }
}

/// `None` when it has not ended in time.
async fn end_of(process: &mut Process) -> Option<ExitStatus> {
    let mut looks = tokio::time::interval(LOOK);
    let ended = tokio::time::timeout(LIMIT, async {
        loop {
            looks.tick().await;
            if let Some(status) = process.0.try_wait().expect("a child of this process") {
                return status;
            }
        }
    });
    ended.await.ok()
}

pub fn channel(url: &str) -> Channel {
    Endpoint::from_shared(url.to_owned()).expect("a valid address").connect_lazy()
}

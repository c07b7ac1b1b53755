//! The server as a process of its own on a data directory that outlives it. Owns ports, flags, the log and the
//! end of the process; knows nothing of what is stored. Ends only what it started.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use decklog::wire::etcdserverpb::cluster_client::ClusterClient;
use decklog::wire::etcdserverpb::kv_client::KvClient;
use decklog::wire::etcdserverpb::lease_client::LeaseClient;
use decklog::wire::etcdserverpb::maintenance_client::MaintenanceClient;
use decklog::wire::etcdserverpb::watch_client::WatchClient;
use rand::Rng;
use tokio::sync::oneshot;
use tonic::transport::{Channel, Endpoint};

const START_DEADLINE: Duration = Duration::from_secs(60);
const END_DEADLINE: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
const READY: &str = "ready to serve client requests";
/// Below the ports that systems give to outgoing connections: nobody takes them between two starts.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// Where a member lives and how it is started.
#[derive(Clone)]
pub struct Member {
    pub data: PathBuf,
    name: &'static str,
    client_port: u16,
    peer_port: u16,
    /// As `--initial-cluster` has them.
    cluster: String,
    cluster_state: &'static str,
    variables: Vec<(OsString, OsString)>,
}

/// A server that serves. Killed when dropped.
pub struct Process {
    child: Child,
    log: Arc<Mutex<String>>,
    /// Ends when the server has closed its stderr.
    reader: Option<JoinHandle<()>>,
    pub channel: Channel,
}

/// How a process ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub log: String,
}

impl Member {
    /// A member whose data stands in `data`, on ports that nobody listens on.
    pub fn new(data: &Path) -> Self {
        let (name, client_port, peer_port) = ("one", free_port(), free_port());
        let cluster = format!("{name}={}", url(peer_port));
        let (data, variables) = (data.to_owned(), Vec::new());
        Self { data, name, client_port, peer_port, cluster, cluster_state: "new", variables }
    }

    /// A second member that joins the first, once that has added it.
    pub fn joining(data: &Path, first: &Self) -> Self {
        let name = "two";
        let member = Self { name, cluster_state: "existing", ..Self::new(data) };
        let cluster = format!("{},{name}={}", first.cluster, member.peer_url());
        Self { cluster, ..member }
    }

    /// The same member with its data elsewhere.
    pub fn in_directory(&self, data: &Path) -> Self {
        Self { data: data.to_owned(), ..self.clone() }
    }

    pub fn client_url(&self) -> String {
        url(self.client_port)
    }

    pub fn peer_url(&self) -> String {
        url(self.peer_port)
    }

    /// The same member with one more environment variable.
    pub fn with_variable(&self, name: &str, value: impl Into<OsString>) -> Self {
        let mut member = self.clone();
        member.variables.push((name.into(), value.into()));
        member
    }

    /// Starts the server and waits until it serves; panics with its log when it does not.
    pub async fn start(&self) -> Process {
        match self.try_start().await {
            Ok(process) => process,
            Err(ended) => panic!("the server did not start: {}\n{}", ended.status, ended.log),
        }
    }

    /// Starts the server and waits until it serves, or ends.
    pub async fn try_start(&self) -> Result<Process, Ended> {
        let (client_url, peer_url) = (self.client_url(), self.peer_url());
        let mut child = Command::new(env!("CARGO_BIN_EXE_decklog"))
            .arg(format!("--name={}", self.name))
            .arg(format!("--data-dir={}", self.data.display()))
            .arg(format!("--listen-client-urls={client_url}"))
            .arg(format!("--advertise-client-urls={client_url}"))
            .arg(format!("--listen-peer-urls={peer_url}"))
            .arg(format!("--initial-advertise-peer-urls={peer_url}"))
            .arg(format!("--initial-cluster={}", self.cluster))
            .arg(format!("--initial-cluster-state={}", self.cluster_state))
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server's binary was built with the test");
        let log = Arc::new(Mutex::new(String::new()));
        let (ready, is_ready) = oneshot::channel();
        let stderr = child.stderr.take().expect("it was piped");
        let reader = std::thread::spawn({
            let log = log.clone();
            move || follow_log(stderr, &log, ready)
        });
        let channel = Endpoint::from_shared(client_url).expect("a valid address").connect_lazy();
        let mut process = Process { child, log, reader: Some(reader), channel };
        match tokio::time::timeout(START_DEADLINE, is_ready).await {
            Ok(Ok(())) => Ok(process),
            Ok(Err(_)) => Err(process.wait_for_end().await),
            Err(_) => panic!("the server does not serve; its log:\n{}", process.log()),
        }
    }
}

impl Process {
    /// Ends it as a crash does. What the system took from it stays.
    pub fn kill(mut self) {
        self.child.kill().expect("a child of this process");
        self.child.wait().expect("a child of this process");
    }

    /// Asks it to end in order, and waits until it has.
    pub async fn stop(&mut self) -> Ended {
        let asked = Command::new("kill").arg(self.child.id().to_string()).status();
        assert!(asked.expect("there is a kill command").success(), "a child of this process");
        self.wait_for_end().await
    }

    /// Waits until it ends by itself; panics when it does not within 30 s.
    pub async fn wait_for_end(&mut self) -> Ended {
        let mut looks = tokio::time::interval(LOOK_INTERVAL);
        let end = async {
            loop {
                looks.tick().await;
                if let Some(status) = self.child.try_wait().expect("a child of this process") {
                    return status;
                }
            }
        };
        let Ok(status) = tokio::time::timeout(END_DEADLINE, end).await else {
            panic!("the server goes on; its log:\n{}", self.log());
        };
        // What it wrote last may still be on its way.
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reader of the log does not panic");
        }
        Ended { status, log: self.log().clone() }
    }

    /// What it wrote to stderr so far.
    pub fn log(&self) -> MutexGuard<'_, String> {
        self.log.lock().expect("no holder panics")
    }

    pub fn kv(&self) -> KvClient<Channel> {
        KvClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    pub fn lease(&self) -> LeaseClient<Channel> {
        LeaseClient::new(self.channel.clone())
    }

    pub fn watch(&self) -> WatchClient<Channel> {
        WatchClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    pub fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone())
    }

    pub fn maintenance(&self) -> MaintenanceClient<Channel> {
        MaintenanceClient::new(self.channel.clone())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails when it has ended already.
        if self.child.kill().is_ok()
            && let Err(error) = self.child.wait()
        {
            eprintln!("cannot end server {}: {error}", self.child.id());
        }
    }
}

fn follow_log(stderr: ChildStderr, log: &Mutex<String>, ready: oneshot::Sender<()>) {
    let mut ready = Some(ready);
    for line in BufReader::new(stderr).lines() {
        let Ok(line) = line else {
            return;
        };
        if line.contains(READY)
            && let Some(ready) = ready.take()
        {
            ready.send(()).unwrap_or(()); // the test may have given up waiting
        }
        let mut log = log.lock().expect("no holder panics");
        log.push_str(&line);
        log.push('\n');
    }
}

fn url(port: u16) -> String {
    format!("http://127.0.0.1:{port}")
}

fn free_port() -> u16 {
    loop {
        let port = rand::rng().random_range(PORTS);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

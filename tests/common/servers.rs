//! Starts a one-member server on free loopback ports with its data in a temporary folder, and ends it, by its
//! process id, when dropped. Works for every program that takes etcd's flags.

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use decklog::wire::etcdserverpb::StatusRequest;
use decklog::wire::etcdserverpb::maintenance_client::MaintenanceClient;
use rand::Rng;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

const START_DEADLINE: Duration = Duration::from_secs(30);
const LAST_LINES: usize = 40;
const POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Below the ports that systems give to outgoing connections: nobody takes them between the look and the start.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// What is started, and where. Outlives the process: the same member can be launched again.
pub struct Launch {
    pub program: PathBuf,
    /// Behind the usual ones.
    pub more_flags: Vec<String>,
    pub variables: Vec<(OsString, OsString)>,
    /// Holds the data and the log; the process works in it.
    pub folder: TempDir,
    pub client_port: u16,
    pub peer_port: u16,
}

/// A process that ends when this is dropped.
pub struct Process(pub Child);

/// A running server. Its data and its log live as long as it.
pub struct Server {
    pub process: Process,
    pub launch: Launch,
    /// Connected to the server's client port.
    pub channel: Channel,
}

impl Launch {
    pub fn new(program: &Path, more_flags: &[&str]) -> Self {
        Self {
            program: program.to_owned(),
            more_flags: more_flags.iter().map(ToString::to_string).collect(),
            variables: Vec::new(),
            folder: tempfile::tempdir().expect("a temporary folder"),
            client_port: free_port(),
            peer_port: free_port(),
        }
    }

    pub fn client_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    /// What the server wrote to stdout and stderr so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_else(|error| format!("no log: {error}"))
    }

    /// The flags that it is started with.
    pub fn args(&self) -> Vec<String> {
        let client_url = self.client_url();
        let peer_url = format!("http://127.0.0.1:{}", self.peer_port);
        let mut args = vec![
            "--name=one".to_owned(),
            format!("--data-dir={}", self.folder.path().join("data").display()),
            format!("--listen-client-urls={client_url}"),
            format!("--advertise-client-urls={client_url}"),
            format!("--listen-peer-urls={peer_url}"),
            format!("--initial-advertise-peer-urls={peer_url}"),
            format!("--initial-cluster=one={peer_url}"),
        ];
        args.extend_from_slice(&self.more_flags);
        args
    }

    /// Starts it and waits for nothing.
    pub fn spawn(&self) -> Process {
        let log = File::create(self.folder.path().join("log")).expect("a log file");
        let child = Command::new(&self.program)
            .args(self.args())
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .current_dir(self.folder.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the log file"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", self.program.display()));
        Process(child)
    }
}

impl Server {
    /// Starts `program` with `more_flags` behind the usual ones and waits until it has a leader.
    /// Panics with the server's log when it does not serve within 30 s.
    pub async fn start(program: &Path, more_flags: &[&str]) -> Self {
        Self::launch(Launch::new(program, more_flags)).await
    }

    /// Starts what is described and waits until it has a leader; panics with its log when it does not.
    pub async fn launch(launch: Launch) -> Self {
        let mut server = Self::begin(launch);
        server.wait_until_it_serves().await;
        server
    }

    /// Starts what is described and waits for nothing.
    pub fn begin(launch: Launch) -> Self {
        let process = launch.spawn();
        let channel = Endpoint::from_shared(launch.client_url()).expect("a valid address").connect_lazy();
        Self { process, launch, channel }
    }

    /// Waits until it has a leader; panics with its log when it has none within 30 s.
    pub async fn wait_until_it_serves(&mut self) {
        if tokio::time::timeout(START_DEADLINE, self.serves()).await.is_err() {
            panic!("{} does not serve; its log:\n{}", self.launch.program.display(), self.launch.log());
        }
    }

    /// When the server has ended: how, and the end of its log.
    pub fn end(&mut self) -> Option<String> {
        let status = self.process.0.try_wait().expect("a child of this process")?;
        let log = self.launch.log();
        let tail: Vec<&str> = log.lines().rev().take(LAST_LINES).collect();
        Some(format!("{status}\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n")))
    }

    async fn serves(&mut self) {
        let mut client = MaintenanceClient::new(self.channel.clone());
        let mut poll = tokio::time::interval(POLL_INTERVAL);
        loop {
            poll.tick().await;
            if let Some(end) = self.end() {
                panic!("the server ended: {end}");
            }
            match client.status(StatusRequest {}).await {
                Ok(answer) if answer.get_ref().leader != 0 => return,
                Ok(_) | Err(_) => {} // not yet
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails when it has ended already.
        if self.0.kill().is_ok()
            && let Err(error) = self.0.wait()
        {
            eprintln!("cannot end process {}: {error}", self.0.id());
        }
    }
}

/// A port that nobody listens on.
fn free_port() -> u16 {
    loop {
        let port = rand::rng().random_range(PORTS);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

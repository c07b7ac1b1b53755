//! Starts a one-member server on free loopback ports with its data in a temporary folder, and ends it, by its
//! process id, when dropped. Works for every program that takes etcd's flags.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use decklog::wire::etcdserverpb::StatusRequest;
use decklog::wire::etcdserverpb::maintenance_client::MaintenanceClient;
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

const START_DEADLINE: Duration = Duration::from_secs(30);
const LAST_LINES: usize = 40;
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A running server. Its data and its log live as long as it.
pub struct Server {
    child: Child,
    folder: TempDir,
    /// Connected to the server's client port.
    pub channel: Channel,
}

impl Server {
    /// Starts `program` with `more_flags` behind the usual ones and waits until it has a leader.
    /// Panics with the server's log when it does not serve within 30 s.
    pub async fn start(program: &Path, more_flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let [client_port, peer_port] = free_ports();
        let client_url = format!("http://127.0.0.1:{client_port}");
        let peer_url = format!("http://127.0.0.1:{peer_port}");
        let log = File::create(folder.path().join("log")).expect("a log file");
        let child = Command::new(program)
            .arg("--name=one")
            .arg(format!("--data-dir={}", folder.path().join("data").display()))
            .arg(format!("--listen-client-urls={client_url}"))
            .arg(format!("--advertise-client-urls={client_url}"))
            .arg(format!("--listen-peer-urls={peer_url}"))
            .arg(format!("--initial-advertise-peer-urls={peer_url}"))
            .arg(format!("--initial-cluster=one={peer_url}"))
            .args(more_flags)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the log file"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()));
        let channel = Endpoint::from_shared(client_url).expect("a valid address").connect_lazy();
        let mut server = Self { child, folder, channel };
        if tokio::time::timeout(START_DEADLINE, server.serves()).await.is_err() {
            panic!("{} does not serve; its log:\n{}", program.display(), server.log());
        }
        server
    }

    /// When the server has ended: how, and the end of its log.
    pub fn end(&mut self) -> Option<String> {
        let status = self.child.try_wait().expect("a child of this process")?;
        let log = self.log();
        let tail: Vec<&str> = log.lines().rev().take(LAST_LINES).collect();
        Some(format!("{status}\n{}", tail.into_iter().rev().collect::<Vec<_>>().join("\n")))
    }

    /// What the server wrote to stdout and stderr so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_else(|error| format!("no log: {error}"))
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

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("cannot end server {}: {error}", self.child.id());
        }
    }
}

/// Two ports that nobody listens on: both are bound at the same time, so that they differ.
fn free_ports() -> [u16; 2] {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a free loopback port"));
    listeners.map(|listener| listener.local_addr().expect("a bound address").port())
}

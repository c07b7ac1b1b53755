//! A server on a fresh directory and free loopback ports, ended by its process when dropped.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Whose server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Etcd,
    Decklog,
}

pub struct Server {
    child: Child,
    directory: PathBuf,
    pub endpoint: String,
    /// From the start of the process until it was healthy.
    pub started_in: Duration,
}

/// # Errors
/// When there is none.
pub fn find_etcd() -> Result<String, String> {
    let peers = std::env::var("DECKLOG_PEERS").unwrap_or_default();
    let path = std::env::var("PATH").unwrap_or_default();
    let mut candidates = peers.split(':').chain(path.split(':')).map(|directory| format!("{directory}/etcd"));
    candidates
        .find(|candidate| PathBuf::from(candidate).is_file())
        .ok_or_else(|| "etcd is neither in $DECKLOG_PEERS nor in PATH; tests/peers.sh DIR fetches it".to_owned())
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    listener.local_addr().map(|address| address.port()).map_err(|error| error.to_string())
}

impl Server {
    /// # Errors
    /// When it does not serve in time.
    pub fn start(kind: Kind, program: &str) -> Result<Self, String> {
        let (client, peer) = (free_port()?, free_port()?);
        let directory = std::env::temp_dir().join(format!("decklog-compare-{}-{client}", std::process::id()));
        let (client_url, peer_url) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let began = Instant::now();
        let child = Command::new(program)
            .args(["--name", "m", "--log-level", "error", "--data-dir"])
            .arg(&directory)
            .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("m={peer_url}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("{program}: {error}"))?;
        let mut server = Self { child, directory, endpoint: client_url, started_in: Duration::ZERO };
        while !is_healthy(client) {
            let ended = server.child.try_wait().map_err(|error| error.to_string())?;
            if ended.is_some() || began.elapsed() > Duration::from_secs(30) {
                return Err(format!("{kind:?} does not serve: {ended:?}"));
            }
            std::thread::yield_now();
        }
        server.started_in = began.elapsed();
        Ok(server)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

fn is_healthy(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains("\"health\":\"true\""))
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            eprintln!("compare: cannot end a server: {error}");
        }
        if let Err(error) = std::fs::remove_dir_all(&self.directory) {
            eprintln!("compare: cannot remove {}: {error}", self.directory.display());
        }
    }
}

//! Members on fresh directories and free loopback ports, each ended by its process when dropped.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a member may take to serve.
const LIMIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(1);

/// Whose server it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Etcd,
    Decklog,
}

/// What both are measured with.
pub struct Programs {
    pub etcd: String,
    pub decklog: String,
}

impl Programs {
    /// The server of this kind.
    pub fn of(&self, kind: Kind) -> &str {
        match kind {
            Kind::Etcd => &self.etcd,
            Kind::Decklog => &self.decklog,
        }
    }
}

/// The kinds in the order of a round: neither always runs on a machine that the other has warmed.
pub fn order(round: usize) -> [Kind; 2] {
    if round % 2 == 1 { [Kind::Decklog, Kind::Etcd] } else { [Kind::Etcd, Kind::Decklog] }
}

/// A member's process, and what it was started with.
pub struct Member {
    program: String,
    args: Vec<String>,
    child: Option<Child>,
    pub directory: PathBuf,
    client_port: u16,
    pub peer_url: String,
}

/// Members that began together.
pub struct Cluster {
    pub members: Vec<Member>,
    /// From the start of the processes until all were healthy.
    pub started_in: Duration,
    program: String,
    more: Vec<String>,
}

/// # Errors
/// When there is none.
pub fn find_etcd() -> Result<String, String> {
    let peers = std::env::var("DECKLOG_PEERS").unwrap_or_default();
    let path = std::env::var("PATH").unwrap_or_default();
    let folders = peers.split(':').flat_map(|folder| [folder.to_owned(), format!("{folder}/bin")]);
    let mut candidates =
        folders.chain(path.split(':').map(str::to_owned)).map(|folder| format!("{folder}/etcd"));
    candidates.find(|candidate| PathBuf::from(candidate).is_file()).ok_or_else(|| {
        "etcd is neither in $DECKLOG_PEERS nor in PATH; tests/peers.sh DIR fetches it".to_owned()
    })
}

fn free_port() -> Result<u16, String> {
    let listener = TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    listener.local_addr().map(|address| address.port()).map_err(|error| error.to_string())
}

impl Member {
    /// Starts nothing yet: its cluster is not known.
    fn new(program: &str, name: &str, more: &[String]) -> Result<Self, String> {
        let (client_port, peer_port) = (free_port()?, free_port()?);
        let (client, peer) =
            (format!("http://127.0.0.1:{client_port}"), format!("http://127.0.0.1:{peer_port}"));
        let folder = format!("decklog-compare-{}-{client_port}", std::process::id());
        let directory = std::env::temp_dir().join(folder);
        let mut args = vec![
            format!("--name={name}"),
            "--log-level=error".to_owned(),
            format!("--data-dir={}", directory.display()),
            format!("--listen-client-urls={client}"),
            format!("--advertise-client-urls={client}"),
            format!("--listen-peer-urls={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
        ];
        args.extend_from_slice(more);
        Ok(Self { program: program.to_owned(), args, child: None, directory, client_port, peer_url: peer })
    }

    /// Starts the process, and waits for nothing.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(&mut self) -> Result<(), String> {
        let child = Command::new(&self.program)
            .args(&self.args)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("{}: {error}", self.program))?;
        self.child = Some(child);
        Ok(())
    }

    /// With SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take()
            && let Err(error) = child.kill().and_then(|()| child.wait())
        {
            eprintln!("compare: cannot end a server: {error}");
        }
    }

    /// With SIGTERM, and waits until it has ended.
    ///
    /// # Errors
    /// When it does not end in time.
    pub async fn terminate(&mut self) -> Result<(), String> {
        let child = self.child.as_mut().ok_or("it was not started")?;
        let pid = rustix::process::Pid::from_child(child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .map_err(|error| error.to_string())?;
        let began = Instant::now();
        while child.try_wait().map_err(|error| error.to_string())?.is_none() {
            if began.elapsed() > LIMIT {
                return Err(format!("{} does not end in time", self.program));
            }
            tokio::time::sleep(LOOK).await;
        }
        self.child = None;
        Ok(())
    }

    /// The sum of metrics without labels.
    ///
    /// # Errors
    /// When one of them is not there.
    pub fn metrics(&self, names: &[&str]) -> Result<f64, String> {
        let text = get(self.client_port, "/metrics").map_err(|error| format!("metrics: {error}"))?;
        let value = |name: &&str| {
            let line = text.lines().find_map(|line| line.strip_prefix(*name)?.strip_prefix(' '));
            line.and_then(|value| value.trim().parse::<f64>().ok()).ok_or_else(|| format!("no metric {name}"))
        };
        names.iter().map(value).sum()
    }

    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.client_port)
    }

    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Its process.
    ///
    /// # Errors
    /// When there is none.
    pub fn running(&self) -> Result<u32, String> {
        self.pid().ok_or_else(|| format!("{} does not run", self.program))
    }

    /// # Errors
    /// When it ends, or does not serve in time.
    pub async fn wait_until_healthy(&mut self) -> Result<(), String> {
        let began = Instant::now();
        while !is_healthy(self.client_port) {
            self.check_runs()?;
            if began.elapsed() > LIMIT {
                return Err(format!("{} does not serve in time", self.program));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// # Errors
    /// When it has ended.
    pub fn check_runs(&mut self) -> Result<(), String> {
        let child = self.child.as_mut().ok_or("it was not started")?;
        match child.try_wait().map_err(|error| error.to_string())? {
            Some(status) => Err(format!("{} ended: {status}; {}", self.program, self.args.join(" "))),
            None => Ok(()),
        }
    }
}

impl Cluster {
    /// Starts `size` members with `more` flags behind the usual ones, and waits until all are healthy.
    ///
    /// # Errors
    /// When one does not serve in time.
    pub async fn start(program: &str, size: usize, more: &[&str]) -> Result<Self, String> {
        let more: Vec<String> = more.iter().map(ToString::to_string).collect();
        let members = (0..size).map(|place| Member::new(program, &format!("m{place}"), &more));
        let members = members.collect::<Result<_, _>>()?;
        let mut cluster = Self { members, started_in: Duration::ZERO, program: program.to_owned(), more };
        let initial = cluster.initial();
        let began = Instant::now();
        for member in &mut cluster.members {
            member.args.push(format!("--initial-cluster={initial}"));
            member.launch()?;
        }
        for member in &mut cluster.members {
            member.wait_until_healthy().await?;
        }
        cluster.started_in = began.elapsed();
        Ok(cluster)
    }

    fn initial(&self) -> String {
        let named = self.members.iter().enumerate();
        named.map(|(place, member)| format!("m{place}={}", member.peer_url)).collect::<Vec<_>>().join(",")
    }

    /// One that is to join this cluster and is not started yet.
    ///
    /// # Errors
    /// When there is no port for it.
    pub fn newcomer(&self) -> Result<Member, String> {
        let name = format!("m{}", self.members.len());
        let mut member = Member::new(&self.program, &name, &self.more)?;
        member.args.push("--initial-cluster-state=existing".to_owned());
        member.args.push(format!("--initial-cluster={},{name}={}", self.initial(), member.peer_url));
        Ok(member)
    }

    /// # Errors
    /// When it has no member.
    pub fn first(&self) -> Result<&Member, String> {
        self.members.first().ok_or_else(|| "a cluster without a member".to_owned())
    }

    pub fn endpoints(&self) -> Vec<String> {
        self.members.iter().map(Member::endpoint).collect()
    }

    pub fn pids(&self) -> Vec<u32> {
        self.members.iter().filter_map(Member::pid).collect()
    }
}

fn is_healthy(port: u16) -> bool {
    get(port, "/health").is_ok_and(|answer| answer.contains("\"health\":\"true\""))
}

/// What an HTTP server on loopback says.
fn get(port: u16, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(2)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
        if self.directory.exists()
            && let Err(error) = std::fs::remove_dir_all(&self.directory)
        {
            eprintln!("compare: cannot remove {}: {error}", self.directory.display());
        }
    }
}

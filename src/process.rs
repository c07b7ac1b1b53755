//! The process round the server: what a panic does, which signals stop it, what systemd is told.

use std::os::unix::net::UnixDatagram;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};

/// A panic that nobody catches ends the process at once: better stopped than wrong.
pub fn abort_on_panic() {
    std::panic::set_hook(Box::new(|panic| {
        if crate::storage::panics_are_caught_here() {
            return;
        }
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("unnamed");
        tracing::error!(thread = name, "{panic}");
        eprintln!("decklog: thread {name}: {panic}");
        std::process::abort();
    }));
}

/// Keeps memory in small pages. With huge ones a block of 2 MiB is resident as soon as one byte of it is used:
/// measured, an idle server takes 50 MB instead of 26.
pub fn use_small_pages() {
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::debug!(%error, "huge pages stay on");
    }
}

/// Lets this process open as many files as it may at all: systems often begin with 1024, and every connection is one.
/// Returns how many that are.
pub fn use_all_files() -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX))
}

/// The signals that stop the server. From the moment this is made they do not end the process by themselves.
pub struct StopSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl StopSignals {
    /// # Errors
    /// When the system gives no handler.
    pub fn listen() -> std::io::Result<Self> {
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt })
    }

    /// Waits for SIGTERM or SIGINT, also one that came before, and names it.
    pub async fn wait(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

/// Tells systemd that the server is ready; does nothing when it did not ask. `socket` is `NOTIFY_SOCKET`.
pub fn notify_ready(socket: Option<&str>) {
    let Some(path) = socket else {
        return;
    };
    if let Err(error) = send(path, b"READY=1") {
        tracing::warn!(%error, "cannot tell systemd that the server is ready");
    }
}

fn send(path: &str, message: &[u8]) -> std::io::Result<()> {
    use std::os::linux::net::SocketAddrExt;
    let socket = UnixDatagram::unbound()?;
    let address = match path.strip_prefix('@') {
        Some(name) => std::os::unix::net::SocketAddr::from_abstract_name(name)?,
        None => std::os::unix::net::SocketAddr::from_pathname(path)?,
    };
    socket.send_to_addr(message, &address).map(drop)
}

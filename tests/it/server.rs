//! What these tests do with a server beside starting it: stop it, read its metrics, look into its data.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use crate::captured::{self, Captured};
use crate::http_client;
use crate::servers::{Launch, Server};
use crate::until::{LIMIT, found};

const SIGTERM: i32 = 15;

pub fn decklog_program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_decklog"))
}

impl Launch {
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// What `decklog inspect` says of the data.
    pub fn inspect(&self) -> String {
        let output =
            Captured::run(Command::new(decklog_program()).arg("inspect").arg(self.data_dir()), "", LIMIT);
        let output = output.expect("it ends");
        assert_eq!(output.code, Some(0), "{output:?}");
        output.stdout_text()
    }
}

impl Server {
    pub fn signal(&self, name: &str) {
        captured::signal(&self.process.0, name);
    }

    /// Waits for its end; panics with its log when it goes on.
    pub async fn ended(mut self) -> (ExitStatus, Launch) {
        let status = found(async || self.process.0.try_wait().expect("a child of this process")).await;
        let status = status.unwrap_or_else(|| panic!("the server goes on after\n{}", self.launch.log()));
        (status, self.launch)
    }

    /// Stops it as systemd does; panics unless it ends well: etcd by the signal itself, Decklog with exit code 0.
    pub async fn stop(self) -> Launch {
        self.signal("TERM");
        let (status, launch) = self.ended().await;
        let is_etcd = launch.program != decklog_program();
        assert!(
            status.code() == Some(0) || (is_etcd && status.signal() == Some(SIGTERM)),
            "{}",
            launch.log()
        );
        launch
    }

    /// The value of a metric, written with its labels; 0 when there is none.
    pub fn metric(&self, name: &str) -> f64 {
        let text = http_client::get(self.launch.client_port, "/metrics").body;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.parse().expect("a metric's value is a number"))
    }
}

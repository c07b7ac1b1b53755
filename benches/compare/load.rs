//! Drives servers with `decklog bench`, in a process of its own.

use std::io::{IsTerminal, Write};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::servers::Cluster;

/// Before an action begins beside the load.
const WARM_UP: Duration = Duration::from_secs(1);

/// A load on running members.
pub struct Load {
    command: Command,
    args: String,
    /// The time that the members took to start.
    start_ms: f64,
}

impl Load {
    /// A case of the load tool, on all members.
    pub fn new(cluster: &Cluster, tool: &str, args: &[&str]) -> Self {
        Self::on(cluster, tool, args, &cluster.endpoints())
    }

    /// A case of the load tool, on some members; CPU is that of all.
    pub fn on(cluster: &Cluster, tool: &str, args: &[&str], endpoints: &[String]) -> Self {
        let start_ms = cluster.started_in.as_secs_f64() * 1e3;
        Self { start_ms, ..Self::of(tool, args, endpoints, &cluster.pids()) }
    }

    /// A case of the load tool on any servers, and whose CPU counts.
    pub fn of(tool: &str, args: &[&str], endpoints: &[String], pids: &[u32]) -> Self {
        let mut command = Command::new(tool);
        command.arg("bench").args(args).arg("--json");
        for endpoint in endpoints {
            command.args(["--endpoint", endpoint]);
        }
        for pid in pids {
            command.args(["--pid", &pid.to_string()]);
        }
        // On a terminal the tool shows how far it is.
        let errors = if std::io::stderr().is_terminal() { Stdio::inherit() } else { Stdio::piped() };
        command.stdout(Stdio::piped()).stderr(errors);
        Self { command, args: args.join(" "), start_ms: f64::NAN }
    }

    #[must_use]
    pub fn seconds(mut self, seconds: f64) -> Self {
        self.command.args(["--seconds", &seconds.to_string()]);
        self
    }

    fn start(&mut self) -> Result<Child, String> {
        self.command.spawn().map_err(|error| format!("the load tool: {error}"))
    }

    /// What the tool prints.
    ///
    /// # Errors
    /// When it fails.
    pub fn run(mut self) -> Result<Value, String> {
        let child = self.start()?;
        self.ended(child)
    }

    /// The same, beside whatever else is going on.
    ///
    /// # Errors
    /// When the tool fails.
    pub async fn run_beside(self) -> Result<Value, String> {
        tokio::task::spawn_blocking(|| self.run()).await.map_err(|error| error.to_string())?
    }

    /// Measures for as long as an action takes.
    ///
    /// # Errors
    /// When the tool or the action fails.
    pub async fn during<T>(
        mut self,
        action: impl Future<Output = Result<T, String>>,
    ) -> Result<(Value, T), String> {
        self.command.arg("--steered").stdin(Stdio::piped());
        let mut child = self.start()?;
        let mut steering = child.stdin.take().ok_or("the load tool has no input")?;
        tokio::time::sleep(WARM_UP).await;
        steering.write_all(b"\n").map_err(|error| format!("the load tool: {error}"))?;
        let done = action.await;
        drop(steering);
        let result = self.ended(child);
        Ok((result?, done?))
    }

    fn ended(&self, child: Child) -> Result<Value, String> {
        let output = child.wait_with_output().map_err(|error| format!("the load tool: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let mut result: Value = serde_json::from_str(&text).map_err(|error| {
            format!("{}: {error}: {text}{}", self.args, String::from_utf8_lossy(&output.stderr))
        })?;
        if result["errors"].as_object().is_some_and(|errors| !errors.is_empty()) {
            eprintln!("compare: {}: errors: {}", self.args, result["errors"]);
        }
        result["start_ms"] = json!(self.start_ms);
        Ok(result)
    }
}

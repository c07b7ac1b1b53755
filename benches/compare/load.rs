//! Drives servers with `decklog bench`, in a process of its own.

use std::process::Command;

use serde_json::{Value, json};

use crate::servers::Cluster;

/// Measures one case on running members: what the load tool printed, with the time that the members took to start.
///
/// # Errors
/// When the tool fails.
pub fn drive(
    cluster: &Cluster,
    tool: &str,
    args: &[&str],
    (seconds, endpoints): (&str, &[String]),
) -> Result<Value, String> {
    let mut command = Command::new(tool);
    command.arg("bench").args(args).args(["--json", "--seconds", seconds]);
    for endpoint in endpoints {
        command.args(["--endpoint", endpoint]);
    }
    for pid in cluster.pids() {
        command.args(["--pid", &pid.to_string()]);
    }
    let output = command.output().map_err(|error| format!("{tool}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut result: Value = serde_json::from_str(&text).map_err(|error| {
        format!("{}: {error}: {text}{}", args.join(" "), String::from_utf8_lossy(&output.stderr))
    })?;
    if result["errors"].as_object().is_some_and(|errors| !errors.is_empty()) {
        eprintln!("compare: {}: errors: {}", args.join(" "), result["errors"]);
    }
    result["start_ms"] = json!(cluster.started_in.as_secs_f64() * 1e3);
    Ok(result)
}

//! etcdctl's load checks: they run to their end and say their lines. Whether a machine is fast enough for them to
//! pass is not asked here.

use std::process::Command;
use std::time::Duration;

use crate::captured::{Captured, Output};
use crate::peers::peer_or_skip;
use crate::server::decklog_program;
use crate::servers::Server;

/// `check perf` writes for 60 s, whatever load it is given.
const LIMIT: Duration = Duration::from_secs(120);

async fn check(test: &str, args: &[&str]) -> Option<(Output, String)> {
    let etcdctl = peer_or_skip(test, "etcdctl")?;
    let server = Server::start(decklog_program(), &[]).await;
    let mut command = Command::new(etcdctl);
    command.arg(format!("--endpoints=127.0.0.1:{}", server.launch.client_port)).arg("check").args(args);
    let output = Captured::run(&mut command, "", LIMIT).unwrap_or_else(|fault| panic!("{fault}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{text}{}", String::from_utf8_lossy(&output.stderr));
    Some((output, text))
}

/// Has its name to be among the first: it takes a minute, and the other tests run beside it.
#[tokio::test]
async fn a_performance_check_ends() {
    let args = ["perf", "--load=s", "--auto-compact", "--auto-defrag"];
    let Some((output, text)) = check("a_performance_check_ends", &args).await else { return };
    for said in ["Compacted with revision", "Defragmented", "Throughput", "Slowest request", "Stddev"] {
        assert!(text.contains(said), "{said} is missing in {text:?}");
    }
    let passed = text.ends_with("\nPASS\n");
    assert!(passed || text.ends_with("\nFAIL\n"), "{text:?}");
    assert_eq!(output.code, Some(if passed { 0 } else { 1 }), "{text:?}");
}

#[tokio::test]
async fn a_check_of_data_scale_passes() {
    let args = ["datascale", "--load=s", "--auto-compact", "--auto-defrag"];
    let Some((output, text)) = check("a_check_of_data_scale_passes", &args).await else { return };
    for said in ["Compacted with revision", "Defragmented", "PASS: Approximate system memory used"] {
        assert!(text.contains(said), "{said} is missing in {text:?}");
    }
    assert_eq!(output.code, Some(0));
}

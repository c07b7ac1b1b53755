//! The load tool against a real server: what it counts is what the server did.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::captured::{Captured, Output};
use crate::server::decklog_program;
use crate::servers::Server;
use crate::until::{LIMIT, until};

const PUTS: &str = "etcd_mvcc_put_total";

fn tool(server: &Server, args: &[&str]) -> Command {
    let mut command = Command::new(decklog_program());
    let pid = server.process.0.id().to_string();
    command.args(["bench", "--json", "--endpoint", &server.launch.client_url(), "--pid", &pid]).args(args);
    command.stdin(Stdio::piped());
    command
}

fn result(output: Result<Output, String>) -> Value {
    let output = output.expect("it ends");
    assert_eq!(output.code, Some(0), "{output:?}");
    let result: Value = serde_json::from_str(&output.stdout_text()).expect("JSON");
    assert_eq!(result["errors"], serde_json::json!({}), "{result}");
    result
}

fn run(server: &Server, args: &[&str]) -> Value {
    result(Captured::run(&mut tool(server, args), "", LIMIT))
}

#[tokio::test]
async fn every_case_is_driven_without_an_error() {
    let server = Server::start(decklog_program(), &[]).await;
    let small = ["--clients", "20", "--keys", "20", "--fill", "--total", "40", "--warm-up", "0"];
    let cases: [&[&str]; 10] = [
        &["put"],
        &["put", "--rate", "1000"],
        &["range", "--serializable"],
        &["txn-put"],
        &["mixed"],
        &["watch-latency"],
        &["lease-keepalive"],
        &["range-many"],
        &["range-many", "--limit", "5"],
        &["range-many", "--count-only"],
    ];
    for case in cases {
        let result = run(&server, &[case, &small].concat());
        assert!(result["operations"].as_u64() >= Some(40), "{case:?}: {result}");
        assert!(result["server_cpu_us_per_operation"].as_f64() > Some(0.0), "{case:?}: {result}");
        assert!(result["server_context_switches_per_operation"].as_f64() > Some(0.0), "{case:?}: {result}");
    }
}

#[tokio::test]
async fn a_fill_puts_every_key_once() {
    let server = Server::start(decklog_program(), &[]).await;
    let result = run(&server, &["fill", "--keys", "321", "--clients", "7"]);
    assert_eq!(result["operations"], 321, "{result}");
    assert_eq!(server.metric(PUTS), 321.0);
}

/// Every put is over when all who watch its key have its event: none is left when the next begins.
#[tokio::test]
async fn events_are_counted_by_the_puts_that_made_them() {
    let server = Server::start(decklog_program(), &[]).await;
    let args = ["--clients", "30", "--streams", "4", "--warm-up", "0"];
    let result = run(&server, &[&["watch-fanout", "--total", "300"], args.as_slice()].concat());
    assert_eq!(result["operations"], result["events"], "{result}");
    let puts = server.metric(PUTS);
    assert!(result["events"].as_f64() <= Some(30.0 * puts), "{puts} puts: {result}");
    assert!(result["events"].as_f64() > Some(30.0 * (puts - 2.0)), "{puts} puts: {result}");

    let keys = run(&server, &[&["watch-keys", "--writers", "5", "--total", "300"], args.as_slice()].concat());
    let apart = keys["operations"].as_i64().expect("a number") - keys["events"].as_i64().expect("a number");
    assert!(apart.abs() <= 5, "{keys}");
}

#[tokio::test]
async fn a_steered_run_lasts_as_long_as_it_is_told() {
    let server = Server::start(decklog_program(), &[]).await;
    let mut running =
        Captured::spawn(&mut tool(&server, &["put", "--clients", "2", "--steered", "--seconds", "0"]));
    until("it puts, and counts nothing yet", async || server.metric(PUTS) >= 20.0).await;
    let before = server.metric(PUTS);
    running.write("\n");
    until("it goes on", async || server.metric(PUTS) >= before + 100.0).await;
    let result = result(running.end(LIMIT));
    let counted = result["operations"].as_f64().expect("a number");
    assert!(counted > 0.0 && counted <= server.metric(PUTS) - 20.0, "{result}");
}

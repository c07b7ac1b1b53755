//! `decklog health`, the probe of containers: one line and an exit code, about servers of both kinds.

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use decklog::wire::etcdserverpb::alarm_request::AlarmAction;
use decklog::wire::etcdserverpb::maintenance_client::MaintenanceClient;
use decklog::wire::etcdserverpb::{AlarmRequest, AlarmType};

use crate::captured::Captured;
use crate::peers::peer_or_skip;
use crate::server::decklog_program;
use crate::servers::Server;

/// Exit code, stdout and stderr.
fn probe(args: &[&str]) -> (Option<i32>, String, String) {
    let mut command = Command::new(decklog_program());
    let output = Captured::run(command.arg("health").args(args), "", Duration::from_secs(60));
    let output = output.unwrap_or_else(|fault| panic!("{args:?}: {fault}"));
    (output.code, output.stdout_text(), output.stderr_text())
}

fn healthy(url: &str) -> (Option<i32>, String, String) {
    (Some(0), format!("{url} is healthy\n"), String::new())
}

fn not_healthy(line: &str) -> (Option<i32>, String, String) {
    (Some(1), String::new(), format!("decklog health: {line}\n"))
}

#[tokio::test]
async fn a_probe_says_in_one_line_how_a_server_is() {
    let server = Server::start(decklog_program(), &[]).await;
    let url = server.launch.client_url();
    assert_eq!(probe(&["--endpoint", &url]), healthy(&url));
    let raise =
        AlarmRequest { action: AlarmAction::Activate.into(), member_id: 1, alarm: AlarmType::Nospace.into() };
    MaintenanceClient::new(server.channel.clone()).alarm(raise).await.expect("it is raised");
    assert_eq!(probe(&["--endpoint", &url]), not_healthy(&format!("{url} is unhealthy: ALARM NOSPACE")));
    server.stop().await;
    let refused = format!("{url} cannot be asked: Connection refused (os error 111)");
    assert_eq!(probe(&["--endpoint", &url]), not_healthy(&refused));
}

#[tokio::test]
async fn a_probe_of_etcd_is_answered_alike() {
    let Some(etcd) = peer_or_skip("a_probe_of_etcd_is_answered_alike", "etcd") else {
        return;
    };
    let server = Server::start(&etcd, &[]).await;
    let url = server.launch.client_url();
    assert_eq!(probe(&["--endpoint", &url]), healthy(&url));
}

#[test]
fn a_probe_waits_no_longer_than_it_was_told() {
    // Connections are made, and nobody ever answers.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", silent.local_addr().expect("an address"));
    let late = not_healthy(&format!("{url} does not answer in time"));
    assert_eq!(probe(&["--endpoint", &url, "--timeout", "0.2"]), late);
}

#[test]
fn a_probe_refuses_what_it_cannot_ask() {
    let https = probe(&["--endpoint", "https://127.0.0.1:2379"]);
    assert_eq!(https, not_healthy("\"https://127.0.0.1:2379\": only http:// is spoken here"));
    let path = probe(&["--endpoint", "http://127.0.0.1:2379/x"]);
    assert_eq!(path, not_healthy("\"http://127.0.0.1:2379/x\": URL must not contain a path"));
    for time in ["0", "-1", "NaN", "1e300"] {
        let (code, stdout, stderr) = probe(&[&format!("--timeout={time}")]);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{time}");
        assert!(stderr.starts_with("decklog health: --timeout"), "{stderr}");
    }
}

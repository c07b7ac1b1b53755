//! What a server says: its log's form, level and places, to systemd, and to --version and --help.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use super::run_in;
use crate::peers::peer_or_skip;
use crate::server::decklog_program;
use crate::servers::{Launch, Server};

const READY: &str = "ready to serve client requests";

/// The log of a server from its start to its end.
async fn log_of(flags: &[&str]) -> String {
    let server = Server::start(decklog_program(), flags).await;
    server.stop().await.log()
}

#[tokio::test]
async fn lines_are_json_as_those_of_etcd() {
    let log = log_of(&["--logger=zap"]).await;
    let lines: Vec<serde_json::Value> = log
        .lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect();
    for line in &lines {
        let fields: Vec<&String> = line.as_object().expect("an object").keys().collect();
        for field in ["level", "ts", "caller", "msg"] {
            assert!(line[field].is_string(), "{field} is missing in {fields:?}");
        }
    }
    let with = |text: &str| lines.iter().filter(|line| line["msg"] == text).count();
    assert_eq!((with(READY), with("stopping"), with("stopped")), (1, 1, 1), "{log}");
}

#[tokio::test]
async fn lines_are_words_for_a_console() {
    let log = log_of(&["--log-format=console"]).await;
    assert!(log.lines().any(|line| line.contains("INFO") && line.contains(READY)), "{log}");
    assert!(!log.contains('{') && !log.contains('\u{1b}'), "{log}");
}

#[tokio::test]
async fn a_level_keeps_lines_away() {
    assert_eq!(log_of(&["--log-level=error"]).await, "");
    assert!(!log_of(&["--log-level=info"]).await.contains("\"level\":\"debug\""));
}

/// Stdout and stderr go to one file in these tests.
#[tokio::test]
async fn lines_go_to_every_output() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (one, two) = (folder.path().join("one"), folder.path().join("two"));
    let both = format!("--log-outputs={},{}", one.display(), two.display());
    assert_eq!(log_of(&[&both]).await, "");
    let first = fs::read_to_string(&one).expect("it was written");
    assert!(first.contains(READY) && first.contains("\"stopped\""), "{first}");
    assert_eq!(fs::read_to_string(&two).expect("it was written"), first);
    // A file is gone on with.
    let with_stderr = format!("--log-outputs={},stderr", one.display());
    let told = log_of(&[&with_stderr]).await;
    assert_eq!(fs::read_to_string(&one).expect("it was written"), format!("{first}{told}"));
    assert!(log_of(&["--log-outputs=stdout"]).await.contains(READY));
}

/// When the log goes to a file alone, a failed start is told there and on stderr.
#[tokio::test]
async fn a_failed_start_is_told_on_stderr_and_in_the_log() {
    let server = Server::start(decklog_program(), &[]).await;
    let other = tempfile::tempdir().expect("a temporary folder");
    let url = server.launch.client_url();
    let (listen, advertise) =
        (format!("--listen-client-urls={url}"), format!("--advertise-client-urls={url}"));
    let output = run_in(other.path(), decklog_program(), &[&listen, &advertise, "--log-outputs=log"], &[]);
    assert_eq!(output.code, Some(1));
    let (said, log) =
        (output.stderr_text(), fs::read_to_string(other.path().join("log")).expect("it was written"));
    assert!(said.starts_with("decklog: cannot listen on ") && said.lines().count() == 1, "{said}");
    let last: serde_json::Value = serde_json::from_str(log.lines().last().expect("a line")).expect("JSON");
    assert_eq!(format!("decklog: {}\n", last["error"].as_str().expect("a text")), said);
}

#[tokio::test]
async fn an_ignored_flag_is_told_once() {
    let log = log_of(&["--max-wals=7", "--max-snapshots=5"]).await;
    let told: Vec<&str> = log.lines().filter(|line| line.contains("has no effect")).collect();
    // A default asks for nothing.
    assert!(told.len() == 1 && told[0].contains("--max-wals"), "{log}");
}

#[tokio::test]
async fn unknown_variables_are_told_and_no_more() {
    let mut launch = Launch::new(decklog_program(), &[]);
    launch.variables.push(("ETCD_SERVICE_HOST".into(), "10.0.0.1".into()));
    launch.variables.push(("ETCD_MAX_TXN_OPS".into(), "64".into()));
    let log = Server::launch(launch).await.stop().await.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains("\"warn\"")).collect();
    assert!(
        told.len() == 1 && told[0].contains("unrecognized environment variable ETCD_SERVICE_HOST"),
        "{log}"
    );
}

#[tokio::test]
async fn systemd_hears_when_it_is_ready() {
    for name in ["notify", "@"] {
        let mut launch = Launch::new(decklog_program(), &[]);
        let abstract_name = format!("decklog-{}-{}", std::process::id(), launch.client_port);
        let (socket, path) = if name == "@" {
            use std::os::linux::net::SocketAddrExt;
            let address = std::os::unix::net::SocketAddr::from_abstract_name(&abstract_name).expect("a name");
            (UnixDatagram::bind_addr(&address), format!("@{abstract_name}").into())
        } else {
            let path = launch.folder.path().join(name);
            (UnixDatagram::bind(&path), path.into_os_string())
        };
        let socket = socket.expect("a socket can be bound");
        socket.set_read_timeout(Some(Duration::from_secs(60))).expect("a limit above zero");
        launch.variables.push(("NOTIFY_SOCKET".into(), path));
        let server = Server::launch(launch).await;
        let mut message = [0; 64];
        let length = socket.recv(&mut message).expect("it tells in time");
        assert_eq!(&message[..length], b"READY=1");
        server.stop().await;
    }
}

#[test]
fn version_has_four_lines_as_etcds() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = run_in(folder.path(), decklog_program(), &["--version"], &[]);
    let text = output.stdout_text();
    assert_eq!((output.code, output.stderr_text().as_str()), (Some(0), ""));
    let keys = |text: &str| -> Vec<String> {
        text.lines().map(|line| line.split_once(": ").expect("a key and a value").0.to_owned()).collect()
    };
    assert_eq!(keys(&text), ["etcd Version", "Git SHA", "Go Version", "Go OS/Arch"]);
    assert!(text.starts_with("etcd Version: 3.7.1\n") && text.contains("decklog 0."), "{text}");
    if let Some(etcd) = peer_or_skip("version_has_four_lines_as_etcds", "etcd") {
        assert_eq!(keys(&run_in(folder.path(), &etcd, &["--version"], &[]).stdout_text()), keys(&text));
    }
}

/// Known bug: each said what the whole project is.
#[test]
fn every_tool_says_in_its_help_what_it_does() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for (tool, what) in [
        ("bench", "Drives a server and reports throughput, latencies, errors and the server's CPU time"),
        (
            "health",
            "Asks a server's /health: exit code 0 when it is healthy, else 1, with one line that says why",
        ),
        (
            "inspect",
            "Prints what a data directory holds: ids, log, store, tables, checksums. Changes nothing",
        ),
    ] {
        let output = run_in(folder.path(), decklog_program(), &[tool, "--help"], &[]);
        assert_eq!(output.code, Some(0), "{}", output.stderr_text());
        assert_eq!(output.stdout_text().lines().next(), Some(what));
    }
}

#[test]
fn help_names_the_flags() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for flag in ["--help", "-h", "-help"] {
        let output = run_in(folder.path(), decklog_program(), &[flag], &[]);
        assert_eq!((output.code, output.stderr_text().as_str()), (Some(0), ""), "{flag}");
        for known in
            ["--name", "--data-dir", "--listen-client-urls", "--quota-backend-bytes", "--config-file"]
        {
            assert!(output.stdout_text().contains(known), "{known} is missing in {flag}");
        }
    }
}

//! The data directory: its name and mode, its lock, its format, what is refused in it and left alone.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use super::{LIMIT, assert_refused, names_in, run_in};
use crate::captured::Captured;
use crate::peers::peer_or_skip;
use crate::server::decklog_program;
use crate::servers::{Launch, Server};

const READY: &str = "ready to serve client requests";

/// Flags of a server on ports of its own that nobody asks.
fn flags(launch: &Launch) -> [String; 6] {
    let (client, peer) = (launch.client_url(), format!("http://127.0.0.1:{}", launch.peer_port));
    [
        "--name=two".to_owned(),
        format!("--listen-client-urls={client}"),
        format!("--advertise-client-urls={client}"),
        format!("--listen-peer-urls={peer}"),
        format!("--initial-advertise-peer-urls={peer}"),
        format!("--initial-cluster=two={peer}"),
    ]
}

/// Everything in a folder: paths with content.
fn content(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for name in names_in(folder) {
        let path = folder.join(&name);
        if path.is_dir() {
            found.push((name.clone(), Vec::new()));
            found.extend(content(&path).into_iter().map(|(below, bytes)| (format!("{name}/{below}"), bytes)));
        } else {
            found.push((name, fs::read(path).expect("a file can be read")));
        }
    }
    found
}

#[test]
fn it_has_the_members_name_and_is_its_owners_alone() {
    let launch = Launch::new(decklog_program(), &[]);
    let folder = launch.folder.path();
    let mut command = Command::new(decklog_program());
    let running = Captured::spawn(command.args(flags(&launch)).current_dir(folder));
    running.wait_for_stderr(READY, LIMIT).expect("it serves");
    running.signal("TERM");
    assert_eq!(running.end(LIMIT).expect("it ends").code, Some(0));
    assert_eq!(names_in(folder), ["two.decklog"]);
    let mode = fs::metadata(folder.join("two.decklog")).expect("it is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let first = Server::start(decklog_program(), &[]).await;
    let data = first.launch.data_dir();
    let before = content(&data.join("wal"));
    let other = Launch::new(decklog_program(), &[]);
    let data_dir = format!("--data-dir={}", data.display());
    let mut args: Vec<String> = flags(&other).to_vec();
    args.push(data_dir);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let line = format!(
        "the data directory {} is in use by another process; stop that process or choose another --data-dir",
        data.display()
    );
    assert_refused(&run_in(other.folder.path(), decklog_program(), &args, &[]), &line);
    assert_eq!(content(&data.join("wal")), before);
    assert_eq!(names_in(other.folder.path()), Vec::<String>::new());
    first.stop().await;
}

#[tokio::test]
async fn a_taken_port_is_named_and_nothing_touched() {
    let first = Server::start(decklog_program(), &[]).await;
    let other = Launch { client_port: first.launch.client_port, ..Launch::new(decklog_program(), &[]) };
    let args = flags(&other);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let line = format!(
        "cannot listen on 127.0.0.1:{}: Address already in use (os error 98); end what listens there, or choose other \
         addresses for the --listen flags",
        other.client_port
    );
    assert_refused(&run_in(other.folder.path(), decklog_program(), &args, &[]), &line);
    assert_eq!(names_in(other.folder.path()), Vec::<String>::new());
    first.stop().await;
}

/// Starts Decklog on a folder that it must refuse; the folder must be as it was.
fn assert_left_alone(folder: &Path, line: &str) {
    let launch = Launch::new(decklog_program(), &[]);
    let before = content(folder);
    let mut args = flags(&launch).to_vec();
    args.push(format!("--data-dir={}", folder.display()));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    assert_refused(&run_in(launch.folder.path(), decklog_program(), &args, &[]), line);
    assert!(content(folder) == before, "{} was changed", folder.display());
}

#[tokio::test]
async fn data_of_etcd_is_refused() {
    let Some(etcd) = peer_or_skip("data_of_etcd_is_refused", "etcd") else { return };
    let launch = Server::start(&etcd, &["--unsafe-no-fsync"]).await.stop().await;
    let data = launch.data_dir();
    let line = format!(
        "the data directory {} holds data of etcd, which Decklog cannot read; choose another --data-dir",
        data.display()
    );
    assert_left_alone(&data, &line);
}

#[test]
fn files_of_somebody_else_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    fs::write(folder.path().join("thesis.txt"), "chapter 1").expect("a file can be written");
    let line = format!(
        "the data directory {} holds files but no decklog.json: it is not one of Decklog's; choose an empty --data-dir",
        folder.path().display()
    );
    assert_left_alone(folder.path(), &line);
}

#[tokio::test]
async fn a_format_of_the_future_is_refused() {
    let launch = Server::start(decklog_program(), &[]).await.stop().await;
    let (data, identity) = (launch.data_dir(), launch.data_dir().join("decklog.json"));
    let text = fs::read_to_string(&identity).expect("it is there");
    let known: serde_json::Value = serde_json::from_str(&text).expect("it is JSON");
    let format = known["format"].as_u64().expect("it has a number");
    let mut future = known.clone();
    future["format"] = (format + 1).into();
    fs::write(&identity, future.to_string()).expect("it can be written");
    let path = identity.display();
    let line = format!(
        "{path} has the format {}, and this version knows {format}: use the version of Decklog that wrote it",
        format + 1
    );
    assert_left_alone(&data, &line);
    fs::write(&identity, "{}").expect("it can be written");
    assert_left_alone(&data, &format!("{path} is damaged: it names no format"));
    // It was nothing but the number that stood in the way.
    fs::write(&identity, text).expect("it can be written");
    Server::launch(launch).await.stop().await;
}

#[test]
fn what_is_no_directory_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("file");
    fs::write(&file, "").expect("a file can be written");
    let launch = Launch::new(decklog_program(), &[]);
    for (path, why) in [
        (file.clone(), "Not a directory (os error 20)"),
        (file.join("below"), "Not a directory (os error 20)"),
    ] {
        let mut args = flags(&launch).to_vec();
        args.push(format!("--data-dir={}", path.display()));
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let output = run_in(folder.path(), decklog_program(), &args, &[]);
        assert_refused(&output, &format!("cannot use the data directory {}: {why}", path.display()));
    }
}

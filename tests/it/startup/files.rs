//! Configuration files: YAML and JSON, durations for people and for etcd, and what is refused in them.

use std::fs;
use std::path::Path;

use super::{assert_refused, names_in, run_in};
use crate::server::decklog_program;
use crate::servers::{Launch, Server};
use decklog::wire::etcdserverpb::MemberListRequest;
use decklog::wire::etcdserverpb::cluster_client::ClusterClient;

/// A server whose every flag stands in a file, which `text` makes of its client URL, its peer URL and its folder.
async fn serve(text: impl Fn(&str, &str, &Path) -> String) -> Server {
    let mut launch = Launch::new(decklog_program(), &[]);
    let path = launch.folder.path().join("config");
    let peer_url = format!("http://127.0.0.1:{}", launch.peer_port);
    fs::write(&path, text(&launch.client_url(), &peer_url, launch.folder.path()))
        .expect("a file can be written");
    launch.more_flags = vec![format!("--config-file={}", path.display())];
    Server::launch(launch).await
}

/// Its name, as members know it.
async fn name_of(server: &Server) -> String {
    let mut cluster = ClusterClient::new(server.channel.clone());
    let list = cluster.member_list(MemberListRequest { linearizable: true }).await.expect("it serves");
    list.into_inner().members.remove(0).name
}

#[tokio::test]
async fn yaml_with_durations_for_people() {
    let server = serve(|client, peer, folder| {
        format!(
            "name: from-yaml\ndata-dir: {}/yaml-data\nlisten-client-urls: {client}\nadvertise-client-urls: {client}\n\
             listen-peer-urls: {peer}\ninitial-advertise-peer-urls: {peer}\ninitial-cluster: from-yaml={peer}\n\
             # Comments, numbers, booleans, durations, and a block that asks for nothing.\n\
             heartbeat-interval: 50\nelection-timeout: 500\npre-vote: true\n\
             watch-progress-notify-interval: 1m30s\ngrpc-keepalive-interval: 2h\nlog-level: info\n\
             client-transport-security:\n  cert-file:\n  client-cert-auth: false\n",
            folder.display()
        )
    })
    .await;
    assert_eq!(name_of(&server).await, "from-yaml");
    assert!(server.launch.folder.path().join("yaml-data/wal").is_dir());
    // As in etcd, what stands beside the file does not count; it is told once.
    let told = server.launch.log().lines().filter(|line| line.contains("all other flags")).count();
    assert_eq!(told, 1, "{}", server.launch.log());
    server.stop().await;
}

#[tokio::test]
async fn json_with_nanoseconds() {
    let server = serve(|client, peer, folder| {
        format!(
            r#"{{"name": "from-json", "data-dir": "{}/json-data", "listen-client-urls": "{client}",
                "advertise-client-urls": "{client}", "listen-peer-urls": ["{peer}"],
                "initial-advertise-peer-urls": "{peer}", "initial-cluster": "from-json={peer}",
                "watch-progress-notify-interval": 600000000000, "quota-backend-bytes": -1}}"#,
            folder.display()
        )
    })
    .await;
    assert_eq!(name_of(&server).await, "from-json");
    server.stop().await;
}

/// What a file holds, and why it is refused.
const REFUSED: &[(&str, &str)] = &[
    ("nmae: one\n", "unknown key \"nmae\": did you mean name?"),
    (
        "listen-client-url: http://127.0.0.1:1\n",
        "unknown key \"listen-client-url\": did you mean listen-client-urls?",
    ),
    ("no-such-thing: 1\n", "unknown key \"no-such-thing\": help lists all flags"),
    ("name: [one\n", "line 1 column 7: unclosed bracket '['"),
    ("- name\n- one\n", "it must be a map of flag names to values"),
    (
        "grpc-keepalive-interval: soon\n",
        "the value of \"grpc-keepalive-interval\" has a wrong form: \"soon\"",
    ),
    ("name: {a: 1}\n", "the value of \"name\" has a wrong form: {\"a\":1}"),
];

#[test]
fn wrong_files_are_refused() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("config");
    let path = file.display();
    let flag = format!("--config-file={path}");
    for (text, why) in REFUSED {
        fs::write(&file, text).expect("a file can be written");
        let output = run_in(folder.path(), decklog_program(), &[&flag], &[]);
        assert_refused(&output, &format!("cannot use the configuration file {path}: {why}"));
    }
    for (text, line) in [
        (
            "client-transport-security:\n  cert-file: c\n",
            "--cert-file=client-transport-security in the file is refused: TLS comes in a later version; without it \
             connections would be open",
        ),
        (
            "listen-client-urls: http://127.0.0.1:1\n",
            "--advertise-client-urls is required when --listen-client-urls is set explicitly",
        ),
        (
            "election-timeout: 400\n",
            "--election-timeout[400ms] should be at least as 5 times as --heartbeat-interval[100ms]",
        ),
        (
            "unsafe-no-fsync: true\n",
            "--unsafe-no-fsync=true is refused: Decklog always flushes before it answers",
        ),
    ] {
        fs::write(&file, text).expect("a file can be written");
        assert_refused(&run_in(folder.path(), decklog_program(), &[&flag], &[]), line);
        let by_variable = [("ETCD_CONFIG_FILE", file.to_str().expect("a temporary folder's name is text"))];
        assert_refused(&run_in(folder.path(), decklog_program(), &[], &by_variable), line);
    }
    assert_eq!(names_in(folder.path()), ["config"]);
}

#[test]
fn a_missing_file_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = run_in(folder.path(), decklog_program(), &["--config-file=none.yaml"], &[]);
    let line = "cannot use the configuration file none.yaml: No such file or directory (os error 2)";
    assert_refused(&output, line);
    assert_eq!(names_in(folder.path()), Vec::<String>::new());
}

//! Health, version and metrics: status, headers and body are those of real etcd, on each kind of listener.

use std::process::Command;

use decklog::wire::etcdserverpb::alarm_request::AlarmAction;
use decklog::wire::etcdserverpb::kv_client::KvClient;
use decklog::wire::etcdserverpb::maintenance_client::MaintenanceClient;
use decklog::wire::etcdserverpb::{AlarmRequest, AlarmType, PutRequest};

use crate::http_client::{self, Answer};
use crate::peers::peer_or_skip;
use crate::server::decklog_program;
use crate::servers::{Launch, Server};

/// Paths that are asked with every method.
const PATHS: &[&str] =
    &["/health", "/livez", "/readyz", "/readyz/non_learner", "/version", "/metrics", "/none"];
const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"];

/// Paths that are only got.
const QUERIES: &[&str] = &[
    "/",
    "/health/",
    "/health?serializable=true",
    "/health?serializable=false",
    "/health?serializable=x",
    "/health?exclude=NOSPACE",
    "/health?exclude=NOSPACE&exclude=CORRUPT",
    "/health?exclude=NOSPACE&serializable=true",
    "/health?exclude=CORRUPT",
    "/health?exclude=unknown",
    "/health?exclude=",
    "/livez/",
    "/livez?verbose",
    "/livez?verbose=false",
    "/livez?exclude=serializable_read&verbose",
    "/livez?exclude=unknown&verbose",
    "/livez/serializable_read",
    "/livez/serializable_read?verbose",
    "/livez/linearizable_read",
    "/livez/unknown",
    "/readyz?verbose",
    "/readyz?exclude=linearizable_read&verbose",
    "/readyz?exclude=data_corruption&exclude=serializable_read&exclude=linearizable_read&exclude=non_learner&verbose",
    "/readyz/data_corruption?verbose",
    "/readyz/serializable_read?verbose",
    "/readyz/linearizable_read?verbose",
    "/readyz/linearizable_read?exclude=linearizable_read&verbose",
    "/readyz/unknown",
    "/version/",
    "/metrics/",
    "/v2/keys",
];

/// Both servers, each with a port for metrics and one for HTTP alone.
struct Both {
    etcd: Server,
    decklog: Server,
    etcd_ports: Ports,
    decklog_ports: Ports,
}

struct Ports {
    metrics: u16,
    http: u16,
}

async fn serve(program: &std::path::Path, flags: &[&str], http_apart: bool) -> (Server, Ports) {
    let ports =
        Ports { metrics: Launch::new(program, &[]).client_port, http: Launch::new(program, &[]).client_port };
    let mut launch = Launch::new(program, flags);
    launch.more_flags.push(format!("--listen-metrics-urls=http://127.0.0.1:{}", ports.metrics));
    if http_apart {
        launch.more_flags.push(format!("--listen-client-http-urls=http://127.0.0.1:{}", ports.http));
    }
    (Server::launch(launch).await, ports)
}

async fn both(test: &str, flags: &[&str], http_apart: bool) -> Option<Both> {
    let program = peer_or_skip(test, "etcd")?;
    let etcd_flags = [&["--unsafe-no-fsync"], flags].concat();
    let ((etcd, etcd_ports), (decklog, decklog_ports)) =
        tokio::join!(serve(&program, &etcd_flags, http_apart), serve(decklog_program(), flags, http_apart));
    Some(Both { etcd, decklog, etcd_ports, decklog_ports })
}

/// An answer in words that both servers share.
fn neutral(path: &str, mut answer: Answer) -> Answer {
    const SAME: [&str; 6] = [
        "content-type",
        "x-content-type-options",
        "allow",
        "access-control-allow-headers",
        "access-control-allow-methods",
        "access-control-allow-origin",
    ];
    answer.headers.retain(|(name, _)| SAME.contains(&name.as_str()));
    answer.headers.sort();
    for (_, value) in &mut answer.headers {
        // A word on how names are escaped that newer libraries of Prometheus add.
        *value = value.trim_end_matches("; escaping=underscores").to_owned();
    }
    if path.starts_with("/version") || path.starts_with("/metrics") {
        let is_there = !answer.body.is_empty();
        answer.body = format!("a body: {}", is_there && answer.status == 200);
    } else {
        // Checks come in no order.
        let mut lines: Vec<&str> = answer.body.split_inclusive('\n').collect();
        lines.sort_unstable();
        answer.body = lines.concat();
    }
    answer
}

/// Asks both ports everything; returns what differs.
fn differences(scope: &str, etcd: u16, decklog: u16) -> String {
    let every = PATHS.iter().flat_map(|path| METHODS.iter().map(move |method| (*method, *path)));
    let gets = QUERIES.iter().map(|path| ("GET", *path));
    let mut differences = String::new();
    for (method, path) in every.chain(gets) {
        let [expected, found] =
            [etcd, decklog].map(|port| neutral(path, http_client::ask(port, method, path)));
        if expected != found {
            differences +=
                &format!("{scope}: {method} {path}\n  etcd:    {expected:?}\n  decklog: {found:?}\n");
        }
    }
    differences
}

#[tokio::test]
async fn endpoints_answer_as_those_of_etcd() {
    let quota = ["--quota-backend-bytes=131072"];
    let Some(both) = both("endpoints_answer_as_those_of_etcd", &quota, false).await else { return };
    let (etcd, decklog) = (&both.etcd, &both.decklog);
    let mut wrong = differences("client", etcd.launch.client_port, decklog.launch.client_port);
    wrong += &differences("metrics", both.etcd_ports.metrics, both.decklog_ports.metrics);
    // No space left: an alarm.
    for server in [etcd, decklog] {
        let put = PutRequest { key: "big".into(), value: vec![0; 150_000].into(), ..Default::default() };
        let refused =
            KvClient::new(server.channel.clone()).put(put).await.expect_err("it is above the quota");
        assert_eq!(refused.message(), "etcdserver: mvcc: database space exceeded");
    }
    wrong += &differences("no space", etcd.launch.client_port, decklog.launch.client_port);
    let failing = http_client::get(decklog.launch.client_port, "/health");
    assert_eq!(
        (failing.status, failing.body.trim_end()),
        (503, r#"{"health":"false","reason":"ALARM NOSPACE"}"#)
    );
    for server in [etcd, decklog] {
        disarm_and_say_corrupt(server).await;
    }
    wrong += &differences("corrupt", etcd.launch.client_port, decklog.launch.client_port);
    let failing = http_client::get(decklog.launch.client_port, "/readyz");
    assert!(failing.status == 503 && failing.body.contains("[-]data_corruption failed: "), "{failing:?}");
    assert!(wrong.is_empty(), "{wrong}");
}

/// Ends the alarm for space, and raises the one for a member whose data differs from the others'.
async fn disarm_and_say_corrupt(server: &Server) {
    let mut maintenance = MaintenanceClient::new(server.channel.clone());
    let all = AlarmRequest { action: AlarmAction::Get.into(), ..Default::default() };
    let active = maintenance.alarm(all).await.expect("it serves").into_inner().alarms.remove(0);
    let ask = |action: AlarmAction, alarm: AlarmType| AlarmRequest {
        action: action.into(),
        member_id: active.member_id,
        alarm: alarm.into(),
    };
    maintenance.alarm(ask(AlarmAction::Deactivate, AlarmType::Nospace)).await.expect("it serves");
    maintenance.alarm(ask(AlarmAction::Activate, AlarmType::Corrupt)).await.expect("it serves");
}

/// With --listen-client-http-urls the client port is for gRPC alone.
#[tokio::test]
async fn http_stands_apart_when_asked_to() {
    let Some(both) = both("http_stands_apart_when_asked_to", &[], true).await else { return };
    let wrong = differences("http", both.etcd_ports.http, both.decklog_ports.http);
    assert!(wrong.is_empty(), "{wrong}");
    for server in [&both.etcd, &both.decklog] {
        let answer = http_client::raw(server.launch.client_port, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
        println!("{}: {answer:?}", server.launch.program.display());
        assert!(answer.is_err() || answer.is_ok_and(|answer| answer.status != 200));
    }
    // gRPC is not served beside it.
    let Some(etcdctl) = peer_or_skip("http_stands_apart_when_asked_to", "etcdctl") else { return };
    for ports in [&both.etcd_ports, &both.decklog_ports] {
        let mut command = Command::new(&etcdctl);
        command.arg(format!("--endpoints=127.0.0.1:{}", ports.http)).args([
            "--command-timeout=1s",
            "get",
            "k",
        ]);
        let output = command.output().expect("etcdctl runs");
        println!("{}", String::from_utf8_lossy(&output.stderr));
        assert_ne!(output.status.code(), Some(0));
    }
}

#[tokio::test]
async fn version_names_etcds_and_ours() {
    let server = Server::start(decklog_program(), &[]).await;
    let answer = http_client::get(server.launch.client_port, "/version");
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    let known: serde_json::Value = serde_json::from_str(&answer.body).expect("JSON");
    let (etcd, ours) = (known["etcdserver"].as_str(), known["decklog"].as_str());
    assert_eq!((etcd, ours), (Some("3.7.1"), Some(env!("CARGO_PKG_VERSION"))));
    assert_eq!((known["etcdcluster"].as_str(), known["storage"].as_str()), (Some("3.7.0"), Some("3.7.0")));
}

//! Every RPC is registered; those of later work say so by name; what is unknown gets the text of Go's gRPC.

use std::collections::BTreeSet;

use decklog::wire::RPCS;
use decklog::wire::health::health_check_response::ServingStatus;
use decklog::wire::health::health_client::HealthClient;
use decklog::wire::health::{HealthCheckRequest, HealthListRequest};
use http::uri::PathAndQuery;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::servers::Server;

/// RPCs that a later version brings, by service.
const LATER: &[(&str, &[&str])] = &[
    (
        "etcdserverpb.Auth",
        &[
            "AuthEnable",
            "AuthDisable",
            "Authenticate",
            "UserAdd",
            "UserGet",
            "UserList",
            "UserDelete",
            "UserChangePassword",
            "UserGrantRole",
            "UserRevokeRole",
            "RoleAdd",
            "RoleGet",
            "RoleList",
            "RoleDelete",
            "RoleGrantPermission",
            "RoleRevokePermission",
        ],
    ),
    ("etcdserverpb.Maintenance", &["Snapshot", "Downgrade"]),
    ("v3lockpb.Lock", &["Lock", "Unlock"]),
    ("v3electionpb.Election", &["Campaign", "Proclaim", "Leader", "Observe", "Resign"]),
];

/// Paths that lead nowhere, with what Go's gRPC says of them.
const UNKNOWN: &[(&str, &str)] = &[
    ("/etcdserverpb.KV/Frob", "unknown method Frob for service etcdserverpb.KV"),
    ("/etcdserverpb.KV/range", "unknown method range for service etcdserverpb.KV"),
    ("/v3lockpb.Lock/Range", "unknown method Range for service v3lockpb.Lock"),
    ("/etcdserverpb.Frob/Range", "unknown service etcdserverpb.Frob"),
    ("/KV/Range", "unknown service KV"),
    ("/a/b/c", "unknown service a/b"),
    ("/nothing", "malformed method name: \"/nothing\""),
];

#[tokio::test]
async fn every_rpc_answers_and_those_of_later_work_say_so() {
    let server = Server::start(env!("CARGO_BIN_EXE_decklog").as_ref(), &[]).await;
    let mut later: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (service, methods) in LATER {
        later.extend(methods.iter().map(|method| (*service, *method)));
    }
    let mut wrong = Vec::new();
    for (service, method, _, _) in RPCS {
        let answer = call(&server.channel, &format!("/{service}/{method}")).await;
        let short = service.rsplit('.').next().unwrap_or(service);
        let expected = format!("decklog: {short}.{method} is not implemented in this version");
        let as_expected = match &answer {
            Err(status) if status.code() == Code::Unimplemented => {
                later.remove(&(service, method)) && status.message() == expected
            }
            _ => !later.contains(&(service, method)),
        };
        if !as_expected {
            wrong.push(format!("{service}/{method} answers {answer:?}"));
        }
    }
    assert!(wrong.is_empty(), "not as the table of later work says:\n{}", wrong.join("\n"));
    assert!(later.is_empty(), "no such RPCs: {later:?}");
}

#[tokio::test]
async fn what_is_unknown_has_the_text_of_gos_grpc() {
    let server = Server::start(env!("CARGO_BIN_EXE_decklog").as_ref(), &[]).await;
    unknown_paths(&server.channel, "decklog").await;
    let Some(etcd) = crate::peers::peer_or_skip("what_is_unknown_has_the_text_of_gos_grpc", "etcd") else {
        return;
    };
    let server = Server::start(&etcd, &["--unsafe-no-fsync"]).await;
    unknown_paths(&server.channel, "etcd").await;
}

/// gRPC's health service, which load balancers and probes ask.
#[tokio::test]
async fn the_health_service_answers_as_etcds() {
    let server = Server::start(env!("CARGO_BIN_EXE_decklog").as_ref(), &[]).await;
    let ours = health(&server.channel).await;
    assert_eq!(ours[0], "serving");
    let Some(etcd) = crate::peers::peer_or_skip("the_health_service_answers_as_etcds", "etcd") else {
        return;
    };
    let server = Server::start(&etcd, &["--unsafe-no-fsync"]).await;
    assert_eq!(ours, health(&server.channel).await, "decklog, then etcd");
}

/// What it says of the server, of a service, of all, and first to one who watches each.
async fn health(channel: &Channel) -> Vec<String> {
    let mut client = HealthClient::new(channel.clone());
    let status =
        |code: i32| ServingStatus::try_from(code).map_or("?", |status| status.as_str_name()).to_lowercase();
    let mut said = Vec::new();
    for service in ["", "etcdserverpb.KV", "nothing"] {
        let request = HealthCheckRequest { service: service.to_owned() };
        said.push(match client.check(request.clone()).await {
            Ok(answer) => status(answer.get_ref().status),
            Err(refused) => format!("{:?} {:?}", refused.code(), refused.message()),
        });
        let mut watch = client.watch(request).await.expect("a stream").into_inner();
        let first = watch.message().await.expect("no error").expect("an answer");
        said.push(format!("watch of {service:?}: {}", status(first.status)));
    }
    let all = client.list(HealthListRequest {}).await.expect("a list").into_inner().statuses;
    said.extend(all.iter().map(|(service, answer)| format!("list: {service:?} {}", status(answer.status))));
    said
}

async fn unknown_paths(channel: &Channel, name: &str) {
    for (path, text) in UNKNOWN {
        let status = call(channel, path).await.expect_err(path);
        assert_eq!((status.code(), status.message()), (Code::Unimplemented, *text), "{name}, {path}");
    }
}

/// Sends one empty message and ends the stream; all kinds of RPCs look the same on the wire. What is answered
/// first tells whether there is somebody.
async fn call(channel: &Channel, path: &str) -> Result<(), Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let path = PathAndQuery::try_from(path).expect("a path");
    let codec = tonic_prost::ProstCodec::<(), ()>::default();
    client.streaming(Request::new(tokio_stream::once(())), path, codec).await.map(drop)
}

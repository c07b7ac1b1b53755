//! Signals: open requests finish, streams end, connections close, and the store is written, so that the next start
//! has nothing to replay.

use std::io::Read;
use std::time::{Duration, Instant};

use decklog::wire::etcdserverpb::kv_client::KvClient;
use decklog::wire::etcdserverpb::lease_client::LeaseClient;
use decklog::wire::etcdserverpb::watch_client::WatchClient;
use decklog::wire::etcdserverpb::{
    LeaseKeepAliveRequest, PutRequest, PutResponse, RangeRequest, WatchCreateRequest, WatchRequest,
    watch_request::RequestUnion,
};
use decklog::wire::health::HealthCheckRequest;
use decklog::wire::health::health_check_response::ServingStatus;
use decklog::wire::health::health_client::HealthClient;
use http::uri::PathAndQuery;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;

use crate::http_client;
use crate::server::decklog_program;
use crate::servers::{Launch, Server};
use crate::until::until;

const PUTS_BEGUN: &str =
    "grpc_server_started_total{grpc_method=\"Put\",grpc_service=\"etcdserverpb.KV\",grpc_type=\"unary\"}";
/// A stop with nothing to wait for is over long before clients would notice.
const AT_ONCE: Duration = Duration::from_millis(1500);

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..Default::default() }
}

async fn value_of(server: &Server, key: &str) -> Option<String> {
    let request = RangeRequest { key: key.to_owned().into(), ..Default::default() };
    let answer = KvClient::new(server.channel.clone()).range(request).await.expect("it serves").into_inner();
    let pair = answer.kvs.first()?.decode().expect("a pair");
    Some(String::from_utf8_lossy(&pair.value).into_owned())
}

/// Entries in the log, and the entry whose state the store holds, as `inspect` tells.
fn log_and_store(launch: &Launch) -> (u64, u64) {
    let text = launch.inspect();
    let number =
        |text: Option<&str>| text.and_then(|text| text.split([' ', ';', ',']).next()?.parse::<u64>().ok());
    let last = text
        .lines()
        .filter_map(|line| number(line.split_once("entries ")?.1.split_once(" to ").map(|(_, to)| to)));
    let store =
        text.lines().find_map(|line| number(line.split_once("the state after entry ").map(|(_, at)| at)));
    (last.max().expect("there are entries"), store.expect("there is a store"))
}

#[tokio::test]
async fn every_signal_to_stop_writes_the_store() {
    let mut launch = Launch::new(decklog_program(), &[]);
    for (round, signal) in ["TERM", "INT", "TERM"].into_iter().enumerate() {
        let server = Server::launch(launch).await;
        let mut kv = KvClient::new(server.channel.clone());
        for number in 0..200 {
            kv.put(put(&format!("{round}/{number}"), signal)).await.expect("it serves");
        }
        server.signal(signal);
        let (status, ended) = server.ended().await;
        assert_eq!(status.code(), Some(0), "{signal}: {}", ended.log());
        assert!(ended.log().contains(&format!("SIG{signal}")), "{}", ended.log());
        let (log, store) = log_and_store(&ended);
        assert_eq!(log, store, "the next start would replay");
        launch = ended;
    }
    let server = Server::launch(launch).await;
    for round in 0..3 {
        assert!(value_of(&server, &format!("{round}/199")).await.is_some());
    }
    server.stop().await;
}

/// A put whose message is still on its way when the signal comes.
#[tokio::test]
async fn an_open_request_finishes() {
    let server = Server::start(decklog_program(), &[]).await;
    let mut grpc = tonic::client::Grpc::new(server.channel.clone());
    grpc.ready().await.expect("it serves");
    let (send, messages) = tokio::sync::mpsc::channel(1);
    let call = tokio::spawn(async move {
        let request = Request::new(ReceiverStream::new(messages));
        let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
        grpc.client_streaming(request, path, ProstCodec::<PutRequest, PutResponse>::default()).await
    });
    until("the put has begun", async || server.metric(PUTS_BEGUN) >= 1.0).await;
    server.signal("TERM");
    until("it stops", async || server.launch.log().contains("\"stopping\"")).await;
    send.send(put("open", "finished")).await.expect("the request is open");
    drop(send);
    let answer = call.await.expect("no panic").expect("the open request is answered");
    assert_eq!(answer.into_inner().header.expect("one").revision, 2);
    let (status, launch) = server.ended().await;
    assert_eq!(status.code(), Some(0), "{}", launch.log());
    let server = Server::launch(launch).await;
    assert_eq!(value_of(&server, "open").await.as_deref(), Some("finished"));
    server.stop().await;
}

#[tokio::test]
async fn open_streams_end_and_hold_nothing_up() {
    let server = Server::start(decklog_program(), &[]).await;
    let (asks, requests) = tokio::sync::mpsc::channel(1);
    let create = WatchCreateRequest { key: "k".into(), ..Default::default() };
    asks.send(WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }).await.expect("room");
    let mut watch = WatchClient::new(server.channel.clone())
        .watch(ReceiverStream::new(requests))
        .await
        .expect("it serves")
        .into_inner();
    assert!(watch.next().await.expect("an answer").expect("no error").created);
    let (renews, renewals) = tokio::sync::mpsc::channel(1);
    renews.send(LeaseKeepAliveRequest { id: 7 }).await.expect("room");
    let mut alive = LeaseClient::new(server.channel.clone())
        .lease_keep_alive(ReceiverStream::new(renewals))
        .await
        .expect("it serves")
        .into_inner();
    assert_eq!(alive.next().await.expect("an answer").expect("no error").ttl, 0);
    let mut health = HealthClient::new(server.channel.clone())
        .watch(HealthCheckRequest::default())
        .await
        .expect("it serves")
        .into_inner();
    assert_eq!(
        health.next().await.expect("an answer").expect("no error").status,
        ServingStatus::Serving as i32
    );
    let began = Instant::now();
    server.signal("TERM");
    let ends = async {
        [
            watch.next().await.map(drop_answer),
            alive.next().await.map(drop_answer),
            health.next().await.map(drop_answer),
        ]
    };
    let (ends, (status, launch)) = tokio::join!(ends, server.ended());
    println!("stopped after {:?}", began.elapsed());
    assert_eq!(status.code(), Some(0), "{}", launch.log());
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    // Were it a good end, etcd's client for Go would close the watch for good instead of trying again.
    let stopped = Some(Err((Code::Unavailable, "etcdserver: server stopped".to_owned())));
    assert_eq!(ends, [(); 3].map(|()| stopped.clone()));
    drop((asks, renews));
}

fn drop_answer<T>(answer: Result<T, Status>) -> Result<(), (Code, String)> {
    answer.map(drop).map_err(|status| (status.code(), status.message().to_owned()))
}

/// Connections that say nothing, half a request, or nothing more.
#[tokio::test]
async fn idle_connections_hold_nothing_up() {
    use std::io::Write;
    let server = Server::start(decklog_program(), &[]).await;
    let port = server.launch.client_port;
    let silent = http_client::connect(port);
    let mut half = http_client::connect(port);
    half.write_all(b"GET /health HTTP/1.1\r\nHo").expect("it listens");
    let mut begun = http_client::connect(port);
    begun.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").expect("it listens");
    let mut kept = http_client::connect(port);
    kept.write_all(b"GET /version HTTP/1.1\r\nHost: x\r\n\r\n").expect("it listens");
    let mut first = [0; 15];
    kept.read_exact(&mut first).expect("it answers");
    let began = Instant::now();
    server.signal("TERM");
    let (status, launch) = server.ended().await;
    println!("stopped after {:?}", began.elapsed());
    assert_eq!(status.code(), Some(0), "{}", launch.log());
    assert!(began.elapsed() < AT_ONCE, "{:?}", began.elapsed());
    drop((silent, half, begun, kept));
}

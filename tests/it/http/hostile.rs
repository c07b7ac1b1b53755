//! Clients that mean no good, or stop half way: the server lives, serves the others, and its memory stays small.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;

use decklog::wire::etcdserverpb::kv_client::KvClient;
use decklog::wire::etcdserverpb::{PutRequest, RangeRequest};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tonic::transport::Channel;

use crate::http_client;
use crate::server::decklog_program;
use crate::servers::{Launch, Server};
use crate::until::until;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const MEBIBYTE: usize = 1 << 20;
/// How much more memory the server may hold after all of this.
const MAX_GROWTH_BYTES: f64 = 64.0 * MEBIBYTE as f64;
const SILENT_CONNECTIONS: usize = 300;
const RANDOM_CONNECTIONS: usize = 100;

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a small payload").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn http2(frames: &[Vec<u8>]) -> Vec<u8> {
    [PREFACE, &frame(4, 0, 0, &[]), &frames.concat()].concat()
}

/// What is sent on a connection of its own, which stays open then.
fn attacks() -> Vec<(&'static str, Vec<u8>)> {
    let headers = 1;
    let (settings, ping, continuation, window) = (4, 6, 9, 8);
    vec![
        ("nothing but a line end", b"\r\n".to_vec()),
        ("no HTTP", b"hello there\r\n\r\n".to_vec()),
        ("zeros", vec![0; 4096]),
        ("a TLS greeting", [b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), vec![7; 500]].concat()),
        ("HTTP/0.9", b"GET /health\r\n".to_vec()),
        ("an unknown version", b"GET /health HTTP/9.9\r\n\r\n".to_vec()),
        ("half a request line", b"GET /hea".to_vec()),
        ("half a header", b"GET /health HTTP/1.1\r\nHost: 127.0.".to_vec()),
        ("a header without a name", b"GET /health HTTP/1.1\r\n: x\r\n\r\n".to_vec()),
        (
            "two lengths",
            b"POST /health HTTP/1.1\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello".to_vec(),
        ),
        ("a length that is none", b"POST /health HTTP/1.1\r\nContent-Length: -5\r\n\r\nhello".to_vec()),
        (
            "less body than said",
            b"POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\nhello".to_vec(),
        ),
        (
            "a chunk that is none",
            b"POST /none HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n".to_vec(),
        ),
        (
            "a path of 64 KiB",
            [b"GET /", vec![b'a'; 65_536].as_slice(), b" HTTP/1.1\r\nHost: x\r\n\r\n"].concat(),
        ),
        ("a line without an end", vec![b'a'; MEBIBYTE]),
        (
            "a header of 1 MiB",
            [b"GET /health HTTP/1.1\r\nX: ", vec![b'a'; MEBIBYTE].as_slice(), b"\r\n\r\n"].concat(),
        ),
        (
            "10000 headers",
            [b"GET /health HTTP/1.1\r\n".to_vec(), b"X: y\r\n".repeat(10_000), b"\r\n".to_vec()].concat(),
        ),
        ("half a preface", PREFACE[..12].to_vec()),
        ("a preface alone", PREFACE.to_vec()),
        ("garbage after the preface", [PREFACE, &[0xab; 9000]].concat()),
        ("a preface that turns", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n".to_vec()),
        (
            "a frame of 16 MiB announced",
            [PREFACE, &frame(settings, 0, 0, &[]), &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1]].concat(),
        ),
        ("settings on a stream", http2(&[frame(settings, 0, 5, &[])])),
        ("settings that do not fit", http2(&[frame(settings, 0, 0, &[1, 2, 3])])),
        ("a window of zero", http2(&[frame(window, 0, 0, &[0; 4])])),
        ("data for no stream", http2(&[frame(0, 0, 7, b"data")])),
        ("headers that cannot be read", http2(&[frame(headers, 4, 1, &[0xff; 100])])),
        (
            "headers that go on and on",
            http2(&[frame(headers, 0, 1, &[]), frame(continuation, 0, 1, &[0x82; 1000]).repeat(2000)]),
        ),
        ("100000 pings", http2(&[frame(ping, 0, 0, &[0; 8]).repeat(100_000)])),
        ("100000 settings", http2(&[frame(settings, 0, 0, &[]).repeat(100_000)])),
        ("an unknown frame", http2(&[frame(200, 0, 0, b"?"), frame(ping, 0, 0, &[1; 8])])),
    ]
}

/// Sends what the server takes of it; that it closes early is its right.
fn send(port: u16, bytes: &[u8]) -> TcpStream {
    let mut stream = http_client::connect(port);
    // Written without waiting for ever: a server that reads no more holds the test up otherwise.
    stream.set_nonblocking(true).expect("a socket");
    let mut rest = bytes;
    while let Ok(length) = stream.write(rest) {
        rest = &rest[length..];
        if rest.is_empty() {
            break;
        }
    }
    stream.set_nonblocking(false).expect("a socket");
    stream
}

/// Others are served: on a connection from before, and on new ones of both kinds.
async fn assert_serves(server: &Server, before: &mut KvClient<Channel>, after: &str) {
    let put = PutRequest { key: "k".into(), value: after.to_owned().into(), ..Default::default() };
    before.put(put).await.unwrap_or_else(|error| panic!("after {after}: {error}"));
    let health = http_client::get(server.launch.client_port, "/health");
    assert_eq!(
        (health.status, health.body.as_str()),
        (200, "{\"health\":\"true\",\"reason\":\"\"}"),
        "after {after}"
    );
}

async fn assert_serves_new_connections(server: &Server) {
    let mut kv = KvClient::connect(server.launch.client_url()).await.expect("it listens");
    kv.range(RangeRequest { key: "k".into(), ..Default::default() }).await.expect("it serves");
}

#[tokio::test]
async fn attacks_harm_nobody() {
    let seed: u64 = std::env::var("DECKLOG_HTTP_SEED")
        .map_or_else(|_| rand::random(), |seed| seed.parse().expect("a number"));
    println!("DECKLOG_HTTP_SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    let server = Server::start(decklog_program(), &[]).await;
    let port = server.launch.client_port;
    let mut kv = KvClient::new(server.channel.clone());
    assert_serves(&server, &mut kv, "the start").await;
    let memory = server.metric("process_resident_memory_bytes");
    let mut silent = http_client::connect(port);
    let mut open: Vec<TcpStream> = (0..SILENT_CONNECTIONS).map(|_| http_client::connect(port)).collect();
    assert_serves(&server, &mut kv, "silence").await;
    for (name, bytes) in attacks() {
        open.push(send(port, &bytes));
        assert_serves(&server, &mut kv, name).await;
    }
    for _ in 0..RANDOM_CONNECTIONS {
        let mut bytes = vec![0; random.random_range(1..3000)];
        random.fill(bytes.as_mut_slice());
        let mut start = match random.random_range(0..3) {
            0 => Vec::new(),
            1 => b"GET / HTTP/1.1\r\n".to_vec(),
            _ => http2(&[]),
        };
        start.extend(bytes);
        open.push(send(port, &start));
    }
    assert_serves(&server, &mut kv, "random bytes").await;
    assert_serves_new_connections(&server).await;
    let grown = server.metric("process_resident_memory_bytes") - memory;
    assert!(grown < MAX_GROWTH_BYTES, "its memory has grown by {grown} bytes");
    // Who says nothing is let go: the read ends, by the server's doing.
    assert_eq!(silent.read(&mut [0]).expect("it is closed in time"), 0);
    drop(open);
    assert_serves(&server, &mut kv, "all went").await;
    let log = server.stop().await.log();
    assert!(!log.contains("panic"), "{log}");
}

/// A body is not read when nobody wants it.
#[tokio::test]
async fn a_body_of_100_mb_takes_no_memory() {
    let server = Server::start(decklog_program(), &[]).await;
    let port = server.launch.client_port;
    let memory = server.metric("process_resident_memory_bytes");
    let piece = vec![b'x'; MEBIBYTE];
    for (path, kind) in
        [("/health", "text/plain"), ("/none", "text/plain"), ("/etcdserverpb.KV/Put", "application/grpc")]
    {
        let mut stream = http_client::connect(port);
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: 104857600\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).expect("it listens");
        // It may close before all is sent.
        let sent = (0..100).take_while(|_| stream.write_all(&piece).is_ok()).count();
        println!("{path}: {sent} MiB sent");
        let grown = server.metric("process_resident_memory_bytes") - memory;
        assert!(grown < MAX_GROWTH_BYTES, "its memory has grown by {grown} bytes");
    }
    assert_serves_new_connections_with_a_key(&server).await;
}

async fn assert_serves_new_connections_with_a_key(server: &Server) {
    let mut kv = KvClient::connect(server.launch.client_url()).await.expect("it listens");
    kv.put(PutRequest { key: "k".into(), ..Default::default() }).await.expect("it serves");
    assert_serves_new_connections(server).await;
}

#[test]
fn old_http_is_answered() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let server = runtime.block_on(Server::start(decklog_program(), &[]));
    let port = server.launch.client_port;
    let answer = http_client::raw(port, b"GET /health HTTP/1.0\r\n\r\n").expect("an answer");
    assert_eq!((answer.status, answer.body.as_str()), (200, "{\"health\":\"true\",\"reason\":\"\"}"));
    // One connection, several requests; the last closes.
    let mut stream = http_client::connect(port);
    stream
        .write_all(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\nGET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        .expect("it listens");
    let mut text = String::new();
    stream.read_to_string(&mut text).expect("two answers");
    assert_eq!(text.matches("HTTP/1.1 200 OK").count(), 2, "{text}");
    assert!(
        http_client::raw(port, b"BREW /coffee HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            .is_ok_and(|answer| answer.status == 404)
    );
}

/// Few file descriptors: connections beyond them wait, who is there is served, also by the disk, and others are when
/// there is room again. Probes of health have places of their own.
#[tokio::test]
async fn the_server_survives_running_out_of_files() {
    let limit = 100;
    let mut launch = Launch::new(decklog_program(), &[]);
    let metrics_port = Launch::new(decklog_program(), &[]).client_port;
    launch.more_flags.push(format!("--listen-metrics-urls=http://127.0.0.1:{metrics_port}"));
    let script = launch.folder.path().join("limited");
    let text = format!("#!/bin/sh\nulimit -n {limit} && exec {} \"$@\"\n", decklog_program().display());
    fs::write(&script, text).expect("a file can be written");
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).expect("the file is ours");
    launch.program = script;
    let server = Server::launch(launch).await;
    let mut kv = KvClient::new(server.channel.clone());
    let put = |value: String| PutRequest { key: "k".into(), value: value.into(), ..Default::default() };
    kv.put(put("before".to_owned())).await.expect("it serves");
    let port = server.launch.client_port;
    let open: Vec<TcpStream> = (0..2 * limit).map(|_| http_client::connect(port)).collect();
    until("it is full", async || server.launch.log().contains("more must wait")).await;
    for number in 0..300 {
        let answer = kv.put(put(format!("meanwhile {number}"))).await;
        answer.unwrap_or_else(|error| panic!("who is there is not served: {error}\n{}", server.launch.log()));
    }
    assert_eq!(http_client::get(metrics_port, "/readyz").status, 200);
    drop(open);
    assert_eq!(http_client::get(port, "/readyz").status, 200);
    assert_serves_new_connections(&server).await;
    server.signal("TERM");
    let (status, launch) = server.ended().await;
    let log = launch.log();
    assert_eq!((status.code(), log.matches("more must wait").count()), (Some(0), 1), "{log}");
}

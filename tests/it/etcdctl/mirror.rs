//! `etcdctl make-mirror` between Decklog and real etcd, both ways: what was there before, and what changes later.

use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use decklog::wire::etcdserverpb::kv_client::KvClient;
use decklog::wire::etcdserverpb::{
    DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest, request_op::Request,
};
use tonic::transport::Channel;

use crate::captured::Captured;
use crate::peers::peer_or_skip;
use crate::server::decklog_program;
use crate::servers::Server;
use crate::until::{LIMIT, found};

/// More than one of make-mirror's pages, which have 1000.
const KEYS: usize = 1200;
const BATCH: usize = 100;

#[tokio::test]
async fn make_mirror_goes_both_ways() {
    let test = "make_mirror_goes_both_ways";
    let (Some(etcd), Some(etcdctl)) = (peer_or_skip(test, "etcd"), peer_or_skip(test, "etcdctl")) else {
        return;
    };
    let (etcd, decklog) =
        tokio::join!(Server::start(&etcd, &["--unsafe-no-fsync"]), Server::start(decklog_program(), &[]));
    mirrors(&etcdctl, &decklog, &etcd, "a").await;
    mirrors(&etcdctl, &etcd, &decklog, "b").await;
}

/// Everything under `prefix` in one comes to be under `mirror/` in the other.
async fn mirrors(etcdctl: &Path, from: &Server, to: &Server, prefix: &str) {
    let (mut source, mut target) = (kv(from), kv(to));
    fill(&mut source, prefix).await;
    let running = Captured::spawn(
        Command::new(etcdctl)
            .arg(format!("--endpoints=127.0.0.1:{}", from.launch.client_port))
            .args(["make-mirror", &format!("--prefix={prefix}/"), &format!("--dest-prefix=mirror/{prefix}/")])
            .arg(format!("127.0.0.1:{}", to.launch.client_port)),
    );
    let mirror = format!("mirror/{prefix}");
    assert_equal_soon(&mut source, prefix, &mut target, &mirror).await;
    change(&mut source, prefix).await;
    assert_equal_soon(&mut source, prefix, &mut target, &mirror).await;
    running.signal("INT");
    running.end(LIMIT).expect("it ends when it is interrupted");
}

fn kv(server: &Server) -> KvClient<Channel> {
    KvClient::new(server.channel.clone()).max_decoding_message_size(usize::MAX)
}

fn key(prefix: &str, number: usize) -> Bytes {
    // Any bytes may stand in a key.
    [prefix.as_bytes(), b"/", &number.to_be_bytes(), &[0, 0xff]].concat().into()
}

fn put(key: Bytes, value: &'static str) -> Request {
    Request::RequestPut(PutRequest { key, value: Bytes::from_static(value.as_bytes()), ..Default::default() })
}

fn delete(key: Bytes) -> Request {
    Request::RequestDeleteRange(DeleteRangeRequest { key, ..Default::default() })
}

async fn write(kv: &mut KvClient<Channel>, requests: Vec<Request>) {
    let success = requests.into_iter().map(|request| RequestOp { request: Some(request) }).collect();
    kv.txn(TxnRequest { success, ..Default::default() }).await.expect("a transaction of writes succeeds");
}

async fn fill(kv: &mut KvClient<Channel>, prefix: &str) {
    for first in (0..KEYS).step_by(BATCH) {
        write(kv, (first..first + BATCH).map(|number| put(key(prefix, number), "first")).collect()).await;
    }
}

/// Puts and deletes, alone and several in one revision.
async fn change(kv: &mut KvClient<Channel>, prefix: &str) {
    write(kv, vec![put(key(prefix, 0), "changed"), delete(key(prefix, 1)), put(key(prefix, KEYS), "new")])
        .await;
    write(kv, vec![put(key(prefix, 2), "changed once")]).await;
    write(kv, vec![put(key(prefix, 2), "changed twice")]).await;
    write(kv, vec![delete(key(prefix, 3))]).await;
    write(kv, vec![put(key(prefix, 3), "again")]).await;
}

async fn content(kv: &mut KvClient<Channel>, prefix: &str) -> Vec<(Bytes, Bytes)> {
    let (key, range_end) = (format!("{prefix}/"), format!("{prefix}0"));
    let request = RangeRequest { key: key.into(), range_end: range_end.into(), ..Default::default() };
    let answer = kv.range(request).await.expect("it serves").into_inner();
    let pairs = answer.kvs.into_iter().map(|pair| pair.decode().expect("a pair"));
    pairs.map(|pair| (pair.key.slice(prefix.len()..), pair.value)).collect()
}

async fn assert_equal_soon(
    source: &mut KvClient<Channel>,
    prefix: &str,
    target: &mut KvClient<Channel>,
    mirror: &str,
) {
    let expected = content(source, prefix).await;
    assert_eq!(expected.len(), KEYS);
    let equal = found(async || (content(target, mirror).await == expected).then_some(())).await;
    assert!(equal.is_some(), "{} of {KEYS} keys are mirrored rightly", {
        let found = content(target, mirror).await;
        found.iter().filter(|pair| expected.contains(pair)).count()
    });
}

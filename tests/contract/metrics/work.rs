//! The requests behind the metrics: a little of everything that one member can do.

use std::time::Duration;

use decklog::wire::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use decklog::wire::etcdserverpb::kv_client::KvClient;
use decklog::wire::etcdserverpb::lease_client::LeaseClient;
use decklog::wire::etcdserverpb::maintenance_client::MaintenanceClient;
use decklog::wire::etcdserverpb::request_op::Request as Operation;
use decklog::wire::etcdserverpb::watch_client::WatchClient;
use decklog::wire::etcdserverpb::watch_request::RequestUnion;
use decklog::wire::etcdserverpb::{
    AlarmRequest, CompactionRequest, Compare, DefragmentRequest, DeleteRangeRequest, HashKvRequest,
    HashRequest, LeaseGrantRequest, LeaseKeepAliveRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
    PutRequest, RangeRequest, RequestOp, TxnRequest, WatchCreateRequest, WatchRequest, WatchResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::scrape::{Measured, Scrape};

pub const LONG_LEASE: i64 = 7;
const SHORT_LEASE: i64 = 8;
/// What the watch delivers: five puts, two deletions and a key with its lease, put and deleted.
pub const EVENTS: usize = 9;
pub const DEADLINE: Duration = Duration::from_secs(60);
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// A watch that stays open until it is dropped.
pub struct OpenWatch {
    _requests: mpsc::Sender<WatchRequest>,
    _answers: Streaming<WatchResponse>,
}

/// Everything, in an order that makes every counter's value certain.
pub async fn do_a_little_of_everything(measured: &Measured) -> OpenWatch {
    let channel = &measured.server.channel;
    keys(channel).await;
    transactions(channel).await;
    leases(measured).await;
    let watch = watch(channel).await;
    maintenance(channel).await;
    for path in ["/health", "/livez", "/readyz"] {
        assert!(measured.get(path).await.contains("200 OK"), "{path}");
    }
    watch
}

/// Four puts, two ranges, a deletion of two keys and one of none.
async fn keys(channel: &Channel) {
    let mut kv = KvClient::new(channel.clone());
    for (key, value) in [("k1", "v"), ("k2", "v"), ("k3", "v"), ("k1", "other")] {
        kv.put(put(key, value)).await.expect("a put");
    }
    kv.range(range("k1")).await.expect("a range");
    let all = RangeRequest { serializable: true, range_end: "l".into(), ..range("k") };
    kv.range(all).await.expect("a range");
    for (key, range_end) in [("k2", "k9"), ("x", "y")] {
        let request = DeleteRangeRequest { key: key.into(), range_end: range_end.into(), prev_kv: false };
        kv.delete_range(request).await.expect("a deletion");
    }
}

/// One that writes and one that only reads.
async fn transactions(channel: &Channel) {
    let mut kv = KvClient::new(channel.clone());
    let writes = vec![Operation::RequestPut(put("k5", "five")), Operation::RequestRange(range("k1"))];
    for operations in [writes, vec![Operation::RequestRange(range("k1"))]] {
        let success = operations.into_iter().map(|request| RequestOp { request: Some(request) }).collect();
        let answer = kv.txn(TxnRequest { compare: vec![is_other("k1")], success, failure: Vec::new() }).await;
        assert!(answer.expect("a transaction").into_inner().succeeded);
    }
}

/// One that is renewed and revoked with its key, and one that runs out.
async fn leases(measured: &Measured) {
    let channel = &measured.server.channel;
    let mut lease = LeaseClient::new(channel.clone());
    for (id, ttl) in [(LONG_LEASE, 100), (SHORT_LEASE, 2)] {
        lease.lease_grant(LeaseGrantRequest { id, ttl }).await.expect("a lease");
    }
    let renewal = tokio_stream::once(LeaseKeepAliveRequest { id: LONG_LEASE });
    let mut answers = lease.lease_keep_alive(renewal).await.expect("a stream").into_inner();
    let renewed = answers.message().await.expect("no error").expect("an answer");
    assert_eq!(renewed.ttl, 100);
    let asked = LeaseTimeToLiveRequest { id: LONG_LEASE, keys: true };
    lease.lease_time_to_live(asked).await.expect("its time");
    let with_lease = PutRequest { lease: LONG_LEASE, ..put("kl", "leased") };
    KvClient::new(channel.clone()).put(with_lease).await.expect("a put");
    lease.lease_revoke(LeaseRevokeRequest { id: LONG_LEASE }).await.expect("it is there");
    let expired = async {
        let mut poll = tokio::time::interval(POLL_INTERVAL);
        while Scrape::of(measured).await.value("etcd_debugging_server_lease_expired_total", &[]) < 1.0 {
            poll.tick().await;
        }
    };
    tokio::time::timeout(DEADLINE, expired).await.expect("the short lease runs out");
}

/// Everything that happened, from the first revision on.
async fn watch(channel: &Channel) -> OpenWatch {
    let (requests, receiver) = mpsc::channel(1);
    let everything = WatchCreateRequest {
        key: "\0".into(),
        range_end: "\0".into(),
        start_revision: 2,
        ..WatchCreateRequest::default()
    };
    let create = WatchRequest { request_union: Some(RequestUnion::CreateRequest(everything)) };
    requests.send(create).await.expect("the stream is open");
    let answers = WatchClient::new(channel.clone()).watch(ReceiverStream::new(receiver)).await;
    let mut answers = answers.expect("a stream").into_inner();
    let mut events = 0;
    while events < EVENTS {
        events += answers.message().await.expect("no error").expect("an answer").events.len();
    }
    assert_eq!(events, EVENTS);
    OpenWatch { _requests: requests, _answers: answers }
}

async fn maintenance(channel: &Channel) {
    let mut maintenance = MaintenanceClient::new(channel.clone());
    let compaction = CompactionRequest { revision: 5, physical: true };
    KvClient::new(channel.clone()).compact(compaction).await.expect("a compaction");
    maintenance.hash(HashRequest {}).await.expect("a hash");
    maintenance.hash_kv(HashKvRequest { revision: 0 }).await.expect("a hash");
    maintenance.defragment(DefragmentRequest {}).await.expect("a defragmentation");
    maintenance.alarm(AlarmRequest::default()).await.expect("a list of alarms");
}

fn put(key: &str, value: &str) -> PutRequest {
    PutRequest { key: key.to_owned().into(), value: value.to_owned().into(), ..PutRequest::default() }
}

fn range(key: &str) -> RangeRequest {
    RangeRequest { key: key.to_owned().into(), ..RangeRequest::default() }
}

fn is_other(key: &str) -> Compare {
    Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Value.into(),
        key: key.to_owned().into(),
        target_union: Some(TargetUnion::Value("other".into())),
        ..Compare::default()
    }
}

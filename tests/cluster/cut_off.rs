//! A leader that cannot reach the others: it acknowledges nothing and answers no linearizable read, its clients hear
//! etcd's errors in etcd's time, and the others elect and go on.

use std::time::{Duration, Instant};

use decklog::wire::etcdserverpb as pb;
use decklog::wire::etcdserverpb::kv_client::KvClient;
use decklog::wire::etcdserverpb::lease_client::LeaseClient;
use decklog::wire::etcdserverpb::watch_client::WatchClient;
use decklog::wire::etcdserverpb::watch_request::RequestUnion;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

use crate::members::{Cluster, Options, channel};
use crate::network::Way;
use crate::peers::peer_or_skip;
use crate::until::{LIMIT, found};

/// etcd's: 5 s and two election timeouts.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(7);
const ELECTION_TIMEOUT: Duration = Duration::from_secs(1);
const NO_LEADER: &str = "etcdserver: no leader";

/// Which directions of a leader's links are held.
#[derive(Clone, Copy, Debug)]
enum Cut {
    Both,
    /// What it says.
    Out,
    /// What it would hear.
    In,
}

fn cut(cluster: &Cluster, leader: usize, cut: Cut) {
    let held = Way { is_held: true, ..Way::default() };
    for other in (0..3).filter(|other| *other != leader) {
        if let Cut::Both | Cut::Out = cut {
            cluster.network.set(leader, other, held);
        }
        if let Cut::Both | Cut::In = cut {
            cluster.network.set(other, leader, held);
        }
    }
}

async fn put(cluster: &Cluster, place: usize, key: &'static str) -> Result<i64, Status> {
    let request = pb::PutRequest { key: key.into(), value: key.into(), ..pb::PutRequest::default() };
    let answer = KvClient::new(channel(&cluster.urls()[place])).put(request).await?.into_inner();
    Ok(answer.header.expect("a header").revision)
}

async fn count(
    cluster: &Cluster,
    place: usize,
    key: &'static str,
    is_serializable: bool,
) -> Result<i64, Status> {
    let request =
        pb::RangeRequest { key: key.into(), serializable: is_serializable, ..pb::RangeRequest::default() };
    Ok(KvClient::new(channel(&cluster.urls()[place])).range(request).await?.into_inner().count)
}

/// How it failed, in the time that etcd gives a request (twice that, for a machine that is busy).
async fn fails<T>(what: &str, ask: impl Future<Output = Result<T, Status>>) -> String {
    let answer = tokio::time::timeout(2 * REQUEST_TIMEOUT, ask).await.expect("it is answered in time");
    let status = answer.err().unwrap_or_else(|| panic!("{what} is answered by a leader that was cut off"));
    assert_eq!(status.code(), Code::Unavailable, "{what}: {status}");
    status.message().to_owned()
}

async fn a_cut_off_leader_serves_nothing(how: Cut) {
    let cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let (one, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let before = put(&cluster, leader, "before").await.expect("written");
    cut(&cluster, leader, how);
    // Asked at once, while it still takes itself for the leader.
    let (written, read) = tokio::join!(
        fails("a write", put(&cluster, leader, "lost")),
        fails("a linearizable read", count(&cluster, leader, "before", false)),
    );
    println!("{how:?}: {written}; {read}");
    for told in [&written, &read] {
        // One that hears the next leader knows that its own time is over.
        let has_heard = matches!(how, Cut::Out) && told == "etcdserver: leader changed";
        assert!(has_heard || told.starts_with("etcdserver: request timed out"), "{how:?}: {told}");
    }
    // The others have gone on, and the one that is cut off shows what it has.
    let next = cluster.leader_among(&[one, other]).await;
    assert_ne!(next, leader);
    let after = put(&cluster, one, "after").await.expect("written");
    assert!(after > before);
    assert_eq!(count(&cluster, other, "after", false).await.expect("read"), 1);
    assert_eq!(count(&cluster, leader, "before", true).await.expect("read"), 1);
    if !matches!(how, Cut::Out) {
        assert_eq!(count(&cluster, leader, "after", true).await.expect("read"), 0);
    }
    cluster.network.heal();
    assert_eq!(cluster.count_at(leader, "after").await, 1);
    // The others may have taken the write from one that did not hear them say so; all agree whether it was made.
    let mut lost = Vec::new();
    for place in 0..3 {
        lost.push(count(&cluster, place, "lost", false).await.expect("read"));
    }
    let taken = if matches!(how, Cut::In) { lost[0] } else { 0 };
    assert_eq!(lost, [taken; 3], "{how:?}");
}

#[tokio::test]
async fn a_leader_that_is_cut_off_serves_nothing() {
    tokio::join!(
        a_cut_off_leader_serves_nothing(Cut::Both),
        a_cut_off_leader_serves_nothing(Cut::Out),
        a_cut_off_leader_serves_nothing(Cut::In),
    );
}

/// Who asks for a leader (`hasleader`) is refused at once; a stream of his ends within some election timeouts, others
/// stay. The same holds for etcd.
#[tokio::test]
async fn whoever_wants_a_leader_hears_that_there_is_none() {
    let etcd = peer_or_skip("whoever_wants_a_leader_hears_that_there_is_none", "etcd");
    for program in etcd.into_iter().chain([Options::default().program]) {
        without_leader(Cluster::start_with(3, Options { program, ..Options::default() }).await).await;
    }
}

async fn without_leader(cluster: Cluster) {
    let leader = cluster.leader().await;
    let mut wanting = watch(&cluster, leader, true).await.expect("a leader is there");
    let mut content = watch(&cluster, leader, false).await.expect("it needs none");
    cut(&cluster, leader, Cut::Both);
    let began = Instant::now();
    let told = tokio::time::timeout(LIMIT, wanting.message()).await.expect("it ends");
    let told = told.expect_err("it ends with an error");
    assert_eq!((told.code(), told.message()), (Code::Unavailable, NO_LEADER));
    // It steps down after an election timeout, and is without a leader at three looks.
    assert!(began.elapsed() > 2 * ELECTION_TIMEOUT, "after {:?}", began.elapsed());
    let url = &cluster.urls()[leader];
    let put = wants_leader(pb::PutRequest { key: "k".into(), ..pb::PutRequest::default() });
    let read =
        wants_leader(pb::RangeRequest { key: "k".into(), serializable: true, ..pb::RangeRequest::default() });
    let grant = wants_leader(pb::LeaseGrantRequest { ttl: 60, id: 0 });
    let began = Instant::now();
    let refused = [
        KvClient::new(channel(url)).put(put).await.map(drop),
        KvClient::new(channel(url)).range(read).await.map(drop),
        LeaseClient::new(channel(url)).lease_grant(grant).await.map(drop),
        watch(&cluster, leader, true).await.map(drop),
    ];
    assert!(began.elapsed() < REQUEST_TIMEOUT, "they are refused at once");
    for status in refused.map(|answer| answer.expect_err("there is no leader")) {
        assert_eq!((status.code(), status.message()), (Code::Unavailable, NO_LEADER));
    }
    // The other stream has outlived all that, and goes on.
    cluster.network.heal();
    cluster.put_at((leader + 1) % 3, "k", "v").await;
    let told = tokio::time::timeout(LIMIT, content.message()).await.expect("it is told").expect("it goes on");
    assert_eq!(told.expect("an answer").events.len(), 1);
}

fn wants_leader<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("hasleader", "true".parse().expect("it is ASCII"));
    request
}

/// A watch of "k" that has begun.
async fn watch(
    cluster: &Cluster,
    place: usize,
    leader: bool,
) -> Result<tonic::Streaming<pb::WatchResponse>, Status> {
    let (requests, receiver) = tokio::sync::mpsc::channel(1);
    let create = pb::WatchCreateRequest { key: "k".into(), ..pb::WatchCreateRequest::default() };
    let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    requests.send(request).await.expect("there is room");
    // The client has more to say, but never does.
    tokio::spawn(async move { requests.closed().await });
    let outgoing = ReceiverStream::new(receiver);
    let request = if leader { wants_leader(outgoing) } else { Request::new(outgoing) };
    let mut answers = WatchClient::new(channel(&cluster.urls()[place])).watch(request).await?.into_inner();
    assert!(answers.message().await?.is_some_and(|answer| answer.created));
    Ok(answers)
}

impl Cluster {
    /// Once one of these knows a leader that is one of these.
    async fn leader_among(&self, places: &[usize]) -> usize {
        let leader = found(async || {
            let leader = self.leader_seen_by(places[0]).await;
            places.contains(&leader).then_some(leader)
        });
        leader.await.expect("another leader is elected")
    }
}

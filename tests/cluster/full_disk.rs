//! A member whose disk is full: the others go on, it refuses what it has no room for, and comes back when there is some.

use decklog::wire::etcdserverpb::kv_client::KvClient;
use decklog::wire::etcdserverpb::{PutRequest, RangeRequest};
use tonic::{Code, Status};

use crate::members::{Cluster, Options, channel};
use crate::until::until;

const SMALL: usize = 0;
const OTHER: usize = 1;
const VALUE_BYTES: usize = 1 << 20;
/// More than the small disk holds.
const MAX_WRITES: usize = 400;
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

async fn put_large(cluster: &Cluster, place: usize) -> Result<(), Status> {
    let value = vec![7; VALUE_BYTES].into();
    let request = PutRequest { key: "large".into(), value, ..PutRequest::default() };
    KvClient::new(channel(&cluster.urls()[place])).put(request).await.map(drop)
}

/// Writes by one member until the small disk has no room for more.
async fn fill(cluster: &Cluster, place: usize) {
    cluster.disk(SMALL).expect("it has one").fill();
    for _ in 0..MAX_WRITES {
        if cluster.is_full(SMALL) {
            return;
        }
        if let Err(status) = put_large(cluster, place).await {
            assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, NO_SPACE));
        }
    }
    panic!("{MAX_WRITES} writes fit on a full disk");
}

async fn reads(cluster: &Cluster, place: usize) -> bool {
    let request = RangeRequest { key: "large".into(), serializable: true, ..RangeRequest::default() };
    let mut kv = KvClient::new(channel(&cluster.urls()[place])).max_decoding_message_size(usize::MAX);
    kv.range(request).await.is_ok_and(|answer| answer.into_inner().count == 1)
}

#[tokio::test]
async fn a_member_without_room_harms_nobody_and_comes_back() {
    let options = Options { small_disk: Some(SMALL), ..Options::with_flags(&[]) };
    let mut cluster = Cluster::start_with(3, options).await;
    if cluster.disk(SMALL).is_none() {
        return; // said to be skipped
    }
    // As a follower.
    cluster.hand_over_to(OTHER).await;
    fill(&cluster, OTHER).await;
    for _ in 0..10 {
        cluster.put_at(OTHER, "key", "the others go on").await;
    }
    assert!(reads(&cluster, SMALL).await);
    cluster.disk(SMALL).expect("it has one").make_room();
    until("there is room", async || !cluster.is_full(SMALL)).await;
    cluster.put_at(SMALL, "key", "it goes on").await;
    // As the leader: it refuses, until another leads.
    cluster.hand_over_to(SMALL).await;
    fill(&cluster, SMALL).await;
    let refused = put_large(&cluster, SMALL).await.expect_err("there is no room");
    assert_eq!((refused.code(), refused.message()), (Code::ResourceExhausted, NO_SPACE));
    assert!(reads(&cluster, SMALL).await);
    cluster.hand_over_to(OTHER).await;
    cluster.put_at(OTHER, "key", "the others go on").await;
    cluster.disk(SMALL).expect("it has one").make_room();
    until("there is room", async || !cluster.is_full(SMALL)).await;
    cluster.put_at(SMALL, "key", "it goes on").await;
    assert!(!cluster.has_ended(SMALL), "{}", cluster.log(SMALL));
    cluster.become_equal().await;
}

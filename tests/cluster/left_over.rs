//! `--force-new-cluster`: what is left of a cluster whose quorum is lost goes on alone, with all that it has.

use std::path::PathBuf;
use std::time::Duration;

use decklog::wire::etcdserverpb as pb;
use decklog::wire::etcdserverpb::cluster_client::ClusterClient;
use decklog::wire::etcdserverpb::kv_client::KvClient;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::changes::{add, goes_on, list};
use crate::healing::put_some;
use crate::members::{Acknowledged, Cluster};
use crate::peers::peer_or_skip;
use crate::servers::{Launch, Server};
use crate::setting;
use crate::until::found;

const FORCE: &str = "--force-new-cluster";
/// The store is given nothing before the member stops in order: until then, dropping the others is under way.
const SLOW_STORE: &str = "--backend-batch-interval=1h";

/// Cut short at any moment, it is begun again, and what the log has decided stands at a start without the flag, too; the others
/// are dropped for good, and others may be added.
#[tokio::test]
async fn one_of_three_goes_on_alone() {
    let seed = setting("DECKLOG_CLUSTER_SEED").unwrap_or_else(rand::random);
    println!("DECKLOG_CLUSTER_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let mut cluster = Cluster::start(3).await;
    let mut history = Acknowledged::new();
    put_some(&cluster, 0, "of three", &mut history).await;
    cluster.check(&history).await;
    let mut own = list(&cluster, 0).await;
    own.retain(|member| member.id == cluster.id(0));
    (0..3).for_each(|place| cluster.kill(place));
    cluster.add_flags(0, &[SLOW_STORE, FORCE]);
    for _ in 0..3 {
        let after = Duration::from_millis(random.random_range(0..300));
        cluster.start_and_kill(0, &["all other members are dropped"], after).await;
    }
    cluster.launch(0).await;
    cluster.kill(0);
    cluster.drop_flags(0, 1);
    cluster.launch(0).await;
    let log = cluster.log(0);
    assert!(log.contains("the log has removed members that the store still knows"), "{log}");
    assert_eq!(list(&cluster, 0).await, own);
    cluster.check_places(&[0], &history).await;
    put_some(&cluster, 0, "alone", &mut history).await;
    cluster.stop(0).await;
    cluster.launch(0).await;
    assert_eq!(list(&cluster, 0).await, own);
    let log = cluster.fails(1).await;
    assert!(log.contains("has been permanently removed from the cluster"), "{log}");
    let (place, url) = cluster.newcomer().await;
    add(&cluster, 0, &url, false).await.expect("added");
    cluster.launch(place).await;
    cluster.check_places(&[0, place], &history).await;
    goes_on(&cluster, place, 0).await;
}

/// A learner, too.
#[tokio::test]
async fn a_learner_goes_on_alone() {
    let mut cluster = Cluster::start(1).await;
    let mut history = Acknowledged::new();
    put_some(&cluster, 0, "before", &mut history).await;
    let (place, url) = cluster.newcomer().await;
    add(&cluster, 0, &url, true).await.expect("added");
    cluster.launch(place).await;
    cluster.stop(place).await;
    cluster.kill(0);
    cluster.add_flags(place, &[FORCE]);
    cluster.launch(place).await;
    let members = list(&cluster, place).await;
    assert_eq!((members.len(), members[0].is_learner), (1, false), "{members:?}");
    cluster.check_places(&[place], &history).await;
    put_some(&cluster, place, "alone", &mut history).await;
}

/// One voter, and another that was added and never came: the same steps on real etcd and here, the same members seen.
#[tokio::test]
async fn etcd_goes_on_alone_in_the_same_way() {
    let etcd = peer_or_skip("etcd_goes_on_alone_in_the_same_way", "etcd");
    for program in [Some(PathBuf::from(env!("CARGO_BIN_EXE_decklog"))), etcd].into_iter().flatten() {
        let server = Server::launch(Launch::new(&program, &[])).await;
        write(&server, "before").await;
        let mut client = ClusterClient::new(server.channel.clone());
        let before = members(&server).await;
        let peer_ur_ls = vec!["http://127.0.0.1:1".to_owned()];
        let request = pb::MemberAddRequest { peer_ur_ls, is_learner: false };
        client.member_add(request).await.expect("it may grow to two");
        let Server { process, mut launch, .. } = server;
        drop(process);
        launch.more_flags.push(FORCE.to_owned());
        let server = Server::launch(launch).await;
        assert_eq!(members(&server).await, before, "{}", program.display());
        write(&server, "after").await;
        for key in ["before", "after"] {
            let request = pb::RangeRequest { key: key.into(), ..pb::RangeRequest::default() };
            let found = KvClient::new(server.channel.clone()).range(request).await.expect("it answers");
            assert_eq!(found.into_inner().count, 1, "{key} at {}", program.display());
        }
    }
}

/// Once it has said its name.
async fn members(server: &Server) -> (u64, u64, Vec<pb::Member>) {
    let members = found(async || {
        let request = pb::MemberListRequest { linearizable: true };
        let answer = ClusterClient::new(server.channel.clone()).member_list(request).await.ok()?;
        let pb::MemberListResponse { header, members } = answer.into_inner();
        let header = header.expect("a header");
        let all_have_begun = members.iter().all(|member| !member.name.is_empty());
        all_have_begun.then_some((header.cluster_id, header.member_id, members))
    });
    members.await.unwrap_or_else(|| panic!("no members: {}", server.launch.log()))
}

async fn write(server: &Server, key: &'static str) {
    let request = pb::PutRequest { key: key.into(), value: "value".into(), ..pb::PutRequest::default() };
    KvClient::new(server.channel.clone()).put(request).await.expect("it is written");
}

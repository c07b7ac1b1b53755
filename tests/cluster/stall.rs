//! Disks that stall: `faults.c` makes the syncs of one member wait. A leader with such a disk must not hold up the
//! cluster.

use std::fs;
use std::path::Path;
use std::time::Duration;

use decklog::wire::etcdserverpb::PutRequest;
use decklog::wire::etcdserverpb::kv_client::KvClient;
use tonic::Request;

use crate::libraries::library_or_skip;
use crate::members::{Cluster, Options, channel};
use crate::until::{found_within, until};

/// For one hand-over; a next stall makes another.
const PATIENCE: Duration = Duration::from_secs(5);

/// A cluster in which the syncs of any member can be made to wait.
async fn cluster_with(library: &Path) -> Cluster {
    Cluster::start_changed(3, Options::default(), |_, launch| {
        let folder = launch.folder.path();
        launch.variables = vec![
            ("LD_PRELOAD".into(), library.into()),
            ("DECKLOG_STALL_FLAG".into(), folder.join("stall").into()),
            ("DECKLOG_FAULT_IN".into(), folder.join("data").into()),
        ];
    })
    .await
}

fn stall(cluster: &Cluster, place: usize) {
    fs::write(cluster.folder(place).join("stall"), "").expect("a file");
}

fn go_on(cluster: &Cluster, place: usize) {
    fs::remove_file(cluster.folder(place).join("stall")).expect("it is there");
}

/// A write that nobody waits for: it makes the member flush.
fn write_at(cluster: &Cluster, place: usize) {
    let mut client = KvClient::new(channel(&cluster.urls()[place]));
    let request = PutRequest { key: "stalled".into(), ..PutRequest::default() };
    tokio::spawn(async move { drop(client.put(request).await) });
}

#[tokio::test]
async fn a_leader_whose_disk_stalls_does_not_hold_up_the_cluster() {
    let folder = tempfile::tempdir().expect("a folder");
    let test = "a_leader_whose_disk_stalls_does_not_hold_up_the_cluster";
    let Some(library) = library_or_skip(test, "faults", folder.path()) else { return };
    let mut cluster = cluster_with(&library).await;
    let leader = cluster.leader().await;
    let (one, other) = ((leader + 1) % 3, (leader + 2) % 3);
    stall(&cluster, leader);
    write_at(&cluster, leader);
    // The others elect one of them and go on, while the flush still waits.
    until("another leader", async || {
        let known = cluster.status(one).await.leader;
        known != 0 && known != cluster.id(leader)
    })
    .await;
    cluster.put_at(one, "key", "value").await;
    // The stalled member does not say that it leads, and refuses at once who wants a leader.
    until("that it leads no more", async || cluster.status(leader).await.leader == 0).await;
    let mut request = Request::new(PutRequest { key: "key".into(), ..PutRequest::default() });
    request.metadata_mut().insert("hasleader", "true".parse().expect("it is text"));
    let refused = KvClient::new(channel(&cluster.urls()[leader])).put(request).await;
    assert_eq!(refused.expect_err("it is refused").message(), "etcdserver: no leader");
    until("a line in its log", async || cluster.log(leader).contains("consensus waits for the disk")).await;
    go_on(&cluster, leader);
    until("that it follows", async || cluster.status(leader).await.leader != 0).await;
    cluster.put_at(leader, "key", "again").await;
    hands_over(&mut cluster, one, other).await;
    cluster.launch_all().await;
    cluster.become_equal().await;
}

/// With one of three down, nobody else can be elected while the leader stalls; afterwards it hands over.
async fn hands_over(cluster: &mut Cluster, one: usize, other: usize) {
    let leader = cluster.leader().await;
    let down = if leader == other { one } else { other };
    let follower = 3 - leader - down;
    cluster.kill(down);
    let mut stalls = 0;
    loop {
        stalls += 1;
        stall(cluster, leader);
        write_at(cluster, leader);
        until("the stall", async || cluster.status(leader).await.leader == 0).await;
        go_on(cluster, leader);
        let taken_over = found_within(PATIENCE, async || {
            (cluster.status(leader).await.leader == cluster.id(follower)).then_some(())
        });
        if taken_over.await.is_some() {
            break;
        }
        // On a busy machine the hand-over may have come to nothing.
        assert!(stalls < 10, "it goes on to lead");
    }
    let log = cluster.log(leader);
    assert!(log.contains("It hands over") || log.contains("consensus stalled"), "{log}");
}

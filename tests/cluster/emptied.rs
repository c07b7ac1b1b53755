//! Members that come back with an empty directory: none of those who knew them listens to them under their old id, and one
//! command brings them back under a new one.

use decklog::wire::etcdserverpb as pb;

use crate::changes::{add, goes_on, list, once_healthy};
use crate::healing::put_some;
use crate::members::{Acknowledged, Cluster};
use crate::until::found;

const EMPTIED: &str = "has already been bootstrapped, but its data directory was empty";

/// Waits until the members, as one of them sees them, are as they should be.
async fn wait_for_members(cluster: &Cluster, place: usize, wanted: impl Fn(&[pb::Member]) -> bool) {
    let seen = found(async || wanted(&list(cluster, place).await).then_some(())).await;
    assert!(seen.is_some(), "{:?}", list(cluster, place).await);
}

fn voters(members: &[pb::Member]) -> usize {
    members.iter().filter(|member| !member.is_learner && !member.name.is_empty()).count()
}

/// What two acknowledged and the third has not seen is safe from the third and an emptied second: with nobody to ask, that
/// one begins, but the third has met it before, and does not count what it says.
#[tokio::test]
async fn an_emptied_voter_does_not_vote_under_its_old_id() {
    let mut cluster = Cluster::start(3).await;
    let mut history = Acknowledged::new();
    put_some(&cluster, 0, "of three", &mut history).await;
    cluster.kill(2);
    put_some(&cluster, 0, "of two", &mut history).await;
    (0..2).for_each(|place| cluster.kill(place));
    cluster.empty(1);
    let emptied = cluster.spawn(1);
    cluster.wait_for_log(1, "opened the raft log").await;
    let third = cluster.spawn(2);
    let log = cluster.has_failed(1, emptied).await;
    assert!(log.contains(EMPTIED), "{log}");
    drop(third);
    // Not at its next start, either, nor with a directory that is empty again while others can be asked.
    cluster.launch_places(&[0, 2]).await;
    let log = cluster.fails(1).await;
    assert!(log.contains(EMPTIED), "{log}");
    cluster.empty(1);
    let log = cluster.fails(1).await;
    assert!(log.contains(EMPTIED), "{log}");
    assert!(!cluster.data(1).exists(), "nothing is touched");
    cluster.check_places(&[0, 2], &history).await;
}

/// By one command, and without another to promote it; once begun, the command does nothing any more.
#[tokio::test]
async fn an_emptied_voter_rejoins() {
    let mut cluster = Cluster::start(3).await;
    let mut history = Acknowledged::new();
    put_some(&cluster, 0, "before", &mut history).await;
    let before = cluster.id(2);
    cluster.kill(2);
    cluster.empty(2);
    cluster.add_flags(2, &["--rejoin", "--promote-when-ready"]);
    cluster.launch(2).await;
    let now = cluster.id(2);
    assert_ne!(now, before);
    wait_for_members(&cluster, 0, |members| voters(members) == 3).await;
    assert!(list(&cluster, 0).await.iter().all(|member| member.id != before));
    put_some(&cluster, 0, "after", &mut history).await;
    cluster.check(&history).await;
    cluster.stop(2).await;
    cluster.launch(2).await;
    assert_eq!(cluster.id(2), now);
    goes_on(&cluster, 0, 2).await;
}

/// With nobody to ask it does not begin, whatever else it is told.
#[tokio::test]
async fn nobody_rejoins_alone() {
    let mut cluster = Cluster::start(3).await;
    (0..3).for_each(|place| cluster.kill(place));
    cluster.empty(0);
    cluster.add_flags(0, &["--rejoin"]);
    let log = cluster.fails(0).await;
    assert!(log.contains("could not retrieve cluster information"), "{log}");
    assert!(!cluster.data(0).exists(), "nothing is touched");
}

#[tokio::test]
async fn a_learner_is_promoted_when_it_is_ready() {
    let mut cluster = Cluster::start(3).await;
    let mut history = Acknowledged::new();
    put_some(&cluster, 0, "before", &mut history).await;
    let (place, url) = cluster.newcomer().await;
    once_healthy(async || add(&cluster, 0, &url, true).await).await;
    cluster.add_flags(place, &["--promote-when-ready"]);
    cluster.launch(place).await;
    wait_for_members(&cluster, 0, |members| voters(members) == 4).await;
    cluster.check(&history).await;
}

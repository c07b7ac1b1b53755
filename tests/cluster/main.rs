//! Real processes on loopback, reached by each other through ports of the test. Here: three under load on every member and
//! three faults of `faults`; afterwards all live, all are equal, and the recorded history is one that can be. The other
//! files look at one thing each, some of them beside real etcd.
//!
//! `DECKLOG_CLUSTER_RUNS` and `DECKLOG_CLUSTER_SEED` choose how many runs and which, `DECKLOG_CLUSTER_FAULTS` the faults.

mod calls;
mod changes;
#[path = "../check/checker.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod checker;
mod clients;
mod connection;
mod cut_off;
mod emptied;
mod faults;
mod full_disk;
mod healing;
mod left_over;
#[path = "../crash/libraries.rs"]
mod libraries;
mod load;
mod matrix;
mod members;
mod network;
mod observed;
#[path = "../common/peers.rs"]
mod peers;
mod recorder;
#[path = "../contract/metrics/scrape.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod scrape;
#[path = "../common/servers.rs"]
mod servers;
#[path = "../common/small_disk.rs"]
mod small_disk;
mod stall;
#[path = "../common/until.rs"]
mod until;

use std::time::Duration;

use faults::Fault;
use load::Load;
use members::{Cluster, Options};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const DEFAULT_RUNS: u64 = 5;
const FAULTS: usize = 3;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// So long the cluster is left as it is.
async fn let_pass(time: Duration) {
    drop(tokio::time::timeout(time, std::future::pending::<()>()).await);
}

#[tokio::test]
async fn a_cluster_keeps_what_it_promised_through_faults() {
    let first = setting("DECKLOG_CLUSTER_SEED").unwrap_or_else(rand::random);
    for run in 0..setting("DECKLOG_CLUSTER_RUNS").unwrap_or(DEFAULT_RUNS) {
        let seed = first.wrapping_add(run);
        println!("DECKLOG_CLUSTER_RUNS=1 DECKLOG_CLUSTER_SEED={seed}");
        one_run(seed).await;
    }
}

async fn one_run(seed: u64) {
    let mut random = SmallRng::seed_from_u64(seed);
    let faults = chosen(&mut random);
    let small_disk = faults.contains(&Fault::DiskFull).then(|| random.random_range(0..3));
    let options = Options { small_disk, ..Options::without_patience(seed) };
    let mut cluster = Cluster::start_with(3, options).await;
    let load = Load::begin(&cluster, seed);
    for fault in faults {
        load.wait_for_writes(100).await;
        faults::inject(&mut cluster, fault, small_disk, &mut random).await;
    }
    settle(&cluster, load, seed).await;
}

/// After the faults: all live, all have the same, and the history can be.
async fn settle(cluster: &Cluster, load: Load, seed: u64) {
    load.wait_for_every_member().await;
    let history = load.end(cluster).await;
    cluster.become_equal().await;
    match checker::check(&history) {
        Ok(summary) => println!("{summary:?}"),
        Err(violation) => {
            let path = std::env::temp_dir().join(format!("decklog-history-{seed}.json"));
            std::fs::write(&path, history.to_json()).expect("the history can be written");
            panic!("seed {seed}, {}: {violation}", path.display());
        }
    }
}

/// The faults of one run; `DECKLOG_CLUSTER_FAULTS` names others, with commas.
fn chosen(random: &mut SmallRng) -> Vec<Fault> {
    match std::env::var("DECKLOG_CLUSTER_FAULTS") {
        Ok(names) => names.split(',').map(|name| Fault::named(name).expect("a fault's name")).collect(),
        Err(_unset) => (0..FAULTS).map(|_| Fault::any(random)).collect(),
    }
}

/// Known bug: raft looked for the leader among the members when what it had written before it was removed became
/// durable or committed, and the process ended by a panic.
#[tokio::test]
async fn leaders_are_replaced_while_they_are_busy() {
    let seed = rand::random();
    println!("seed {seed}");
    let mut cluster = Cluster::start_with(3, Options::without_patience(seed)).await;
    let load = Load::begin(&cluster, seed);
    for _ in 0..3 {
        load.wait_for_writes(100).await;
        let leader = cluster.leader().await;
        faults::replace(&mut cluster, leader).await;
    }
    settle(&cluster, load, seed).await;
}

/// The leader goes in order: another leads at once, and nobody's write waits for an election.
#[tokio::test]
async fn a_leader_that_stops_in_order_hands_over() {
    let mut cluster = Cluster::start(3).await;
    let leader = cluster.leader().await;
    let term = cluster.term(leader).await;
    cluster.stop(leader).await;
    let other = (leader + 1) % 3;
    let next = cluster.leader_seen_by(other).await;
    assert_ne!(next, leader);
    // One term further: there was no failed election between them.
    assert_eq!(cluster.term(other).await, term + 1);
    cluster.launch(leader).await;
    cluster.put_at(leader, "key", "value").await;
}

//! Three real processes on loopback under load on every member, while members are killed, paused and started again:
//! everything acknowledged is there afterwards, no read was older than what was acknowledged before it, revisions were
//! given once, and all members are equal.
//!
//! `DECKLOG_CLUSTER_RUNS` and `DECKLOG_CLUSTER_SEED` choose how many runs and which.

mod changes;
mod healing;
mod load;
mod members;
#[path = "../common/peers.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod peers;
#[path = "../common/servers.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod servers;

use std::time::Duration;

use load::Load;
use members::Cluster;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const DEFAULT_RUNS: u64 = 3;
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
        let mut random = SmallRng::seed_from_u64(seed);
        let mut cluster = Cluster::start(3).await;
        let load = Load::begin(&cluster, seed);
        for _ in 0..FAULTS {
            load.wait_for_writes(100).await;
            fault(&mut cluster, &mut random).await;
        }
        load.wait_for_writes(100).await;
        let history = load.end().await;
        println!("{history}");
        cluster.check(&history).await;
    }
}

async fn fault(cluster: &mut Cluster, random: &mut SmallRng) {
    let place = random.random_range(0..3);
    let time = Duration::from_millis(random.random_range(200..2500));
    match random.random_range(0..5) {
        0 => {
            println!("the leader is killed");
            let leader = cluster.leader().await;
            cluster.kill(leader);
            let_pass(time).await;
            cluster.launch(leader).await;
        }
        1 => {
            println!("member {place} is killed");
            cluster.kill(place);
            let_pass(time).await;
            cluster.launch(place).await;
        }
        2 => {
            println!("member {place} is paused for {time:?}");
            cluster.signal(place, "STOP");
            let_pass(time).await;
            cluster.signal(place, "CONT");
        }
        3 => {
            println!("all are killed");
            (0..3).for_each(|place| cluster.kill(place));
            cluster.launch_all().await;
        }
        _ => {
            println!("member {place} stops in order");
            cluster.stop(place).await;
            cluster.launch(place).await;
        }
    }
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

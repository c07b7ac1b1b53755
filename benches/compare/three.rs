//! Three members beside three of etcd, with the same heartbeats and election timeouts: load on the leader, on a follower
//! and on all; from the death of the leader to the next accepted write; a fresh member that joins a full store.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tonic::transport::Channel;

use crate::client;
use crate::load::Load;
use crate::options::Options;
use crate::report::Case;
use crate::servers::{Cluster, Programs, order};

/// Of both. The last one is what kubeadm gives etcd: with etcd's own default of 100 000 a joining member would be sent the log.
pub const FLAGS: &[&str] = &["--heartbeat-interval=100", "--election-timeout=1000", "--snapshot-count=10000"];

#[derive(Clone, Copy)]
enum To {
    Leader,
    Follower,
    All,
}

/// Name, arguments of `decklog bench`, and where the load goes.
const CASES: &[(&str, &[&str], To)] = &[
    ("put, 1 client, to the leader", &["put", "--clients", "1", "--connections", "1"], To::Leader),
    ("put, 1 client, to a follower", &["put", "--clients", "1", "--connections", "1"], To::Follower),
    ("put, 100 clients, to the leader", &["put", "--clients", "100", "--connections", "12"], To::Leader),
    ("put, 100 clients, to all", &["put", "--clients", "100", "--connections", "12"], To::All),
    ("put, 1000 clients, to all", &["put", "--clients", "1000", "--connections", "99"], To::All),
    (
        "range, linearizable, 100 clients, to all",
        &["range", "--fill", "--clients", "100", "--connections", "12"],
        To::All,
    ),
    (
        "mixed 80/20, 100 clients, to all",
        &["mixed", "--fill", "--clients", "100", "--connections", "12"],
        To::All,
    ),
];

const FAIL_OVER: &str = "leader killed, next accepted write";
/// How long one of these may take.
const LIMIT: Duration = Duration::from_secs(300);
const LOOK: Duration = Duration::from_millis(5);

/// # Errors
/// When a server does not do what it should, or the load tool fails.
pub async fn measure(programs: &Programs, options: &Options) -> Result<Vec<Case>, String> {
    let wanted: Vec<_> = CASES.iter().filter(|(name, _, _)| options.wants(name)).collect();
    let mut cases: Vec<Case> = wanted.iter().map(|(name, args, _)| Case::new(name, args)).collect();
    for round in 0..options.rounds {
        for (case, (name, args, to)) in cases.iter_mut().zip(&wanted) {
            eprintln!("round {} of {}: {name}", round + 1, options.rounds);
            for kind in order(round) {
                let cluster = Cluster::start(programs.of(kind), 3, FLAGS).await?;
                let endpoints = targets(&cluster, *to).await?;
                let load = Load::on(&cluster, &programs.decklog, args, &endpoints).seconds(options.seconds);
                case.add(kind, load.run()?);
            }
        }
    }
    let mut once = [
        Case::once(FAIL_OVER, "ms"),
        Case::once(&format!("new member, {} keys, in sync", options.keys), "ms"),
    ];
    for kind in order(0) {
        for case in once.iter_mut().filter(|case| options.wants(&case.name)) {
            eprintln!("{kind:?}: {}", case.name);
            let program = programs.of(kind);
            let times = match case.name.as_str() {
                FAIL_OVER => fail_over(program, options.kills).await?,
                _ => join(program, options).await?,
            };
            for took in times {
                case.add(kind, milliseconds(took));
            }
        }
    }
    cases.extend(once.into_iter().filter(|case| options.wants(&case.name)));
    Ok(cases)
}

async fn targets(cluster: &Cluster, to: To) -> Result<Vec<String>, String> {
    let endpoints = cluster.endpoints();
    let leader = client::leader(&endpoints).await?;
    Ok(match to {
        To::Leader => vec![endpoints[leader].clone()],
        To::Follower => vec![endpoints[(leader + 1) % endpoints.len()].clone()],
        To::All => endpoints,
    })
}

fn milliseconds(took: Duration) -> Value {
    json!({"once": took.as_secs_f64() * 1e3})
}

/// The leader is killed, started again, and so on.
async fn fail_over(program: &str, kills: usize) -> Result<Vec<Duration>, String> {
    let mut cluster = Cluster::start(program, 3, FLAGS).await?;
    let mut results = Vec::new();
    for _ in 0..kills {
        let endpoints = cluster.endpoints();
        let leader = client::leader(&endpoints).await?;
        let survivors: Vec<_> = (0..3).filter(|place| *place != leader).collect();
        let channels = survivors.iter().map(|place| client::channel(&endpoints[*place]));
        let channels = channels.collect::<Result<Vec<_>, _>>()?;
        for channel in &channels {
            // Connected, and it serves.
            client::put(channel.clone(), "before").await.map_err(|status| status.to_string())?;
        }
        let began = Instant::now();
        cluster.members[leader].kill();
        client::first_accepted(&channels).await?;
        results.push(began.elapsed());
        cluster.members[leader].launch()?;
        cluster.members[leader].wait_until_healthy().await?;
    }
    Ok(results)
}

async fn join(program: &str, options: &Options) -> Result<Vec<Duration>, String> {
    let cluster = Cluster::start(program, 3, FLAGS).await?;
    let leader = leader_of(&cluster).await?;
    client::fill(&leader, options.keys).await?;
    let mut results = Vec::new();
    for _ in 0..options.rounds {
        results.push(join_once(&cluster, &leader, options.keys).await?);
    }
    Ok(results)
}

pub async fn leader_of(cluster: &Cluster) -> Result<Channel, String> {
    let endpoints = cluster.endpoints();
    client::channel(&endpoints[client::leader(&endpoints).await?])
}

/// A learner joins a store of so many keys from nothing, until it is where the leader was when it began, and is removed again.
pub async fn join_once(cluster: &Cluster, leader: &Channel, keys: u64) -> Result<Duration, String> {
    let revision = client::known_revision(leader).await?;
    let mut newcomer = cluster.newcomer()?;
    let id = client::add_learner(leader, &newcomer.peer_url).await?;
    let channel = client::channel(&newcomer.endpoint())?;
    let began = Instant::now();
    newcomer.launch()?;
    while client::revision(&channel).await < Some(revision) {
        newcomer.check_runs()?;
        if began.elapsed() > LIMIT {
            return Err("the new member is not in sync in time".to_owned());
        }
        tokio::time::sleep(LOOK).await;
    }
    let took = began.elapsed();
    let count = client::count(&channel).await?;
    if count != keys {
        return Err(format!("the new member has {count} of {keys} keys"));
    }
    client::remove(leader, id).await?;
    Ok(took)
}

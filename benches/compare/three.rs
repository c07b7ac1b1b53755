//! Three members beside three of etcd, with the same heartbeats and election timeouts: load on the leader, on a follower
//! and on all; from the death of the leader to the next accepted write; a fresh member that joins a full store.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::client;
use crate::load;
use crate::report::Case;
use crate::servers::{Cluster, Kind, Programs, order};

/// Of both. The last one is what kubeadm gives etcd: with etcd's own default of 100 000 a joining member would be sent the log.
const FLAGS: &[&str] = &["--heartbeat-interval=100", "--election-timeout=1000", "--snapshot-count=10000"];

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

pub struct Options {
    pub rounds: usize,
    pub seconds: String,
    /// Leaders killed.
    pub kills: usize,
    /// In the store that a member joins.
    pub keys: u64,
}

/// # Errors
/// When a server does not do what it should, or the load tool fails.
pub async fn measure(programs: &Programs, options: &Options) -> Result<Vec<Case>, String> {
    let mut cases: Vec<Case> = CASES.iter().map(|(name, args, _)| Case::new(name, args)).collect();
    for round in 0..options.rounds {
        for (case, (name, args, to)) in cases.iter_mut().zip(CASES) {
            eprintln!("round {} of {}: {name}", round + 1, options.rounds);
            for kind in order(round) {
                let cluster = Cluster::start(programs.of(kind), 3, FLAGS).await?;
                let endpoints = targets(&cluster, *to).await?;
                let tool = programs.of(Kind::Decklog);
                case.add(kind, load::drive(&cluster, tool, args, (&options.seconds, &endpoints))?);
            }
        }
    }
    let mut killed = Case::new(FAIL_OVER, &[]);
    let mut joined = Case::new(&format!("new member, {} keys, in sync", options.keys), &[]);
    for kind in order(0) {
        eprintln!("{kind:?}: {FAIL_OVER}");
        for result in fail_over(programs.of(kind), options.kills).await? {
            killed.add(kind, result);
        }
        eprintln!("{kind:?}: joining {} keys", options.keys);
        for result in join(programs.of(kind), options).await? {
            joined.add(kind, result);
        }
    }
    cases.extend([killed, joined]);
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

fn time(took: Duration) -> Value {
    json!({"time_ms": took.as_secs_f64() * 1e3})
}

/// The leader is killed, started again, and so on.
async fn fail_over(program: &str, kills: usize) -> Result<Vec<Value>, String> {
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
        results.push(time(began.elapsed()));
        cluster.members[leader].launch()?;
        cluster.members[leader].wait_until_healthy().await?;
    }
    Ok(results)
}

/// A learner joins from nothing and is removed again, once per round.
async fn join(program: &str, options: &Options) -> Result<Vec<Value>, String> {
    let cluster = Cluster::start(program, 3, FLAGS).await?;
    let endpoints = cluster.endpoints();
    let leader = client::channel(&endpoints[client::leader(&endpoints).await?])?;
    let revision = client::fill(&leader, options.keys).await?;
    let mut results = Vec::new();
    for _ in 0..options.rounds {
        let mut newcomer = cluster.newcomer()?;
        let id = client::add_learner(&leader, &newcomer.peer_url).await?;
        let channel = client::channel(&newcomer.endpoint())?;
        let began = Instant::now();
        newcomer.launch()?;
        while client::revision(&channel).await < Some(revision) {
            newcomer.check_runs()?;
            if began.elapsed() > LIMIT {
                return Err(format!("{program}: the new member is not in sync in time"));
            }
            tokio::time::sleep(LOOK).await;
        }
        results.push(time(began.elapsed()));
        let count = client::count(&channel).await?;
        if count != options.keys {
            return Err(format!("{program}: the new member has {count} of {} keys", options.keys));
        }
        client::remove(&leader, id).await?;
    }
    Ok(results)
}

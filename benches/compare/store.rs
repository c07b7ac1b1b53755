//! What a full store takes: memory, disk, and the restart, of one member beside one of etcd.

use std::time::{Duration, Instant};

use serde_json::json;

use crate::client;
use crate::load::Load;
use crate::options::Options;
use crate::report::Case;
use crate::servers::{Cluster, Member, Programs, order};
use crate::used;

/// More than is ever put here.
pub const QUOTA: &str = "--quota-backend-bytes=17179869184";

/// What is measured of each, and its unit.
const CASES: [(&str, &str); 6] = [
    ("resident memory after the load", "MiB"),
    ("highest resident memory of the load", "MiB"),
    ("data folder after the load", "MiB"),
    ("load, CPU per put", "us"),
    ("restart to the first linearizable read, CPU", "ms"),
    ("restart to the first linearizable read, time", "ms"),
];

/// # Errors
/// When a server does not do what it should, or the load tool fails.
pub async fn measure(programs: &Programs, options: &Options) -> Result<Vec<Case>, String> {
    let mut cases = CASES.map(|(name, unit)| Case::once(name, unit));
    for round in 0..options.rounds {
        for kind in order(round) {
            eprintln!("round {} of {}: {kind:?} with {} keys", round + 1, options.rounds, options.keys);
            let mut cluster = Cluster::start(programs.of(kind), 1, &[QUOTA]).await?;
            let found =
                of_full(&mut cluster, &programs.decklog, &["--keys", &options.keys.to_string()]).await?;
            for (case, found) in cases.iter_mut().zip(found) {
                case.add(kind, json!({"once": found}));
            }
        }
    }
    Ok(cases.into())
}

/// Fills the only member and restarts it: what [`CASES`] says, in that order.
pub async fn of_full(cluster: &mut Cluster, tool: &str, fill: &[&str]) -> Result<[f64; 6], String> {
    let args = [&["fill", "--clients", "100"], fill].concat();
    let load = Load::new(cluster, tool, &args).run()?;
    let per_put = load["server_cpu_us_per_operation"].as_f64().ok_or("no CPU time")?;
    let member = cluster.members.first_mut().ok_or("no member")?;
    let pid = member.running()?;
    used::settle(pid).await?;
    let (resident, highest) = used::memory_mib(pid)?;
    let folder = used::folder_mib(&member.directory)?;
    let (cpu, time) = restart(member).await?;
    Ok([resident, highest, folder, per_put, cpu * 1e3, time.as_secs_f64() * 1e3])
}

/// SIGTERM, then a start: the CPU seconds of the new process at its first linearizable answer, and the time until then.
async fn restart(member: &mut Member) -> Result<(f64, Duration), String> {
    member.terminate().await?;
    let began = Instant::now();
    member.launch()?;
    client::first_read(member).await?;
    let took = began.elapsed();
    Ok((used::cpu_seconds(member.running()?)?, took))
}

//! One member beside one of etcd: a fresh server for every case and round.

use crate::load::Load;
use crate::options::Options;
use crate::report::Case;
use crate::servers::{Cluster, Programs, order};

/// Name, what it is called in the table, and the arguments of `decklog bench`.
const CASES: &[(&str, &[&str])] = &[
    ("put, 1 client", &["put", "--clients", "1", "--connections", "1"]),
    ("put, 10 clients", &["put", "--clients", "10"]),
    ("put, 100 clients", &["put", "--clients", "100"]),
    ("put, 1000 clients", &["put", "--clients", "1000", "--connections", "100"]),
    ("range, linearizable, 100 clients", &["range", "--fill", "--clients", "100"]),
    ("range, linearizable, 1000 clients", &["range", "--fill", "--clients", "1000", "--connections", "100"]),
    (
        "range, serializable, 1000 clients",
        &["range", "--fill", "--serializable", "--clients", "1000", "--connections", "100"],
    ),
    ("txn-put, 1000 clients", &["txn-put", "--clients", "1000", "--connections", "100"]),
    ("mixed 80/20, 100 clients", &["mixed", "--fill", "--clients", "100"]),
    ("lease keep-alive, 1000 clients", &["lease-keepalive", "--clients", "1000", "--connections", "100"]),
    ("watch fan-out, 1000 watchers on 10 streams", &["watch-fanout", "--clients", "1000", "--streams", "10"]),
    (
        "put to 10 000 watched keys",
        &["watch-keys", "--clients", "10000", "--streams", "100", "--writers", "100"],
    ),
    ("put to its event, 1 client", &["watch-latency", "--clients", "1", "--connections", "1"]),
    ("range of 10 000 keys, 4 clients", &["range-many", "--fill", "--clients", "4"]),
];

/// # Errors
/// When a server does not serve or the load tool fails.
pub async fn measure(programs: &Programs, options: &Options) -> Result<Vec<Case>, String> {
    let wanted: Vec<_> = CASES.iter().filter(|(name, _)| options.wants(name)).collect();
    let mut cases: Vec<Case> = wanted.iter().map(|(name, args)| Case::new(name, args)).collect();
    for round in 0..options.rounds {
        for (case, (name, args)) in cases.iter_mut().zip(&wanted) {
            eprintln!("round {} of {}: {name}", round + 1, options.rounds);
            for kind in order(round) {
                let cluster = Cluster::start(programs.of(kind), 1, &[]).await?;
                let load = Load::new(&cluster, &programs.decklog, args).seconds(options.seconds);
                case.add(kind, load.run()?);
            }
        }
    }
    Ok(cases)
}

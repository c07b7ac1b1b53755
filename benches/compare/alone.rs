//! One member beside one of etcd: a fresh server for every case and round.

use crate::load;
use crate::report::Case;
use crate::servers::{Cluster, Kind, Programs, order};

/// Name, what it is called in the table, and the arguments of `decklog bench`.
const CASES: &[(&str, &[&str])] = &[
    ("put, 1 client", &["put", "--clients", "1", "--connections", "1"]),
    ("put, 10 clients", &["put", "--clients", "10"]),
    ("put, 100 clients", &["put", "--clients", "100"]),
    ("put, 1000 clients", &["put", "--clients", "1000", "--connections", "100"]),
    ("range, linearizable, 100 clients", &["range", "--fill", "--clients", "100"]),
    ("range, serializable, 100 clients", &["range", "--fill", "--serializable", "--clients", "100"]),
    ("range, linearizable, 1000 clients", &["range", "--fill", "--clients", "1000", "--connections", "100"]),
    ("txn-put, 100 clients", &["txn-put", "--clients", "100"]),
    ("mixed 80/20, 100 clients", &["mixed", "--fill", "--clients", "100"]),
    ("watch fan-out to 500", &["watch-fanout", "--clients", "500"]),
    ("put to its event, 1 client", &["watch-latency", "--clients", "1", "--connections", "1"]),
    ("lease keep-alive, 100 clients", &["lease-keepalive", "--clients", "100"]),
    ("range of 10 000 keys, 4 clients", &["range-many", "--fill", "--clients", "4"]),
];

/// # Errors
/// When a server does not serve or the load tool fails.
pub async fn measure(programs: &Programs, rounds: usize, seconds: &str) -> Result<Vec<Case>, String> {
    let mut cases: Vec<Case> = CASES.iter().map(|(name, args)| Case::new(name, args)).collect();
    for round in 0..rounds {
        for (case, (name, args)) in cases.iter_mut().zip(CASES) {
            eprintln!("round {} of {rounds}: {name}", round + 1);
            for kind in order(round) {
                let cluster = Cluster::start(programs.of(kind), 1, &[]).await?;
                let result =
                    load::drive(&cluster, programs.of(Kind::Decklog), args, (seconds, &cluster.endpoints()))?;
                case.add(kind, result);
            }
        }
    }
    Ok(cases)
}

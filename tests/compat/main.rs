//! Decklog beside real etcd: the same seeded random programs and the same bad requests go to both, and every
//! answer must be the same.
//!
//! `DECKLOG_COMPAT_PROGRAMS` and `DECKLOG_COMPAT_SEED` choose how many programs and which;
//! `DECKLOG_COMPAT_SELF=1` compares etcd with itself, to test this test.

#[path = "../common/peers.rs"]
mod peers;
#[path = "../common/servers.rs"]
mod servers;

mod answer;
mod bad_requests;
mod compare;
mod differences;
mod programs;
mod resolve;
mod run;
mod side;
mod watching;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use compare::Comparison;
use run::Pair;
use servers::Server;
use side::Side;

const DEFAULT_PROGRAMS: u64 = 500;
const STEPS: usize = 50;

/// The two programs under comparison.
struct Programs {
    etcd: PathBuf,
    comparison: Comparison,
}

impl Programs {
    fn find(test: &str) -> Option<Self> {
        let etcd = peers::peer_or_skip(test, "etcd")?;
        let itself = std::env::var("DECKLOG_COMPAT_SELF").as_deref() == Ok("1");
        let comparison = if itself { Comparison::EtcdWithItself } else { Comparison::EtcdWithDecklog };
        Some(Self { etcd, comparison })
    }

    /// Two servers without any data.
    async fn start(&self) -> Pair {
        let other = match self.comparison {
            Comparison::EtcdWithItself => self.etcd.as_path(),
            Comparison::EtcdWithDecklog => Path::new(env!("CARGO_BIN_EXE_decklog")),
        };
        let (etcd, decklog) =
            tokio::join!(Server::start(&self.etcd, &["--unsafe-no-fsync"]), Server::start(other, &[]));
        Pair {
            etcd: Side::new(etcd),
            decklog: Side::new(decklog),
            comparison: self.comparison,
            tally: BTreeMap::new(),
        }
    }
}

#[tokio::test]
async fn random_programs_have_the_same_answers() {
    let seed: u64 = setting("DECKLOG_COMPAT_SEED").unwrap_or_else(rand::random);
    println!("DECKLOG_COMPAT_SEED={seed}");
    let Some(programs) = Programs::find("random_programs_have_the_same_answers") else { return };
    let mut pair = programs.start().await;
    pair.prepare().await.expect("both servers can be prepared");
    for index in 0..setting("DECKLOG_COMPAT_PROGRAMS").unwrap_or(DEFAULT_PROGRAMS) {
        let program = programs::program(seed, index, STEPS);
        if let Err(difference) = pair.run(&program).await {
            panic!(
                "seed {seed}, program {index}: {difference}\n  step: {:?}{}",
                program.get(difference.step),
                pair.ends().await
            );
        }
    }
    for (kind, count) in &pair.tally {
        println!("{count:6} {kind}");
    }
}

#[tokio::test]
async fn bad_requests_are_refused_alike() {
    let Some(programs) = Programs::find("bad_requests_are_refused_alike") else { return };
    let mut pair = programs.start().await;
    let wrong = bad_requests::wrong_answers(&mut pair).await;
    assert!(wrong.is_empty(), "{} wrong:\n{}{}", wrong.len(), wrong.join("\n"), pair.ends().await);
}

fn setting<T: FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

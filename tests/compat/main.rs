//! Decklog beside real etcd: the same seeded random programs and the same bad requests go to both, and every
//! answer must be the same.
//!
//! Random programs also go to three members, any of them at each step.
//!
//! `DECKLOG_COMPAT_PROGRAMS` (of the cluster: `DECKLOG_COMPAT_CLUSTER_PROGRAMS`) and `DECKLOG_COMPAT_SEED` choose how
//! many programs and which;
//! `DECKLOG_COMPAT_SELF=1` compares etcd with itself, to test this test.

#[path = "../common/peers.rs"]
mod peers;
#[path = "../common/servers.rs"]
#[expect(dead_code, reason = "shared with other tests")]
mod servers;

mod answer;
mod bad_requests;
mod compare;
mod differences;
mod member;
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
use side::Side;

const DEFAULT_PROGRAMS: u64 = 500;
const DEFAULT_CLUSTER_PROGRAMS: u64 = 100;
const MEMBERS: usize = 3;
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
        self.start_members(1, 0).await
    }

    /// etcd, and so many members of the other, of which `seed` chooses one for each step.
    async fn start_members(&self, count: usize, seed: u64) -> Pair {
        let other = match self.comparison {
            Comparison::EtcdWithItself => self.etcd.as_path(),
            Comparison::EtcdWithDecklog => Path::new(env!("CARGO_BIN_EXE_decklog")),
        };
        let etcd = member::start(&self.etcd, &["--unsafe-no-fsync"], 1);
        let (etcd, decklog) = tokio::join!(etcd, member::start(other, &[], count));
        Pair {
            etcd: Side::new(etcd, seed),
            decklog: Side::new(decklog, seed),
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
    run_programs(&programs, 1, seed, setting("DECKLOG_COMPAT_PROGRAMS").unwrap_or(DEFAULT_PROGRAMS)).await;
}

/// Any member answers as etcd does, once it has applied what the others have acknowledged.
#[tokio::test]
async fn random_programs_have_the_same_answers_from_any_member() {
    let seed: u64 = setting("DECKLOG_COMPAT_SEED").unwrap_or_else(rand::random);
    println!("DECKLOG_COMPAT_SEED={seed}");
    let Some(programs) = Programs::find("random_programs_have_the_same_answers_from_any_member") else {
        return;
    };
    let count = setting("DECKLOG_COMPAT_CLUSTER_PROGRAMS").unwrap_or(DEFAULT_CLUSTER_PROGRAMS);
    run_programs(&programs, MEMBERS, seed, count).await;
}

/// etcd 3.5 ends itself with this when a compaction removes what a put looks for at the same time.
const CRASH_OF_ETCD: &str = "range failed to find revision pair";
const MAX_CRASHES_OF_ETCD: u64 = 3;

async fn run_programs(programs: &Programs, members: usize, seed: u64, count: u64) {
    let mut pair = programs.start_members(members, seed).await;
    pair.prepare().await.expect("both servers can be prepared");
    let (mut index, mut crashes) = (0, 0);
    while index < count {
        let program = programs::program(seed, index, STEPS);
        let Err(difference) = pair.run(&program).await else {
            index += 1;
            continue;
        };
        let ends = pair.ends().await;
        let step = program.get(difference.step);
        let is_excused = ends.are_by(CRASH_OF_ETCD) && crashes < MAX_CRASHES_OF_ETCD;
        assert!(is_excused, "seed {seed}, program {index}: {difference}\n  step: {step:?}{ends}");
        println!("etcd crashed in program {index}, by a bug of its own: it and the rest go to new servers");
        crashes += 1;
        let tally = std::mem::take(&mut pair.tally);
        pair = programs.start_members(members, seed).await;
        pair.prepare().await.expect("both servers can be prepared");
        pair.tally = tally;
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

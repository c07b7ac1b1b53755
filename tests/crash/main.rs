//! Crash tests with the real process: whatever ends it, and whatever its files become, what was acknowledged is
//! there after the next start, or the start is refused. Seeds are printed and taken from `DECKLOG_CRASH_SEED`.

mod crowd;
mod damage;
mod disk_model;
mod faults;
mod full;
mod history;
mod journal;
mod judge;
mod keeper;
mod leases;
mod libraries;
mod log_files;
mod missing;
#[path = "../common/peers.rs"]
mod peers;
mod power;
mod process;
mod received;
mod recording;
#[path = "../common/small_disk.rs"]
mod small_disk;
mod trace;
#[path = "../common/until.rs"]
mod until;
mod writer;

use std::env;
use std::time::{Duration, Instant};

use crowd::Crowd;
use process::Member;
use rand::Rng;

const KILLS: u64 = 100;
const WRITERS: usize = 4;
/// How long a life lasts, in milliseconds.
const LIFE: std::ops::Range<u64> = 20..300;

/// From `DECKLOG_CRASH_SEED`, or a new one; printed, so that a failure can be run again.
fn seed(test: &str) -> u64 {
    let seed = variable("DECKLOG_CRASH_SEED").unwrap_or_else(|| rand::rng().random_range(0..1 << 32));
    println!("{test}: DECKLOG_CRASH_SEED={seed}");
    seed
}

fn variable(name: &str) -> Option<u64> {
    let text = env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}

/// Kills the server `DECKLOG_KILLS` times (100 when not set) under load, and checks everything after each.
#[tokio::test]
async fn kill_nine() {
    let (seed, kills) = (seed("kill_nine"), variable("DECKLOG_KILLS").unwrap_or(KILLS));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let member = Member::new(&folder.path().join("data"));
    let mut crowd = Crowd::new(WRITERS, seed);
    let began = Instant::now();
    let mut process = member.start().await;
    for _ in 0..kills {
        let life = Duration::from_millis(crowd.random.random_range(LIFE));
        let living = crowd.begin(&process);
        tokio::time::sleep(life).await; // the length of a life, not a wait for something
        crowd = living.end(async || process.kill()).await;
        process = member.start().await;
        crowd.check(&process).await;
    }
    println!("{kills} kills in {:?}: {}", began.elapsed(), crowd.summary());
}

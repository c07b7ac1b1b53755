//! One member in one thread under a seed: raft, log, apply, key space, leases, store and watch hub as they are, on a
//! disk and a store that fail at any call and lose or tear what was not synced. After every crash the state is that
//! of the naive model after an exact prefix of what was proposed, with everything acknowledged in it; no lease ends
//! before its client was promised; watchers go on without a gap or a repeat, and were told nothing that was lost.
//!
//! `DECKLOG_SIM_RUNS` and `DECKLOG_SIM_SEED` choose how many runs and which.

#[path = "../model/checks.rs"]
mod checks;
mod cluster;
mod known_bugs;
mod member;
mod met;
#[path = "../model/naive.rs"]
mod naive;
#[path = "../model/programs.rs"]
mod programs;
mod promises;
mod subscriber;
#[path = "../model/watching/watcher.rs"]
mod watcher;
mod world;

use decklog::storage::disk::Fault;
use met::Met;
use world::{Arm, World};

const DEFAULT_RUNS: u64 = 300;
const LIVES: usize = 6;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

#[test]
fn a_member_that_crashes_anywhere_keeps_what_it_promised() {
    let first = setting("DECKLOG_SIM_SEED").unwrap_or_else(rand::random);
    let runs = setting("DECKLOG_SIM_RUNS").unwrap_or(DEFAULT_RUNS);
    println!("DECKLOG_SIM_SEED={first}");
    let mut met = Met::default();
    for run in 0..runs {
        let seed = first.wrapping_add(run);
        // The last of these is the one that failed.
        println!("DECKLOG_SIM_RUNS=1 DECKLOG_SIM_SEED={seed}");
        let mut world = World::new(seed);
        for _ in 0..LIVES {
            let arm = world.random_arm();
            world.life(arm);
        }
        world.add_to(&mut met);
    }
    println!("{met:#?}");
    if runs >= DEFAULT_RUNS {
        met.everything();
    }
}

/// Every single call of one member's two lives, one after the other: the machine stops there, and once more at any
/// call of the life after.
#[test]
fn a_member_that_stops_at_each_call_of_a_workload_keeps_what_it_promised() {
    let seed = setting("DECKLOG_SIM_SEED").unwrap_or_else(rand::random);
    println!("DECKLOG_SIM_SEED={seed}");
    let calls_of = |world: &mut World| {
        world.life(Arm::Nothing);
        let before = world.calls();
        world.life(Arm::Nothing);
        (world.calls().0 - before.0, world.calls().1 - before.1)
    };
    let (log, store) = calls_of(&mut World::new(seed));
    let mut met = Met::default();
    let in_log = (0..log).map(|call| Arm::LogAtStart(call, Fault::Stop));
    for arm in in_log.chain((0..store).map(|call| Arm::Store(call, Fault::Stop))) {
        let mut world = World::new(seed);
        world.life(Arm::Nothing);
        world.life(arm);
        let next = world.random_arm();
        world.life(next);
        world.life(Arm::Nothing);
        world.add_to(&mut met);
    }
    println!("{log} calls of the log, {store} of the store: {met:#?}");
}

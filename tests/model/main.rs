//! The state machine, the leases and the watch hub against naive models of them, under random programs.
//!
//! `DECKLOG_MODEL_RUNS` and `DECKLOG_MODEL_SEED` choose how many runs and which.

mod checks;
mod installing;
mod known_bugs;
mod leases;
mod naive;
mod programs;
mod rig;
mod state_machine;
mod transfer;
mod watching;

/// How many runs, and the seed of the first; printed, so that a failure can be repeated.
fn runs(default: u64) -> impl Iterator<Item = u64> {
    let setting = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let first: u64 = setting("DECKLOG_MODEL_SEED").unwrap_or_else(rand::random);
    let runs: u64 = setting("DECKLOG_MODEL_RUNS").unwrap_or(default);
    println!("DECKLOG_MODEL_SEED={first}");
    (0..runs).map(move |run| {
        let seed = first.wrapping_add(run);
        // The last of these is the one that failed.
        println!("DECKLOG_MODEL_RUNS=1 DECKLOG_MODEL_SEED={seed}");
        seed
    })
}

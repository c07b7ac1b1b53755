//! The checker of histories is itself checked: what a right cluster could have done is accepted, and every kind of lie is
//! refused.
//!
//! `DECKLOG_CHECK_SEED` and `DECKLOG_CHECK_RUNS` choose which histories and how many.

mod brute;
#[path = "checker.rs"]
#[expect(dead_code, reason = "recorders use the rest")]
mod checker;
mod generate;
mod lies;
mod watching;

use checker::check;
use checker::history::{History, Operation, Outcome, Request};
use generate::{SMALL, Size, generate};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const DEFAULT_RUNS: u64 = 80;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// Calls `with` for each seed of this run, after saying which.
fn for_seeds(mut with: impl FnMut(u64)) {
    let first = setting("DECKLOG_CHECK_SEED").unwrap_or_else(rand::random);
    let runs = setting("DECKLOG_CHECK_RUNS").unwrap_or(DEFAULT_RUNS);
    println!("DECKLOG_CHECK_RUNS={runs} DECKLOG_CHECK_SEED={first}");
    (0..runs).for_each(|run| with(first.wrapping_add(run)));
}

fn accept(history: &History, seed: u64, what: &str) {
    if let Err(violation) = check(history) {
        panic!("DECKLOG_CHECK_RUNS=1 DECKLOG_CHECK_SEED={seed}: {what} was refused, {violation}");
    }
}

#[test]
fn a_history_survives_json() {
    let history = generate(1, SMALL).history;
    assert_eq!(History::from_json(&history.to_json()).expect("a history"), history);
}

#[test]
fn what_a_right_cluster_does_is_accepted() {
    let mut sum = checker::Summary::default();
    for_seeds(|seed| {
        let history = generate(seed, SMALL).history;
        match check(&history) {
            Ok(summary) => {
                sum.revisions += summary.revisions;
                sum.by_unknown += summary.by_unknown;
                sum.by_expiry += summary.by_expiry;
                sum.events += summary.events;
            }
            Err(violation) => panic!("DECKLOG_CHECK_RUNS=1 DECKLOG_CHECK_SEED={seed}: {violation}"),
        }
    });
    println!("{sum:?}");
    if setting("DECKLOG_CHECK_RUNS").is_none() {
        assert!(sum.by_unknown > 0 && sum.by_expiry > 0 && sum.events > 0, "a kind is missing: {sum:?}");
    }
}

/// Whoever knows less cannot be refused for it: no watches, answers that did not come.
#[test]
fn a_history_of_which_less_is_known_is_accepted() {
    for_seeds(|seed| {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut history = generate(seed, SMALL).history;
        let forget = |operation: &mut Operation| operation.outcome = Outcome::Unknown;
        history.operations.iter_mut().filter(|_| random.random_ratio(1, 8)).for_each(forget);
        accept(&history, seed, "a history without some answers");
        history.watchers.truncate(1);
        accept(&history, seed, "a history with one watch");
    });
}

#[test]
fn large_histories_are_checked_in_seconds() {
    let seed = setting("DECKLOG_CHECK_SEED").unwrap_or_else(rand::random);
    println!("DECKLOG_CHECK_SEED={seed}");
    let size = Size { clients: 20, operations: 100_000, keys: 20 };
    let history = generate(seed, size).history;
    let begun = std::time::Instant::now();
    let summary = check(&history);
    println!("{:?} for {summary:?}", begun.elapsed());
    let violation = summary.err().map(|violation| violation.to_string());
    assert_eq!(violation, None);
    assert!(history.operations.iter().any(|operation| matches!(operation.request, Request::Txn { .. })));
}

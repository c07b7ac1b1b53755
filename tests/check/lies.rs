//! Right histories with one lie in each: every kind must be refused, wherever it can be put.

mod answers;
mod watched;

use std::collections::BTreeMap;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::checker::check;
use crate::checker::report::Rule;
use crate::for_seeds;
use crate::generate::{SMALL, Truth, generate};

/// Puts a lie into a history; `false` when there is no place for it.
type Lie = fn(&mut Truth, &mut SmallRng) -> bool;

/// Any of the places that a lie fits.
fn any<T: Copy>(places: &[T], random: &mut SmallRng) -> Option<T> {
    (!places.is_empty()).then(|| places[random.random_range(0..places.len())])
}

#[test]
fn every_kind_of_lie_is_refused() {
    let lies: Vec<(&str, Lie)> = answers::ALL.iter().chain(watched::ALL).copied().collect();
    let mut refused: BTreeMap<&str, BTreeMap<Rule, u64>> = BTreeMap::new();
    for_seeds(|seed| {
        for (name, lie) in &lies {
            let mut truth = generate(seed, SMALL);
            let mut random = SmallRng::seed_from_u64(seed);
            if !lie(&mut truth, &mut random) {
                continue;
            }
            let rule = match check(&truth.history) {
                Ok(_) => panic!("DECKLOG_CHECK_RUNS=1 DECKLOG_CHECK_SEED={seed}: {name} was not seen"),
                Err(violation) => violation.rule,
            };
            assert_ne!(rule, Rule::Undecided, "DECKLOG_CHECK_RUNS=1 DECKLOG_CHECK_SEED={seed}: {name}");
            *refused.entry(name).or_default().entry(rule).or_default() += 1;
        }
    });
    refused.iter().for_each(|(name, rules)| println!("{name}: {rules:?}"));
    if crate::setting("DECKLOG_CHECK_RUNS").is_none() {
        let missing: Vec<_> = lies.iter().filter(|(name, _)| !refused.contains_key(name)).collect();
        assert!(missing.is_empty(), "never told: {missing:?}");
    }
}

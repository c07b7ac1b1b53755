//! The plainest search for a linearization, and the checker beside it: on small histories, right and wrong ones, both say
//! the same.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::checker::check;
use crate::checker::history::{
    Compare, History, Keys, Operation, Outcome, Pair, RangeRequest, Relation, Request, Response, Target,
};
use crate::checker::state::State;
use crate::for_seeds;

/// Histories for each seed.
const HISTORIES: usize = 40;

/// Whether the operations can have been done one after another, each between its start and its end. `states` are those
/// of all revisions so far; the newest is the last.
fn is_linearizable(left: &mut Vec<&Operation>, states: &mut Vec<State>) -> bool {
    if left.iter().all(|operation| !matches!(operation.outcome, Outcome::Ok { .. })) {
        return true;
    }
    for place in 0..left.len() {
        let operation = left[place];
        // One that may answer from an old state needs none of those that ended before it.
        let is_local = matches!(&operation.request, Request::Range(range) if range.serializable);
        let ended = |other: &&Operation| {
            matches!(other.outcome, Outcome::Ok { .. }) && other.end_ns < operation.start_ns
        };
        if operation.outcome == Outcome::Failed || !is_local && left.iter().any(ended) {
            continue;
        }
        let (response, revision, state) = done(operation, states);
        let fits = match &operation.outcome {
            Outcome::Ok { revision: header, response: told } => {
                *header == revision && response.as_ref() == Some(told)
            }
            _ => true,
        };
        if !fits {
            continue;
        }
        let before = states.len();
        states.extend(state);
        left.remove(place);
        let found = is_linearizable(left, states);
        left.insert(place, operation);
        states.truncate(before);
        if found {
            return true;
        }
    }
    false
}

/// The response (none for a revision that is not there yet), the header's revision, and the state that it makes.
fn done(operation: &Operation, states: &[State]) -> (Option<Response>, i64, Option<State>) {
    let revision = i64::try_from(states.len()).expect("few");
    let asked = match &operation.request {
        Request::Range(range) if range.revision > 0 => range.revision,
        _ => revision,
    };
    let Some(state) = states.get(usize::try_from(asked).expect("positive") - 1) else {
        return (None, revision, None);
    };
    let mut state = state.clone();
    let (response, events) = state.run(revision + 1, &operation.request);
    match events.is_empty() {
        true => (Some(response), revision, None),
        false => (Some(response), revision + 1, Some(state)),
    }
}

/// A few requests on two keys, by three clients, as a right cluster would answer them.
fn small(random: &mut SmallRng) -> History {
    let mut slots: Vec<(u64, u64, u64, u64)> = Vec::new();
    for client in 0..3 {
        let mut now = 0;
        for _ in 0..random.random_range(1..4) {
            let start = now + random.random_range(0..6);
            let effect = start + random.random_range(0..6);
            now = effect + random.random_range(0..6);
            slots.push((effect, client, start, now));
        }
    }
    slots.sort_unstable();
    slots.truncate(7);
    let mut states = vec![State::default()];
    let mut history = History::default();
    for (_, client, start_ns, end_ns) in slots {
        let request = request(random, i64::try_from(states.len()).expect("few"));
        let mut operation =
            Operation { client, member: client, start_ns, end_ns, request, outcome: Outcome::Unknown };
        let fate = random.random_range(0..8);
        if fate > 0 {
            let (response, revision, state) = done(&operation, &states);
            states.extend(state);
            let response = response.expect("nothing from the future is asked for");
            if fate > 1 {
                operation.outcome = Outcome::Ok { revision, response };
            }
        }
        history.operations.push(operation);
    }
    history
}

fn request(random: &mut SmallRng, newest: i64) -> Request {
    let key = ["a", "b"][random.random_range(0..2)].to_owned();
    let keys = if random.random() { Keys::one(&key) } else { Keys::all() };
    let value = ["x", "y"][random.random_range(0..2)].to_owned();
    let put = Request::Put { key: key.clone(), value, lease: 0, prev_kv: random.random() };
    match random.random_range(0..10) {
        0..4 => put,
        4 => Request::Delete { keys, prev_kv: random.random() },
        5 => {
            let target = Target::Version(random.random_range(0..3));
            let compares = vec![Compare { keys: Keys::one(&key), target, result: Relation::Equal }];
            let range = Request::Range(RangeRequest { keys, ..RangeRequest::default() });
            Request::Txn { compares, success: vec![put, range], failure: Vec::new() }
        }
        _ => {
            let revision = if random.random_ratio(1, 4) { random.random_range(1..=newest) } else { 0 };
            let serializable = random.random_ratio(1, 4);
            Request::Range(RangeRequest { keys, revision, serializable, ..RangeRequest::default() })
        }
    }
}

/// Changes something that was told, or when.
fn distort(history: &mut History, random: &mut SmallRng) {
    let count = history.operations.len();
    let (one, other) = (random.random_range(0..count), random.random_range(0..count));
    let by = random.random_range(1..8);
    let operation = &mut history.operations[one];
    match (random.random_range(0..8), &mut operation.outcome) {
        (0, Outcome::Ok { revision, .. }) => *revision += 1,
        (1, Outcome::Ok { revision, .. }) if *revision > 1 => *revision -= 1,
        (2, _) => (operation.start_ns, operation.end_ns) = (operation.start_ns + by, operation.end_ns + by),
        (3, _) => {
            let by = by.min(operation.start_ns);
            (operation.start_ns, operation.end_ns) = (operation.start_ns - by, operation.end_ns - by);
        }
        (4, Outcome::Ok { response: Response::Range { pairs, .. }, .. }) if !pairs.is_empty() => {
            let at = random.random_range(0..pairs.len());
            distort_pair(&mut pairs[at], random);
        }
        (5, Outcome::Ok { response: Response::Range { pairs, count, .. }, .. }) if !pairs.is_empty() => {
            pairs.pop();
            *count -= 1;
        }
        (6, Outcome::Ok { response: Response::Put { prev: prev @ Some(_) }, .. }) => *prev = None,
        (7, _) => operation.outcome = [Outcome::Unknown, Outcome::Failed][random.random_range(0..2)].clone(),
        _ => {
            let outcome = history.operations[one].outcome.clone();
            history.operations[one].outcome =
                std::mem::replace(&mut history.operations[other].outcome, outcome);
        }
    }
}

fn distort_pair(pair: &mut Pair, random: &mut SmallRng) {
    match random.random_range(0..4) {
        0 => pair.version += 1,
        1 => pair.modified = (pair.modified - 1).max(1),
        2 => pair.value = if pair.value == "x" { "y".to_owned() } else { "x".to_owned() },
        _ => pair.created = (pair.created - 1).max(1),
    }
}

#[test]
fn the_checker_says_what_the_plainest_search_says() {
    let (mut right, mut wrong) = (0, 0);
    for_seeds(|seed| {
        let mut random = SmallRng::seed_from_u64(seed);
        for _ in 0..HISTORIES {
            let mut history = small(&mut random);
            for _ in 0..random.random_range(0..3) {
                distort(&mut history, &mut random);
            }
            let mut left = history.operations.iter().collect();
            let found = is_linearizable(&mut left, &mut vec![State::default()]);
            let judged = check(&history);
            assert_eq!(
                judged.is_ok(),
                found,
                "DECKLOG_CHECK_RUNS=1 DECKLOG_CHECK_SEED={seed}: {judged:?} of {}",
                history.operations.iter().map(|operation| format!("\n  {operation}")).collect::<String>()
            );
            if found { right += 1 } else { wrong += 1 }
        }
    });
    println!("{right} right, {wrong} wrong");
    if crate::setting("DECKLOG_CHECK_RUNS").is_none() {
        assert!(right > 500 && wrong > 500, "{right} right and {wrong} wrong ones are not enough");
    }
}

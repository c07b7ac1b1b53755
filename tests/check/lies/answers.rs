//! Lies about what requests did and when.

use rand::Rng;
use rand::rngs::SmallRng;

use super::{Lie, any};
use crate::checker::history::{Keys, Operation, Outcome, Pair, RangeRequest, Request, Response};
use crate::generate::{Truth, pair_at};

pub const ALL: &[(&str, Lie)] = &[
    ("two results swapped", swapped),
    ("an acknowledged write dropped", dropped),
    ("a write that failed and was done", failed_and_done),
    ("a stale read", stale),
    ("a read from the future", early),
    ("a lost update", lost_update),
    ("a revision used again", used_again),
    ("a revision left out", left_out),
    ("a transaction half visible", half_visible),
    ("a comparison that went the other way", other_branch),
    ("a wrong pair before", wrong_previous),
    ("a wrong count of deletions", wrong_deletions),
    ("a key missing in a range", missing_key),
    ("a read of what is compacted", read_of_compacted),
    ("a lease that ends before its time", short_lease),
    ("a key attached to a lease that is no more", dead_lease),
];

/// Acknowledged operations of a kind.
fn acknowledged(truth: &Truth, wanted: impl Fn(&Operation, i64, &Response) -> bool) -> Vec<usize> {
    let operations = truth.history.operations.iter().enumerate();
    let fitting = operations.filter(|(_, operation)| match &operation.outcome {
        Outcome::Ok { revision, response } => wanted(operation, *revision, response),
        _ => false,
    });
    fitting.map(|(place, _)| place).collect()
}

fn answer(truth: &mut Truth, place: usize) -> (&mut i64, &mut Response) {
    match &mut truth.history.operations[place].outcome {
        Outcome::Ok { revision, response } => (revision, response),
        _ => unreachable!("only acknowledged ones are chosen"),
    }
}

fn revision(truth: &Truth, place: usize) -> i64 {
    match &truth.history.operations[place].outcome {
        Outcome::Ok { revision, .. } => *revision,
        _ => unreachable!("only acknowledged ones are chosen"),
    }
}

fn puts(truth: &Truth) -> Vec<usize> {
    acknowledged(truth, |operation, _, _| matches!(operation.request, Request::Put { .. }))
}

/// Acknowledged linearizable reads of the newest pair of one key, whole.
fn reads(truth: &Truth) -> Vec<(usize, String)> {
    let reads = acknowledged(truth, |operation, _, _| match &operation.request {
        Request::Range(range) => {
            range.keys.end.is_empty() && range.revision == 0 && !range.serializable && !range.count_only
        }
        _ => false,
    });
    let key = |place: usize| match &truth.history.operations[place].request {
        Request::Range(range) => range.keys.key.clone(),
        _ => unreachable!("they are ranges"),
    };
    reads.into_iter().map(|place| (place, key(place))).collect()
}

fn range(pair: Option<Pair>) -> Response {
    let pairs: Vec<Pair> = pair.into_iter().collect();
    let count = i64::try_from(pairs.len()).expect("few");
    Response::Range { pairs, more: false, count }
}

fn swapped(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let puts = puts(truth);
    let (Some(one), Some(other)) = (any(&puts, random), any(&puts, random)) else { return false };
    let outcome = truth.history.operations[one].outcome.clone();
    let operations = &mut truth.history.operations;
    operations[one].outcome = std::mem::replace(&mut operations[other].outcome, outcome);
    one != other
}

fn dropped(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let Some(place) = any(&puts(truth), random) else { return false };
    truth.history.operations.remove(place);
    true
}

fn failed_and_done(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let Some(place) = any(&puts(truth), random) else { return false };
    truth.history.operations[place].outcome = Outcome::Failed;
    true
}

/// The answer of a revision that was over when the read began.
fn stale(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let mut fitting = Vec::new();
    for (place, key) in reads(truth) {
        let start_ns = truth.history.operations[place].start_ns;
        let before = acknowledged(truth, |other, revision, _| {
            other.end_ns < start_ns && revision > 1 && matches!(other.request, Request::Put { .. })
        });
        if let Some(newest) = before.into_iter().map(|place| revision(truth, place)).max() {
            fitting.push((place, newest - 1, key));
        }
    }
    if fitting.is_empty() {
        return false;
    }
    let (place, old, key) = fitting.swap_remove(random.random_range(0..fitting.len()));
    let pair = pair_at(&truth.made, &key, old);
    let (revision, response) = answer(truth, place);
    (*revision, *response) = (old, range(pair));
    true
}

/// A read ends before the write that it shows begins.
fn early(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let Some(place) = any(&puts(truth), random) else { return false };
    let made = revision(truth, place);
    let start_ns = truth.history.operations[place].start_ns;
    let seen = acknowledged(truth, |_, revision, _| revision >= made);
    let Some(reader) = any(&seen, random).filter(|reader| *reader != place && start_ns > 1) else {
        return false;
    };
    let reader = &mut truth.history.operations[reader];
    (reader.start_ns, reader.end_ns) = (start_ns - 2, start_ns - 1);
    true
}

/// The header is new, the pair is not.
fn lost_update(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let mut fitting = Vec::new();
    for (place, key) in reads(truth) {
        let newest = pair_at(&truth.made, &key, revision(truth, place));
        if let Some(newest) = newest {
            fitting.push((place, pair_at(&truth.made, &key, newest.modified - 1)));
        }
    }
    if fitting.is_empty() {
        return false;
    }
    let (place, old) = fitting.swap_remove(random.random_range(0..fitting.len()));
    *answer(truth, place).1 = range(old);
    true
}

fn used_again(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let puts = puts(truth);
    let (Some(one), Some(other)) = (any(&puts, random), any(&puts, random)) else { return false };
    let used = revision(truth, one);
    *answer(truth, other).0 = used;
    one != other
}

/// Everything from some revision on is one further than the writes explain.
fn left_out(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let last = i64::try_from(truth.made.len()).expect("few") + 1;
    let from = random.random_range(2..=last);
    truth.history.watchers.clear();
    let later = acknowledged(truth, |_, revision, _| revision >= from);
    // Unknown writes and leases could be the cause.
    truth.history.operations.iter_mut().for_each(|operation| {
        if operation.outcome == Outcome::Unknown {
            operation.outcome = Outcome::Failed;
        }
    });
    later.iter().for_each(|place| *answer(truth, *place).0 += 1);
    !later.is_empty()
}

fn half_visible(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let fitting = acknowledged(truth, |operation, _, response| match (&operation.request, response) {
        (Request::Range(range), Response::Range { pairs, .. }) => {
            range.limit == 0
                && pairs.iter().any(|pair| {
                    let same = |other: &&Pair| other.modified == pair.modified;
                    pair.key.ends_with("-twin") && pairs.iter().filter(same).count() == 2
                })
        }
        _ => false,
    });
    let Some(place) = any(&fitting, random) else { return false };
    if let Response::Range { pairs, count, .. } = answer(truth, place).1 {
        let twins = |pair: &Pair| pair.key.ends_with("-twin");
        let gone = pairs.iter().position(twins).expect("it was chosen for it");
        pairs.remove(gone);
        *count -= 1;
    }
    true
}

fn other_branch(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let fitting = acknowledged(truth, |_, _, response| matches!(response, Response::Txn { .. }));
    let Some(place) = any(&fitting, random) else { return false };
    if let Response::Txn { succeeded, .. } = answer(truth, place).1 {
        *succeeded = !*succeeded;
    }
    true
}

fn wrong_previous(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let fitting = acknowledged(truth, |_, _, response| matches!(response, Response::Put { prev: Some(_) }));
    let Some(place) = any(&fitting, random) else { return false };
    if let Response::Put { prev: Some(pair) } = answer(truth, place).1 {
        pair.version += 1;
    }
    true
}

fn wrong_deletions(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let fitting = acknowledged(truth, |_, _, response| matches!(response, Response::Delete { .. }));
    let Some(place) = any(&fitting, random) else { return false };
    if let Response::Delete { deleted, .. } = answer(truth, place).1 {
        *deleted += 1;
    }
    true
}

fn missing_key(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let fitting = acknowledged(truth, |_, _, response| match response {
        Response::Range { pairs, .. } => !pairs.is_empty(),
        _ => false,
    });
    let Some(place) = any(&fitting, random) else { return false };
    if let Response::Range { pairs, .. } = answer(truth, place).1 {
        pairs.remove(random.random_range(0..pairs.len()));
    }
    true
}

fn read_of_compacted(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let reads = acknowledged(truth, |operation, _, _| match &operation.request {
        Request::Range(range) => range.revision > 0 && !range.serializable,
        _ => false,
    });
    let Some(place) = any(&reads, random) else { return false };
    let (start_ns, at) = match &truth.history.operations[place] {
        Operation { start_ns, request: Request::Range(range), .. } => (*start_ns, range.revision),
        _ => unreachable!("they are ranges"),
    };
    if start_ns < 2 || at >= revision(truth, place) {
        return false;
    }
    // Somebody compacted what is read, as far as it was seen, before the read began.
    let request = Request::Compact { revision: at + 1 };
    let header = acknowledged(truth, |other, _, _| other.end_ns < start_ns).into_iter();
    let Some(header) = header.map(|place| revision(truth, place)).max().filter(|newest| *newest > at) else {
        return false;
    };
    let outcome = Outcome::Ok { revision: header, response: Response::Compact };
    let compaction =
        Operation { client: 90, member: 0, start_ns: start_ns - 2, end_ns: start_ns - 1, request, outcome };
    truth.history.operations.push(compaction);
    true
}

/// Behind everything else: a key goes that was to live with its lease for a long time, and nobody deleted it.
fn short_lease(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let now_ns = truth.history.operations.iter().map(|operation| operation.end_ns).max().unwrap_or(0);
    let now_ns = now_ns.max(truth.made.last().map_or(0, |(made_ns, _)| *made_ns)) + 1_000_000_000;
    let (newest, lease) = (i64::try_from(truth.made.len()).expect("few") + 1, 900);
    let put = |key: &str, lease: i64| Request::Put {
        key: key.to_owned(),
        value: format!("of {key}"),
        lease,
        prev_kv: false,
    };
    let grant = Request::LeaseGrant { id: lease, ttl_seconds: 1000 };
    let granted = Response::LeaseGrant { id: lease, ttl_seconds: 1000 };
    let steps = [
        (grant, newest, granted),
        (put("leased", lease), newest + 1, Response::Put { prev: None }),
        (put("other", 0), newest + 2, Response::Put { prev: None }),
    ];
    for (number, (request, revision, response)) in (0..).zip(steps) {
        let start_ns = now_ns + number;
        let outcome = Outcome::Ok { revision, response };
        let operation = Operation { client: 90, member: 0, start_ns, end_ns: start_ns + 1, request, outcome };
        truth.history.operations.push(operation);
    }
    let keys = Keys { key: "leased".to_owned(), end: "others".to_owned() };
    let request = RangeRequest { keys, ..RangeRequest::default() };
    let other = Pair {
        key: "other".to_owned(),
        value: "of other".to_owned(),
        created: newest + 2,
        modified: newest + 2,
        version: 1,
        lease: 0,
    };
    let outcome = Outcome::Ok { revision: newest + 3, response: range(Some(other)) };
    // Almost to the end of what was promised.
    let start_ns = now_ns + random.random_range(10..999_000_000_000);
    let (request, end_ns) = (Request::Range(request), start_ns + 1);
    truth.history.operations.push(Operation { client: 90, member: 0, start_ns, end_ns, request, outcome });
    true
}

fn dead_lease(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let puts = acknowledged(truth, |operation, revision, _| {
        matches!(operation.request, Request::Put { lease, .. } if lease != 0) && revision > 2
    });
    let Some(place) = any(&puts, random) else { return false };
    let Request::Put { lease, .. } = truth.history.operations[place].request else { return false };
    // The revocation was acknowledged just before the put, with the revision before its own.
    let (start_ns, header) = (truth.history.operations[place].start_ns, revision(truth, place) - 1);
    let outcome = Outcome::Ok { revision: header, response: Response::LeaseRevoke };
    let request = Request::LeaseRevoke { id: lease };
    let end_ns = truth.history.operations[place].end_ns;
    truth.history.operations.push(Operation { client: 90, member: 0, start_ns, end_ns, request, outcome });
    true
}

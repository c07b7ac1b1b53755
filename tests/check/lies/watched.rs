//! Lies of watches. The first watcher has seen everything.

use rand::Rng;
use rand::rngs::SmallRng;

use super::{Lie, any};
use crate::checker::history::{Event, Told, What};
use crate::generate::Truth;

pub const ALL: &[(&str, Lie)] = &[
    ("an event lost", lost),
    ("a revision lost", lost_revision),
    ("an event told again", doubled),
    ("a response told again", told_again),
    ("revisions out of order", reordered),
    ("changes of one revision out of order", reordered_within),
    ("a revision split", split),
    ("a wrong pair before an event", wrong_previous),
    ("a pair before that nobody asked for", unasked_previous),
    ("an event with another value", wrong_value),
    ("a put told as a deletion", wrong_kind),
    ("an event that was filtered out", filtered_kind),
    ("an event of another key", filtered_key),
    ("a bookmark ahead of events", early_bookmark),
    ("a bookmark ahead of an event that never comes", bookmark_over_nothing),
    ("an event older than asked for", older),
    ("what is there told as compacted", not_compacted),
    ("events after the end", after_the_end),
    ("an event before its write began", before_it_was),
];

/// The first watcher's responses.
fn told(truth: &mut Truth) -> &mut Vec<Told> {
    &mut truth.history.watchers[0].sessions[0].told
}

/// Places of the first watcher's responses with events that fit, and of the first event that does.
fn places(truth: &mut Truth, fits: impl Fn(&[Event], usize) -> bool) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    for (place, told) in told(truth).iter().enumerate() {
        if let What::Events { events, goes_on: false } = &told.what {
            let fitting = (0..events.len()).filter(|number| fits(events, *number));
            found.extend(fitting.map(|number| (place, number)));
        }
    }
    found
}

fn events(truth: &mut Truth, place: usize) -> &mut Vec<Event> {
    match &mut told(truth)[place].what {
        What::Events { events, .. } => events,
        _ => unreachable!("only responses with events are chosen"),
    }
}

fn lost(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let places = places(truth, |events, _| events.len() > 1);
    let Some((place, number)) = any(&places, random) else { return false };
    events(truth, place).remove(number);
    true
}

/// A whole response is missing; what comes after it says that nothing is.
fn lost_revision(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let Some((place, _)) = any(&places(truth, |_, _| true), random) else { return false };
    told(truth).remove(place);
    true
}

fn doubled(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let Some((place, number)) = any(&places(truth, |_, _| true), random) else { return false };
    let event = events(truth, place)[number].clone();
    events(truth, place).insert(number, event);
    true
}

fn told_again(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let Some((place, _)) = any(&places(truth, |_, _| true), random) else { return false };
    let again = told(truth)[place].clone();
    told(truth).insert(place + 1, again);
    true
}

fn reordered(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let places = places(truth, |events, number| {
        number > 0 && events[number - 1].pair.modified < events[number].pair.modified
    });
    let Some((place, number)) = any(&places, random) else { return false };
    events(truth, place).swap(number - 1, number);
    true
}

fn reordered_within(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let places = places(truth, |events, number| {
        number > 0 && events[number - 1].pair.modified == events[number].pair.modified
    });
    let Some((place, number)) = any(&places, random) else { return false };
    events(truth, place).swap(number - 1, number);
    true
}

fn split(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let places = places(truth, |events, number| {
        number > 0 && events[number - 1].pair.modified == events[number].pair.modified
    });
    let Some((place, number)) = any(&places, random) else { return false };
    let rest = events(truth, place).split_off(number);
    let first = &told(truth)[place];
    let what = What::Events { events: rest, goes_on: false };
    let rest = Told { at_ns: first.at_ns, revision: first.revision, what };
    told(truth).insert(place + 1, rest);
    true
}

fn wrong_previous(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let places = places(truth, |events, number| events[number].prev.is_some());
    let Some((place, number)) = any(&places, random) else { return false };
    if let Some(prev) = &mut events(truth, place)[number].prev {
        prev.value.push('!');
    }
    true
}

fn unasked_previous(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let places = places(truth, |events, number| events[number].prev.is_some());
    truth.history.watchers[0].sessions[0].request.prev_kv = false;
    any(&places, random).is_some()
}

fn wrong_value(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let places = places(truth, |events, number| !events[number].is_delete);
    let Some((place, number)) = any(&places, random) else { return false };
    events(truth, place)[number].pair.value.push('!');
    true
}

fn wrong_kind(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let Some((place, number)) = any(&places(truth, |_, _| true), random) else { return false };
    let event = &mut events(truth, place)[number];
    event.is_delete = !event.is_delete;
    true
}

fn filtered_kind(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let places = places(truth, |_, _| true);
    let Some((place, number)) = any(&places, random) else { return false };
    let is_delete = events(truth, place)[number].is_delete;
    let request = &mut truth.history.watchers[0].sessions[0].request;
    if is_delete {
        request.no_delete = true
    } else {
        request.no_put = true
    }
    true
}

fn filtered_key(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let Some((place, number)) = any(&places(truth, |_, _| true), random) else { return false };
    // A key that sorts before all others is what is no longer watched.
    let key = events(truth, place)[number].pair.key.clone();
    truth.history.watchers[0].sessions[0].request.keys.key = format!("{key}\0");
    true
}

fn early_bookmark(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let Some((place, number)) = any(&places(truth, |_, _| true), random) else { return false };
    let revision = events(truth, place)[number].pair.modified;
    let at_ns = told(truth)[place].at_ns;
    told(truth).insert(place, Told { at_ns, revision, what: What::Progress });
    true
}

/// The stream ends with a bookmark, and the events before it are not there.
fn bookmark_over_nothing(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let Some((place, _)) = any(&places(truth, |_, _| true), random) else { return false };
    let told = told(truth);
    let last = told.last().expect("it ends with a bookmark").clone();
    told.truncate(place);
    told.push(last);
    true
}

fn older(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let Some((place, number)) = any(&places(truth, |_, _| true), random) else { return false };
    let revision = events(truth, place)[number].pair.modified;
    truth.history.watchers[0].sessions[0].request.start_revision = revision + 1;
    true
}

fn not_compacted(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let highest = truth.history.operations.iter().filter_map(|operation| match operation.request {
        crate::checker::history::Request::Compact { revision } => Some(revision),
        _ => None,
    });
    let compacted = highest.max().unwrap_or(0) + random.random_range(1..5);
    let told = told(truth);
    let (at_ns, revision) = (told[0].at_ns, told[0].revision);
    told.truncate(1);
    told.push(Told { at_ns, revision, what: What::Canceled { compacted } });
    true
}

fn after_the_end(truth: &mut Truth, random: &mut SmallRng) -> bool {
    let Some((place, _)) = any(&places(truth, |_, _| true), random) else { return false };
    let next = &told(truth)[place];
    let end = Told { at_ns: next.at_ns, revision: next.revision, what: What::Canceled { compacted: 0 } };
    told(truth).insert(place, end);
    true
}

/// An acknowledged write's event comes before the write was asked for.
fn before_it_was(truth: &mut Truth, random: &mut SmallRng) -> bool {
    use crate::checker::history::{Outcome, Request};
    let starts: Vec<(i64, u64)> = truth
        .history
        .operations
        .iter()
        .filter_map(|operation| match (&operation.request, &operation.outcome) {
            (Request::Put { .. }, Outcome::Ok { revision, .. }) => Some((*revision, operation.start_ns)),
            _ => None,
        })
        .collect();
    let Some((revision, start_ns)) = any(&starts, random).filter(|(_, start_ns)| *start_ns > 0) else {
        return false;
    };
    let fitting = places(truth, |events, number| events[number].pair.modified >= revision);
    let Some((place, _)) = any(&fitting, random) else { return false };
    told(truth)[place].at_ns = start_ns - 1;
    true
}

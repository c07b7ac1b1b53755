//! What watches tell of what happened in a cluster.

use rand::Rng;
use rand::rngs::SmallRng;

use crate::checker::history::{Event, Keys, Session, Told, WatchRequest, Watcher, What};
use crate::generate::Truth;

const MS: u64 = 1_000_000;
/// Watchers beside the one that sees everything.
const MORE: u64 = 5;

/// Adds watchers to a history. The first sees everything, with the pairs before, and ends with a bookmark.
pub fn watch(truth: &mut Truth, random: &mut SmallRng) {
    let everything =
        WatchRequest { keys: Keys::all(), start_revision: 1, prev_kv: true, ..WatchRequest::default() };
    let session = watch_once(truth, random, everything, (0, usize::MAX));
    truth.history.watchers.push(Watcher { client: 100, sessions: vec![session] });
    for number in 1..=MORE {
        let request = WatchRequest {
            keys: [Keys::all(), Keys::one("k1"), Keys { key: "k0".to_owned(), end: "k2".to_owned() }]
                [random.random_range(0..3)]
            .clone(),
            start_revision: if random.random() { 0 } else { 1 },
            no_put: random.random_ratio(1, 6),
            no_delete: random.random_ratio(1, 6),
            prev_kv: random.random(),
        };
        let mut watcher = Watcher { client: 100 + number, sessions: Vec::new() };
        let mut begin_ns = random.random_range(0..1000 * MS);
        for _ in 0..random.random_range(1..5) {
            let start_revision = match watcher.next_revision() {
                0 => request.start_revision,
                next => next,
            };
            let responses = random.random_range(0..20);
            let request = WatchRequest { start_revision, ..request.clone() };
            let session = watch_once(truth, random, request, (begin_ns, responses));
            begin_ns = session.told.last().map_or(begin_ns, |told| told.at_ns);
            watcher.sessions.push(session);
        }
        truth.history.watchers.push(watcher);
    }
}

/// A session that begins at a time and is lost after so many responses.
fn watch_once(
    truth: &Truth,
    random: &mut SmallRng,
    request: WatchRequest,
    (begin_ns, responses): (u64, usize),
) -> Session {
    let mut now_ns = begin_ns + random.random_range(0..20 * MS);
    let mut told = vec![Told { at_ns: now_ns, revision: revision_at(truth, now_ns), what: What::Created }];
    let mut next = match request.start_revision {
        0 => told[0].revision + 1,
        asked => asked.max(2),
    };
    let compacted = compacted_at(truth, now_ns);
    let last = i64::try_from(truth.made.len()).expect("few") + 1;
    if compacted > next.min(request.start_revision) && request.start_revision > 0 && begin_ns > 0 {
        let what = What::Canceled { compacted };
        told.push(Told { at_ns: now_ns, revision: told[0].revision, what });
        return Session { member: 1, asked_ns: begin_ns, request, told };
    }
    while told.len() <= responses && next <= last {
        let through = (next + random.random_range(0..4)).min(last);
        now_ns = now_ns.max(made(truth, through).0) + random.random_range(0..20 * MS);
        let mut events: Vec<Event> = Vec::new();
        for revision in next..=through {
            let wanted = made(truth, revision).1.iter().filter(|event| wants(&request, event));
            events.extend(wanted.map(|event| {
                let may_miss = revision <= compacted_at(truth, now_ns) && random.random_ratio(1, 4);
                let prev = event.prev.clone().filter(|_| request.prev_kv && !may_miss);
                Event { prev, ..event.clone() }
            }));
        }
        next = through + 1;
        let header = revision_at(truth, now_ns);
        if events.len() > 1 && random.random_ratio(1, 6) {
            let rest = events.split_off(1);
            told.push(Told { at_ns: now_ns, revision: header, what: What::Events { events, goes_on: true } });
            events = rest;
        }
        if !events.is_empty() {
            told.push(Told {
                at_ns: now_ns,
                revision: header,
                what: What::Events { events, goes_on: false },
            });
        }
        if random.random_ratio(1, 4) || next > last {
            told.push(Told { at_ns: now_ns, revision: through, what: What::Progress });
        }
    }
    Session { member: random.random_range(0..3), asked_ns: begin_ns, request, told }
}

fn wants(request: &WatchRequest, event: &Event) -> bool {
    request.keys.contains(&event.pair.key)
        && !if event.is_delete { request.no_delete } else { request.no_put }
}

fn made(truth: &Truth, revision: i64) -> &(u64, Vec<Event>) {
    &truth.made[usize::try_from(revision - 2).expect("above the first")]
}

/// The newest revision at a time.
fn revision_at(truth: &Truth, at_ns: u64) -> i64 {
    i64::try_from(truth.made.partition_point(|(made_ns, _)| *made_ns <= at_ns)).expect("few") + 1
}

fn compacted_at(truth: &Truth, at_ns: u64) -> i64 {
    let before = truth.compacted.iter().filter(|(done_ns, _)| *done_ns <= at_ns);
    before.map(|(_, revision)| *revision).max().unwrap_or(0)
}

//! One client's stream: what it asked for, and whether the answers are right.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use decklog::watch::{
    ALL_WATCHERS, Answer, Refusal, StreamRequests, StreamResponses, Wants, WatchCreate, WatchHub,
};
use rand::Rng;

use super::watcher::{Told, Watcher, key_of};
use crate::naive::Naive;
use crate::programs::Programs;

/// What was met, so that a test that tests nothing is seen.
#[derive(Debug, Default)]
pub struct Counts {
    pub answers: u64,
    pub told: Told,
    pub progress: u64,
    pub progress_of_one: u64,
    pub compacted: u64,
    pub refused: u64,
    pub canceled: u64,
    pub installed: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Self) {
        self.answers += other.answers;
        self.told.events += other.told.events;
        self.told.with_previous += other.told.with_previous;
        self.told.without_previous += other.told.without_previous;
        self.progress += other.progress;
        self.progress_of_one += other.progress_of_one;
        self.compacted += other.compacted;
        self.refused += other.refused;
        self.canceled += other.canceled;
        self.installed += other.installed;
    }
}

struct Living {
    watcher: Watcher,
    /// It wanted history when it was made.
    born_behind: bool,
    periodic_progress: u64,
}

enum Asked {
    Create(WatchCreate),
    Cancel(i64),
}

pub struct Client {
    requests: StreamRequests,
    /// Gone when the client does not read any more.
    responses: Option<StreamResponses>,
    /// Requests without an answer, in order; those for progress may be answered late, or not at all.
    asked: VecDeque<Asked>,
    /// For each the revision that could be read when it was asked: it is about that, or a newer one.
    progress_asked: VecDeque<i64>,
    progress_told: bool,
    watchers: BTreeMap<i64, Living>,
    /// Ended by a compaction: their ids are taken until they are canceled, too.
    ended: BTreeSet<i64>,
    next_id: i64,
    pub unexpectedly_compacted: u64,
}

/// The outcome of something that need not wait.
pub fn now<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => Some(outcome),
        Poll::Pending => None,
    }
}

impl Client {
    pub fn open(watches: &WatchHub) -> Option<Self> {
        let (requests, responses) = now(watches.open())?.expect("the hub runs");
        Some(Self {
            requests,
            responses: Some(responses),
            asked: VecDeque::new(),
            progress_asked: VecDeque::new(),
            progress_told: false,
            watchers: BTreeMap::new(),
            ended: BTreeSet::new(),
            next_id: 0,
            unexpectedly_compacted: 0,
        })
    }

    pub fn watchers(&self) -> usize {
        self.watchers.len()
    }

    pub fn is_deaf(&self) -> bool {
        self.responses.is_none()
    }

    /// Goes away without a word: the close of its stream is lost on the way.
    pub fn vanish(self) {
        std::mem::forget(self.requests);
    }

    pub fn stop_reading(&mut self) {
        self.responses = None;
    }

    /// A random request; not sent when too many are open.
    pub fn ask(&mut self, naive: &Naive, programs: &mut Programs) {
        match programs.random.random_range(0..10) {
            0..=6 => {
                let create = random_create(naive, programs);
                if now(self.requests.create(create.clone())).is_some() {
                    self.asked.push_back(Asked::Create(create));
                }
            }
            7 => {
                let id = programs.random.random_range(0..12);
                if now(self.requests.cancel(id)).is_some() {
                    self.asked.push_back(Asked::Cancel(id));
                }
            }
            _ => self.ask_progress(naive),
        }
    }

    pub fn ask_progress(&mut self, naive: &Naive) {
        self.progress_told = false;
        self.progress_asked.extend(now(self.requests.progress()).map(|_| naive.revision()));
    }

    /// Takes up to so many answers.
    pub fn read(&mut self, naive: &Naive, most: usize, met: &mut Counts) {
        for _ in 0..most {
            let Some(responses) = &mut self.responses else {
                return;
            };
            match responses.poll_next(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(Some(queued)) => {
                    met.answers += 1;
                    self.answer(naive, queued.answer, met);
                }
                Poll::Ready(None) => panic!("the hub ended a stream that is read"),
                Poll::Pending => return,
            }
        }
    }

    fn answer(&mut self, naive: &Naive, answer: Answer, met: &mut Counts) {
        match answer {
            Answer::Created { id, revision } => {
                let create = self.next_create();
                assert_eq!(refusal(&create, &self.watchers, &self.ended), None);
                assert_eq!(id, self.next_id_of(&create));
                let watcher = Watcher::new(&create, revision.0);
                let born_behind = watcher.start <= revision.0;
                let living = Living { watcher, born_behind, periodic_progress: 0 };
                assert!(self.watchers.insert(id, living).is_none());
            }
            Answer::Refused { reason, revision } => {
                let create = self.next_create();
                assert_eq!(refusal(&create, &self.watchers, &self.ended), Some(reason));
                assert!(revision.0 <= naive.revision());
                met.refused += 1;
            }
            Answer::Canceled { id, revision } => {
                self.answered_cancel(id);
                let was_there = self.watchers.remove(&id).is_some() || self.ended.remove(&id);
                assert!(was_there, "{id} was not there");
                assert!(revision.0 <= naive.revision());
                met.canceled += 1;
            }
            Answer::Compacted { id, compacted } => {
                let living = self.watchers.remove(&id).unwrap_or_else(|| panic!("{id} was not there"));
                living.watcher.compacted(naive, compacted.0);
                self.ended.insert(id);
                self.unexpectedly_compacted += u64::from(!living.born_behind);
                met.compacted += 1;
            }
            Answer::Events { id, revision, events, fragments } => {
                let living = self.living(id);
                assert_eq!(fragments, living.watcher.wants.fragments);
                living.watcher.events(naive, revision.0, &events, &mut met.told);
            }
            Answer::Progress { id: ALL_WATCHERS, revision } => {
                let asked = self.progress_asked.pop_front().expect("somebody asked");
                assert!(revision.0 >= asked, "progress at {revision}, asked at {asked}");
                self.progress_told = true;
                assert!(!self.watchers.is_empty(), "progress of nobody");
                for living in self.watchers.values_mut() {
                    living.watcher.progress(naive, revision.0);
                }
                met.progress += 1;
            }
            Answer::Progress { id, revision } => {
                let living = self.living(id);
                assert!(living.watcher.wants.progress);
                living.periodic_progress += 1;
                living.watcher.progress(naive, revision.0);
                met.progress_of_one += 1;
            }
        }
    }

    fn living(&mut self, id: i64) -> &mut Living {
        self.watchers.get_mut(&id).unwrap_or_else(|| panic!("{id} is not there"))
    }

    /// Requests are answered in order; only a cancel of somebody who is not there is not answered.
    fn next_asked(&mut self, fits: impl Fn(&Asked) -> bool) -> Asked {
        loop {
            let asked = self.asked.pop_front().expect("it answers something");
            match &asked {
                _ if fits(&asked) => return asked,
                Asked::Cancel(id) => assert!(!self.watchers.contains_key(id), "cancel of {id} unanswered"),
                Asked::Create(create) => panic!("unanswered: {create:?}"),
            }
        }
    }

    fn next_create(&mut self) -> WatchCreate {
        match self.next_asked(|asked| matches!(asked, Asked::Create(_))) {
            Asked::Create(create) => create,
            Asked::Cancel(_) => unreachable!("it does not fit"),
        }
    }

    fn answered_cancel(&mut self, answered: i64) {
        self.next_asked(|asked| matches!(asked, Asked::Cancel(id) if *id == answered));
    }

    fn next_id_of(&mut self, create: &WatchCreate) -> i64 {
        if create.id != 0 {
            return create.id;
        }
        while self.watchers.contains_key(&self.next_id) || self.ended.contains(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    /// When all is quiet, everything was answered and everybody has all.
    pub fn nothing_is_missing(&mut self, naive: &Naive) {
        if self.is_deaf() {
            return;
        }
        // Whatever is not answered by now was not to be.
        self.progress_asked.clear();
        for asked in std::mem::take(&mut self.asked) {
            match asked {
                Asked::Cancel(id) => assert!(!self.watchers.contains_key(&id), "cancel of {id} unanswered"),
                Asked::Create(create) => panic!("unanswered: {create:?}"),
            }
        }
        for (id, living) in &self.watchers {
            let missing = living.watcher.required(naive);
            assert!(missing.is_none(), "{id} still misses {missing:?}");
        }
    }

    fn all_have_started(&self, naive: &Naive) -> bool {
        self.watchers.values().all(|living| living.watcher.asked <= naive.revision())
    }

    pub fn progress_was_told(&self, naive: &Naive) {
        let expected = !self.is_deaf() && !self.watchers.is_empty() && self.all_have_started(naive);
        assert!(self.progress_told || !expected, "progress was asked for and is due");
    }

    pub fn forget_periodic_progress(&mut self) {
        self.watchers.values_mut().for_each(|living| living.periodic_progress = 0);
    }

    pub fn periodic_progress_was_told(&self, naive: &Naive) {
        for (id, living) in self.watchers.iter().filter(|_| !self.is_deaf()) {
            let expected = living.watcher.wants.progress && living.watcher.asked <= naive.revision();
            assert_eq!(living.periodic_progress, u64::from(expected), "watcher {id}");
        }
    }
}

fn refusal(create: &WatchCreate, watchers: &BTreeMap<i64, Living>, ended: &BTreeSet<i64>) -> Option<Refusal> {
    let (from, end) = (key_of(create), &create.range_end);
    if create.start_revision < 0 {
        return Some(Refusal::NegativeStart);
    }
    if !end.is_empty() && end.as_ref() != [0] && from >= *end {
        return Some(Refusal::EmptyRange);
    }
    let is_taken = watchers.contains_key(&create.id) || ended.contains(&create.id);
    (create.id != 0 && is_taken).then_some(Refusal::DuplicateId)
}

fn random_create(naive: &Naive, programs: &mut Programs) -> WatchCreate {
    let (mut key, range_end) = programs.range_of_keys();
    let random = &mut programs.random;
    if random.random_ratio(1, 20) {
        key.clear();
    }
    let start_revision = match random.random_range(0..20) {
        0 => -1,
        1..=8 => 0,
        9 if random.random_ratio(1, 8) => i64::MAX,
        9 => naive.revision() + random.random_range(0..6),
        10 | 11 => naive.compacted.max(0) + random.random_range(0..=1),
        12 => random.random_range(0..=naive.compacted.max(0)),
        _ => random.random_range(naive.compacted.max(1)..=naive.revision()),
    };
    let id = if random.random_ratio(1, 5) { random.random_range(1..8) } else { 0 };
    let wants = Wants {
        no_put: random.random_ratio(1, 6),
        no_delete: random.random_ratio(1, 6),
        previous: random.random(),
        progress: random.random_ratio(1, 3),
        fragments: random.random_ratio(1, 4),
    };
    WatchCreate { key, range_end, start_revision, id, wants }
}

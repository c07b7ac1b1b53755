//! What a watch of everything told, revision by revision, over any number of lives of the server, and the state
//! that follows from it. Panics at the first gap, repeat or difference.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use decklog::wire::etcdserverpb::watch_client::WatchClient;
use decklog::wire::etcdserverpb::watch_request::RequestUnion;
use decklog::wire::etcdserverpb::{RangeRequest, WatchCreateRequest, WatchRequest, WatchResponse};
use decklog::wire::{EventType, KeyValue};
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::process::Process;

/// Every so many values one is large, so that the log's segments fill.
pub const LARGE_EVERY: u64 = 16;
const LARGE_BYTES: usize = 64 << 10;
/// Every so many, one is huge, and mostly zeros: then copies of the files are mostly holes.
pub const HUGE_EVERY: u64 = 512;
const HUGE_BYTES: usize = 384 << 10;
/// A range of everything.
const ALL: &[u8] = &[0];

/// One key of one revision: its new number, or its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub key: String,
    pub number: Option<u64>,
}

/// A key as the server must answer it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub number: u64,
    pub created: i64,
    pub modified: i64,
    pub version: i64,
}

/// Shared by the task that follows and those that check.
#[derive(Clone)]
pub struct History {
    revisions: Arc<Mutex<BTreeMap<i64, Vec<Change>>>>,
    last: watch::Sender<i64>,
}

/// The value that stands for a number: the number alone, or a large one.
pub fn value_of(number: u64) -> Vec<u8> {
    let mut value = format!("{number}:").into_bytes();
    let digit = b'0' + (number / LARGE_EVERY % 10) as u8;
    if number.is_multiple_of(HUGE_EVERY) {
        value.resize(HUGE_BYTES, 0);
        value[HUGE_BYTES / 2..][..LARGE_BYTES / 8].fill(digit);
        value[HUGE_BYTES - 1] = digit;
    } else if number.is_multiple_of(LARGE_EVERY) {
        value.resize(LARGE_BYTES, digit);
    }
    value
}

fn number_of(value: &[u8]) -> u64 {
    let digits = value.split(|byte| *byte == b':').next().expect("a split has one part");
    let number = std::str::from_utf8(digits).expect("values begin with digits").parse();
    let number = number.expect("values begin with a number");
    assert!(value == value_of(number), "the value of number {number} is not what was written");
    number
}

fn key_of(pair: &KeyValue) -> String {
    String::from_utf8(pair.key.to_vec()).expect("keys are text")
}

impl History {
    /// Of a new server, whose first change will be revision 2.
    pub fn new() -> Self {
        Self::behind(1)
    }

    /// Of what comes behind a revision.
    pub fn behind(revision: i64) -> Self {
        Self { revisions: Arc::default(), last: watch::Sender::new(revision) }
    }

    /// The last revision that a watch has told.
    pub fn last(&self) -> i64 {
        *self.last.borrow()
    }

    pub fn revisions(&self) -> MutexGuard<'_, BTreeMap<i64, Vec<Change>>> {
        self.revisions.lock().expect("no holder panics")
    }

    /// Waits until a watch has told `revision`.
    pub async fn reaches(&self, revision: i64) {
        let mut last = self.last.subscribe();
        last.wait_for(|last| *last >= revision).await.expect("the sender is in self");
    }

    /// Watches from behind the last revision known until the server ends.
    pub async fn follow(self, mut watch: WatchClient<Channel>) {
        let create = WatchCreateRequest {
            key: ALL.into(),
            range_end: ALL.into(),
            start_revision: self.last() + 1,
            ..WatchCreateRequest::default()
        };
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        // The stream of requests stays open: its end would end the watch.
        let requests =
            futures_util::StreamExt::chain(tokio_stream::iter([request]), futures_util::stream::pending());
        let Ok(answers) = watch.watch(requests).await else {
            return;
        };
        let mut answers = answers.into_inner();
        while let Ok(Some(answer)) = answers.message().await {
            self.add(&answer);
        }
    }

    fn add(&self, answer: &WatchResponse) {
        assert!(!answer.canceled, "the watch was ended: {}", answer.cancel_reason);
        let mut revisions = self.revisions();
        let mut last = self.last();
        let before = last;
        for event in &answer.events {
            let event = event.decode().expect("an event");
            let pair = event.kv.expect("an event has a pair").decode().expect("a pair");
            let number = match EventType::try_from(event.r#type) {
                Ok(EventType::Put) => Some(number_of(&pair.value)),
                Ok(EventType::Delete) => None,
                Err(error) => panic!("{error}"),
            };
            let revision = pair.mod_revision;
            let goes_on = revision == last + 1 || revision == last && last > before;
            assert!(goes_on, "the watch told revision {revision} after {last} (known before: {before})");
            last = revision;
            revisions.entry(revision).or_default().push(Change { key: key_of(&pair), number });
        }
        drop(revisions);
        self.last.send_replace(last);
    }

    /// The state at a revision, by the events alone.
    pub fn state_at(&self, revision: i64) -> BTreeMap<String, Version> {
        let mut state = BTreeMap::<String, Version>::new();
        for (at, changes) in self.revisions().range(..=revision) {
            for Change { key, number } in changes {
                let Some(number) = *number else {
                    assert!(state.remove(key).is_some(), "{key} was deleted at {at} and did not exist");
                    continue;
                };
                let known = state.get(key);
                let created = known.map_or(*at, |known| known.created);
                let version = known.map_or(0, |known| known.version) + 1;
                state.insert(key.clone(), Version { number, created, modified: *at, version });
            }
        }
        state
    }

    /// Reads everything at a revision (0: the current one) and compares it with the events; returns the
    /// revision that the answer's header names. Waits until the events have come that far.
    pub async fn check_state(&self, process: &Process, revision: i64) -> i64 {
        let request =
            RangeRequest { key: ALL.into(), range_end: ALL.into(), revision, ..RangeRequest::default() };
        let answer = process.kv().range(request).await.expect("a read of everything").into_inner();
        let now = answer.header.expect("every answer has a header").revision;
        let at = if revision == 0 { now } else { revision };
        self.reaches(at).await;
        let found: BTreeMap<String, Version> =
            answer.kvs.iter().map(|pair| version_of(&pair.decode().expect("a pair"))).collect();
        let expected = self.state_at(at);
        for (key, version) in &expected {
            assert_eq!(found.get(key), Some(version), "{key} at revision {at}");
        }
        assert_eq!(found.len(), expected.len(), "more keys than the events tell, at revision {at}");
        now
    }
}

fn version_of(pair: &KeyValue) -> (String, Version) {
    let version = Version {
        number: number_of(&pair.value),
        created: pair.create_revision,
        modified: pair.mod_revision,
        version: pair.version,
    };
    (key_of(pair), version)
}

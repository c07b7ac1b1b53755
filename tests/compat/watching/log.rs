//! What one watch stream delivered, watch by watch. Batching may differ between servers and is not kept, but a
//! revision that is split over responses, or events out of order, are refused at once.

use std::collections::BTreeMap;

use decklog::wire::etcdserverpb::{WatchCreateRequest, WatchResponse};
use decklog::wire::{EncodedEvent, Event};
use tonic::Status;

use super::expected::{delivers, pair};
use crate::resolve::{Meaning, make_neutral};

/// The watch id of answers that belong to no watch.
const NO_WATCH: i64 = -1;

/// Per stream and watch id, all that was told in order.
pub type Watched = Vec<BTreeMap<i64, Vec<Item>>>;

#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// A created or canceled answer, which holds no events.
    Told(WatchResponse),
    Event(Event),
}

#[derive(Default)]
pub struct StreamLog {
    items: BTreeMap<i64, Vec<Item>>,
    open: BTreeMap<i64, OpenWatch>,
    /// The create request that is not answered yet.
    asked: Option<OpenWatch>,
    progress_revisions: Vec<i64>,
    /// Progress was asked for again and again: answers may come late, behind younger watches.
    polled: bool,
}

struct OpenWatch {
    request: WatchCreateRequest,
    start: i64,
    /// It asked for what is compacted and has to be cancelled.
    doomed: bool,
    delivered: usize,
    last_revision: i64,
    /// The last response was not the last part of its events.
    in_fragments: bool,
    /// All events up to here have come, as a progress answer said.
    progress: i64,
}

impl StreamLog {
    pub fn asked_to_create(&mut self, request: WatchCreateRequest, revision: i64, doomed: bool) {
        let start = if request.start_revision == 0 { revision + 1 } else { request.start_revision };
        self.asked = Some(OpenWatch {
            request,
            start,
            doomed,
            delivered: 0,
            last_revision: i64::MIN,
            in_fragments: false,
            progress: i64::MIN,
        });
    }

    /// Whether the create request is answered.
    pub fn created(&self) -> bool {
        self.asked.is_none()
    }

    pub fn is_open(&self, id: i64) -> bool {
        self.open.contains_key(&id)
    }

    pub fn any_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Whether the server has to answer a progress request when the store is at `revision`.
    pub fn answers_progress(&self, revision: i64) -> bool {
        self.any_open() && self.open.values().all(|watch| watch.start <= revision)
    }

    pub fn polled_for_progress(&mut self) {
        self.polled = true;
    }

    pub fn progress_revisions(&self) -> &[i64] {
        &self.progress_revisions
    }

    /// All events of all watches (the reference stream has one).
    pub fn history(&self) -> Vec<Event> {
        let items = self.items.values().flatten();
        let events = items.filter_map(|item| match item {
            Item::Event(event) => Some(event.clone()),
            Item::Told(_) => None,
        });
        events.collect()
    }

    /// Whether events up to `revision` have come (revisions that the program did not make have none).
    pub fn reaches(&self, revision: i64) -> bool {
        self.open.values().all(|watch| watch.last_revision >= revision || watch.start > revision)
    }

    /// What an open watch has not delivered of `history`, or has delivered too much; none when all is well.
    pub fn lacks(&self, history: &[Event]) -> Option<String> {
        self.open.iter().find_map(|(id, watch)| {
            if watch.doomed {
                return Some(format!("watch {id} has to be cancelled: {:?}", watch.request));
            }
            let expected =
                history.iter().filter(|event| delivers(&watch.request, watch.start, event)).count();
            let delivered = watch.delivered;
            (delivered != expected || watch.in_fragments).then(|| {
                format!("watch {id} delivered {delivered} of {expected} events: {:?}", watch.request)
            })
        })
    }

    /// # Errors
    /// When the response breaks a rule of every watch stream.
    pub fn add(&mut self, mut response: WatchResponse) -> Result<(), Status> {
        let header =
            response.header.as_mut().ok_or_else(|| broken("no header", &WatchResponse::default()))?;
        make_neutral(header);
        let id = response.watch_id;
        if response.created || response.canceled {
            if !response.events.is_empty() {
                return Err(broken("events in a created or canceled answer", &response));
            }
            self.told(&response)?;
            self.items.entry(id).or_default().push(Item::Told(response));
        } else if response.events.is_empty() {
            if id != NO_WATCH || response != progress_of(&response) {
                return Err(broken("an answer without events that is no progress", &response));
            }
            let progress = header_revision(&response);
            self.progress_revisions.push(progress);
            self.open.values_mut().for_each(|watch| watch.progress = progress);
        } else {
            let events = self.check_events(&response)?;
            self.items.entry(id).or_default().extend(events.into_iter().map(Item::Event));
        }
        Ok(())
    }

    /// The log with the lease ids that both sides share.
    pub fn neutral(&self, meaning: &Meaning) -> BTreeMap<i64, Vec<Item>> {
        let mut items = self.items.clone();
        for item in items.values_mut().flatten() {
            if let Item::Event(event) = item {
                *event = meaning.neutral_event(event.clone());
            }
        }
        items
    }

    fn told(&mut self, response: &WatchResponse) -> Result<(), Status> {
        if response.created {
            let asked = self.asked.take().ok_or_else(|| broken("created without being asked", response))?;
            if !response.canceled {
                self.open.insert(response.watch_id, asked);
            }
            return Ok(());
        }
        let cancelled = self.open.remove(&response.watch_id);
        cancelled.map(drop).ok_or_else(|| broken("canceled a watch that is not open", response))
    }

    fn check_events(&mut self, response: &WatchResponse) -> Result<Vec<Event>, Status> {
        let watch = self.open.get_mut(&response.watch_id);
        let watch = watch.ok_or_else(|| broken("events of a watch that is not open", response))?;
        let events: Result<Vec<Event>, _> = response.events.iter().map(EncodedEvent::decode).collect();
        let events = events.map_err(|error| Status::data_loss(error.to_string()))?;
        let revisions: Vec<i64> = events.iter().map(|event| pair(event).mod_revision).collect();
        let (first, last) = (revisions[0], revisions[revisions.len() - 1]);
        let follows = first > watch.last_revision || (watch.in_fragments && first == watch.last_revision);
        if !follows || !revisions.is_sorted() {
            return Err(broken("a revision is split or out of order", response));
        }
        if header_revision(response) < last {
            return Err(broken("events newer than the header", response));
        }
        if first <= watch.progress && !self.polled {
            return Err(broken("progress overtook events", response));
        }
        if response.fragment && !watch.request.fragment {
            return Err(broken("a fragment that was not asked for", response));
        }
        watch.delivered += events.len();
        watch.last_revision = last;
        watch.in_fragments = response.fragment;
        Ok(events)
    }
}

/// Where two sides were told something else, as what each was told.
pub fn unlike(etcd: &Watched, decklog: &Watched) -> Option<[String; 2]> {
    for (stream, (etcd, decklog)) in etcd.iter().zip(decklog).enumerate() {
        for id in etcd.keys().chain(decklog.keys()) {
            let [etcd, decklog] = [etcd, decklog].map(|side| side.get(id).map_or(&[][..], |items| items));
            if etcd == decklog {
                continue;
            }
            let same = etcd.iter().zip(decklog).take_while(|(one, two)| one == two).count();
            let text =
                |items: &[Item]| format!("stream {stream}, watch {id}, #{same}: {:?}", items.get(same));
            return Some([text(etcd), text(decklog)]);
        }
    }
    None
}

fn header_revision(response: &WatchResponse) -> i64 {
    response.header.as_ref().map_or(0, |header| header.revision)
}

/// A progress answer with `response`'s header: nothing else is in it.
fn progress_of(response: &WatchResponse) -> WatchResponse {
    WatchResponse { header: response.header, watch_id: NO_WATCH, ..Default::default() }
}

fn broken(rule: &str, response: &WatchResponse) -> Status {
    Status::failed_precondition(format!("{rule}: {response:?}"))
}

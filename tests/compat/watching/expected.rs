//! Which events a watch has to deliver.

use decklog::wire::etcdserverpb::WatchCreateRequest;
use decklog::wire::{Event, EventType, KeyValue};

const NO_PUT: i32 = 0;
const NO_DELETE: i32 = 1;

/// The pair of an event: of a delete, its key and revision only.
pub fn pair(event: &Event) -> KeyValue {
    let pair = event.kv.as_ref().expect("every event has a pair");
    pair.decode().expect("a server sends pairs that can be decoded")
}

/// Whether a watch that asked so, and starts at `start`, delivers `event`.
pub fn delivers(request: &WatchCreateRequest, start: i64, event: &Event) -> bool {
    let pair = pair(event);
    let filter = if event.r#type == EventType::Put as i32 { NO_PUT } else { NO_DELETE };
    pair.mod_revision >= start && covers(request, &pair.key) && !request.filters.contains(&filter)
}

fn covers(request: &WatchCreateRequest, key: &[u8]) -> bool {
    let from: &[u8] = if request.key.is_empty() { b"\0" } else { &request.key };
    match &request.range_end[..] {
        [] => key == from,
        [0] => key >= from,
        end => key >= from && key < end,
    }
}

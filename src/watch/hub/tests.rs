//! The hub by hand, in what cannot be brought about from outside: a batch lost between two threads.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::*;
use crate::courier::Courier;
use crate::ids::LeaseId;
use crate::mvcc::{Keyspace, Publication};
use crate::storage::MemoryStore;
use crate::watch::{HubLimits, Wants};

const OPTIONS: HubOptions =
    HubOptions { progress_interval: Duration::from_secs(600), limits: HubLimits::DEFAULT };

fn request(hub: &mut Hub, command: Command) {
    hub.request(Request { stream: StreamId(1), command, place: None, _room: None });
}

fn put(keyspace: &mut Keyspace) -> Publication {
    keyspace.write().put(Bytes::from_static(b"key"), Bytes::from_static(b"value"), LeaseId(0));
    keyspace.publish()
}

fn batch(publication: Publication) -> WatchBatch {
    let Publication { revision, changes, .. } = publication;
    WatchBatch { after: Revision(revision.0 - 1), revision, changes }
}

fn revisions(hub: &mut Hub, answers: &mut mpsc::Receiver<Vec<Queued>>) -> Vec<i64> {
    hub.send();
    let mut revisions = Vec::new();
    while let Ok(queued) = answers.try_recv() {
        for queued in queued {
            if let Answer::Events { events, .. } = queued.answer {
                let pairs = events.iter().map(|event| event.decode().expect("an event").kv);
                let pairs = pairs.map(|pair| pair.expect("each has one").decode().expect("a pair"));
                revisions.extend(pairs.map(|pair| pair.mod_revision));
            }
        }
    }
    revisions
}

/// One watcher of everything from now on.
fn watched() -> (Keyspace, Hub, mpsc::Receiver<Vec<Queued>>) {
    let keyspace = Keyspace::recover(Arc::new(MemoryStore::new())).expect("recovered").keyspace;
    let mut hub = Hub::new(keyspace.reader(), OPTIONS, Stats::default(), Instant::now());
    let (sender, answers) = mpsc::channel(8);
    let (queued_bytes, courier) = (Arc::new(AtomicUsize::new(0)), Courier::here());
    request(&mut hub, Command::Open { sender, queued_bytes, courier });
    let range = (Bytes::from_static(&[0]), Bytes::from_static(&[0]));
    let create =
        WatchCreate { key: range.0, range_end: range.1, start_revision: 0, id: 0, wants: Wants::default() };
    request(&mut hub, Command::Create(create));
    (keyspace, hub, answers)
}

#[test]
fn a_batch_that_was_lost_on_its_way_is_read_from_the_store() {
    let (mut keyspace, mut hub, mut answers) = watched();
    hub.batch(&batch(put(&mut keyspace))).expect("delivered");
    drop(put(&mut keyspace));
    hub.batch(&batch(put(&mut keyspace))).expect("looked at");
    while hub.can_catch_up() {
        hub.catch_up().expect("read");
    }
    assert_eq!(revisions(&mut hub, &mut answers), [2, 3, 4]);
}

#[test]
fn a_batch_that_was_read_from_the_store_is_not_told_again() {
    let (mut keyspace, mut hub, mut answers) = watched();
    let late = batch(put(&mut keyspace));
    hub.missed_changes();
    while hub.can_catch_up() {
        hub.catch_up().expect("read");
    }
    hub.batch(&late).expect("looked at");
    hub.batch(&batch(put(&mut keyspace))).expect("delivered");
    assert_eq!(revisions(&mut hub, &mut answers), [2, 3]);
}

/// Found by a random program beside etcd.
#[test]
fn the_id_of_a_watcher_that_a_compaction_ended_is_taken_until_it_is_canceled() {
    let (mut keyspace, mut hub, mut answers) = watched();
    (0..4).for_each(|_| drop(put(&mut keyspace)));
    keyspace.compact(4).expect("compacted");
    keyspace.publish();
    hub.missed_changes();
    let create = |start_revision| {
        let everything = Bytes::from_static(&[0]);
        let (key, range_end) = (everything.clone(), everything);
        Command::Create(WatchCreate { key, range_end, start_revision, id: 5, wants: Wants::default() })
    };
    request(&mut hub, create(2));
    while hub.can_catch_up() {
        hub.catch_up().expect("read");
    }
    for command in [create(0), Command::Cancel(5), create(0)] {
        request(&mut hub, command);
    }
    hub.send();
    let mut told = Vec::new();
    while let Ok(queued) = answers.try_recv() {
        told.extend(queued.iter().filter_map(|queued| match &queued.answer {
            Answer::Created { id: 5, .. } => Some("created"),
            Answer::Compacted { id: 5, .. } => Some("compacted"),
            Answer::Refused { reason: Refusal::DuplicateId, .. } => Some("taken"),
            Answer::Canceled { id: 5, .. } => Some("canceled"),
            _ => None,
        }));
    }
    assert_eq!(told, ["created", "compacted", "taken", "canceled", "created"]);
}

//! Receiving beside a store that is in use, and the process stopped at every step: a start shows the old state or the new
//! one, as the log has decided, and never a mixture.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use prost::Message;
use tempfile::TempDir;

use decklog::alarm::Alarms;
use decklog::apply::Applier;
use decklog::command::{Batch, Kind};
use decklog::consensus::Progress;
use decklog::ids::{LogIndex, LogPosition, Revision, Term};
use decklog::lease::Leases;
use decklog::members::{Members, Membership};
use decklog::metrics::Metrics;
use decklog::mvcc::{Keyspace, Reader, Tail};
use decklog::persist::{Mailbox, Persist, PersistOptions, PersistParts};
use decklog::server::persist_metrics;
use decklog::snapshot::{Capture, Error, Importer};
use decklog::storage::{Error as StoreError, MemoryStore, Round, SledOptions, SledStore, Store};
use decklog::wire::etcdserverpb::PutRequest;

const SMALL: SledOptions = SledOptions { cache_bytes: 1 << 20, engine_cache_bytes: 1 << 20 };

fn position(index: u64) -> LogPosition {
    LogPosition { index: LogIndex(index), term: Term(2) }
}

struct Member {
    applier: Applier,
    reader: Reader,
    tail: Tail,
}

/// A member that has applied `entries` puts, with values of this length.
fn member(store: Arc<dyn Store>, entries: u64, length: usize) -> Member {
    let recovered = Keyspace::recover(store.clone()).expect("recovered");
    let leases = Leases::recover(&*store, &recovered.attachments).expect("recovered");
    let alarms = Alarms::recover(&*store).expect("recovered");
    let members = Members::new(Membership::of_store(&*store).expect("recovered"));
    let (reader, tail) = (recovered.keyspace.reader(), recovered.keyspace.tail());
    let mut applier = Applier::new(recovered.keyspace, leases, alarms, members, store.applied());
    for index in store.applied().index.0 + 1..=entries {
        let key = format!("key{index}").into_bytes().into();
        let put = PutRequest { key, value: vec![b'v'; length].into(), ..PutRequest::default() };
        let batch = Batch { proposer: 1, sequence: index, commands: vec![Kind::Put(put).into()] };
        applier.apply(position(index), &batch.encode_to_vec().into(), &mut |_, _| {}).expect("applied");
    }
    let published = applier.publish();
    if published.round.applied.index > store.applied().index {
        store.write(&published.round).expect("written");
        store.flush().expect("flushed");
    }
    Member { applier, reader, tail }
}

fn pieces_of(entries: u64, length: usize) -> Vec<Bytes> {
    let Member { applier, .. } = member(Arc::new(MemoryStore::new()), entries, length);
    let capture = applier.capture(Instant::now() + Duration::from_secs(3600));
    capture.pieces().map(|piece| piece.expect("read")).collect()
}

/// sled lets go of its lock some time after the last handle is dropped.
fn start(directory: &Path, begins_after: Option<LogPosition>) -> Result<SledStore, StoreError> {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match SledStore::open_after(directory, &SMALL, begins_after, &mut |_| ()) {
            Err(StoreError::Locked { .. }) if Instant::now() < deadline => std::thread::yield_now(),
            opened => return opened,
        }
    }
}

fn importer(directory: &Path) -> Importer {
    let path = directory.to_owned();
    Importer::new(move || Ok(Arc::new(SledStore::begin_beside(&path, &SMALL)?) as Arc<dyn Store>))
}

fn databases(directory: &Path) -> Vec<String> {
    let names = fs::read_dir(directory).expect("listed").map(|entry| entry.expect("an entry").file_name());
    let mut names: Vec<_> = names.map(|name| name.to_string_lossy().into_owned()).collect();
    names.retain(|name| name.starts_with("db-"));
    names.sort();
    names
}

fn copy_tree(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("made");
    for entry in fs::read_dir(from).expect("listed") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("it has a name"));
        if path.is_dir() {
            copy_tree(&path, &target);
        } else {
            fs::copy(&path, &target).expect("copied");
        }
    }
}

/// The files as a stop of the process leaves them now.
fn stopped(directory: &Path) -> TempDir {
    let copy = tempfile::tempdir().expect("a directory");
    copy_tree(directory, copy.path());
    copy
}

/// What a start makes of the files: the entry that its store stands for, after a look at all of it.
fn starts_at(directory: &Path, begins_after: Option<LogPosition>) -> Result<u64, StoreError> {
    let store: Arc<dyn Store> = Arc::new(start(directory, begins_after)?);
    let applied = store.applied().index.0;
    let recovered = Keyspace::recover(store).expect("it is whole");
    assert_eq!(recovered.keyspace.revision().0, applied as i64 + 1, "one put with each entry");
    assert_eq!(recovered.keyspace.reader().live_keys(), applied, "all of one state");
    assert_eq!(databases(directory).len(), 1, "nothing else is left");
    Ok(applied)
}

fn old_state_or_refused(directory: &Path) {
    let copy = stopped(directory);
    assert_eq!(starts_at(copy.path(), None).expect("the old state"), 5);
    let copy = stopped(directory);
    let refused =
        starts_at(copy.path(), Some(position(40))).expect_err("the log counts on what is not whole");
    assert!(refused.to_string().contains("begins after entry 40"), "{refused}");
}

fn old_or_new_as_the_log_says(directory: &Path) {
    let copy = stopped(directory);
    assert_eq!(starts_at(copy.path(), None).expect("the old state"), 5);
    let copy = stopped(directory);
    assert_eq!(starts_at(copy.path(), Some(position(40))).expect("the new state"), 40);
}

#[test]
fn a_start_shows_the_old_state_or_the_new_one_wherever_it_was_stopped() {
    let folder = tempfile::tempdir().expect("a directory");
    let directory = folder.path();
    // Several rounds of it.
    let sent = pieces_of(40, 300_000);
    assert!(sent.len() > 8);
    let store = Arc::new(start(directory, None).expect("opened"));
    let Member { mut applier, .. } = member(store.clone(), 5, 10);
    old_state_or_refused(directory);
    let importer = importer(directory);
    let mut incoming = importer.begin().expect("begun");
    old_state_or_refused(directory);
    for (number, piece) in sent.iter().enumerate() {
        incoming.write(piece).expect("it is what was sent");
        if number % 3 == 0 {
            old_state_or_refused(directory);
        }
    }
    old_state_or_refused(directory);
    // The old store is copied meanwhile: neither is taken for the other's copy.
    while store.defragment(64).expect("copied") {}
    old_state_or_refused(directory);
    let received = incoming.finish().expect("it is whole");
    old_or_new_as_the_log_says(directory);
    let before_exchange = stopped(directory);
    let replacement = applier.install(received);
    old_or_new_as_the_log_says(directory);
    replacement.draft.take_place().expect("in its place");
    replacement.draft.take_place().expect("twice is once");
    assert_eq!(databases(directory), ["db-4294967296"]);
    for begins_after in [None, Some(position(40))] {
        let copy = stopped(directory);
        assert_eq!(starts_at(copy.path(), begins_after).expect("the new state"), 40);
    }
    // Stopped between the new name and the removal of what it replaces, and just before the new name.
    let copy = stopped(before_exchange.path());
    fs::copy(directory.join("CURRENT"), copy.path().join("CURRENT")).expect("copied");
    assert_eq!(starts_at(copy.path(), Some(position(40))).expect("the new state"), 40);
    let copy = stopped(before_exchange.path());
    fs::copy(directory.join("CURRENT"), copy.path().join("CURRENT.new")).expect("copied");
    assert_eq!(starts_at(copy.path(), Some(position(40))).expect("the new state"), 40);
    // The next state has a place, too; and one that is given up leaves nothing.
    drop(importer.begin().expect("begun"));
    assert_eq!(databases(directory), ["db-4294967296"]);
    let mut next = importer.begin().expect("begun");
    for piece in pieces_of(50, 10) {
        next.write(&piece).expect("it is what was sent");
    }
    drop(next.finish().expect("it is whole"));
    assert_eq!(databases(directory), ["db-4294967296"]);
}

/// The store may have gone on behind the state that was received before.
#[test]
fn a_state_below_what_the_store_stands_for_is_removed() {
    let folder = tempfile::tempdir().expect("a directory");
    let store = Arc::new(start(folder.path(), None).expect("opened"));
    drop(member(store.clone(), 5, 10));
    let mut incoming = importer(folder.path()).begin().expect("begun");
    for piece in pieces_of(40, 10) {
        incoming.write(&piece).expect("it is what was sent");
    }
    let received = incoming.finish().expect("it is whole");
    received.decide();
    drop(received);
    drop(store);
    assert_eq!(starts_at(folder.path(), Some(position(3))).expect("opened"), 5);
}

#[test]
fn a_state_for_which_there_is_no_room_is_refused_with_its_header() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    drop(member(store.clone(), 3, 10));
    let keyspace = Keyspace::recover(store).expect("recovered").keyspace;
    let pinned = keyspace.pinned_snapshot(Instant::now() + Duration::from_secs(60));
    let huge = Capture::new(position(3), pinned, Membership::default(), Vec::new(), 1 << 50);
    let head = huge.pieces().next().expect("there is one").expect("read");
    let folder = tempfile::tempdir().expect("a directory");
    drop(start(folder.path(), None).expect("opened"));
    let refused = importer(folder.path()).begin().expect("begun").write(&head);
    assert!(matches!(refused, Err(Error::Store(StoreError::Full { .. }))), "{refused:?}");
    assert_eq!(databases(folder.path()), ["db-1"]);
}

/// Nothing is written to the old store once the new one waits, and what comes behind goes to the new one.
#[test]
fn rounds_go_to_the_store_that_they_are_for() {
    let old = Arc::new(MemoryStore::new());
    let Member { mut applier, reader, tail } = member(old.clone(), 5, 10);
    let progress = Arc::new(Progress::default());
    let parts = PersistParts {
        store: old.clone(),
        reader,
        tail,
        progress: progress.clone(),
        metrics: persist_metrics(&Metrics::new(false)),
    };
    let (mut persist, _) = Persist::new(parts, false);
    let mailbox = Mailbox::default();
    let round = |index: u64| Round { applied: position(index), ..Round::default() };
    mailbox.put(round(6), Some(Revision(3)));
    let store = Arc::new(MemoryStore::new());
    let into = store.clone();
    let importer = Importer::new(move || Ok(into.clone() as Arc<dyn Store>));
    let mut incoming = importer.begin().expect("begun");
    for piece in pieces_of(40, 10) {
        incoming.write(&piece).expect("it is what was sent");
    }
    let told = mailbox.defragment();
    mailbox.install(applier.install(incoming.finish().expect("it is whole")));
    mailbox.put(round(41), None);
    mailbox.close();
    let options = PersistOptions {
        round_interval: Duration::ZERO,
        compaction_batch: 10,
        compaction_pause: Duration::ZERO,
    };
    persist.run(&mailbox, &options).expect("no fault");
    assert_eq!((old.applied(), store.applied()), (position(5), position(41)));
    assert_eq!(progress.flushed(), LogIndex(41));
    assert_eq!(told.blocking_recv().expect("told"), Ok(()));
    assert!(!persist.is_compacting(), "what was ordered for the old store is done in the new one");
    importer.begin().expect("the next may come");
}

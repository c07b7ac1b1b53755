//! Pieces of a state that another member sends: damaged, lying, and well made of nonsense.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use decklog::alarm::Alarms;
use decklog::apply::Applier;
use decklog::ids::{FullRevision, LogIndex, LogPosition, Revision, Term};
use decklog::lease::Leases;
use decklog::members::{Members, Membership};
use decklog::mvcc::Keyspace;
use decklog::snapshot::{Error, Importer, MAX_PIECE_BYTES};
use decklog::storage::Error as StoreError;
use decklog::storage::{MemoryStore, Round, Sizes, Store, StoredChange, Table};
use decklog::wire::KeyValue;
use parking_lot::Mutex;
use prost::Message;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::{damage, turn, within};

/// A piece is copied into the buffer of records, and what it holds into the store.
const TIMES: usize = 12;

/// A piece that passes every check of a piece.
fn piece(number: u64, payload: &[u8]) -> Bytes {
    let length = u32::try_from(payload.len()).expect("small").to_le_bytes();
    let checked = [&number.to_le_bytes()[..], &length, payload].concat();
    let sum = crc32c::crc32c(&checked).to_le_bytes();
    [&number.to_le_bytes()[..], &length, &sum, payload].concat().into()
}

fn record(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("small").to_le_bytes();
    [&[kind][..], &length, body].concat()
}

fn header(random: &mut SmallRng) -> Vec<u8> {
    let numbers = [0, 1, 7, i64::MAX, i64::MIN, -1, -2];
    let mut number = |right: i64| {
        let number = if random.random_ratio(29, 30) { right } else { numbers[random.random_range(0..7)] };
        number.to_le_bytes()
    };
    let (index, term, revision) = (number(9), number(2), number(40));
    let (compacted, bytes) = (number(-1), number(1000));
    let body = [&b"decklog state"[..], &1_u32.to_le_bytes(), &index, &term, &revision, &compacted, &bytes];
    record(1, &body.concat())
}

/// Of the rows that a state begins with; now and then another.
fn rows(random: &mut SmallRng) -> Vec<Vec<u8>> {
    let revision = (0_u8, b"revision".to_vec(), 40_i64.to_be_bytes().to_vec());
    let lease = (1, 7_i64.to_be_bytes().to_vec(), vec![0; 16]);
    let nonsense = (
        random.random_range(1..6),
        vec![0xfe; random.random_range(0..20)],
        vec![1; random.random_range(0..40)],
    );
    let mut rows = vec![revision];
    rows.extend(random.random::<bool>().then_some(lease));
    rows.extend(random.random_ratio(1, 10).then_some(nonsense));
    let row = |(table, key, value): (u8, Vec<u8>, Vec<u8>)| {
        let lies = random.random_ratio(1, 30);
        let length = if lies { random.random::<u32>() } else { u32::try_from(key.len()).expect("small") };
        record(2, &[&[table][..], &length.to_le_bytes(), &key, &value].concat())
    };
    rows.into_iter().map(row).collect()
}

fn change(random: &mut SmallRng, main: i64) -> Vec<u8> {
    let pair = KeyValue {
        key: vec![b'k', random.random_range(0..3)].into(),
        create_revision: main,
        mod_revision: main,
        version: 1,
        value: vec![random.random::<u8>(); random.random_range(0..60)].into(),
        lease: if random.random_ratio(1, 20) { 7 } else { 0 },
    };
    let mut pair = pair.encode_to_vec();
    if random.random_ratio(1, 20) {
        damage(&mut pair, random);
    }
    let flags = [if random.random_ratio(1, 30) { 2 } else { random.random_range(0..2) }];
    record(3, &[&main.to_le_bytes()[..], &0_u32.to_le_bytes(), &flags, &pair].concat())
}

/// Records that may follow each other, with a trailer that fits or does not.
fn records(random: &mut SmallRng) -> Vec<u8> {
    let mut all = header(random);
    let (rows, changes) = (rows(random), random.random_range(0..4_u64));
    all.extend(rows.concat());
    for main in 1..=changes {
        all.extend(change(random, i64::try_from(main).expect("small")));
    }
    let (bytes, sum) = (all.len() as u64, crc32c::crc32c(&all));
    let rows = (rows.len() as u64).to_le_bytes();
    let trailer = [&rows[..], &changes.to_le_bytes(), &bytes.to_le_bytes(), &sum.to_le_bytes()];
    all.extend(record(4, &trailer.concat()));
    if random.random_ratio(1, 3) {
        damage(&mut all, random);
    }
    all
}

/// A small state, with what its trailer says of it.
fn honest(rows: u64, changes: u64, lie: u32) -> Vec<u8> {
    let numbers = [9_i64, 2, 3, -1, 0].map(i64::to_le_bytes).concat();
    let mut all = record(1, &[&b"decklog state"[..], &1_u32.to_le_bytes(), &numbers].concat());
    let key = b"revision";
    let length = u32::try_from(key.len()).expect("small").to_le_bytes();
    all.extend(record(2, &[&[0][..], &length, key, &3_i64.to_be_bytes()].concat()));
    for main in 2..=3 {
        let change = stored(main);
        all.extend(record(3, &[&main.to_le_bytes()[..], &[0; 5], &change.pair].concat()));
    }
    let (bytes, sum) = (all.len() as u64, crc32c::crc32c(&all) ^ lie);
    let trailer = [&rows.to_le_bytes()[..], &changes.to_le_bytes(), &bytes.to_le_bytes(), &sum.to_le_bytes()];
    all.extend(record(4, &trailer.concat()));
    all
}

/// Each of these checks alone: behind the others they are seldom the one that refuses.
#[test]
fn a_trailer_that_lies_and_a_piece_with_another_number_are_refused() {
    let _turn = turn();
    receive(&[piece(0, &honest(1, 2, 0))]).expect("it is a state");
    let refuse = |pieces: &[Bytes], what: &str| {
        let refused = receive(pieces).expect_err(what);
        assert!(refused.to_string().contains(what), "{refused}");
    };
    for lies in [honest(2, 2, 0), honest(1, 3, 0), honest(1, 2, 1)] {
        refuse(&[piece(0, &lies)], "trailer");
    }
    refuse(&[piece(1, &honest(1, 2, 0))], "in the place of piece 0");
}

fn receive(pieces: &[Bytes]) -> Result<(), Error> {
    let store = Arc::new(MemoryStore::new());
    let into = store.clone();
    let importer = Importer::new(move || Ok(into.clone() as Arc<dyn Store>));
    let take = || {
        let mut incoming = importer.begin()?;
        for piece in pieces {
            incoming.write(piece)?;
        }
        incoming.finish()
    };
    let taken = take();
    let whole = taken.as_ref().map_or(0, |received| received.position().index.0);
    if taken.is_err() && store.applied().index.0 > 0 {
        // Only what does not recover has come so far.
        assert!(!matches!(taken, Err(Error::Damaged(ref what)) if what.contains("piece")));
    }
    assert!(taken.is_err() || store.applied().index.0 == whole);
    taken.map(drop)
}

#[test]
fn any_pieces_are_a_state_or_refused() {
    let _turn = turn();
    let mut random = SmallRng::seed_from_u64(6);
    let (mut taken, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let all = records(&mut random);
        let cut = random.random_range(0..=all.len());
        let mut pieces = vec![piece(0, &all[..cut]), piece(1, &all[cut..])];
        if random.random_ratio(1, 10) {
            let place = random.random_range(0..2);
            let mut damaged = pieces[place].to_vec();
            damage(&mut damaged, &mut random);
            pieces[place] = damaged.into();
        }
        let bytes = pieces.iter().map(Bytes::len).sum();
        match within(bytes, TIMES, || receive(&pieces)) {
            Ok(()) => taken += 1,
            Err(_) => refused += 1,
        }
    }
    assert!(taken > 100 && refused > 1000, "{taken} taken, {refused} refused");
}

/// A record may claim to be a gigabyte: memory is taken for what has come.
#[test]
fn a_long_record_takes_no_more_than_has_come() {
    let _turn = turn();
    let mut random = SmallRng::seed_from_u64(7);
    let mut begun = header(&mut random);
    begun.extend([3]);
    begun.extend((1_u32 << 30).to_le_bytes());
    let pieces = [piece(0, &begun), piece(1, &[0; 1000])];
    let refused = within(2000, TIMES, || receive(&pieces));
    assert!(refused.is_err());
    let longer = [piece(0, &[begun, vec![0; MAX_PIECE_BYTES]].concat())];
    assert!(matches!(receive(&longer), Err(Error::Damaged(_))), "a piece has a bound");
}

const CHANGES: i64 = 4096;
const VALUE_BYTES: usize = 64 << 10;
/// Pieces on their way, a slice of changes, a round.
const MOST_BYTES: usize = 16 << 20;

/// A store whose changes are made when they are read, and that forgets what is written: all memory is the transfer's.
#[derive(Default)]
struct Endless(Mutex<(LogPosition, u64)>);

fn stored(main: i64) -> StoredChange {
    let pair = KeyValue {
        key: format!("key{main}").into_bytes().into(),
        create_revision: main,
        mod_revision: main,
        version: 1,
        value: vec![b'v'; VALUE_BYTES].into(),
        lease: 0,
    };
    StoredChange { at: FullRevision::new(main, 0), tombstone: false, pair: pair.encode_to_vec().into() }
}

impl Store for Endless {
    fn applied(&self) -> LogPosition {
        self.0.lock().0
    }

    fn write(&self, round: &Round) -> Result<(), StoreError> {
        let mut written = self.0.lock();
        written.0 = round.applied;
        written.1 += round.changes.len() as u64;
        Ok(())
    }

    fn flush(&self) -> Result<LogPosition, StoreError> {
        Ok(self.applied())
    }

    fn read(&self, at: FullRevision) -> Result<Option<StoredChange>, StoreError> {
        Ok(Some(stored(at.main.0)))
    }

    fn scan(
        &self,
        from: FullRevision,
        to: FullRevision,
        visit: &mut dyn FnMut(&StoredChange) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let first = if from.sub == 0 { from.main.0 } else { from.main.0 + 1 };
        for main in first.max(1)..to.main.0 {
            if visit(&stored(main)).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn table(&self, table: Table) -> Result<Vec<(Bytes, Bytes)>, StoreError> {
        let revision = (Bytes::from_static(b"revision"), Bytes::copy_from_slice(&CHANGES.to_be_bytes()));
        Ok(if table == Table::Meta { vec![revision] } else { Vec::new() })
    }

    fn retain(
        &self,
        _from: FullRevision,
        _through: Revision,
        _limit: usize,
        _keep: &mut dyn FnMut(&StoredChange) -> bool,
    ) -> Result<Option<FullRevision>, StoreError> {
        Ok(None)
    }

    fn sizes(&self) -> Sizes {
        Sizes::default()
    }

    fn check_space(&self, _bytes: u64) -> Result<(), StoreError> {
        Ok(())
    }

    fn take_place(&self) -> Result<(), StoreError> {
        Ok(())
    }

    fn discard(&self) {}

    fn defragment(&self, _rows: usize) -> Result<bool, StoreError> {
        Ok(false)
    }
}

#[test]
fn memory_does_not_grow_with_the_state_that_is_sent_or_received() {
    let _turn = turn();
    let keyspace = Keyspace::recover(Arc::new(Endless::default())).expect("recovered").keyspace;
    let members = Members::new(Membership::default());
    let position = LogPosition { index: LogIndex(9), term: Term(2) };
    let applier = Applier::new(keyspace, Leases::default(), Alarms::default(), members, position);
    let store = Arc::new(Endless::default());
    let into = store.clone();
    let importer = Importer::new(move || Ok(into.clone() as Arc<dyn Store>));
    let received = within(1, MOST_BYTES, || {
        let mut incoming = importer.begin().expect("begun");
        for piece in applier.capture(Instant::now() + Duration::from_secs(600)).pieces() {
            incoming.write(&piece.expect("read")).expect("it is what was sent");
        }
        incoming.finish().expect("it is whole")
    });
    assert_eq!(received.position(), position);
    assert_eq!(store.0.lock().1, u64::try_from(CHANGES).expect("it is positive"));
}

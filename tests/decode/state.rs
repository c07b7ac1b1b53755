//! The state behind the store's own checksums: pairs, and the rows of the small tables.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use decklog::alarm::Alarms;
use decklog::ids::{FullRevision, LeaseId, Revision};
use decklog::lease::Leases;
use decklog::members::Membership;
use decklog::mvcc::{Compaction, Keyspace, Recovered};
use decklog::storage::{MemoryStore, Round, Store, StoredChange, Table, TableWrite};
use decklog::wire::KeyValue;
use decklog::wire::etcdserverpb as pb;
use prost::Message;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::{damage, turn, within};

/// The index keeps so much for each key beside the pair, and works on copies of its nodes.
const STATE_TIMES: usize = 200;

fn numbers(random: &mut SmallRng) -> i64 {
    let numbers = [0, 1, 2, 3, -1, i64::MIN, i64::MAX, i64::MAX - 1, 9_000_000_001];
    if random.random() { random.random_range(0..30) } else { numbers[random.random_range(0..9)] }
}

/// A change that may be right, or of another revision, or no pair at all.
fn change(random: &mut SmallRng, main: i64) -> StoredChange {
    let honest = random.random_ratio(3, 4);
    let mut number = |right: i64| if honest { right } else { numbers(random) };
    let pair = KeyValue {
        create_revision: number(main),
        mod_revision: number(main),
        version: number(1),
        key: vec![b'k', u8::try_from(main % 5).expect("small")].into(),
        value: vec![1; 20].into(),
        lease: number(0),
    };
    let mut bytes = pair.encode_to_vec();
    if random.random_ratio(1, 20) {
        damage(&mut bytes, random);
    }
    let sub = if random.random_ratio(1, 10) { u32::MAX } else { 0 };
    let tombstone = random.random_ratio(1, 5);
    StoredChange { at: FullRevision::new(main, sub), tombstone, pair: bytes.into() }
}

fn row(random: &mut SmallRng, table: Table) -> TableWrite {
    let names: [&[u8]; 4] = [b"revision", b"compact-scheduled", b"compact-finished", b"x"];
    let mut key = match table {
        Table::Meta => names[random.random_range(0..4)].to_vec(),
        Table::Alarm => [&numbers(random).to_be_bytes()[..], &1_i32.to_be_bytes()].concat(),
        _ => numbers(random).to_be_bytes().to_vec(),
    };
    let mut value = match table {
        Table::Lease => [numbers(random).to_be_bytes(), numbers(random).to_be_bytes()].concat(),
        Table::Member => {
            let id = u64::from_be_bytes(key.as_slice().try_into().expect("eight"));
            let member = pb::Member { id, name: "one".into(), ..Default::default() };
            member.encode_to_vec()
        }
        _ => numbers(random).to_be_bytes().to_vec(),
    };
    if random.random_ratio(1, 6) {
        damage(if random.random() { &mut key } else { &mut value }, random);
    }
    TableWrite { table, key: key.into(), value: Some(value.into()) }
}

fn written(changes: Vec<StoredChange>, tables: Vec<TableWrite>) -> (Arc<MemoryStore>, usize) {
    let pairs: usize = changes.iter().map(|change| change.pair.len() + 17).sum();
    let rows: usize = tables.iter().map(|row| row.key.len() + row.value.as_ref().map_or(0, Bytes::len)).sum();
    let store = Arc::new(MemoryStore::new());
    store.write(&Round { changes, tables, ..Round::default() }).expect("written");
    (store, pairs + rows)
}

/// Reads and changes a key space in every way: nothing may fall over.
fn use_everything(recovered: Recovered, store: &Arc<MemoryStore>) {
    let Recovered { mut keyspace, attachments, .. } = recovered;
    drop(Leases::recover(&**store, &attachments));
    let reader = keyspace.reader();
    let snapshot = reader.snapshot();
    let everything = Bytes::from_static(&[0]);
    for revision in [0, 1, 3, i64::MAX, reader.revision().0, reader.compacted().0] {
        let request = pb::RangeRequest {
            key: everything.clone(),
            range_end: everything.clone(),
            revision,
            ..Default::default()
        };
        if let Ok(answer) = snapshot.range(&request) {
            for pair in answer.pairs {
                pair.decode().expect("recovery has looked at it");
            }
        }
        drop(snapshot.hash_kv(revision));
        let visit = &mut |_| ControlFlow::Continue(());
        drop(snapshot.changes(Revision(revision), reader.revision(), visit));
    }
    let mut write = keyspace.write();
    for key in [&b"k\x01"[..], b"new"] {
        write.put(Bytes::copy_from_slice(key), Bytes::new(), LeaseId(0));
    }
    drop(write);
    keyspace.publish();
    drop(keyspace.compact(reader.revision().0));
    while keyspace.prune(1) {}
    keyspace.publish();
    let mut compaction = Compaction::begin(&reader);
    while compaction.step(1).is_ok_and(|more| more) {}
}

#[test]
fn any_pairs_are_a_key_space_or_damaged() {
    let _turn = turn();
    let mut random = SmallRng::seed_from_u64(4);
    let (mut read, mut refused) = (0, 0);
    for _ in 0..6000 {
        let mut main = 1;
        let changes: Vec<_> = (0..random.random_range(0..8))
            .map(|_| {
                main += random.random_range(1..3);
                change(&mut random, main)
            })
            .collect();
        let mut tables: Vec<_> =
            (0..random.random_range(0..3)).map(|_| row(&mut random, Table::Meta)).collect();
        if random.random() {
            // The whole of it counts only below the revision that the store names.
            let value = Some(Bytes::copy_from_slice(&main.to_be_bytes()));
            tables.push(TableWrite { table: Table::Meta, key: "revision".into(), value });
        }
        let (store, bytes) = written(changes, tables);
        match within(bytes, STATE_TIMES, || Keyspace::recover(store.clone())) {
            Ok(recovered) => {
                use_everything(recovered, &store);
                read += 1;
            }
            Err(error) => {
                assert!(error.to_string().contains("damaged"), "{error}");
                refused += 1;
            }
        }
    }
    assert!(read > 500 && refused > 500, "{read} read, {refused} refused");
}

#[test]
fn any_rows_are_leases_alarms_and_members_or_damaged() {
    let _turn = turn();
    let mut random = SmallRng::seed_from_u64(5);
    for _ in 0..6000 {
        let mut tables = Vec::new();
        for table in [Table::Lease, Table::Alarm, Table::Member] {
            tables.extend((0..random.random_range(0..4)).map(|_| row(&mut random, table)));
        }
        let (store, bytes) = written(Vec::new(), tables);
        if let Ok(leases) = within(bytes, STATE_TIMES, || Leases::recover(&*store, &[])) {
            let now = Instant::now();
            for id in leases.list(now) {
                assert!(leases.time_to_live(id, true, now).is_some());
                leases.renew(id, now);
            }
            let long = leases.to_checkpoint(now, Duration::ZERO);
            leases.order_checkpoint(&long, now + Duration::from_secs(5), |left| assert!(left.len() <= 4));
            drop(leases.due(now, 10));
        }
        if let Ok(alarms) = within(bytes, STATE_TIMES, || Alarms::recover(&*store)) {
            alarms.list(pb::AlarmType::None);
        }
        if let Ok(members) = within(bytes, STATE_TIMES, || Membership::of_store(&*store)) {
            members.list();
        }
    }
}

//! The sled store against its twin in memory, and against damage.

mod decoders;

use std::fs;

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::ids::{LogIndex, Term};
use crate::storage::{MemoryStore, TableWrite};

const SMALL: SledOptions = SledOptions { cache_bytes: 1 << 20, engine_cache_bytes: 1 << 20 };

/// sled lets go of its lock some time after the last handle is dropped.
fn try_open(directory: &Path) -> Result<SledStore, Error> {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        match SledStore::open(directory, &SMALL) {
            Err(Error::Locked { .. }) if std::time::Instant::now() < deadline => std::thread::yield_now(),
            opened => return opened,
        }
    }
}

fn open(directory: &Path) -> SledStore {
    try_open(directory).expect("opened")
}

fn change(main: i64, sub: u32, length: usize, tombstone: bool) -> StoredChange {
    let byte = u8::try_from(main % 250).expect("below 250");
    StoredChange { at: FullRevision::new(main, sub), tombstone, pair: vec![byte; length].into() }
}

fn position(index: u64) -> LogPosition {
    LogPosition { index: LogIndex(index), term: Term(3) }
}

/// A round of a few changes after `main`, now and then a large one.
fn round(random: &mut SmallRng, index: u64, main: &mut i64) -> Round {
    let mut changes = Vec::new();
    for _ in 0..random.random_range(0..6) {
        *main += 1;
        for sub in 0..random.random_range(1..4) {
            let length = if random.random_ratio(1, 50) { 200_000 } else { random.random_range(0..3000) };
            changes.push(change(*main, sub, length, random.random_ratio(1, 5)));
        }
    }
    let mut tables = Vec::new();
    for _ in 0..random.random_range(0..3) {
        let table = if random.random() { Table::Meta } else { Table::Lease };
        let key = vec![b'k', random.random_range(0..5)].into();
        let value =
            random.random_ratio(3, 4).then(|| vec![random.random::<u8>(); random.random_range(0..40)].into());
        tables.push(TableWrite { table, key, value });
    }
    Round { applied: position(index), changes, tables }
}

type Rows = Vec<(Bytes, Bytes)>;

/// Applied entry, bytes in use, changes, tables.
type Contents = (LogPosition, u64, Vec<StoredChange>, Vec<Rows>);

fn contents(store: &dyn Store) -> Contents {
    let mut changes = Vec::new();
    let end = FullRevision::new(i64::MAX, 0);
    store
        .scan(FullRevision::default(), end, &mut |change| {
            changes.push(change.clone());
            ControlFlow::Continue(())
        })
        .expect("scanned");
    let tables = [Table::Meta, Table::Lease].map(|table| store.table(table).expect("read")).to_vec();
    (store.applied(), store.sizes().in_use, changes, tables)
}

fn assert_same(left: &dyn Store, right: &dyn Store, why: &str) {
    let (left, right) = (contents(left), contents(right));
    assert_eq!((left.0, left.1, left.2.len(), &left.3), (right.0, right.1, right.2.len(), &right.3), "{why}");
    assert!(left.2 == right.2, "{why}: changes differ");
}

/// Changes that are looked up together are those that are looked up one by one, also between what is there.
fn assert_found_together(store: &SledStore, last: i64, step: usize) {
    let all = (0..=last + 1).flat_map(|main| (0..4).map(move |sub| FullRevision::new(main, sub)));
    let wanted: Vec<_> = all.step_by(step).collect();
    for alone in [false, true] {
        let together = store.read_rising(&wanted, alone).expect("read");
        assert_eq!(together.len(), wanted.len());
        for (at, together) in wanted.iter().zip(together) {
            let by_itself = store.read(*at).expect("read").map(|change| change.pair);
            assert!(by_itself == together, "{at:?}, every {step}th");
        }
    }
}

/// What stands in rows of its own goes with its change.
fn assert_no_stray_chunks(store: &SledStore) {
    let mut chunks = 0;
    let mut count = |_: &[u8], _: &[u8]| {
        chunks += 1;
        Ok(())
    };
    store.engine.scan(b"c", &mut count).expect("scanned");
    let expected: usize = contents(store).2.iter().map(|change| blocks::chunks(change).count()).sum();
    assert_eq!(chunks, expected);
}

#[test]
fn it_is_its_twin_through_rounds_compactions_restarts_and_defragmentations() {
    for seed in 0..6 {
        let directory = tempfile::tempdir().expect("a directory");
        let (mut sled, memory) = (open(directory.path()), MemoryStore::new());
        let mut random = SmallRng::seed_from_u64(seed);
        let mut main = 1;
        for index in 1..=120 {
            let round = round(&mut random, index, &mut main);
            sled.write(&round).expect("written");
            memory.write(&round).expect("written");
            match random.random_range(0..20) {
                0 | 1 => {
                    let (through, odd) = (Revision(random.random_range(0..=main)), random.random_range(2..5));
                    for store in [&sled as &dyn Store, &memory] {
                        let mut from = Some(FullRevision::default());
                        while let Some(start) = from {
                            from = store
                                .retain(start, through, 20, &mut |change| change.at.main.0 % odd == 0)
                                .expect("retained");
                        }
                    }
                }
                2 => {
                    sled.flush().expect("flushed");
                    drop(sled);
                    sled = open(directory.path());
                }
                3 => while sled.defragment(64).expect("defragmented") {},
                4 => assert!(sled.defragment(64).is_ok()),
                _ => {}
            }
            let at = FullRevision::new(random.random_range(0..=main), random.random_range(0..3));
            assert_eq!(sled.read(at).expect("read"), memory.read(at).expect("read"), "seed {seed}, {index}");
            if index % 20 == 0 {
                assert_same(&sled, &memory, &format!("seed {seed}, round {index}"));
                assert_no_stray_chunks(&sled);
                for step in [1, 7, 90] {
                    assert_found_together(&sled, main, step);
                }
            }
        }
    }
}

#[test]
fn readers_go_on_while_blocks_are_replaced() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Arc::new(open(directory.path()));
    for index in 1..=400 {
        let main = i64::try_from(index).expect("small");
        let changes = vec![change(main, 0, 900, false)];
        store.write(&Round { applied: position(index), changes, tables: Vec::new() }).expect("written");
    }
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|seed| {
            let (store, done) = (store.clone(), done.clone());
            std::thread::spawn(move || {
                let mut random = SmallRng::seed_from_u64(seed);
                while !done.load(Ordering::Acquire) {
                    let main = random.random_range(1..=40) * 10;
                    let found = store.read(FullRevision::new(main, 0)).expect("read");
                    assert_eq!(found, Some(change(main, 0, 900, false)));
                    let wanted: Vec<_> = (1..=40).map(|place| FullRevision::new(place * 10, 0)).collect();
                    let found = store.read_rising(&wanted, true).expect("read");
                    let pairs = wanted.iter().map(|at| Some(change(at.main.0, 0, 900, false).pair));
                    assert!(found.into_iter().eq(pairs));
                }
            })
        })
        .collect();
    for divisor in [2, 5, 10] {
        let mut from = Some(FullRevision::default());
        while let Some(start) = from {
            let keep = &mut |change: &StoredChange| change.at.main.0 % divisor == 0;
            from = store.retain(start, Revision(400), 20, keep).expect("retained");
        }
        while store.defragment(64).expect("defragmented") {}
    }
    done.store(true, Ordering::Release);
    for reader in readers {
        reader.join().expect("no reader missed anything");
    }
    assert_eq!(contents(&*store).2.len(), 40);
}

#[test]
fn no_page_goes_to_a_file_that_is_never_synced() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    for index in 1..=60 {
        let main = i64::try_from(index).expect("small") * 10;
        let mut changes: Vec<_> = (0..4).map(|sub| change(main, sub, 32 << 10, false)).collect();
        changes.push(change(main + 1, 0, 1 << 20, false));
        store.write(&Round { applied: position(index), changes, tables: Vec::new() }).expect("written");
        store.flush().expect("flushed");
    }
    let blobs = directory.path().join("db-1").join("blobs");
    let found = fs::read_dir(blobs).map_or(0, Iterator::count);
    assert_eq!(found, 0);
}

/// Else sled could give away the space of what the first replaced while nothing on the disk replaces it yet. A copy of
/// the files shows what sled has handed on; batches this small it would keep for itself.
#[test]
fn a_batch_is_in_the_files_before_the_next_is_begun() {
    let folder = tempfile::tempdir().expect("a directory");
    let (path, copy) = (folder.path().join("store"), folder.path().join("copy"));
    let store = open(&path);
    for index in 1..=20 {
        let main = i64::try_from(index).expect("small");
        let changes = vec![change(main, 0, 100, false)];
        store.write(&Round { applied: position(index), changes, tables: Vec::new() }).expect("written");
        copy_tree(&path, &copy);
        let (applied, _, changes, _) = read_all(&copy).expect("a copy is a store");
        assert!(
            applied.index.0 + 1 >= index,
            "batch {index} was begun, and the files end with {}",
            applied.index
        );
        assert_eq!(changes.len() as u64, applied.index.0);
        fs::remove_dir_all(&copy).expect("removed");
    }
}

#[test]
fn a_store_that_was_removed_is_not_a_new_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    store.flush().expect("flushed");
    drop(store);
    fs::remove_dir_all(directory.path().join("db-1")).expect("removed");
    assert!(matches!(SledStore::open(directory.path(), &SMALL), Err(Error::Damaged { .. })));
}

#[test]
fn what_is_not_a_store_is_named() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("member"), "etcd's").expect("written");
    assert!(matches!(SledStore::open(directory.path(), &SMALL), Err(Error::Damaged { .. })));
    let directory = tempfile::tempdir().expect("a directory");
    drop(open(directory.path()));
    fs::write(directory.path().join("CURRENT"), "decklog store 9 1\n").expect("written");
    assert!(matches!(SledStore::open(directory.path(), &SMALL), Err(Error::Damaged { .. })));
}

#[test]
fn damaged_files_are_named_or_change_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    let mut random = SmallRng::seed_from_u64(1);
    let mut main = 1;
    let mut rounds = vec![contents(&store)];
    for index in 1..=30 {
        store.write(&round(&mut random, index, &mut main)).expect("written");
        rounds.push(contents(&store));
    }
    store.flush().expect("flushed");
    drop(store);
    let database = directory.path().join("db-1");
    let names: Vec<_> =
        fs::read_dir(&database).expect("listed").map(|entry| entry.expect("an entry").path()).collect();
    let (mut named, mut whole) = (0, 0);
    for number in 0..80 {
        let copy = tempfile::tempdir().expect("a directory");
        copy_tree(directory.path(), copy.path());
        let name = &names[random.random_range(0..names.len())];
        let Some(name) = name.file_name().filter(|_| name.is_file()) else {
            continue;
        };
        let path = copy.path().join("db-1").join(name);
        let mut bytes = fs::read(&path).expect("read");
        if bytes.is_empty() {
            continue;
        }
        let place = random.random_range(0..bytes.len());
        match random.random_range(0..6) {
            0 => bytes.truncate(place),
            1 => bytes.extend(vec![random.random::<u8>(); random.random_range(1..2000)]),
            2 => {
                let end = (place + random.random_range(1..2000)).min(bytes.len());
                bytes[place..end].fill_with(|| random.random());
            }
            _ => bytes[place] ^= 1 << random.random_range(0..8),
        }
        fs::write(&path, bytes).expect("written");
        let outcome = read_all(copy.path());
        match outcome {
            Err(_) => named += 1,
            Ok(found) => {
                // sled drops what it finds torn at its end: the state after an earlier round.
                assert!(rounds.contains(&found), "{number}: wrong data was read");
                whole += 1;
            }
        }
    }
    assert!(named > 0 && whole > 0, "{named} named, {whole} whole");
}

fn read_all(directory: &Path) -> Result<Contents, Error> {
    let store = try_open(directory)?;
    let mut changes = Vec::new();
    store.scan(FullRevision::default(), FullRevision::new(i64::MAX, 0), &mut |change| {
        changes.push(change.clone());
        ControlFlow::Continue(())
    })?;
    let tables = vec![store.table(Table::Meta)?, store.table(Table::Lease)?];
    Ok((store.applied(), store.sizes().in_use, changes, tables))
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

#[test]
fn a_file_grows_into_what_was_taken_for_it() {
    for seed in 0..3 {
        let directory = tempfile::tempdir().expect("a directory");
        let store = SledStore::open(directory.path(), &SledOptions::default()).expect("opened");
        let mut random = SmallRng::seed_from_u64(seed);
        let (mut main, mut compacted) = (1, 1);
        for index in 1..=150 {
            let count = [3, 40, 300, 2000][random.random_range(0..4)];
            let length = [100, 1000, 8000][random.random_range(0..3)];
            let mut changes = Vec::new();
            while changes.len() < count && changes.iter().map(change_size).sum::<u64>() < 4 << 20 {
                main += 1;
                let length = if random.random_ratio(1, 60) { 64 << 10 } else { length };
                changes.push(change(main, 0, length, false));
            }
            store.write(&Round { applied: position(index), changes, tables: Vec::new() }).expect("written");
            store.flush().expect("flushed");
            if random.random_ratio(1, 12) {
                compacted = random.random_range(compacted..=main);
                let kept = random.random_range(2..40);
                let mut from = Some(FullRevision::default());
                while let Some(next) = from {
                    from = store
                        .retain(next, Revision(compacted), 1000, &mut |change| change.at.main.0 % kept == 0)
                        .expect("compacted");
                }
            }
        }
        // Looks at the file once more.
        store.check_space(0).expect("there is room");
        assert_eq!(store.engine.overgrown.load(Ordering::Relaxed), 0, "seed {seed}");
    }
}

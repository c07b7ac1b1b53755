//! Every decoder of rows, over any bytes. What they allocate is bounded by their construction: a block's table of
//! changes by its bytes over `CHANGE_BYTES`, a chunked pair by the chunks that are there, the others not at all.

use proptest::prelude::*;
use rand::Rng;

use super::super::current::{current, parse_current};
use super::*;

/// Uses all that a decoded block offers.
fn use_block(block: &Block) {
    assert_eq!(block.places_from(FullRevision::default()), 0..block.len());
    for place in 0..block.len() {
        let (change, _) = block.change(place);
        assert_eq!(block.find(change.at), Some(place));
        assert!(block.covers(change.at));
        assert!(change.at.successor() > change.at);
    }
    assert!(block.first() <= block.last());
}

/// The bytes of a block that hold what its checksum covers.
fn body(changes: &[StoredChange]) -> Vec<u8> {
    blocks::encode(changes)[rows::CHECKSUM_BYTES..].to_vec()
}

fn changes(lengths: &[usize]) -> Vec<StoredChange> {
    (1..).zip(lengths).map(|(main, length)| change(main, 0, *length, main % 3 == 0)).collect()
}

proptest! {
    #[test]
    fn a_block_gives_back_its_changes(lengths in proptest::collection::vec(0usize..500, 1..30)) {
        let changes = changes(&lengths);
        let block = Block::decode(changes[0].at, &blocks::encode(&changes)).expect("decoded");
        prop_assert_eq!(block.len(), changes.len());
        for (place, change) in changes.iter().enumerate() {
            prop_assert_eq!(&block.change(place).0, change);
        }
        use_block(&block);
    }

    #[test]
    fn any_bytes_are_a_block_or_damaged(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        prop_assert!(Block::decode(FullRevision::default(), &bytes).is_err());
        if let Ok(block) = Block::decode(FullRevision::default(), &rows::with_checksum(&bytes)) {
            use_block(&block);
        }
    }

    /// A changed block is none; with a right checksum it is none, or one that reads as the bytes say.
    #[test]
    fn a_changed_block_is_none_or_what_it_says(
        lengths in proptest::collection::vec(0usize..60, 1..6),
        at in any::<prop::sample::Index>(),
        bytes in proptest::collection::vec(any::<u8>(), 1..9),
        cut in 0usize..30,
        extra in 0usize..3,
    ) {
        let changes = changes(&lengths);
        let whole = body(&changes);
        let mut body = whole.clone();
        let start = at.index(body.len());
        let end = (start + bytes.len()).min(body.len());
        body[start..end].copy_from_slice(&bytes[..end - start]);
        body.truncate(body.len() - cut.min(body.len()));
        body.resize(body.len() + extra, 0);
        let mut unsigned = blocks::encode(&changes)[..rows::CHECKSUM_BYTES].to_vec();
        unsigned.extend_from_slice(&body);
        let decoded = Block::decode(changes[0].at, &unsigned);
        prop_assert_eq!(decoded.is_ok(), body == whole);
        if let Ok(block) = Block::decode(changes[0].at, &rows::with_checksum(&body)) {
            use_block(&block);
            let read: Vec<_> = (0..block.len()).map(|place| block.change(place)).collect();
            if read.iter().all(|(_, chunked)| *chunked == 0) {
                let read: Vec<_> = read.into_iter().map(|(change, _)| change).collect();
                prop_assert_eq!(super::decoders::body(&read), body);
            }
        }
    }

    #[test]
    fn any_bytes_are_a_row_or_damaged(bytes in proptest::collection::vec(any::<u8>(), 0..40)) {
        let signed = rows::with_checksum(&bytes);
        let value = rows::checked(&signed, || "a row".to_owned()).expect("it is right");
        prop_assert_eq!(value.as_ref(), bytes.as_slice());
        if let Ok(applied) = rows::decode_applied(&signed) {
            prop_assert_eq!(rows::encode_applied(applied), signed);
        }
        drop(rows::decode_applied(&bytes));
        match rows::block_first(&bytes) {
            Ok(first) => prop_assert_eq!(&rows::block_key(first)[1..], &bytes[1..]),
            Err(_) => prop_assert_ne!(bytes.len(), 13),
        }
    }

    #[test]
    fn a_changed_row_is_damaged(
        value in proptest::collection::vec(any::<u8>(), 0..40),
        at in any::<prop::sample::Index>(),
        change in 1u8..,
    ) {
        let mut row = rows::with_checksum(&value);
        let place = at.index(row.len());
        row[place] ^= change;
        prop_assert!(rows::checked(&row, || "a row".to_owned()).is_err());
        let applied = Applied { position: position(7), in_use: 9 };
        let mut row = rows::encode_applied(applied);
        let place = at.index(row.len());
        row[place] ^= change;
        prop_assert!(rows::decode_applied(&row).is_err());
    }

    #[test]
    fn current_is_what_was_written_or_nothing(
        number in any::<u64>(),
        at in any::<prop::sample::Index>(),
        change in 1u8..,
        bytes in proptest::collection::vec(any::<u8>(), 0..40),
    ) {
        let text = current(number);
        prop_assert_eq!(parse_current(text.as_bytes()), (number < u64::MAX).then_some(number));
        let mut changed = text.clone().into_bytes();
        let place = at.index(changed.len());
        changed[place] ^= change;
        prop_assert_eq!(parse_current(&changed), None);
        prop_assert_eq!(parse_current(&bytes), None);
        prop_assert_eq!(parse_current(&[text.as_bytes(), &bytes].concat()).is_some(), bytes.is_empty() && number < u64::MAX);
    }
}

/// What a store holds is read back through a fresh one after its rows were changed under it. Damage names the store.
fn with_rows(change: impl FnOnce(&SledStore)) -> Result<Contents, Error> {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    let changes = vec![super::change(2, 0, 100_000, false), super::change(3, 0, 10, false)];
    store.write(&Round { applied: position(1), changes, tables: Vec::new() }).expect("written");
    change(&store);
    store.flush().expect("flushed");
    drop(store);
    let found = read_all(directory.path());
    if let Err(Error::Damaged { place, .. }) = &found {
        let store = directory.path().display().to_string();
        assert!(place.starts_with(&store), "{place} does not name the store");
    }
    found
}

fn put(store: &SledStore, key: Vec<u8>, row: Option<Vec<u8>>) {
    let mut ops = Ops::default();
    match row {
        Some(row) => ops.put(key, row),
        None => ops.remove(key, 0),
    }
    store.engine.apply(&ops, room::Share::Round).expect("applied");
}

#[test]
fn a_large_pair_that_is_not_whole_is_named() {
    let at = FullRevision::new(2, 0);
    let whole = with_rows(|_| {}).expect("whole");
    assert_eq!(whole.2[0].pair.len(), 100_000);
    let chunk = |length: usize| Some(rows::with_checksum(&vec![7; length]));
    let damages: [(u32, Option<Vec<u8>>); 5] =
        [(1, None), (1, chunk(0)), (1, chunk(10)), (0, chunk(200_000)), (2, Some(vec![1, 2, 3]))];
    for (number, row) in damages {
        let length = row.as_ref().map(Vec::len);
        let found = with_rows(|store| put(store, rows::chunk_key(at, number), row));
        assert!(matches!(found, Err(Error::Damaged { .. })), "chunk {number} with {length:?} bytes was read");
    }
}

#[test]
fn strange_keys_are_named() {
    for key in [&b"b"[..], b"b123", b"bxxxxxxxxxxxxxxxxxxx"] {
        let found = with_rows(|store| put(store, key.to_vec(), Some(rows::with_checksum(b"x"))));
        assert!(matches!(found, Err(Error::Damaged { .. })), "{key:?}");
    }
}

/// A row of any kind with a right checksum, and what may stand in it.
fn any_row(random: &mut SmallRng) -> (Vec<u8>, Vec<u8>) {
    let numbers = [0, 1, 2, 3, 500, i64::MAX - 1, i64::MAX, -1, i64::MIN];
    let subs = [0, 1, u32::MAX];
    let mut at = || FullRevision::new(numbers[random.random_range(0..9)], subs[random.random_range(0..3)]);
    let (first, second) = (at(), at());
    let length = random.random_range(0..60);
    let bytes: Vec<u8> = (0..length).map(|_| random.random()).collect();
    match random.random_range(0..6) {
        0 => (rows::block_key(first), rows::with_checksum(&bytes)),
        1 | 2 => {
            let changes: Vec<_> = [first, second]
                .into_iter()
                .map(|at| StoredChange { at, tombstone: random.random(), pair: bytes.clone().into() })
                .collect();
            (rows::block_key(first), blocks::encode(&changes))
        }
        3 => {
            // A pair that says it stands elsewhere.
            let mut body =
                blocks::encode(&[StoredChange { at: first, tombstone: false, pair: Bytes::new() }]);
            let flags = body.len() - 5;
            body[flags] = 2;
            body[flags + 1..].copy_from_slice(&random.random::<u32>().to_le_bytes());
            rows::set_checksum(&mut body);
            (rows::block_key(first), body)
        }
        4 => (rows::table_key(Table::Meta, b"revision"), rows::with_checksum(&bytes)),
        _ => (rows::chunk_key(first, 0), rows::with_checksum(&bytes)),
    }
}

#[test]
fn a_store_of_strange_rows_is_read_or_named() {
    let (mut read, mut named) = (0, 0);
    for seed in 0..60 {
        let mut random = SmallRng::seed_from_u64(seed);
        let found = with_rows(|store| {
            for _ in 0..random.random_range(1..4) {
                let (key, row) = any_row(&mut random);
                put(store, key, Some(row));
            }
        });
        match found {
            Ok((_, _, changes, _)) => {
                assert!(changes.windows(2).all(|pair| pair[0].at < pair[1].at), "seed {seed}");
                read += 1;
            }
            Err(Error::Damaged { .. }) => named += 1,
            Err(error) => panic!("seed {seed}: {error}"),
        }
    }
    assert!(read > 5 && named > 5, "{read} read, {named} named");
}

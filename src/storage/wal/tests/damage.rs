//! Damaged logs: what is read is a state that once was, or the damage is named; and nothing that a checksum vouches
//! for makes the reader fall over.

use proptest::prelude::*;
use rand::Rng;

use super::*;
use crate::storage::wal;

const FIRST: &str = "0000000000000001.wal";

/// One kind of damage to one file, or to the directory.
fn damage(disk: &MemoryDisk, random: &mut SmallRng) -> String {
    let names = disk.list().expect("names");
    let logs: Vec<_> = names.iter().filter(|name| name.ends_with(".wal")).collect();
    let name = logs[random.random_range(0..logs.len())];
    let mut bytes = disk.read(name).expect("read");
    let place = random.random_range(0..bytes.len().max(1));
    let what = match random.random_range(0..9) {
        0 | 1 if !bytes.is_empty() => {
            bytes[place] ^= 1 << random.random_range(0..8);
            "flipped"
        }
        2 => {
            bytes.truncate(place);
            "cut"
        }
        3 => {
            bytes.extend((0..random.random_range(1..400)).map(|_| random.random::<u8>()));
            "extended"
        }
        4 => {
            let end = (place + random.random_range(1..600)).min(bytes.len());
            bytes[place..end].fill(if random.random() { 0 } else { 0xff });
            "overwritten"
        }
        5 if bytes.len() > 32 => {
            let from = random.random_range(0..bytes.len() - 16) / 8 * 8;
            let to = random.random_range(0..bytes.len() - 16) / 8 * 8;
            let length = random.random_range(8..400).min(bytes.len() - from.max(to));
            bytes.copy_within(from..from + length, to);
            "copied over itself"
        }
        6 if place + 4 <= bytes.len() => {
            let length: u32 = [0, 1, u32::MAX, u32::MAX - 1, 1 << 31][random.random_range(0..5)];
            let header = place / 8 * 8;
            bytes[header..header + 4].copy_from_slice(&length.to_le_bytes());
            "given an extreme length"
        }
        7 => {
            let other = logs[random.random_range(0..logs.len())];
            let others = disk.read(other).expect("read");
            disk.replace(other, bytes);
            bytes = others;
            "exchanged with another"
        }
        _ => {
            let strays = ["1.wal", "+000000000000001.wal", "ffffffffffffffff.wal", "FFFFFFFFFFFFFFFF.wal"];
            let spares = ["ffffffffffffffff.spare", "0000000000000000.spare", "x.spare"];
            disk.replace(strays[random.random_range(0..strays.len())], vec![7; place]);
            disk.replace(spares[random.random_range(0..spares.len())], vec![7; place]);
            "given strange neighbours"
        }
    };
    disk.replace(name, bytes);
    format!("{name} {what} at {place}")
}

#[test]
fn whatever_the_damage_what_is_read_once_was() {
    let (mut named, mut read) = (0, 0);
    for seed in 0..1500 {
        let disk = MemoryDisk::default();
        let mut random = SmallRng::seed_from_u64(seed);
        let (mut wal, _) = open(&disk).expect("a new log");
        let (states, _, cut) = work(&mut wal, &mut random, &mut Model::default(), 40);
        wal.flush().expect("flushed");
        if random.random() {
            wal.close().expect("closed");
        }
        let damages: Vec<_> = (0..random.random_range(1..4)).map(|_| damage(&disk, &mut random)).collect();
        wal::inspect(&disk, &mut |_| {}).expect("looked at");
        match open(&disk) {
            Ok((mut wal, content)) => {
                let found = states.iter().any(|state| state.is_in(&content, cut));
                assert!(found, "seed {seed}, {damages:?}: a state that never was");
                let last = content.entries.last().map_or(cut, |entry| entry.index);
                let term = content.entries.last().map_or(1, |entry| entry.term);
                // It goes on, also with a new segment.
                for index in last + 1..last + 20 {
                    wal.append(None, &[entry(index, term, 180)]).expect("appended");
                }
                read += 1;
            }
            Err(Error::Damaged { .. }) => named += 1,
            Err(error) => panic!("seed {seed}, {damages:?}: {error}"),
        }
    }
    assert!(named > 300 && read > 100, "{named} named, {read} read");
}

/// Of two records written and not flushed the first is lost and the second is not; what is written later ends where
/// the second begins.
#[test]
fn what_a_torn_write_left_behind_is_not_taken_for_a_record_later() {
    const LENGTH: usize = 400;
    let mut torn = 0;
    for seed in 0..200 {
        let disk = MemoryDisk::default();
        let (mut wal, _) = open(&disk).expect("a new log");
        wal.append(None, &[entry(1, 1, 10)]).expect("appended");
        wal.flush().expect("flushed");
        for index in [2, 3] {
            wal.append(None, &[entry(index, 1, LENGTH)]).expect("appended");
        }
        drop(wal);
        disk.crash(seed);
        let (mut wal, content) = open(&disk).expect("opened");
        if content.entries.len() > 1 || content.torn_bytes == 0 {
            continue;
        }
        let other = WalEntry { data: vec![0xee; LENGTH].into(), ..entry(2, 1, 0) };
        wal.append(None, std::slice::from_ref(&other)).expect("appended");
        wal.flush().expect("flushed");
        drop(wal);
        let (_, content) = open(&disk).expect("opened again");
        assert_eq!(content.entries, [entry(1, 1, 10), other], "seed {seed}");
        torn += 1;
    }
    assert!(torn > 10, "only {torn} writes were torn");
}

fn payload(hard_state: [u64; 3], count: u32, entries: &[(u64, u64, u8, u32, usize)]) -> Vec<u8> {
    let mut payload: Vec<u8> = hard_state.iter().flat_map(|number| number.to_le_bytes()).collect();
    payload.extend(count.to_le_bytes());
    for (index, term, kind, length, data) in entries {
        payload.extend(index.to_le_bytes());
        payload.extend(term.to_le_bytes());
        payload.push(*kind);
        payload.extend(length.to_le_bytes());
        payload.extend(vec![7; *data]);
    }
    payload
}

fn number() -> impl Strategy<Value = u64> {
    prop_oneof![0u64..4, any::<u64>(), Just(u64::MAX), Just(i64::MAX as u64), Just(i64::MAX as u64 + 1)]
}

fn length() -> impl Strategy<Value = u32> {
    prop_oneof![0u32..40, any::<u32>(), Just(u32::MAX), Just(u32::MAX - 1)]
}

proptest! {
    /// A record is read as what it says, byte for byte, or not at all.
    #[test]
    fn a_payload_with_a_right_checksum_is_read_whole_or_not(
        hard_state in [number(), number(), number()],
        count in length(),
        entries in proptest::collection::vec((number(), number(), any::<u8>(), length(), 0usize..40), 0..4),
        honest in any::<bool>(),
        cut in 0usize..20,
    ) {
        let entries: Vec<_> = entries.into_iter().map(|(index, term, kind, length, data)| {
            let length = if honest { u32::try_from(data).expect("small") } else { length };
            (index, term, kind, length, data)
        }).collect();
        let count = if honest { u32::try_from(entries.len()).expect("few") } else { count };
        let mut payload = payload(hard_state, count, &entries);
        if !honest {
            payload.truncate(payload.len().saturating_sub(cut));
        }
        let place = Place { segment: 1, offset: 8 };
        let mut bytes = [&[0; 8], &record::signed(place, 0, &payload)[..]].concat();
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        let bytes = Bytes::from(bytes);
        match record::decode(&bytes, place) {
            record::Found::Batch { hard_state, entries, .. } => {
                let mut again = vec![0; place.offset];
                record::encode(&mut again, place, 0, hard_state, &entries);
                prop_assert_eq!(&again[..bytes.len()], bytes.as_ref());
            }
            found => prop_assert_eq!(found, record::Found::BadPayload),
        }
    }

    /// A head is read as what it says, byte for byte, or not at all.
    #[test]
    fn a_head_with_a_right_checksum_is_read_whole_or_not(
        numbers in proptest::collection::vec(number(), 0..8),
        cut in 0usize..9,
    ) {
        let mut payload: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        payload.truncate(payload.len().saturating_sub(cut));
        let mut bytes = record::signed(Place { segment: 1, offset: 0 }, 0, &payload);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        match record::decode(&bytes.clone().into(), Place { segment: 1, offset: 0 }) {
            record::Found::Head { owner, hard_state, next } => {
                prop_assert_eq!(&record::head(1, owner, hard_state), &bytes);
                prop_assert_eq!(next, bytes.len());
            }
            found => {
                let nothing = if payload.is_empty() { record::Found::Nothing } else { record::Found::BadPayload };
                prop_assert_eq!(found, nothing);
                let limit = i64::MAX as u64;
                prop_assert!(payload.len() != 40 || numbers[2] > limit || numbers[4] > limit);
            }
        }
    }

    /// Headers that lie, with right checksums: an end where none is, lengths beyond the file, wrong marks.
    #[test]
    fn a_log_of_such_records_is_opened_or_named(
        records in proptest::collection::vec((number(), number(), 0usize..60, length(), length(), 0u8..4), 1..6),
        extra in proptest::collection::vec(any::<u8>(), 0..40),
        has_head in any::<bool>(),
    ) {
        let mut file = if has_head { record::head(1, OWNER, HardState::default()) } else { Vec::new() };
        for (term, index, data, length, flushed, kind) in records {
            let place = Place { segment: 1, offset: file.len() };
            let entry = (index, term, kind, u32::try_from(data).expect("small"), data);
            match kind {
                0 => file.extend(record::signed_header(place, length, length, flushed)),
                1 => file.extend(record::signed(place, flushed as usize, &payload([term, 1, 0], 0, &[]))),
                _ => file.extend(record::signed(place, 0, &payload([term, 1, 0], 1, &[entry]))),
            }
            file.resize(file.len().next_multiple_of(8), 0);
        }
        file.extend(extra);
        let disk = MemoryDisk::default();
        disk.replace(FIRST, file);
        wal::inspect(&disk, &mut |_| {}).expect("looked at");
        match open(&disk) {
            Ok((mut wal, content)) => {
                let next = content.entries.last().map_or(1, |entry| entry.index.saturating_add(1));
                wal.append(None, &[entry(next, content.hard_state.term, 3000)]).expect("appended");
            }
            Err(error) => prop_assert!(matches!(error, Error::Damaged { .. }), "{}", error),
        }
    }
}

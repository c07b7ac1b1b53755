//! The log against its promise: after any crash an exact prefix with everything flushed, after any damage a name.

mod damage;

use proptest::prelude::*;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::storage::disk::{Fault, MemoryDisk, RealDisk};

const SMALL: WalOptions = WalOptions { segment_bytes: 2048 };
const OWNER: Owner = Owner { member: MemberId(0xa), cluster: ClusterId(0xb) };

fn open(disk: &MemoryDisk) -> Result<(Wal, WalContent), Error> {
    Wal::open(Arc::new(disk.clone()), OWNER, SMALL)
}

fn entry(index: u64, term: u64, length: usize) -> WalEntry {
    let data = vec![u8::try_from(index % 251).expect("below 251") + 1; length].into();
    WalEntry { index, term, kind: 0, data }
}

/// What a log should hold, step by step.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    hard_state: HardState,
    entries: Vec<WalEntry>,
}

impl Model {
    fn append(&mut self, hard_state: HardState, entries: &[WalEntry]) {
        self.hard_state = hard_state;
        if let Some(first) = entries.first() {
            self.entries.retain(|entry| entry.index < first.index);
            self.entries.extend_from_slice(entries);
        }
    }

    /// Whether a log that may still hold entries cut from the model holds the same above them.
    fn is_in(&self, content: &WalContent, cut: u64) -> bool {
        let above = |entries: &[WalEntry]| -> Vec<WalEntry> {
            entries.iter().filter(|entry| entry.index > cut).cloned().collect()
        };
        self.hard_state == content.hard_state && above(&self.entries) == above(&content.entries)
    }
}

/// One run of random work. Returns the states after each append, the number of them that were flushed, the cut.
fn work(wal: &mut Wal, random: &mut SmallRng, model: &mut Model, steps: usize) -> (Vec<Model>, usize, u64) {
    let (mut states, mut flushed, mut cut) = (vec![model.clone()], 1, 0);
    for _ in 0..steps {
        let last = model.entries.last().map_or(0, |entry| entry.index);
        let result = match random.random_range(0..10) {
            0..=4 => {
                let first = if random.random_ratio(1, 6) { last.max(cut + 1) } else { last + 1 };
                let count = random.random_range(0..4);
                let term = model.hard_state.term + 1;
                let lengths = (0..count).map(|number| (number, random.random_range(0..200)));
                let entries: Vec<_> =
                    lengths.map(|(number, length)| entry(first + number, term, length)).collect();
                let hard_state = HardState { term, vote: 7, commit: last };
                let bytes = entries.iter().map(|entry| entry.data.len()).sum();
                let appended = wal.reserve(bytes).and_then(|()| wal.append(Some(hard_state), &entries));
                model.append(hard_state, &entries);
                states.push(model.clone());
                appended
            }
            5..=8 => wal.flush().inspect(|()| flushed = states.len()),
            _ if flushed == states.len() && last > 2 => {
                cut = last - 2;
                wal.cut(LogIndex(cut))
            }
            _ => Ok(()),
        };
        if result.is_err() {
            break;
        }
    }
    (states, flushed, cut)
}

#[test]
fn after_a_crash_at_any_call_a_prefix_with_everything_flushed_is_there() {
    for seed in 0..60 {
        for stop_at in 0..60 {
            let disk = MemoryDisk::default();
            let mut random = SmallRng::seed_from_u64(seed);
            let mut model = Model::default();
            let (mut wal, _) = open(&disk).expect("a new log");
            disk.fail_at(stop_at, Fault::Stop);
            let (states, flushed, cut) = work(&mut wal, &mut random, &mut model, 60);
            drop(wal);
            disk.crash(seed * 1000 + stop_at);
            let (mut wal, content) =
                open(&disk).unwrap_or_else(|error| panic!("seed {seed}, stop {stop_at}: {error}"));
            let found = states.iter().rposition(|state| state.is_in(&content, cut));
            let found = found.unwrap_or_else(|| panic!("seed {seed}, stop {stop_at}: no prefix"));
            assert!(found + 1 >= flushed, "seed {seed}, stop {stop_at}: lost something flushed");
            // And it goes on from there.
            let mut model = states[found].clone();
            let (states, _, later) = work(&mut wal, &mut random, &mut model, 20);
            let cut = cut.max(later);
            wal.flush().expect("flushed");
            drop(wal);
            disk.crash(seed);
            let (_, content) = open(&disk).expect("opened again");
            assert!(
                states.last().expect("one").is_in(&content, cut),
                "seed {seed}, stop {stop_at}: second run"
            );
        }
    }
}

#[test]
fn a_full_disk_refuses_and_changes_nothing() {
    for call in 0..40 {
        let disk = MemoryDisk::default();
        let (mut wal, _) = open(&disk).expect("a new log");
        let mut written = Vec::new();
        disk.fail_at(call, Fault::Full);
        for index in 1..=60 {
            let entry = entry(index, 1, 100);
            // Only making a segment asks for space; what meets "full" elsewhere ends the log.
            match wal.reserve(100) {
                Ok(()) => {}
                Err(Error::Full { .. }) => wal.reserve(100).expect("there is space again"),
                Err(error) => panic!("{error}"),
            }
            if wal.append(None, std::slice::from_ref(&entry)).and_then(|()| wal.flush()).is_err() {
                break;
            }
            written.push(entry);
        }
        drop(wal);
        let (_, content) = open(&disk).expect("opened");
        assert_eq!(content.entries[..written.len()], written[..], "call {call}");
    }
}

#[test]
fn a_failed_flush_is_final() {
    let disk = MemoryDisk::default();
    let (mut wal, _) = open(&disk).expect("a new log");
    wal.append(None, &[entry(1, 1, 10)]).expect("appended");
    disk.fail_at(0, Fault::Io);
    assert!(wal.flush().is_err());
    assert!(wal.flush().is_err());
    assert!(wal.append(None, &[entry(2, 1, 10)]).is_err());
    assert!(wal.reserve(1).is_err());
}

#[test]
fn a_bit_turned_over_in_a_closed_log_is_named_and_never_read() {
    let disk = MemoryDisk::default();
    let (mut wal, _) = open(&disk).expect("a new log");
    for index in 1..=30 {
        wal.append(Some(HardState { term: 1, vote: 1, commit: index }), &[entry(index, 1, 90)])
            .expect("appended");
        wal.flush().expect("flushed");
    }
    wal.close().expect("closed");
    let (_, whole) = open(&disk.copy()).expect("opened");
    let mut names: Vec<_> =
        disk.list().expect("names").into_iter().filter(|name| name.ends_with(".wal")).collect();
    names.sort();
    assert!(names.len() > 2);
    let mut caught = 0;
    for name in &names {
        for byte in 0..disk.length(name).expect("length") {
            let copy = disk.copy();
            copy.flip(name, usize::try_from(byte).expect("small"), u8::try_from(byte % 8).expect("small"));
            match open(&copy) {
                // A bit in the zeros or the padding: nothing was written there.
                Ok((_, content)) => {
                    assert_eq!(
                        (content.hard_state, &content.entries),
                        (whole.hard_state, &whole.entries),
                        "{name} {byte}"
                    );
                }
                Err(Error::Damaged { place, .. }) => {
                    assert!(place.contains(name) || place.contains("memory"), "{place}");
                    caught += 1;
                }
                Err(error) => panic!("{error}"),
            }
        }
    }
    assert!(caught > 30 * 90, "only {caught} were caught");
}

/// A record never reaches beyond the file it was written into, so a cut through one shows, whatever it left of it.
#[test]
fn a_flushed_record_that_a_cut_takes_away_is_missed() {
    const NAME: &str = "0000000000000001.wal";
    let disk = MemoryDisk::default();
    let (mut wal, _) = open(&disk).expect("a new log");
    for index in 1..=5 {
        wal.append(None, &[entry(index, 1, 90)]).expect("appended");
    }
    wal.flush().expect("flushed");
    drop(wal);
    let whole = disk.read(NAME).expect("read");
    let (mut named, mut read) = (0, 0);
    for length in 0..whole.len() {
        let copy = disk.copy();
        copy.replace(NAME, whole[..length].to_vec());
        match open(&copy) {
            Ok((mut wal, content)) => {
                assert_eq!(content.entries.len(), 5, "cut to {length} bytes");
                // There is room again, here or in the next segment.
                wal.append(None, &[entry(6, 1, 300)]).expect("appended");
                wal.flush().expect("flushed");
                let (_, content) = open(&copy).expect("opened again");
                assert_eq!(content.entries.len(), 6, "cut to {length} bytes");
                read += 1;
            }
            Err(Error::Damaged { place, .. }) => {
                assert!(place.contains(NAME), "{place}");
                named += 1;
            }
            Err(error) => panic!("cut to {length} bytes: {error}"),
        }
    }
    assert!(named > 5 * 90 && read > 1000, "{named} named, {read} read");
}

fn files(disk: &MemoryDisk) -> Vec<(String, Vec<u8>)> {
    let names = disk.list().expect("names").into_iter();
    names.map(|name| (name.clone(), disk.read(&name).expect("read"))).collect()
}

/// A log of one entry per segment, the last with an unfinished write behind it, which an open would clear away.
fn log_of(owner: Owner) -> MemoryDisk {
    let disk = MemoryDisk::default();
    let (mut wal, _) = Wal::open(Arc::new(disk.clone()), owner, SMALL).expect("a new log");
    for index in 1..=3 {
        wal.append(None, &[entry(index, 1, 1800)]).expect("appended");
        wal.flush().expect("flushed");
    }
    let name = segment_name(3);
    let mut bytes = disk.read(&name).expect("read");
    bytes[2000..].fill(0xff);
    disk.replace(&name, bytes);
    disk
}

#[test]
fn the_log_of_another_is_refused_and_left_as_it_was() {
    let another = [
        Owner { member: MemberId(0xc), ..OWNER },
        Owner { cluster: ClusterId(0xc), ..OWNER },
        Owner { member: MemberId(0xb), cluster: ClusterId(0xa) },
    ];
    for owner in another {
        let disk = log_of(owner);
        let before = files(&disk);
        let error = open(&disk).map(drop).expect_err("it is not ours");
        let path = "memory/0000000000000001.wal";
        assert_eq!(error.to_string(), format!("the log in {path} is of {owner}, and this is {OWNER}"));
        assert!(files(&disk) == before, "{owner}: it was changed");
    }
    assert_eq!(open(&log_of(OWNER)).expect("it is ours").1.entries.len(), 3);
}

/// Not the first segment alone: each says whose it is.
#[test]
fn a_segment_of_another_log_is_refused_wherever_it_stands() {
    let theirs = log_of(Owner { member: MemberId(0xc), ..OWNER });
    for id in 1..=3 {
        let disk = log_of(OWNER);
        let name = segment_name(id);
        disk.replace(&name, theirs.read(&name).expect("read"));
        let error = open(&disk).map(drop).expect_err("a segment of it is not ours");
        assert!(matches!(&error, Error::ForeignLog { path, .. } if path.ends_with(&name)), "{error}");
    }
}

#[test]
fn real_files_are_reused_and_read_back() {
    let directory = tempfile::tempdir().expect("a directory");
    let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(&directory.path().join("wal")).expect("made"));
    let (mut wal, content) = Wal::open(disk.clone(), OWNER, SMALL).expect("a new log");
    assert_eq!(content, WalContent::default());
    for index in 1..=100 {
        wal.append(Some(HardState { term: 2, vote: 3, commit: index - 1 }), &[entry(index, 2, 100)])
            .expect("appended");
        wal.flush().expect("flushed");
        wal.cut(LogIndex(index - 1)).expect("cut");
    }
    wal.close().expect("closed");
    assert!(disk.list().expect("names").len() <= 2 + MAX_SPARES);
    let (_, content) = Wal::open(disk, OWNER, SMALL).expect("opened");
    assert_eq!(content.hard_state, HardState { term: 2, vote: 3, commit: 99 });
    assert_eq!(content.entries.last(), Some(&entry(100, 2, 100)));
}

proptest! {
    #[test]
    fn any_bytes_decode_to_something(bytes in proptest::collection::vec(any::<u8>(), 0..300), offset in 0usize..320) {
        let bytes = Bytes::from(bytes);
        record::decode(&bytes, Place { segment: 1, offset });
        record::flushed_mark(&bytes, Place { segment: 1, offset });
    }

    #[test]
    fn a_changed_record_is_no_record(length in 0usize..100, at in 0usize..100, change in 1u8..) {
        let entries = [entry(5, 3, length)];
        let hard_state = HardState { term: 3, vote: 1, commit: 4 };
        let place = Place { segment: 9, offset: 8 };
        let mut bytes = vec![0; place.offset];
        record::encode(&mut bytes, place, 0, hard_state, &entries);
        prop_assert_eq!(bytes.len(), place.offset + record::size(&entries));
        let next = bytes.len();
        let whole = record::decode(&bytes.clone().into(), place);
        let expected = record::Found::Batch { hard_state, entries: entries.to_vec(), next };
        prop_assert_eq!(&whole, &expected);
        for elsewhere in [Place { segment: 8, ..place }, Place { segment: 9, offset: 16 }, Place { segment: 9, offset: 0 }] {
            let moved = [&vec![0; elsewhere.offset], &bytes[place.offset..]].concat();
            prop_assert_eq!(record::decode(&moved.into(), elsewhere), record::Found::Nothing);
        }
        let written = HEADER_BYTES + 28 + 21 + length;
        if at < written {
            bytes[place.offset + at] ^= change;
            let found = record::decode(&bytes.into(), place);
            let nothing = matches!(found, record::Found::Nothing | record::Found::BadPayload);
            prop_assert!(nothing, "{:?}", found);
        }
    }
}

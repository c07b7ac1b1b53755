//! Files that are missing, cut short or somebody else's: the start is refused with one line that names the place, or
//! everything acknowledged is there. Never a quiet new beginning.

use std::fs::{self, OpenOptions};
use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use decklog::storage::wal::{Owner, WalEntry};

use crate::damage::{Crashed, assert_refused_well};
use crate::log_files::Log;
use crate::seed;

/// Segments of a log that takes the place of another.
const SEGMENT_BYTES: u64 = 16 << 20;
/// Small enough for many of them.
const MANY_SEGMENT_BYTES: u64 = 256 << 10;
const MANY_SEGMENTS: u64 = 8;
const MAX_MORE_LIVES: usize = 20;

/// What is done to a data directory, and what of it the refusal must name; `None` when it must change nothing.
type Case = (&'static str, fn(&Path), Option<&'static str>);

const CASES: &[Case] = &[
    ("nothing", |_| {}, None),
    ("the store's CURRENT is gone", |data| remove(&data.join("store/CURRENT")), Some("store")),
    (
        "the store's CURRENT is rubbish",
        |data| write(&data.join("store/CURRENT"), b"what?\n"),
        Some("CURRENT"),
    ),
    ("the store is gone", |data| remove_all(&data.join("store")), Some("raft log")),
    ("the store's database is gone", |data| remove_all(&only(&data.join("store"), "db-")), Some("db-")),
    ("the store's file is empty", |data| cut(only(&data.join("store"), "db-").join("db"), 0), Some("db-")),
    ("the log is gone", |data| remove_all(&data.join("wal")), Some("raft log")),
    (
        "log and store are gone",
        |data| ["wal", "store"].iter().for_each(|part| remove_all(&data.join(part))),
        Some("raft log"),
    ),
    ("the log's first segment is gone", |data| remove(&segments(data)[0]), Some("raft log")),
    ("the log's last segment is empty", |data| cut(last_segment(data), 0), Some(".wal")),
    ("the log's last segment is cut in its first record", |data| cut(last_segment(data), 40), Some(".wal")),
    ("the identity is gone", |data| remove(&data.join("decklog.json")), Some("decklog.json")),
    (
        "the identity is rubbish",
        |data| write(&data.join("decklog.json"), b"{\"format\":"),
        Some("decklog.json"),
    ),
    (
        "the identity is of a later format",
        |data| write(&data.join("decklog.json"), b"{\"format\":99,\"member\":\"1\",\"cluster\":\"1\"}"),
        Some("format 99"),
    ),
    ("a spare is gone", |data| spares(data).iter().for_each(|spare| remove(spare)), None),
    ("the lock file is gone", |data| remove(&data.join("lock")), None),
];

fn remove(path: &Path) {
    fs::remove_file(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn remove_all(path: &Path) {
    fs::remove_dir_all(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn write(path: &Path, bytes: &[u8]) {
    fs::write(path, bytes).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

fn cut(path: impl AsRef<Path>, length: u64) {
    let file = OpenOptions::new().write(true).open(path).expect("the file is there");
    file.set_len(length).expect("it can be cut");
}

fn entries(folder: &Path, wanted: impl Fn(&str) -> bool) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry"));
    let wanted = entries.filter(|entry| wanted(&entry.file_name().to_string_lossy()));
    let mut paths: Vec<_> = wanted.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

fn only(folder: &Path, prefix: &str) -> std::path::PathBuf {
    let found = entries(folder, |name| name.starts_with(prefix));
    assert_eq!(found.len(), 1, "{found:?}");
    found[0].clone()
}

fn segments(data: &Path) -> Vec<std::path::PathBuf> {
    entries(&data.join("wal"), |name| name.ends_with(".wal"))
}

fn last_segment(data: &Path) -> std::path::PathBuf {
    segments(data).pop().expect("the log has a segment")
}

fn spares(data: &Path) -> Vec<std::path::PathBuf> {
    entries(&data.join("wal"), |name| name.ends_with(".spare"))
}

#[tokio::test]
async fn what_is_missing_or_foreign_is_named() {
    let mut crashed = Crashed::new(seed("what_is_missing_or_foreign_is_named"), true).await;
    for (what, damage, refused) in CASES {
        let started = crashed.start_damaged(|copy, _| damage(copy)).await;
        match (started, refused) {
            (Ok(()), None) => {}
            (Ok(()), Some(_)) => panic!("{what}: it started, with everything there"),
            (Err(ended), None) => panic!("{what}: refused: {}\n{}", ended.status, ended.log),
            (Err(ended), Some(place)) => {
                println!("{what}: {}", ended.log.lines().last().unwrap_or_default());
                assert_refused_well(&ended, place);
            }
        }
    }
}

/// `decklog inspect` says whose log it is, and fails when it is not this member's.
fn assert_inspect_names(data: &Path, own: Owner, found: Owner) {
    let output = Command::new(env!("CARGO_BIN_EXE_decklog")).arg("inspect").arg(data).output();
    let output = output.expect("the binary was built with the test");
    let text = String::from_utf8_lossy(&output.stdout);
    let not_ours = if found == own { "" } else { ", NOT THIS MEMBER'S" };
    assert!(text.contains(&format!(" at 0: of {found}{not_ours};")), "{text}");
    assert_eq!(output.status.success(), found == own, "{text}");
}

/// What is done to a log, which ends where the store ends, before it takes its own place again, and what the refusal says; `None` when there is none.
type Change = (&'static str, fn(&mut Log), Option<&'static str>);

const CHANGES: &[Change] = &[
    ("nothing", |_| {}, None),
    ("another member's, as long", |log| log.owner.member.0 += 1, Some("the log in ")),
    ("another cluster's, as long", |log| log.owner.cluster.0 += 1, Some("the log in ")),
    (
        "another member's, longer",
        |log| {
            log.owner.member.0 += 1;
            let WalEntry { index, term, .. } = *log.entries.last().expect("it has entries");
            log.entries.push(WalEntry { index: index + 1, term, kind: 0, data: Bytes::new() });
        },
        Some("the log in "),
    ),
    (
        "another member's, shorter",
        |log| {
            log.owner.member.0 += 1;
            log.entries.pop();
        },
        Some("the log in "),
    ),
    (
        "its own, from before",
        |log| assert!(log.entries.pop().is_some() && !log.entries.is_empty()),
        Some("it ends with entry "),
    ),
    (
        "its own, of another course of terms",
        |log| {
            log.entries.iter_mut().for_each(|entry| entry.term += 1);
            log.hard_state.term += 1;
        },
        Some("is of term "),
    ),
];

#[tokio::test]
async fn another_log_is_not_taken_for_its_own() {
    let seed = seed("another_log_is_not_taken_for_its_own");
    let mut crashed = Crashed::new(seed, true).await;
    crashed.stop_in_order().await;
    for (what, change, refused) in CHANGES {
        let mut owners = None;
        let started = crashed
            .start_damaged(|copy, _| {
                let mut log = Log::of(copy);
                let own = log.owner;
                change(&mut log);
                owners = Some((own, log.owner));
                log.replace(copy, SEGMENT_BYTES);
                assert_inspect_names(copy, own, log.owner);
            })
            .await;
        match (started, refused) {
            (Ok(()), None) => {}
            (Ok(()), Some(_)) => panic!("{what}: it started, with everything there"),
            (Err(ended), None) => panic!("{what}: refused: {}\n{}", ended.status, ended.log),
            (Err(ended), Some(said)) => {
                println!("{what}: {}", ended.log.lines().last().unwrap_or_default());
                assert_refused_well(&ended, said);
                let (own, other) = owners.expect("it was changed");
                let both = format!(" is of {other}, and this is {own}");
                assert_eq!(ended.log.contains(&both), own != other, "{what}: {}", ended.log);
            }
        }
    }
}

/// Wherever a segment is cut off: what was flushed is missed, and the zeros behind it are not.
#[tokio::test]
async fn a_log_is_cut_off_anywhere() {
    let mut crashed = Crashed::new(seed("a_log_is_cut_off_anywhere"), true).await;
    let log = Log::of(&crashed.base());
    let end = *log.last_offsets.last().expect("it has an end");
    let records = &log.last_offsets[..log.last_offsets.len() - 1];
    let middle = records[records.len() / 2];
    let lengths =
        [0, 1, 15, 16, 17, 55, 56, 57, middle, middle + 1, middle + 16, middle + 44, end - 1, end, end + 15];
    for length in lengths {
        let started = crashed.start_damaged(|copy, _| cut(last_segment(copy), length as u64)).await;
        let ended = started.expect_err("something flushed is missing");
        assert_refused_well(&ended, ".wal");
    }
    let whole = usize::try_from(fs::metadata(last_segment(&crashed.base())).expect("it is there").len());
    for length in [end + 16, end + 17, end + 4096, whole.expect("it fits in memory") - 1] {
        let started = crashed.start_damaged(|copy, _| cut(last_segment(copy), length as u64)).await;
        started.unwrap_or_else(|ended| panic!("cut to {length}, {end} in use: {}", ended.log));
    }
}

/// Of a log in many segments, each is missed, and so is its end.
#[tokio::test]
async fn a_segment_in_the_middle_is_gone_or_cut() {
    let mut crashed = Crashed::new(seed("a_segment_in_the_middle_is_gone_or_cut"), false).await;
    let base = crashed.base();
    let mut log = Log::of(&base);
    // A life that was short of time, or that has just cut its log, leaves too little.
    for _ in 0..MAX_MORE_LIVES {
        if log.bytes() >= MANY_SEGMENTS * MANY_SEGMENT_BYTES {
            break;
        }
        crashed.live(false).await;
        log = Log::of(&base);
    }
    log.replace(&base, MANY_SEGMENT_BYTES);
    let count = segments(&base).len();
    assert!(count > 3, "only {count} segments of {} bytes", log.bytes());
    crashed.start_damaged(|_, _| {}).await.expect("the log in many segments is the same log");
    let ends = Log::of(&base).ends;
    for number in [1, count / 2, count - 2] {
        let started = crashed.start_damaged(|copy, _| remove(&segments(copy)[number])).await;
        let ended = started.expect_err("a segment is gone");
        println!("{}", ended.log.lines().last().unwrap_or_default());
        assert_refused_well(&ended, "is missing");
        let end = ends[number];
        for length in [0, 40, 56, end / 2, end / 4 * 3, end] {
            let started = crashed.start_damaged(|copy, _| cut(&segments(copy)[number], length as u64)).await;
            assert_refused_well(&started.expect_err("a segment is cut"), ".wal");
        }
    }
}

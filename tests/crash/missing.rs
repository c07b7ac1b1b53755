//! Files that are missing, cut short or somebody else's: the start is refused with one line that names the place, or
//! everything acknowledged is there. Never a quiet new beginning.

use std::fs::{self, OpenOptions};
use std::path::Path;

use crate::damage::{Crashed, assert_refused_well, copy_directory};
use crate::process::Member;
use crate::seed;

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

/// A log of the same member from before, and one of another member, are not taken for its own.
#[tokio::test]
async fn another_log_is_not_taken_for_its_own() {
    let seed = seed("another_log_is_not_taken_for_its_own");
    let mut crashed = Crashed::new(seed, true).await;
    let folder = tempfile::tempdir().expect("a temporary folder");
    let other = Member::new(&folder.path().join("other"));
    other.start().await.kill();
    let fresh_log = other.data.join("wal");
    let started = crashed
        .start_damaged(|copy, _| {
            remove_all(&copy.join("wal"));
            copy_directory(&fresh_log, &copy.join("wal"));
        })
        .await;
    let ended = started.expect_err("a log that ends before the store does is refused");
    println!("{}", ended.log.lines().last().unwrap_or_default());
    assert_refused_well(&ended, "raft log");
}

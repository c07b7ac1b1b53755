//! Data directories that are not what they should be: `decklog inspect`, the identity, the whole of a store.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use decklog::datadir;
use decklog::storage::{SledOptions, SledStore};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::{damage, turn, within};

/// JSON is read into a tree.
const IDENTITY_TIMES: usize = 100;

/// With members of these ids.
fn identity(member: u64, cluster: u64, members: &[u64], joined: bool, log: bool) -> String {
    let urls = "[\"http://127.0.0.1:1\",\"http://[::1]:2\"]";
    let each = |id: &u64| format!("{{\"id\":\"{id:016x}\",\"name\":\"n {id}\",\"peer_urls\":{urls}}}");
    let members = format!("[{}]", members.iter().map(each).collect::<Vec<_>>().join(","));
    let sum = crc32c::crc32c_append(crc32c::crc32c(&member.to_be_bytes()), &cluster.to_be_bytes());
    let sum = crc32c::crc32c_append(sum, format!("{members}{joined}{log}").as_bytes());
    format!(
        "{{\"format\":3,\"member\":\"{member:016x}\",\"cluster\":\"{cluster:016x}\",\"members\":{members},\
         \"joined\":{joined},\"log\":{log},\"checksum\":\"{sum:08x}\"}}\n"
    )
}

#[test]
fn a_changed_identity_is_named() {
    let _turn = turn();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("decklog.json");
    let mut random = SmallRng::seed_from_u64(6);
    let mut read = 0;
    for _ in 0..4000 {
        let (member, cluster) = (random.random(), random.random());
        let ids: Vec<u64> = (0..random.random_range(1..4)).collect();
        let (joined, log) = (random.random(), random.random());
        let mut text = identity(member, cluster, &ids, joined, log).into_bytes();
        let damages = random.random_range(0..3);
        for _ in 0..damages {
            damage(&mut text, &mut random);
        }
        fs::write(&path, &text).expect("written");
        match within(text.len(), IDENTITY_TIMES, || datadir::identity(directory.path())) {
            Ok(found) => {
                read += 1;
                let found_ids = found.members.iter().map(|member| member.id.0).collect();
                let found = (found.member.0, found.cluster.0, found_ids, found.joins, found.has_log);
                assert_eq!(found, (member, cluster, ids, joined, log), "{}", String::from_utf8_lossy(&text));
            }
            Err(error) => assert!(damages > 0, "{error}: {}", String::from_utf8_lossy(&text)),
        }
    }
    assert!(read > 1000, "only {read} were read at all");
    let deep = "[".repeat(1 << 20);
    for text in ["", "7", "[]", "{}", "{\"format\":3}", "{\"format\":3,\"member\":7}", &deep] {
        fs::write(&path, text).expect("written");
        assert!(datadir::identity(directory.path()).is_err());
    }
}

fn inspect(directory: &Path) -> ExitCode {
    decklog::inspect::run(vec![OsString::from(directory), OsString::from("--entries")])
}

/// A directory of anything, with the names that are looked for.
fn garbage(root: &Path, random: &mut SmallRng) {
    let bytes = |random: &mut SmallRng| -> Vec<u8> {
        (0..random.random_range(0..600)).map(|_| random.random::<u8>()).collect()
    };
    let names = [
        "lock",
        "wal/0000000000000001.wal",
        "wal/0000000000000002.wal",
        "wal/0000000000000001.spare",
        "wal/x",
        "store/db-1/db",
        "store/db-1/conf",
        "store/db-1/snap.0000000000000001",
        "store/db-1/blobs/1",
        "store/stray",
    ];
    fs::write(root.join("decklog.json"), identity(1, 2, &[1], false, true)).expect("written");
    for directory in ["wal", "store/db-1/blobs"] {
        fs::create_dir_all(root.join(directory)).expect("made");
    }
    for name in names {
        if random.random() {
            fs::write(root.join(name), bytes(random)).expect("written");
        }
    }
    let number: u64 = 1;
    let sum = crc32c::crc32c(&number.to_be_bytes());
    let current = match random.random_range(0..3) {
        0 => bytes(random),
        _ => format!("decklog store 1 {sum:08x} {number}\n").into_bytes(),
    };
    if random.random_ratio(3, 4) {
        fs::write(root.join("store/CURRENT"), current).expect("written");
    }
}

#[test]
fn garbage_is_looked_at_and_left_as_it_is() {
    let _turn = turn();
    for seed in 0..40 {
        let directory = tempfile::tempdir().expect("a directory");
        let mut random = SmallRng::seed_from_u64(seed);
        garbage(directory.path(), &mut random);
        let before = contents(directory.path());
        // Whether it fails depends on what there is; it ends, and changes nothing.
        inspect(directory.path());
        assert!(contents(directory.path()) == before, "seed {seed}: something was changed");
        // A store of it is refused, or new.
        drop(SledStore::open(&directory.path().join("store"), &SledOptions::default()));
    }
    let empty = tempfile::tempdir().expect("a directory");
    assert_eq!(inspect(empty.path()), ExitCode::FAILURE);
    assert_eq!(inspect(Path::new("/nonexistent")), ExitCode::FAILURE);
}

fn contents(root: &Path) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root).expect("listed") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.push((path.display().to_string(), fs::read(&path).expect("read")));
        }
    }
    found.sort();
    found
}

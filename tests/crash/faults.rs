//! Disks that fail: syncs that end with an error, and power cuts. `faults.c` does it inside the process.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::crowd::Crowd;
use crate::process::Member;
use crate::{seed, variable};
use rand::Rng;

/// How long the load lasts before the disk fails.
const LOAD: Duration = Duration::from_millis(700);
const WRITERS: usize = 4;
/// Power cuts, unless `DECKLOG_CUTS` says otherwise.
const CUTS: u64 = 20;
/// The sync that is cut, counted from the start of the process.
const SYNCS: std::ops::Range<u32> = 1..400;

/// Compiles `faults.c` into `folder`. Without a compiler, says on stdout that `test` is skipped; panics when
/// `DECKLOG_REQUIRE_PEERS=1`, so that a gate cannot pass by having no compiler.
fn library_or_skip(test: &str, folder: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/crash/faults.c");
    let library = folder.join("faults.so");
    let compiled = Command::new("cc")
        .args(["-Wall", "-O2", "-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .args(["-ldl", "-lpthread"])
        .output();
    match compiled {
        Ok(output) if output.status.success() => Some(library),
        Ok(output) => panic!("cc refuses faults.c:\n{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            skip(test, &format!("no cc: {error}"));
            None
        }
    }
}

/// Says that a test is skipped; panics when nothing may be.
pub fn skip(test: &str, reason: &str) {
    assert!(env::var("DECKLOG_REQUIRE_PEERS").as_deref() != Ok("1"), "{test} needs more: {reason}");
    println!("SKIPPED {test}: {reason}");
}

#[tokio::test]
async fn a_failing_fsync_stops_the_process() {
    let seed = seed("a_failing_fsync_stops_the_process");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let Some(library) = library_or_skip("a_failing_fsync_stops_the_process", folder.path()) else {
        return;
    };
    let data = folder.path().join("data");
    let sound = Member::new(&data);
    let mut crowd = Crowd::new(WRITERS, seed);
    for place in ["wal", "store"] {
        let flag = folder.path().join(format!("{place}-fails"));
        let failing = sound
            .with_variable("LD_PRELOAD", &library)
            .with_variable("DECKLOG_FAULT_FLAG", &flag)
            .with_variable("DECKLOG_FAULT_IN", data.join(place));
        let mut process = failing.start().await;
        let life = crowd.begin(&process);
        tokio::time::sleep(LOAD).await; // the length of a life, not a wait for something
        let mut ended = None;
        // Every writer ends with an error: its last request was not acknowledged.
        crowd = life
            .end(async || {
                File::create(&flag).expect("a flag file");
                ended = Some(process.wait_for_end().await);
            })
            .await;
        let ended = ended.expect("the closure has run");
        println!("{place}: {}: {}", ended.status, ended.log.lines().last().unwrap_or_default());
        assert_eq!(ended.status.code(), Some(1), "{}\n{}", ended.status, ended.log);
        assert!(ended.log.contains("Input/output error"), "no reason is named:\n{}", ended.log);
        fs::remove_file(&flag).expect("the flag file can be removed");
        let process = sound.start().await;
        crowd.check(&process).await;
        process.kill();
    }
}

/// Cuts the power in a random sync, again and again: each life begins on what the cut before left.
#[tokio::test]
async fn power_cut() {
    let seed = seed("power_cut");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let Some(library) = library_or_skip("power_cut", folder.path()) else {
        return;
    };
    let mut crowd = Crowd::new(WRITERS, seed);
    let member = Member::new(&folder.path().join("data"));
    for number in 0..variable("DECKLOG_CUTS").unwrap_or(CUTS) {
        let shadow = folder.path().join(format!("shadow-{number}"));
        fs::create_dir(&shadow).expect("a folder can be made");
        let last_sync = crowd.random.random_range(SYNCS);
        let shadowed = member
            .with_variable("LD_PRELOAD", &library)
            .with_variable("DECKLOG_SHADOW_FROM", &member.data)
            .with_variable("DECKLOG_SHADOW_TO", &shadow)
            .with_variable("DECKLOG_SHADOW_CUT", last_sync.to_string())
            .with_variable("DECKLOG_SHADOW_SEED", crowd.random.random::<u32>().to_string());
        // A cut may come during the start.
        let started = shadowed.try_start().await;
        if let Ok(mut process) = started {
            crowd = crowd.begin(&process).end(async || drop(process.wait_for_end().await)).await;
        }
        fs::remove_dir_all(&member.data).expect("the data directory can be removed");
        fs::rename(shadow.join("tree"), &member.data).expect("the shadow can take its place");
        fs::remove_dir_all(&shadow).expect("the shadow can be removed");
        let process = member.start().await;
        crowd.check(&process).await;
        crowd.check_retold(&process).await;
        process.kill();
    }
    println!("{}", crowd.summary());
}

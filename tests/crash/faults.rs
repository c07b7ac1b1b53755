//! Disks that fail: syncs that end with an error, and power cuts. `faults.c` does it inside the process.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::crowd::Crowd;
use crate::process::Member;
use crate::seed;

/// How long the load lasts before the disk fails.
const LOAD: Duration = Duration::from_millis(700);
const WRITERS: usize = 4;

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

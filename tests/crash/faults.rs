//! Disks that fail: syncs that end with an error. `faults.c` does it inside the process.

use std::fs::{self, File};
use std::time::Duration;

use crate::crowd::Crowd;
use crate::libraries::library_or_skip;
use crate::process::Member;
use crate::seed;

/// How long the load lasts before the disk fails.
const LOAD: Duration = Duration::from_millis(700);
const WRITERS: usize = 4;

#[tokio::test]
async fn a_failing_fsync_stops_the_process() {
    let seed = seed("a_failing_fsync_stops_the_process");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let Some(library) = library_or_skip("a_failing_fsync_stops_the_process", "faults", folder.path()) else {
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

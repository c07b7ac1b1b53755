//! Many fillings under load, at random moments: with the process killed while the disk is full, started while it is full,
//! and writes of the store that find no room in their middle.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use decklog::wire::etcdserverpb::{PutRequest, RangeRequest};
use rand::Rng;
use tonic::{Code, Status};

use super::{MAX_WRITES, NO_SPACE, RECOVERY, RETRY, SmallDisk};
use crate::crowd::Crowd;
use crate::history::{LARGE_EVERY, value_of};
use crate::libraries::library_or_skip;
use crate::process::{Member, Process};
use crate::seed;

const WRITERS: usize = 4;
const ROUNDS: u32 = 8;
/// As `st_blocks` counts, on any file system.
const BYTES_OF_A_BLOCK: u64 = 512;
/// Starts on a full disk that each end at once.
const STARTS: u32 = 3;
/// How long the load lasts before the disk is full, and how long it is, in milliseconds.
const LIFE: std::ops::Range<u64> = 30..400;
const FULL: std::ops::Range<u64> = 0..600;

async fn put(process: &Process, number: u64) -> Result<(), Status> {
    let value = value_of(number).into();
    let request = PutRequest { key: "filler".into(), value, ..PutRequest::default() };
    process.kv().put(request).await.map(drop)
}

async fn until_refused(process: &Process) {
    for _ in 0..MAX_WRITES {
        if let Err(status) = put(process, LARGE_EVERY).await {
            assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, NO_SPACE));
            return;
        }
    }
    panic!("{MAX_WRITES} writes fit on a full disk");
}

async fn until_written(process: &Process) {
    let mut tries = tokio::time::interval(RETRY);
    let recovered = tokio::time::timeout(RECOVERY, async {
        loop {
            tries.tick().await;
            match put(process, 1).await {
                Ok(()) => return,
                Err(status) => assert_eq!(status.message(), NO_SPACE, "{status}"),
            }
        }
    });
    if recovered.await.is_err() {
        panic!("writes do not go on when there is room; the log:\n{}", process.log());
    }
}

/// Reads of both kinds.
async fn try_read(process: &Process) -> Result<(), Status> {
    for serializable in [false, true] {
        let request =
            RangeRequest { key: "w".into(), range_end: "x".into(), serializable, ..RangeRequest::default() };
        process.kv().range(request).await?;
    }
    Ok(())
}

async fn read(process: &Process) {
    if let Err(status) = try_read(process).await {
        panic!("reads do not go on: {status}; the log:\n{}", process.log());
    }
}

/// What the files say that are there for a full disk, they have.
fn check_put_by(data: &Path) {
    let log = fs::read_dir(data.join("wal")).expect("a log").map(|entry| entry.expect("an entry").path());
    for path in log.chain([data.join("store/ballast")]) {
        let found = fs::metadata(&path).expect("it is there");
        let allocated = found.blocks() * BYTES_OF_A_BLOCK;
        assert!(allocated >= found.len(), "{}: {allocated} of {} bytes", path.display(), found.len());
    }
}

#[tokio::test]
async fn nothing_is_lost_however_often_the_disk_is_full() {
    let test = "nothing_is_lost_however_often_the_disk_is_full";
    let seed = seed(test);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let Some(disk) = SmallDisk::mount(test, &folder.path().join("small"), 480) else { return };
    let member = Member::new(&disk.path.join("data"));
    let mut crowd = Crowd::new(WRITERS, seed);
    let mut process = member.start().await;
    for _ in 0..ROUNDS {
        let (life, full) = (crowd.random.random_range(LIFE), crowd.random.random_range(FULL));
        let recovers = crowd.random.random();
        let living = crowd.begin(&process);
        tokio::time::sleep(Duration::from_millis(life)).await; // the length of a life, not a wait for something
        crowd = living
            .end(async || {
                disk.fill();
                read(&process).await;
                tokio::time::sleep(Duration::from_millis(full)).await; // as above
                read(&process).await;
                if recovers {
                    disk.make_room();
                    until_written(&process).await;
                    disk.fill();
                }
                process.kill();
            })
            .await;
        for _ in 0..STARTS {
            check_put_by(&member.data);
            process = member.start().await;
            process.kill();
        }
        process = member.start().await;
        crowd.check(&process).await;
        until_refused(&process).await;
        read(&process).await;
        disk.make_room();
        until_written(&process).await;
    }
    println!("{}", crowd.summary());
}

/// Fillings of the store alone, made by `faults.c`: its writes fail in their middle, and it is opened anew.
async fn fail_writes_of_the_store(test: &str, kind: &str, read_meanwhile: impl AsyncFn(&Process)) {
    let seed = seed(test);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let Some(library) = library_or_skip(test, "faults", folder.path()) else { return };
    let (data, flag) = (folder.path().join("data"), folder.path().join("full"));
    let member = Member::new(&data)
        .with_variable("LD_PRELOAD", &library)
        .with_variable("DECKLOG_FAULT_KIND", kind)
        .with_variable("DECKLOG_FAULT_FLAG", &flag)
        .with_variable("DECKLOG_FAULT_IN", data.join("store"));
    let mut crowd = Crowd::new(WRITERS, seed);
    let mut process = member.start().await;
    let mut mended = 0;
    for _ in 0..ROUNDS {
        let (life, full) = (crowd.random.random_range(LIFE), crowd.random.random_range(FULL));
        let living = crowd.begin(&process);
        tokio::time::sleep(Duration::from_millis(life)).await; // the length of a life, not a wait for something
        crowd = living
            .end(async || {
                File::create(&flag).expect("a flag file");
                let lasts = async {
                    tokio::time::sleep(Duration::from_millis(full)).await; // as above
                    fs::remove_file(&flag).expect("the flag file can be removed");
                    until_written(&process).await;
                };
                let reads = async {
                    loop {
                        read_meanwhile(&process).await;
                    }
                };
                tokio::select! {
                    () = lasts => {}
                    () = reads => unreachable!("it goes on"),
                }
                read(&process).await;
                mended += process.log().matches("was opened anew").count();
                process.kill();
            })
            .await;
        process = member.start().await;
        crowd.check(&process).await;
    }
    assert!(mended > 0, "no write of the store found no room");
    println!("opened anew {mended} times; {}", crowd.summary());
}

#[tokio::test]
async fn reads_go_on_while_the_store_is_opened_anew() {
    fail_writes_of_the_store("reads_go_on_while_the_store_is_opened_anew", "outgrown", read).await;
}

/// As on a file system that needs room to write where there is some already. What is not in memory may be refused then, and
/// for no other reason.
#[tokio::test]
async fn nothing_is_lost_while_the_store_cannot_be_opened_anew() {
    let read = async |process: &Process| {
        if let Err(status) = try_read(process).await {
            println!("a read is refused: {status}");
            let is_for_want_of_room = status.message().contains("no space left on the device");
            assert!(is_for_want_of_room, "reads do not go on: {status}; the log:\n{}", process.log());
        }
    };
    fail_writes_of_the_store("nothing_is_lost_while_the_store_cannot_be_opened_anew", "full", read).await;
}

//! Many fillings under load, at random moments: with the process killed while the disk is full, started while it is full,
//! and writes of the store that find no room in their middle.

use std::fs::{self, File};
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

/// Reads of both kinds go on. What is not in memory may be refused, when a write has failed and the store cannot be opened
/// anew for want of room; for no other reason.
async fn read(process: &Process) {
    for serializable in [false, true] {
        let request =
            RangeRequest { key: "w".into(), range_end: "x".into(), serializable, ..RangeRequest::default() };
        if let Err(status) = process.kv().range(request).await {
            println!("a read is refused: {status}");
            let is_for_want_of_room = status.message().contains("no space left on the device");
            assert!(is_for_want_of_room, "reads do not go on: {status}; the log:\n{}", process.log());
        }
    }
}

#[tokio::test]
async fn nothing_is_lost_however_often_the_disk_is_full() {
    let test = "nothing_is_lost_however_often_the_disk_is_full";
    let seed = seed(test);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let Some(disk) = SmallDisk::mount(test, &folder.path().join("small"), 640) else { return };
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
        process = member.start().await;
        crowd.check(&process).await;
        until_refused(&process).await;
        read(&process).await;
        disk.make_room();
        until_written(&process).await;
    }
    println!("{}", crowd.summary());
}

#[tokio::test]
async fn the_store_goes_on_after_writes_that_found_no_room() {
    let test = "the_store_goes_on_after_writes_that_found_no_room";
    let seed = seed(test);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let Some(library) = library_or_skip(test, "faults", folder.path()) else { return };
    let (data, flag) = (folder.path().join("data"), folder.path().join("full"));
    let member = Member::new(&data)
        .with_variable("LD_PRELOAD", &library)
        .with_variable("DECKLOG_FAULT_KIND", "full")
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
                tokio::time::sleep(Duration::from_millis(full)).await; // as above
                read(&process).await;
                fs::remove_file(&flag).expect("the flag file can be removed");
                until_written(&process).await;
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

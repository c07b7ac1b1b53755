//! A disk without room, a real one: a small file system that a foreign file fills under load. Writes are refused with
//! etcd's text, reads and watches go on, nothing acknowledged is lost, and it goes on by itself when there is room.

mod crowded;
mod operator;

use std::collections::BTreeMap;
use std::time::Duration;

use decklog::wire::etcdserverpb::watch_request::RequestUnion;
use decklog::wire::etcdserverpb::{
    PutRequest, RangeRequest, WatchCreateRequest, WatchRequest, WatchResponse,
};
use tonic::{Code, Status, Streaming};

use crate::process::{Member, Process};
use crate::small_disk::SmallDisk;

const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";
/// Writes until the disk must have been found full: many times what was left of it.
const MAX_WRITES: usize = 20_000;
/// Enough for two segments of the log.
const MAX_LOG_WRITES: usize = 4000;
const VALUE_BYTES: usize = 8 << 10;
/// Above a segment of the log.
const LARGE_BYTES: usize = 20 << 20;
const MAX_REQUEST_BYTES: &str = "33554432";
/// How long it may take to find that there is room again.
const RECOVERY: Duration = Duration::from_secs(60);
const RETRY: Duration = Duration::from_millis(50);

/// What was acknowledged, by key.
#[derive(Default)]
struct Written {
    pairs: BTreeMap<Vec<u8>, u32>,
    count: u32,
    acknowledged: usize,
}

impl Written {
    /// Puts one pair; noted when it is acknowledged.
    async fn put(&mut self, process: &Process) -> Result<(), Status> {
        self.count += 1;
        let key = format!("key-{:03}", self.count % 500).into_bytes();
        let mut value = self.count.to_le_bytes().to_vec();
        value.resize(VALUE_BYTES, 7);
        let request = PutRequest { key: key.clone().into(), value: value.into(), ..Default::default() };
        process.kv().put(request).await?;
        self.pairs.insert(key, self.count);
        self.acknowledged += 1;
        Ok(())
    }

    /// `log_alone`: the log may go on in the segments that it has, for as long as the store follows.
    async fn put_until_refused(&mut self, process: &Process, log_alone: bool) {
        for _ in 0..if log_alone { MAX_LOG_WRITES } else { MAX_WRITES } {
            if let Err(status) = self.put(process).await {
                assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, NO_SPACE));
                return;
            }
        }
        assert!(log_alone, "{MAX_WRITES} writes fit on a full disk");
        println!("the log went on in what it has");
    }

    /// Puts what needs a segment of its own in the log, under a key that is not looked at.
    async fn put_large(&self, process: &Process) -> Result<(), Status> {
        let request =
            PutRequest { key: "large".into(), value: vec![7; LARGE_BYTES].into(), ..Default::default() };
        process.kv().put(request).await.map(drop)
    }

    async fn check_large_is_refused(&self, process: &Process) {
        let status = self.put_large(process).await.expect_err("there is no room for another segment");
        assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, NO_SPACE));
    }

    /// Exactly what was acknowledged is there: a write that was refused for want of room changed nothing.
    async fn check(&self, process: &Process) {
        for serializable in [false, true] {
            let request = RangeRequest {
                key: "key-".into(),
                range_end: "key.".into(),
                serializable,
                ..Default::default()
            };
            let answer = process.kv().range(request).await.expect("reads go on").into_inner();
            let found = answer.kvs.iter().map(|pair| pair.decode().expect("a pair"));
            let found: BTreeMap<Vec<u8>, u32> = found
                .map(|pair| {
                    let number = pair.value[..4].try_into().expect("four bytes");
                    (pair.key.to_vec(), u32::from_le_bytes(number))
                })
                .collect();
            assert!(found == self.pairs, "{} pairs of {}", found.len(), self.pairs.len());
        }
    }
}

/// A watch of everything, from the first revision on.
async fn watch(process: &Process) -> Streaming<WatchResponse> {
    let create = WatchCreateRequest {
        key: "key-".into(),
        range_end: "key.".into(),
        start_revision: 1,
        ..Default::default()
    };
    let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let requests = tokio_stream::StreamExt::chain(tokio_stream::once(request), tokio_stream::pending());
    process.watch().watch(requests).await.expect("a watch stream").into_inner()
}

/// Reads events until there were `count` of them.
async fn read_events(events: &mut Streaming<WatchResponse>, seen: &mut usize, count: usize) {
    while *seen < count {
        let next = tokio::time::timeout(RECOVERY, events.message()).await.expect("events go on");
        *seen += next.expect("the watch goes on").expect("the stream goes on").events.len();
    }
    assert_eq!(*seen, count, "an event was told twice");
}

async fn wait_until_written(written: &mut Written, process: &Process) {
    let mut tries = tokio::time::interval(RETRY);
    let recovered = tokio::time::timeout(RECOVERY, async {
        loop {
            tries.tick().await;
            match written.put(process).await {
                Ok(()) => return,
                Err(status) => assert_eq!(status.message(), NO_SPACE, "{status}"),
            }
        }
    });
    recovered.await.expect("writes go on when there is room");
}

/// `log_alone`: the log stands on the small disk, the rest does not.
async fn fill_and_recover(test: &str, log_alone: bool) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let Some(disk) = SmallDisk::mount(test, &folder.path().join("small"), 160) else { return };
    let member = match log_alone {
        true => Member::new(&folder.path().join("data"))
            .with_variable("ETCD_WAL_DIR", disk.path.join("wal"))
            .with_variable("ETCD_MAX_REQUEST_BYTES", MAX_REQUEST_BYTES),
        false => Member::new(&disk.path.join("data")),
    };
    let process = member.start().await;
    let mut written = Written::default();
    for _ in 0..300 {
        written.put(&process).await.expect("there is room");
    }
    let (mut events, mut seen) = (watch(&process).await, 0);
    disk.fill();
    written.put_until_refused(&process, log_alone).await;
    if log_alone {
        written.check_large_is_refused(&process).await;
    }
    println!("{test}: {} writes were acknowledged", written.acknowledged);
    written.check(&process).await;
    read_events(&mut events, &mut seen, written.acknowledged).await;

    disk.make_room();
    wait_until_written(&mut written, &process).await;
    if log_alone {
        written.put_large(&process).await.expect("there is room for another segment");
    }
    for _ in 0..300 {
        written.put(&process).await.expect("there is room");
    }
    written.check(&process).await;
    read_events(&mut events, &mut seen, written.acknowledged).await;

    // A crash while it is full: the start serves reads, and goes on when there is room.
    disk.fill();
    written.put_until_refused(&process, log_alone).await;
    process.kill();
    let process = member.start().await;
    written.check(&process).await;
    written.put_until_refused(&process, log_alone).await;
    disk.make_room();
    wait_until_written(&mut written, &process).await;
    written.check(&process).await;
    process.kill();
    let process = member.start().await;
    written.check(&process).await;
    written.put(&process).await.expect("there is room");
    process.kill();
}

#[tokio::test]
async fn a_full_disk_refuses_writes_until_there_is_room() {
    fill_and_recover("a_full_disk_refuses_writes_until_there_is_room", false).await;
}

#[tokio::test]
async fn a_full_disk_of_the_log_refuses_writes_until_there_is_room() {
    fill_and_recover("a_full_disk_of_the_log_refuses_writes_until_there_is_room", true).await;
}

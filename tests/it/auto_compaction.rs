//! Automatic compaction of a whole server: by time with real time, beside etcd; by revisions with a clock that the
//! test turns, because it is looked at every five minutes.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use decklog::config::{self, Invocation};
use decklog::server;
use decklog::wire::etcdserverpb::kv_client::KvClient;
use decklog::wire::etcdserverpb::maintenance_client::MaintenanceClient;
use decklog::wire::etcdserverpb::{HashKvRequest, PutRequest, RangeRequest};
use tokio::sync::{mpsc, oneshot};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use crate::peers::peer_or_skip;
use crate::server::decklog_program;
use crate::servers::{Launch, Server};
use crate::until::until;

const DEADLINE: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(10);
/// The retention, and how often it compacts; both servers look ten times as often.
const PERIOD: Duration = Duration::from_millis(500);
const COMPACTIONS: usize = 3;
/// How often a limit by revisions is looked at, in etcd as here.
const REVISION_INTERVAL: Duration = Duration::from_secs(300);
const REVISIONS_KEPT: i64 = 10;

/// Puts the key once more; returns the revision.
async fn put(channel: &Channel, value: &str) -> i64 {
    let request = PutRequest { key: "key".into(), value: value.to_owned().into(), ..Default::default() };
    let answer = KvClient::new(channel.clone()).put(request).await.expect("it serves").into_inner();
    answer.header.expect("an answer has a header").revision
}

/// 0 for none.
async fn compacted(channel: &Channel) -> i64 {
    let answer = MaintenanceClient::new(channel.clone()).hash_kv(HashKvRequest { revision: 0 }).await;
    answer.expect("it serves").into_inner().compact_revision.max(0)
}

/// The oldest that can be read is what it was compacted at.
async fn assert_compacted_at(channel: &Channel, revision: i64) {
    let read = |revision| {
        let mut kv = KvClient::new(channel.clone());
        async move { kv.range(RangeRequest { key: "key".into(), revision, ..Default::default() }).await }
    };
    let oldest = read(revision).await.expect("it is kept").into_inner();
    let pair = oldest.kvs[0].decode().expect("a pair");
    assert_eq!((oldest.kvs.len(), pair.mod_revision), (1, revision));
    let refused = read(revision - 1).await.expect_err("it is compacted");
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::OutOfRange, "etcdserver: mvcc: required revision has been compacted")
    );
}

/// Writes until it was compacted a few times; what is younger than the period is there each time.
async fn check_periodic(program: &Path) {
    let retention = format!("--auto-compaction-retention={}ms", PERIOD.as_millis());
    let (mut sent, mut seen) = (vec![(1, Instant::now())], vec![0]);
    let server = Server::start(program, &["--auto-compaction-mode=periodic", &retention]).await;
    let deadline = Instant::now() + DEADLINE;
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    while seen.len() <= COMPACTIONS {
        ticks.tick().await;
        let before = Instant::now();
        sent.push((put(&server.channel, "value").await, before));
        let now = compacted(&server.channel).await;
        if now > seen[seen.len() - 1] {
            let (_, written) = *sent.iter().find(|(revision, _)| *revision == now).expect("it was written");
            let age = written.elapsed();
            assert!(age >= PERIOD, "{}: revision {now} went at the age of {age:?}", program.display());
            seen.push(now);
        }
        assert!(Instant::now() < deadline, "{}: compacted at {seen:?} only", program.display());
    }
    // With nothing written, all but the last goes, and then nothing more.
    let (last, _) = sent[sent.len() - 1];
    wait_for_compaction(&server.channel, last).await;
    println!("{}: compacted at {seen:?}, and at {last}", program.display());
}

#[tokio::test]
async fn by_time_it_keeps_the_last_period() {
    check_periodic(decklog_program()).await;
}

/// The same of etcd: the test asks for no more than it does.
#[tokio::test]
async fn by_time_etcd_keeps_the_last_period() {
    if let Some(etcd) = peer_or_skip("by_time_etcd_keeps_the_last_period", "etcd") {
        check_periodic(&etcd).await;
    }
}

/// Turns the clock of the server's main thread on by so much, and tells when that is done.
type Turn = (Duration, oneshot::Sender<()>);

/// A server in this process. Its jobs live by a clock that stands unless it is turned; its other threads, and the
/// clients, by that of everybody.
fn run_with_turned_clock(args: Vec<String>, turns: mpsc::Receiver<Turn>, ready: oneshot::Sender<()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build().expect("a runtime");
    // While something blocks, the clock does not turn by itself when the runtime has nothing to do.
    let (end, ended) = std::sync::mpsc::sync_channel::<()>(1);
    runtime.spawn_blocking(move || ended.recv());
    runtime.block_on(serve(args, turns, ready));
    drop(end);
}

async fn serve(args: Vec<String>, mut turns: mpsc::Receiver<Turn>, ready: oneshot::Sender<()>) {
    let args = args.into_iter().map(Into::into).collect();
    let Ok(Invocation::Serve(config)) = config::load(args, &[], &|_| false) else {
        panic!("the flags are right");
    };
    let running = server::start(*config, 1024).await.expect("it starts");
    ready.send(()).expect("the test waits for it");
    while let Some((length, done)) = turns.recv().await {
        tokio::time::advance(length).await;
        done.send(()).expect("the test waits for it");
    }
    tokio::time::resume();
    running.stop().await.expect("it stops");
}

async fn wait_for_compaction(channel: &Channel, revision: i64) {
    until(&format!("compacted at {revision}"), async || compacted(channel).await == revision).await;
    assert_compacted_at(channel, revision).await;
}

#[tokio::test]
async fn by_revisions_it_keeps_the_last_ones_every_five_minutes() {
    let retention = format!("--auto-compaction-retention={REVISIONS_KEPT}");
    let launch = Launch::new(decklog_program(), &["--auto-compaction-mode=revision", &retention]);
    let args = launch.args();
    let (clock, turns) = mpsc::channel::<Turn>(1);
    let (ready, is_ready) = oneshot::channel();
    let server = thread::spawn(move || run_with_turned_clock(args, turns, ready));
    is_ready.await.expect("it starts");
    let channel = Endpoint::from_shared(launch.client_url()).expect("a valid address").connect_lazy();
    let turn = async |length| {
        let (done, is_done) = oneshot::channel();
        clock.send((length, done)).await.expect("it runs");
        is_done.await.expect("it runs");
    };
    let mut last = 0;
    for _ in 0..50 {
        last = put(&channel, "value").await;
    }
    turn(REVISION_INTERVAL - Duration::from_secs(1)).await;
    last = last.max(put(&channel, "not yet").await);
    assert_eq!(compacted(&channel).await, 0);
    turn(Duration::from_secs(1)).await;
    wait_for_compaction(&channel, last - REVISIONS_KEPT).await;
    // Fewer new ones than are kept.
    last = put(&channel, "one more").await;
    turn(REVISION_INTERVAL).await;
    wait_for_compaction(&channel, last - REVISIONS_KEPT).await;
    drop(clock);
    tokio::task::spawn_blocking(|| server.join())
        .await
        .expect("it is waited for")
        .expect("it does not panic");
}

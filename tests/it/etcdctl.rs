//! etcdctl end to end: scripts of its commands, played against real etcd and Decklog side by side; what it prints
//! must be the same. One script per noun, in `etcdctl/scripts`.

mod check;
mod mirror;
mod neutral;
mod script;
mod side;

use std::thread;

use crate::peers::peer_or_skip;
use crate::server::decklog_program;
use crate::servers::Server;
use script::Script;
use side::Side;

/// What the two servers are started with.
#[derive(Default)]
struct Flags<'a> {
    etcd: &'a [&'a str],
    decklog: &'a [&'a str],
}

/// Plays a script on both servers; panics with every step that differs, or could not be done.
async fn compare(test: &str, script: &str, flags: Flags<'_>) {
    let (Some(etcd), Some(etcdctl)) = (peer_or_skip(test, "etcd"), peer_or_skip(test, "etcdctl")) else {
        return;
    };
    let script = Script::parse(script);
    let etcd_flags = [&["--unsafe-no-fsync"], flags.etcd].concat();
    let (etcd, decklog) =
        tokio::join!(Server::start(&etcd, &etcd_flags), Server::start(decklog_program(), flags.decklog));
    let (mut etcd, mut decklog) = (Side::new(etcd, &etcdctl).await, Side::new(decklog, &etcdctl).await);
    let (expected, found) = thread::scope(|scope| {
        let etcd = scope.spawn(|| etcd.play(&script));
        let decklog = scope.spawn(|| decklog.play(&script));
        (etcd.join().expect("a side does not panic"), decklog.join().expect("a side does not panic"))
    });
    let mut wrong = String::new();
    for ((step, expected), found) in script.steps.iter().zip(&expected).zip(&found) {
        println!("line {}: {}\n{}\n", step.line, step.text, found.as_ref().unwrap_or_else(|fault| fault));
        let is_right = match (expected, found, &step.differs) {
            (Ok(expected), Ok(found), None) => expected == found,
            (Ok(expected), Ok(found), Some(text)) => found.contains(text) && !expected.contains(text),
            _ => false,
        };
        if !is_right {
            let [expected, found] = [expected, found].map(|side| match side {
                Ok(text) => text.clone(),
                Err(fault) => format!("FAULT: {fault}"),
            });
            wrong +=
                &format!("\nline {}: {}\n--- etcd\n{expected}\n--- decklog\n{found}\n", step.line, step.text);
        }
    }
    assert!(wrong.is_empty(), "etcdctl {test} differs:{wrong}\ndecklog's log:\n{}", decklog.log());
}

#[tokio::test]
async fn put() {
    compare("put", include_str!("etcdctl/scripts/put.txt"), Flags::default()).await;
}

#[tokio::test]
async fn get() {
    compare("get", include_str!("etcdctl/scripts/get.txt"), Flags::default()).await;
}

#[tokio::test]
async fn del() {
    compare("del", include_str!("etcdctl/scripts/del.txt"), Flags::default()).await;
}

#[tokio::test]
async fn txn() {
    compare("txn", include_str!("etcdctl/scripts/txn.txt"), Flags::default()).await;
}

#[tokio::test]
async fn watch() {
    let flags = Flags {
        etcd: &["--experimental-watch-progress-notify-interval=1s"],
        decklog: &["--watch-progress-notify-interval=1s"],
    };
    compare("watch", include_str!("etcdctl/scripts/watch.txt"), flags).await;
}

#[tokio::test]
async fn lease() {
    compare("lease", include_str!("etcdctl/scripts/lease.txt"), Flags::default()).await;
}

#[tokio::test]
async fn compaction() {
    compare("compaction", include_str!("etcdctl/scripts/compaction.txt"), Flags::default()).await;
}

#[tokio::test]
async fn alarm() {
    let quota = ["--quota-backend-bytes=131072"];
    let flags = Flags { etcd: &quota, decklog: &quota };
    compare("alarm", include_str!("etcdctl/scripts/alarm.txt"), flags).await;
}

#[tokio::test]
async fn lock() {
    compare("lock", include_str!("etcdctl/scripts/lock.txt"), Flags::default()).await;
}

#[tokio::test]
async fn endpoint() {
    compare("endpoint", include_str!("etcdctl/scripts/endpoint.txt"), Flags::default()).await;
}

#[tokio::test]
async fn member() {
    compare("member", include_str!("etcdctl/scripts/member.txt"), Flags::default()).await;
}

#[tokio::test]
async fn what_comes_later() {
    compare("what_comes_later", include_str!("etcdctl/scripts/later.txt"), Flags::default()).await;
}

#[tokio::test]
async fn restart() {
    compare("restart", include_str!("etcdctl/scripts/restart.txt"), Flags::default()).await;
}

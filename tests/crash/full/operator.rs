//! The server's own data fills the disk, and an operator makes room with etcdctl alone.

use std::fs;
use std::path::Path;
use std::process::Command;

use super::{SmallDisk, Written, wait_until_written};
use crate::peers::peer_or_skip;
use crate::process::Member;

const REFUSALS: u32 = 5;

/// What etcdctl prints; panics when it fails.
fn etcdctl(program: &Path, member: &Member, args: &[&str]) -> String {
    let output = Command::new(program)
        .arg(format!("--endpoints={}", member.client_url()))
        .args(["--command-timeout=60s"])
        .args(args)
        .env("ETCDCTL_API", "3")
        .output()
        .expect("etcdctl runs");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "etcdctl {args:?}: {printed}{told}");
    printed
}

/// Prints what is left.
fn room(disk: &SmallDisk, when: &str) {
    let free = rustix::fs::statvfs(&disk.path).map_or(0, |found| found.f_bavail * found.f_frsize);
    let ballast = fs::metadata(disk.path.join("data/store/ballast")).map_or(0, |found| found.len());
    println!("{when}: {} KiB free, {} KiB of ballast", free >> 10, ballast >> 10);
}

#[tokio::test]
async fn an_operator_makes_room_with_etcdctl_alone() {
    let test = "an_operator_makes_room_with_etcdctl_alone";
    let Some(program) = peer_or_skip(test, "etcdctl") else { return };
    let folder = tempfile::tempdir().expect("a temporary folder");
    let Some(disk) = SmallDisk::mount(test, &folder.path().join("small"), 160) else { return };
    let member = Member::new(&disk.path.join("data"));
    let process = member.start().await;
    let mut written = Written::default();
    for _ in 0..2 {
        // A little may go on after the first.
        for _ in 0..REFUSALS {
            written.put_until_refused(&process, false).await;
        }
        written.check(&process).await;
        room(&disk, "full");
        etcdctl(&program, &member, &["get", "key-", "--prefix", "--keys-only"]);
        etcdctl(&program, &member, &["del", "key-", "--prefix"]);
        let status = etcdctl(&program, &member, &["endpoint", "status", "--write-out=fields"]);
        let revision = status.lines().find_map(|line| line.strip_prefix("\"Revision\" : "));
        room(&disk, "deleted");
        etcdctl(&program, &member, &["compact", revision.expect("a status has a revision"), "--physical"]);
        room(&disk, "compacted");
        etcdctl(&program, &member, &["defrag"]);
        room(&disk, "defragmented");
        written.pairs.clear();
        wait_until_written(&mut written, &process).await;
        for _ in 0..300 {
            written.put(&process).await.expect("there is room");
        }
        written.check(&process).await;
    }
}

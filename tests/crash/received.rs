//! Power cuts in the syncs of a member that takes in the state of another: from the first file of that state until the
//! member has acknowledged writes behind it. Whatever a cut leaves, the member starts, has every entry that it ever
//! acknowledged, and comes to the same content as the other, without making good a store that was lost.

use std::fs;
use std::path::{Path, PathBuf};

use decklog::storage::disk::RealDisk;
use decklog::storage::wal::{self, Inspected};
use decklog::wire::etcdserverpb::request_op::Request;
use decklog::wire::etcdserverpb::{
    HashKvRequest, MemberAddRequest, PutRequest, RequestOp, StatusRequest, TxnRequest,
};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tonic::Code;

use crate::damage::copy_directory;
use crate::disk_model::DiskModel;
use crate::journal::Clock;
use crate::libraries::{library_or_skip, skip};
use crate::power::{Cut, WAYS, folder_for_cuts, has_synchronous_files, sample};
use crate::process::{Member, Process};
use crate::recording::{check_trace, is_of_engine, kind_of, recorded};
use crate::trace::{self, Action, Record};
use crate::until::found;
use crate::{seed, variable};

/// Cuts in the gate; `DECKLOG_RECEIVED_CUTS` says another number.
const CUTS: usize = 40;
/// The state comes in several rounds of the store.
const TRANSACTIONS: usize = 110;
const PUTS_OF_A_TRANSACTION: usize = 100;
const VALUE_BYTES: usize = 1 << 10;
/// Writes that the member acknowledges behind the state.
const WRITES: usize = 20;

/// Each ends a power cut in its own way.
const PUT_IN_PLACE: &str = "a received state was put in the place of the store";
const INSTALLED: &str = "installed a received state";
const NEVER: [&str; 2] = ["the store is lost", "damaged"];

/// An entry that the member had acknowledged at a moment of its trace.
struct Acknowledged {
    moment: u64,
    index: u64,
}

/// What was recorded of the receiver.
struct Received {
    sender: Member,
    receiver: Member,
    records: Vec<Record>,
    before: DiskModel,
    acknowledged: Vec<Acknowledged>,
    /// Where the receiver's files stood.
    root: PathBuf,
}

/// Elections soon: two servers start for each cut.
fn hurried(member: &Member) -> Member {
    member.with_variable("ETCD_HEARTBEAT_INTERVAL", "20").with_variable("ETCD_ELECTION_TIMEOUT", "300")
}

/// Until it is acknowledged: between two members leaders come and go on a busy machine.
async fn put(process: &Process, number: usize) -> i64 {
    let request = PutRequest { key: format!("behind {number}").into(), ..PutRequest::default() };
    let answer = found(async || process.kv().put(request.clone()).await.ok()).await;
    let answer = answer.expect("a write is acknowledged").into_inner();
    answer.header.expect("every answer has a header").revision
}

async fn fill(process: &Process) {
    let mut kv = process.kv();
    for transaction in 0..TRANSACTIONS {
        let put = |number: usize| {
            let key = format!("key {transaction} {number}").into();
            let value = vec![b'v'; VALUE_BYTES].into();
            RequestOp {
                request: Some(Request::RequestPut(PutRequest { key, value, ..PutRequest::default() })),
            }
        };
        let success = (0..PUTS_OF_A_TRANSACTION).map(put).collect();
        kv.txn(TxnRequest { success, ..TxnRequest::default() }).await.expect("a transaction");
    }
}

/// Fills a member and records how another joins it.
async fn record(folder: &Path, library: &Path) -> Received {
    let (root, trace) = (folder.join("recorded"), folder.join("trace"));
    fs::create_dir(&root).expect("a folder can be made");
    let before = DiskModel::new(&root);
    let sender = hurried(&Member::new(&folder.join("sender")));
    let receiver = hurried(&Member::joining(&root.join("data"), &sender));
    let sends = sender.start().await;
    fill(&sends).await;
    let added = MemberAddRequest { peer_ur_ls: vec![receiver.peer_url()], is_learner: false };
    sends.cluster().member_add(added).await.expect("a member can be added");
    let receives = recorded(&receiver, library, &root, &trace).start().await;
    let (clock, mut acknowledged) = (Clock::of(&trace), Vec::new());
    for number in 0..WRITES {
        put(&sends, number).await;
        // With two voters, what is applied stands in the logs of both.
        let status = sends.maintenance().status(StatusRequest {}).await.expect("a status").into_inner();
        acknowledged.push(Acknowledged { moment: clock.now(), index: status.raft_applied_index });
    }
    receives.kill();
    sends.kill();
    let records = trace::read(&trace);
    check_trace(&root, &records, &before);
    Received { sender, receiver, records, before, acknowledged, root }
}

impl Received {
    /// In every way at every sync since the first file of the state.
    fn cuts(&self, random: &mut StdRng) -> Vec<Cut> {
        let first =
            |record: &Record| matches!(&record.action, Action::Create { path, .. } if is_beside(path));
        let begin = self.records.iter().position(first).expect("a state comes in");
        let syncs = self.records.iter().enumerate().skip(begin);
        let mut cuts = Vec::new();
        for (number, record) in syncs {
            if let Action::SyncEnd { path, .. } = &record.action {
                let kind = kind_of(&self.root, path);
                cuts.extend(Cut::in_ways(&WAYS, (number, record.position), &kind, random));
            }
        }
        cuts
    }

    /// Starts both on what a cut left and on what the sender had in the end, and returns the receiver's log.
    async fn judge(&self, left: &Path, sender: &Path, cut: &Cut) -> String {
        let data = left.join("data");
        let acknowledged = self.acknowledged.iter().rfind(|entry| entry.moment <= cut.moment);
        let least = acknowledged.map_or(0, |entry| entry.index);
        let last = last_entry(&data);
        assert!(last >= least, "entry {least} was acknowledged, the log ends at {last}");
        let (sender, receiver) = (self.sender.in_directory(sender), self.receiver.in_directory(&data));
        let (sends, receives) = tokio::join!(sender.try_start(), receiver.try_start());
        let started = |process: Result<Process, crate::process::Ended>| {
            process.unwrap_or_else(|ended| panic!("{}\n{}", ended.status, ended.log))
        };
        let (sends, receives) = (started(sends), started(receives));
        let revision = put(&sends, WRITES).await;
        let wanted = checksum(&sends, revision).await.expect("it has what it wrote");
        let come = found(async || checksum(&receives, revision).await).await;
        assert_eq!(come, Some(wanted), "the content differs; the log:\n{}", receives.log());
        let log = receives.log().clone();
        assert!(!NEVER.iter().any(|never| log.contains(never)), "{log}");
        log
    }
}

/// Whether a file is of a state that comes in.
fn is_beside(path: &Path) -> bool {
    let above = path.parent().expect("it stands in a directory");
    is_of_engine(path) && !above.ends_with("db-1")
}

/// The last entry of a log, or the one that it begins after.
fn last_entry(data: &Path) -> u64 {
    let mut last = 0;
    let read = wal::inspect(&RealDisk::existing(&data.join("wal")), &mut |found| {
        if let Inspected::Batch { entries, .. } = found {
            last = entries.last().map_or(last, |entry| entry.index);
        }
    });
    read.expect("the log can be read");
    last
}

/// Of everything at a revision; nothing when the member has not come that far.
async fn checksum(process: &Process, revision: i64) -> Option<u32> {
    match process.maintenance().hash_kv(HashKvRequest { revision }).await {
        Ok(answer) => Some(answer.into_inner().hash),
        Err(status) if status.code() == Code::OutOfRange => None,
        Err(status) => panic!("{status}"),
    }
}

/// See the module.
#[tokio::test]
async fn power_cut_while_a_state_is_received() {
    const NAME: &str = "power_cut_while_a_state_is_received";
    let mut random = StdRng::seed_from_u64(seed(NAME));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let Some(library) = library_or_skip(NAME, "trace", folder.path()) else {
        return;
    };
    if !has_synchronous_files(folder.path()) {
        return skip(NAME, "the file system has no synchronous files (chattr +S)");
    }
    let received = record(folder.path(), &library).await;
    let all = received.cuts(&mut random);
    let possible = all.len();
    let count =
        variable("DECKLOG_RECEIVED_CUTS").map_or(CUTS, |count| usize::try_from(count).expect("small"));
    let cuts = sample(all, count, &mut random);
    println!("{} of {possible} cuts of {} records", cuts.len(), received.records.len());
    let files = folder_for_cuts();
    let (mut model, mut done) = (received.before.clone(), 0);
    let (mut put_in_place, mut installed) = (0, 0);
    for cut in cuts {
        for record in &received.records[done..cut.record] {
            model.apply(&record.action);
        }
        done = cut.record;
        println!("{cut:?}");
        let (left, sender) = (files.path().join("left"), files.path().join("sender"));
        model.leave(&left, cut.kept, &mut StdRng::seed_from_u64(cut.seed));
        copy_directory(&received.sender.data, &sender);
        let log = received.judge(&left, &sender, &cut).await;
        put_in_place += u32::from(log.contains(PUT_IN_PLACE));
        installed += u32::from(log.contains(INSTALLED));
        for used in [left, sender] {
            fs::remove_dir_all(used).expect("the files can be removed");
        }
    }
    println!("{put_in_place} starts put a state in its place, {installed} received it again");
    assert!(put_in_place > 0 && installed > 0, "the cuts were never where it counts");
}

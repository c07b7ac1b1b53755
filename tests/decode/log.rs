//! The log: its segments, what raft makes of them, and the commands inside the entries.

use std::sync::Arc;

use bytes::Bytes;
use decklog::command::{self, Batch, Kind};
use decklog::consensus::{self, Message, Network, Node, NodeOptions, RaftLog};
use decklog::ids::{ClusterId, LogIndex, LogPosition, MemberId, Term};
use decklog::members::Membership;
use decklog::metrics::Metrics;
use decklog::storage::Error;
use decklog::storage::disk::{Disk, MemoryDisk};
use decklog::storage::wal::{self, HardState, Owner, Wal, WalContent, WalEntry, WalOptions};
use decklog::wire::etcdserverpb as pb;
use decklog::wire::etcdserverpb::Member;
use decklog::wire::etcdserverpb::request_op::Request;
use prost::Message as _;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::{damage, turn, within};

/// A decoded message takes so many times its bytes at most: an empty one of two bytes becomes a struct.
const MESSAGE_TIMES: usize = 400;
/// The disk in memory gives a copy of each file, and an entry takes more than its 21 bytes.
const LOG_TIMES: usize = 8;
const OWNER: Owner = Owner { member: MemberId(7), cluster: ClusterId(8) };

fn commands(random: &mut SmallRng) -> Vec<Kind> {
    let put = pb::PutRequest { key: "key".into(), value: vec![7; 40].into(), lease: 3, ..Default::default() };
    let range = pb::RangeRequest { key: "a".into(), range_end: "b".into(), ..Default::default() };
    let op = |request| pb::RequestOp { request: Some(request) };
    let mut txn = pb::TxnRequest {
        compare: vec![pb::Compare { key: "key".into(), ..Default::default() }; 2],
        success: vec![op(Request::RequestPut(put.clone())), op(Request::RequestRange(range))],
        failure: Vec::new(),
    };
    for _ in 0..random.random_range(0..60) {
        txn = pb::TxnRequest { success: vec![op(Request::RequestTxn(txn))], ..Default::default() };
    }
    vec![
        Kind::Put(put),
        Kind::Txn(txn),
        Kind::LeaseGrant(pb::LeaseGrantRequest { id: 7, ttl: 60 }),
        Kind::Compact(pb::CompactionRequest { revision: 9, physical: true }),
    ]
}

#[test]
fn any_entry_is_a_batch_or_an_error() {
    let _turn = turn();
    let mut random = SmallRng::seed_from_u64(1);
    let (mut read, mut refused) = (0, 0);
    for _ in 0..20_000 {
        let commands = commands(&mut random).into_iter().map(Into::into).collect();
        let mut bytes = Batch { proposer: 1, sequence: 2, commands }.encode_to_vec();
        for _ in 0..random.random_range(0..4) {
            damage(&mut bytes, &mut random);
        }
        let data = Bytes::from(bytes);
        match within(data.len(), MESSAGE_TIMES, || command::decode(5, &data)) {
            Ok(batch) => {
                for command in &batch.commands {
                    assert!(!command::name(command).is_empty());
                }
                read += 1;
            }
            Err(error) => {
                assert!(error.to_string().contains("entry 5"));
                refused += 1;
            }
        }
    }
    assert!(read > 1000 && refused > 1000, "{read} read, {refused} refused");
}

/// A record as docs/storage.md has it, with right checksums whatever it holds.
fn record(offset: usize, length: u32, flushed: u32, payload: &[u8]) -> Vec<u8> {
    let sum = |bytes: &[u8]| {
        let sum = crc32c::crc32c_append(crc32c::crc32c(&1_u64.to_le_bytes()), &(offset as u64).to_le_bytes());
        crc32c::crc32c_append(sum, bytes)
    };
    let mut header = length.to_le_bytes().to_vec();
    header.extend(sum(payload).to_le_bytes());
    header.extend(flushed.to_le_bytes());
    header.extend(sum(&header).to_le_bytes());
    header.extend(payload);
    header.resize(header.len().next_multiple_of(8), 0);
    header
}

/// Mostly of the owner that opens it, and sometimes damaged.
fn head(random: &mut SmallRng) -> Vec<u8> {
    let member = OWNER.member.0 + u64::from(random.random_ratio(1, 10));
    let numbers = [OWNER.cluster.0, member, 1, 1, 0];
    let mut payload: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
    if random.random_ratio(1, 4) {
        damage(&mut payload, random);
    }
    payload
}

fn payload(random: &mut SmallRng) -> Vec<u8> {
    let mut payload: Vec<u8> = [1_u64, 1, 1].iter().flat_map(|number| number.to_le_bytes()).collect();
    let count = random.random_range(0..4_u32);
    payload.extend(count.to_le_bytes());
    for index in 1..=u64::from(count) {
        payload.extend(index.to_le_bytes());
        payload.extend(1_u64.to_le_bytes());
        payload.push(0);
        payload.extend(20_u32.to_le_bytes());
        payload.extend([7; 20]);
    }
    if random.random() {
        damage(&mut payload, random);
    }
    payload
}

#[test]
fn any_segment_is_a_log_or_damaged() {
    let _turn = turn();
    let mut random = SmallRng::seed_from_u64(2);
    let (mut opened, mut damaged, mut foreign) = (0, 0, 0);
    for _ in 0..4000 {
        let first = head(&mut random);
        let mut file = record(0, u32::try_from(first.len()).expect("small"), 0, &first);
        for _ in 0..random.random_range(0..5) {
            let payload = payload(&mut random);
            let honest = u32::try_from(payload.len()).expect("small");
            let lengths = [honest, honest, honest, 0, u32::MAX, u32::MAX - 1, u32::MAX / 2];
            let length = lengths[random.random_range(0..7)];
            let flushed = [0, 8, u32::MAX][random.random_range(0..3)];
            file.extend(record(file.len(), length, flushed, &payload));
        }
        file.resize(file.len() + random.random_range(0..3) * 64, 0);
        if random.random_ratio(1, 4) {
            damage(&mut file, &mut random);
        }
        let (disk, length) = (MemoryDisk::default(), file.len());
        disk.replace("0000000000000001.wal", file);
        let seen = within(length, LOG_TIMES, || wal::inspect(&disk, &mut |_| {}));
        seen.expect("it is looked at");
        let options = WalOptions { segment_bytes: 1024 };
        match within(length, LOG_TIMES, || Wal::open(Arc::new(disk), OWNER, options)) {
            Ok(_) => opened += 1,
            Err(Error::Damaged { .. }) => damaged += 1,
            Err(Error::ForeignLog { found, expected, .. }) => {
                assert!(found != OWNER && expected == OWNER, "{found}, {expected}");
                foreign += 1;
            }
            Err(error) => panic!("{error}"),
        }
    }
    assert!(opened > 100 && damaged > 100 && foreign > 100, "{opened}, {damaged}, {foreign}");
}

fn number(random: &mut SmallRng) -> u64 {
    match random.random_range(0..8) {
        0 => i64::MAX as u64 - random.random_range(20..40),
        1 => random.random_range(0..u64::from(u32::MAX)),
        _ => random.random_range(0..12),
    }
}

/// Entries without a gap, of rising terms, as the segments' reader lets pass.
fn content(random: &mut SmallRng) -> WalContent {
    let (first, mut term) = (number(random).max(1), number(random));
    let mut entries = Vec::new();
    for index in first..first + random.random_range(0..10) {
        term += random.random_range(0..2);
        let data = if random.random() { Bytes::new() } else { Bytes::from_static(b"no batch") };
        let kind = if random.random_ratio(1, 20) { random.random() } else { 0 };
        entries.push(WalEntry { index, term, kind, data });
    }
    let hard_state = HardState { term: number(random), vote: number(random), commit: number(random) };
    WalContent { hard_state, entries, ..WalContent::default() }
}

/// There is nobody to send to.
struct Nobody;

impl Network for Nobody {
    fn send(&mut self, message: Message) {
        panic!("a member alone sends {message:?}");
    }
}

/// Whatever log and store say: they fit, and the member leads on from there, or they do not, and it is told.
#[test]
fn any_log_starts_a_member_or_does_not_fit() {
    let _turn = turn();
    let mut random = SmallRng::seed_from_u64(3);
    let metrics = Metrics::new(false);
    let (mut started, mut refused) = (0, 0);
    for _ in 0..3000 {
        let content = content(&mut random);
        let applied = LogPosition { index: LogIndex(number(&mut random)), term: Term(number(&mut random)) };
        let last = content.entries.last().map_or(applied.index.0, |entry| entry.index);
        let disk: Arc<dyn Disk> = Arc::new(MemoryDisk::default());
        let (wal, _) = Wal::open(disk, OWNER, WalOptions { segment_bytes: 4096 }).expect("a new log");
        let members = Membership::new(vec![Member { id: 7, ..Member::default() }]);
        let Ok(log) = RaftLog::new(wal, content, applied, &members, metrics.log_timers()) else {
            refused += 1;
            continue;
        };
        let options = NodeOptions {
            id: MemberId(7),
            election_ticks: 10,
            heartbeat_ticks: 1,
            pre_vote: true,
            applied: applied.index,
            members,
            seed: 1,
        };
        let mut node = Node::new(log, &options).expect("raft takes it");
        node.campaign_if_alone().expect("it stands");
        let mut committed = applied.index.0;
        let mut stumbled = false;
        while node.has_ready() && !stumbled {
            match node.step(&mut Nobody) {
                Ok(step) => {
                    for entry in step.committed {
                        assert_eq!(entry.position.index.0, committed + 1);
                        committed += 1;
                    }
                }
                // An entry says that it changes members, and holds no change.
                Err(consensus::Error::Change { .. }) => stumbled = true,
                Err(error) => panic!("{error}"),
            }
        }
        if stumbled {
            refused += 1;
            continue;
        }
        // Everything that is there, and the entry that the new term begins with.
        assert_eq!((node.is_leader(), committed), (true, last + 1));
        started += 1;
    }
    assert!(started > 300 && refused > 300, "{started} started, {refused} refused");
}

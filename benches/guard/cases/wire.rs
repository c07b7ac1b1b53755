//! Messages from the wire and to it, commands, and the log's records.

use std::path::Path;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use decklog::command::{self, Command, Kind};
use decklog::ids::{ClusterId, MemberId};
use decklog::storage::disk::RealDisk;
use decklog::storage::wal::{HardState, Owner, Wal, WalEntry, WalOptions};
use decklog::wire::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use decklog::wire::etcdserverpb::request_op::Request;
use decklog::wire::{EncodedKeyValue, KeyValue, etcdserverpb as pb};
use prost::Message;

use super::machine::entry;
use super::{key, put};
use crate::counter::Counter;

/// Messages of one kind.
const MESSAGES: usize = 100;
/// Commands in an entry, and entries in a record.
const COMMANDS: usize = 100;
const ENTRIES: usize = 8;
/// Pairs in a page.
const PAGE: usize = 500;

pub fn messages(counter: &Counter) {
    decode(counter, "decode-put", put);
    decode(counter, "decode-range", |number| pb::RangeRequest {
        key: key(number),
        range_end: key(number + PAGE),
        limit: PAGE as i64,
        ..Default::default()
    });
    decode(counter, "decode-txn", compare_and_swap);
    encode(counter, "encode-put-response", |number| pb::PutResponse {
        header: header(number),
        prev_kv: None,
    });
    let kvs: Vec<EncodedKeyValue> = (0..PAGE).map(|number| (&pair(number)).into()).collect();
    encode(counter, "encode-page-response", |number| pb::RangeResponse {
        header: header(number),
        kvs: kvs.clone(),
        more: true,
        count: 100_000,
    });
    counter.count("command-encode", MESSAGES, [0, MESSAGES].map(requests_from), |puts| {
        puts.into_iter()
            .map(|put| Bytes::from(Command::from(Kind::Put(put)).encode_to_vec()))
            .collect::<Vec<_>>()
    });
    let entries = [0, COMMANDS].map(|from| entry(requests_from(from).into_iter().map(Kind::Put).collect()));
    counter
        .count("command-decode", COMMANDS, entries, |entry| command::decode(1, &entry).expect("it is one"));
}

/// Records of some entries appended to the log on disk; a flush costs no instructions of ours.
pub fn log(counter: &Counter, directory: &Path) {
    let disk = Arc::new(RealDisk::new(directory).expect("a directory"));
    let owner = Owner { member: MemberId(1), cluster: ClusterId(1) };
    let (mut wal, _) = Wal::open(disk, owner, WalOptions::default()).expect("an empty log");
    let records = [1, 1 + ENTRIES].map(|from| {
        let data = |index: usize| entry(requests_from(index * COMMANDS).into_iter().map(Kind::Put).collect());
        let entries = (from..from + ENTRIES).map(|index| WalEntry {
            index: index as u64,
            term: 1,
            kind: 0,
            data: data(index),
        });
        entries.collect::<Vec<_>>()
    });
    counter.count("log-append", ENTRIES, records, |entries| {
        let commit = entries.first().map_or(0, |first| first.index - 1);
        wal.reserve(entries.iter().map(|entry| entry.data.len()).sum()).expect("there is room");
        wal.append(Some(HardState { term: 1, vote: 1, commit }), &entries).expect("appended");
    });
}

fn requests_from(from: usize) -> Vec<pb::PutRequest> {
    (from..from + MESSAGES).map(put).collect()
}

fn decode<M: Message + Default>(counter: &Counter, case: &str, make: fn(usize) -> M) {
    let messages =
        || (0..MESSAGES).map(|number| Bytes::from(make(number).encode_to_vec())).collect::<Vec<_>>();
    counter.count(case, MESSAGES, [messages(), messages()], |messages| {
        messages.into_iter().map(|bytes| M::decode(bytes).expect("it is one")).collect::<Vec<_>>()
    });
}

/// Into a buffer that has grown already, as that of a connection has.
fn encode<M: Message>(counter: &Counter, case: &str, make: impl Fn(usize) -> M) {
    let messages = || (0..MESSAGES).map(&make).collect::<Vec<_>>();
    let mut buffer = BytesMut::with_capacity(1 << 20);
    counter.count(case, MESSAGES, [messages(), messages()], |messages| {
        for message in messages {
            buffer.clear();
            message.encode(&mut buffer).expect("it grows");
        }
    });
}

fn header(number: usize) -> Option<pb::ResponseHeader> {
    Some(pb::ResponseHeader {
        cluster_id: u64::MAX / 3,
        member_id: u64::MAX / 5,
        revision: number as i64 + 1_000_000,
        raft_term: 7,
    })
}

fn pair(number: usize) -> KeyValue {
    let (pb::PutRequest { key, value, .. }, revision) = (put(number), number as i64 + 1000);
    KeyValue { key, value, create_revision: revision, mod_revision: revision, version: 1, lease: 0 }
}

/// As Kubernetes updates: a key is put if a compare of its revision holds, as it does here, and else read.
pub fn compare_and_swap(number: usize) -> pb::TxnRequest {
    let op = |request| pb::RequestOp { request: Some(request) };
    let read = pb::RangeRequest { key: key(number), ..Default::default() };
    pb::TxnRequest {
        compare: vec![pb::Compare {
            result: CompareResult::Greater.into(),
            target: CompareTarget::Mod.into(),
            key: key(number),
            target_union: Some(TargetUnion::ModRevision(0)),
            ..Default::default()
        }],
        success: vec![op(Request::RequestPut(put(number)))],
        failure: vec![op(Request::RequestRange(read))],
    }
}

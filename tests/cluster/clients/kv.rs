//! Puts, deletions, transactions and all kinds of reads, of keys that all clients share.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use decklog::wire::etcdserverpb as pb;
use decklog::wire::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use decklog::wire::etcdserverpb::kv_client::KvClient;
use decklog::wire::etcdserverpb::request_op::Request as Op;
use rand::Rng;
use rand::rngs::SmallRng;
use tonic::Status;
use tonic::transport::Channel;

use super::{KEYS, PREFIX, PREFIX_END};
use crate::let_pass;
use crate::recorder::{Ends, Recorder};

/// Between requests, at most: the machine has other things to do, too.
const MAX_PAUSE_MS: u64 = 8;
const AFTER_FAILURE: Duration = Duration::from_millis(20);
/// So far back reads of the past go, in revisions.
const PAST: i64 = 300;

pub struct KvLoad {
    pub ends: Ends,
    pub kv: KvClient<Channel>,
    pub random: SmallRng,
    pub recorder: Arc<Recorder>,
    pub written: u64,
    /// The revision at which a key was last seen.
    pub seen: BTreeMap<String, i64>,
}

impl KvLoad {
    pub async fn run(mut self) {
        while !self.recorder.is_over() {
            let pause = match self.request().await {
                Ok(()) => Duration::from_millis(self.random.random_range(0..MAX_PAUSE_MS)),
                Err(_noted) => AFTER_FAILURE,
            };
            let_pass(pause).await;
        }
    }

    async fn request(&mut self) -> Result<(), Status> {
        match self.random.random_range(0..100) {
            0..32 => self.put().await,
            32..52 => self.get().await,
            52..66 => self.range().await,
            66..80 => self.compare_and_swap().await,
            80..88 => self.write_two().await,
            _ => self.delete().await,
        }
    }

    fn key(&mut self) -> String {
        format!("{PREFIX}{}", self.random.random_range(0..KEYS))
    }

    /// Written once only.
    fn value(&mut self) -> String {
        self.written += 1;
        format!("{}.{}", self.ends.client, self.written)
    }

    async fn put(&mut self) -> Result<(), Status> {
        let request = pb::PutRequest {
            key: self.key().into(),
            value: self.value().into(),
            prev_kv: self.random.random(),
            ..pb::PutRequest::default()
        };
        self.recorder.ask(self.ends, (&request).into(), self.kv.put(request)).await.map(drop)
    }

    async fn get(&mut self) -> Result<(), Status> {
        let key = self.key();
        let request = pb::RangeRequest { key: key.clone().into(), ..pb::RangeRequest::default() };
        let answer = self.recorder.ask(self.ends, (&request).into(), self.kv.range(request)).await?;
        let found = answer.kvs.first().map_or(0, |pair| pair.decode().expect("a pair").mod_revision);
        self.seen.insert(key, found);
        Ok(())
    }

    /// All keys: now, as this member has them, or as they were.
    async fn range(&mut self) -> Result<(), Status> {
        let mut request = pb::RangeRequest {
            key: PREFIX.into(),
            range_end: PREFIX_END.into(),
            limit: self.random.random_range(0..KEYS as i64),
            serializable: self.random.random(),
            ..pb::RangeRequest::default()
        };
        if self.random.random_range(0..4) == 0 {
            let newest = self.recorder.acknowledged();
            request.revision = self.random.random_range((newest - PAST).max(1)..=newest);
            // A member that is behind may not have it yet.
            request.serializable = false;
        }
        self.recorder.ask(self.ends, (&request).into(), self.kv.range(request)).await.map(drop)
    }

    /// Puts if the key is as it was last seen, else looks at it.
    async fn compare_and_swap(&mut self) -> Result<(), Status> {
        let key = self.key();
        let compare = pb::Compare {
            result: CompareResult::Equal as i32,
            target: CompareTarget::Mod as i32,
            key: key.clone().into(),
            target_union: Some(TargetUnion::ModRevision(self.seen.get(&key).copied().unwrap_or(0))),
            ..pb::Compare::default()
        };
        let put = pb::PutRequest {
            key: key.clone().into(),
            value: self.value().into(),
            ..pb::PutRequest::default()
        };
        let get = pb::RangeRequest { key: key.clone().into(), ..pb::RangeRequest::default() };
        let request = pb::TxnRequest {
            compare: vec![compare],
            success: vec![op(Op::RequestPut(put))],
            failure: vec![op(Op::RequestRange(get))],
        };
        let answer = self.recorder.ask(self.ends, (&request).into(), self.kv.txn(request)).await?;
        if answer.succeeded {
            self.seen.insert(key, answer.header.expect("a header").revision);
        }
        Ok(())
    }

    /// Two keys at once and a deletion beside them: all or nothing.
    async fn write_two(&mut self) -> Result<(), Status> {
        let first = self.random.random_range(0..KEYS);
        let key = |place: usize| format!("{PREFIX}{}", (first + place) % KEYS);
        let puts = [key(0), key(1)].map(|key| {
            let value = self.value().into();
            op(Op::RequestPut(pb::PutRequest { key: key.into(), value, ..pb::PutRequest::default() }))
        });
        let delete = pb::DeleteRangeRequest { key: key(2).into(), ..pb::DeleteRangeRequest::default() };
        let mut success = puts.to_vec();
        success.push(op(Op::RequestDeleteRange(delete)));
        let request = pb::TxnRequest { success, ..pb::TxnRequest::default() };
        self.recorder.ask(self.ends, (&request).into(), self.kv.txn(request)).await.map(drop)
    }

    async fn delete(&mut self) -> Result<(), Status> {
        let request = pb::DeleteRangeRequest {
            key: self.key().into(),
            prev_kv: true,
            ..pb::DeleteRangeRequest::default()
        };
        self.recorder.ask(self.ends, (&request).into(), self.kv.delete_range(request)).await.map(drop)
    }
}

fn op(request: Op) -> pb::RequestOp {
    pb::RequestOp { request: Some(request) }
}

//! The requests of each case, encoded.

use bytes::Bytes;
use prost::Message;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

use super::{Case, Options};
use crate::wire::etcdserverpb as pb;
use crate::wire::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::wire::etcdserverpb::request_op::Request as Operation;

pub const PUT: &str = "/etcdserverpb.KV/Put";
pub const RANGE: &str = "/etcdserverpb.KV/Range";
pub const TXN: &str = "/etcdserverpb.KV/Txn";
pub const WATCH: &str = "/etcdserverpb.Watch/Watch";
pub const LEASE_GRANT: &str = "/etcdserverpb.Lease/LeaseGrant";
pub const KEEP_ALIVE: &str = "/etcdserverpb.Lease/LeaseKeepAlive";

const PREFIX: &[u8] = b"bench/";
/// Out of how many requests of the mixed case one is a put.
const MIXED_PUT_EVERY: u32 = 5;

/// Makes requests: the same for the same seed.
pub struct Requests {
    case: Case,
    serializable: bool,
    count_only: bool,
    limit: u64,
    key_size: usize,
    keys: u64,
    value: Bytes,
    random: SmallRng,
}

impl Requests {
    pub fn new(options: &Options, client: u64) -> Self {
        let mut random = SmallRng::seed_from_u64(options.seed ^ (client << 32));
        let mut value = vec![0; options.value_size];
        random.fill_bytes(&mut value);
        Self {
            case: options.case,
            serializable: options.serializable,
            count_only: options.count_only,
            limit: options.limit,
            key_size: options.key_size,
            keys: match options.case {
                Case::WatchFanout | Case::WatchLatency => 1,
                Case::WatchKeys => options.clients.max(1) as u64,
                _ => options.keys.max(1),
            },
            value: value.into(),
            random,
        }
    }

    /// The next request, with its path.
    pub fn next(&mut self) -> (&'static str, Bytes) {
        let number = self.random.random_range(0..self.keys);
        match self.case {
            Case::Range => (RANGE, self.range(number)),
            Case::TxnPut => (TXN, self.txn(number)),
            Case::Mixed if !self.random.random_ratio(1, MIXED_PUT_EVERY) => (RANGE, self.range(number)),
            Case::RangeMany => (RANGE, self.range_many()),
            _ => (PUT, self.put(number)),
        }
    }

    pub fn key(&self, number: u64) -> Bytes {
        let mut key = PREFIX.to_vec();
        let digits = format!("{number:0width$}", width = self.key_size.saturating_sub(PREFIX.len()));
        key.extend_from_slice(digits.as_bytes());
        key.into()
    }

    pub fn put(&self, number: u64) -> Bytes {
        let request =
            pb::PutRequest { key: self.key(number), value: self.value.clone(), ..Default::default() };
        request.encode_to_vec().into()
    }

    fn range(&self, number: u64) -> Bytes {
        let request =
            pb::RangeRequest { key: self.key(number), serializable: self.serializable, ..Default::default() };
        request.encode_to_vec().into()
    }

    fn range_many(&mut self) -> Bytes {
        let key = match self.limit {
            0 => Bytes::from_static(PREFIX),
            limit => {
                let first = self.random.random_range(0..=self.keys.saturating_sub(limit));
                self.key(first)
            }
        };
        let request = pb::RangeRequest {
            key,
            range_end: Bytes::from_static(b"bench0"),
            limit: i64::try_from(self.limit).unwrap_or(i64::MAX),
            serializable: self.serializable,
            count_only: self.count_only,
            ..Default::default()
        };
        request.encode_to_vec().into()
    }

    fn txn(&self, number: u64) -> Bytes {
        let key = self.key(number);
        let compare = pb::Compare {
            result: CompareResult::Greater.into(),
            target: CompareTarget::Version.into(),
            key: key.clone(),
            target_union: Some(TargetUnion::Version(-1)),
            ..Default::default()
        };
        let put = pb::PutRequest { key, value: self.value.clone(), ..Default::default() };
        let operation = pb::RequestOp { request: Some(Operation::RequestPut(put)) };
        pb::TxnRequest { compare: vec![compare], success: vec![operation], failure: Vec::new() }
            .encode_to_vec()
            .into()
    }

    /// Watches a key.
    pub fn watch(&self, number: u64) -> Bytes {
        let create = pb::WatchCreateRequest { key: self.key(number), ..Default::default() };
        let union = pb::watch_request::RequestUnion::CreateRequest(create);
        pb::WatchRequest { request_union: Some(union) }.encode_to_vec().into()
    }
}

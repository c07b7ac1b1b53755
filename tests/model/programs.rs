//! Random commands and reads over a few keys, so that they meet often.

use std::collections::BTreeSet;

use bytes::Bytes;
use decklog::command::Kind;
use decklog::wire::etcdserverpb as pb;
use decklog::wire::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use decklog::wire::etcdserverpb::request_op::Request;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::naive::{Naive, is_in};

const LEASES: i64 = 5;

pub struct Programs {
    pub random: SmallRng,
    keys: Vec<Bytes>,
    /// Now and then a value that a store keeps in pieces.
    large_values: bool,
}

/// What a transaction changes so far on one path: a key may be put once, and then not be deleted, except by a
/// deletion without an end, which etcd's check overlooks.
#[derive(Clone, Default)]
struct Changed {
    puts: BTreeSet<Bytes>,
    deleted: Vec<(Bytes, Bytes)>,
}

/// The end of the range of every key with a prefix.
fn prefix_end(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < 0xff {
            end.push(last + 1);
            return end.into();
        }
    }
    Bytes::from_static(&[0])
}

impl Changed {
    fn meet(put: &Bytes, from: &Bytes, end: &Bytes) -> bool {
        end.as_ref() != [0] && is_in(put, from, end)
    }
}

impl Programs {
    pub fn new(seed: u64, large_values: bool) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let few = ["a", "aa", "ab", "b", "b\0", "b\0\0", "c", "cc", "d"]
            .map(|key| Bytes::from_static(key.as_bytes()));
        let mut keys = few.to_vec();
        keys.extend([&[0xff][..], &[0xff, 0xff], &[0xfe, 0xff]].map(Bytes::from_static));
        if random.random_ratio(1, 3) {
            // Enough for an index of several leaves.
            keys.extend((0..400).map(|number| Bytes::from(format!("key{number}"))));
        }
        Self { random, keys, large_values }
    }

    pub fn key(&mut self) -> Bytes {
        self.keys[self.random.random_range(0..self.keys.len())].clone()
    }

    /// Key and end of a range: one key, a span, a prefix, everything from a key, nothing at all.
    pub fn range_of_keys(&mut self) -> (Bytes, Bytes) {
        let key = self.key();
        let end = match self.random.random_range(0..6) {
            0 | 1 => Bytes::new(),
            2 => Bytes::from_static(&[0]),
            3 => self.key(),
            4 => prefix_end(&key),
            _ => return (Bytes::from_static(&[0]), Bytes::from_static(&[0])),
        };
        (key, end)
    }

    fn value(&mut self) -> Bytes {
        let length = match self.random.random_range(0..40) {
            0 if self.large_values => self.random.random_range(20_000..120_000),
            0..=3 => 0,
            4..=30 => self.random.random_range(1..4),
            _ => self.random.random_range(4..600),
        };
        // Few different bytes, so that values are often equal.
        vec![b'v' + self.random.random_range(0..3); length].into()
    }

    fn lease(&mut self) -> i64 {
        if self.random.random_ratio(1, 3) { self.random.random_range(1..=LEASES) } else { 0 }
    }

    /// Any revision: current, past, compacted, of the future, none.
    pub fn revision(&mut self, naive: &Naive) -> i64 {
        match self.random.random_range(0..10) {
            0..=3 => 0,
            4 => naive.compacted + self.random.random_range(-1..=1),
            5 => naive.revision() + self.random.random_range(0..3),
            6 => -1,
            _ => self.random.random_range(naive.compacted.max(1)..=naive.revision()),
        }
    }

    pub fn range(&mut self, naive: &Naive) -> pb::RangeRequest {
        let (key, range_end) = self.range_of_keys();
        let mut filter = || match self.random.random_range(0..8) {
            0 => self.random.random_range(1..=naive.revision() + 1),
            _ => 0,
        };
        let (min_mod_revision, max_mod_revision) = (filter(), filter());
        let (min_create_revision, max_create_revision) = (filter(), filter());
        let sorted = self.random.random_ratio(1, 2);
        let limited = self.random.random_ratio(1, 2);
        pb::RangeRequest {
            key,
            range_end,
            limit: if limited { self.random.random_range(-1..8) } else { 0 },
            revision: self.revision(naive),
            sort_order: if sorted { self.random.random_range(0..3) } else { 0 },
            sort_target: if sorted { self.random.random_range(0..5) } else { 0 },
            serializable: false,
            keys_only: self.random.random_ratio(1, 4),
            count_only: self.random.random_ratio(1, 8),
            min_mod_revision,
            max_mod_revision,
            min_create_revision,
            max_create_revision,
        }
    }

    fn put(&mut self, key: Bytes) -> pb::PutRequest {
        let (ignore_value, ignore_lease) = (self.random.random_ratio(1, 8), self.random.random_ratio(1, 8));
        pb::PutRequest {
            key,
            value: if ignore_value { Bytes::new() } else { self.value() },
            lease: if ignore_lease { 0 } else { self.lease() },
            prev_kv: self.random.random(),
            ignore_value,
            ignore_lease,
        }
    }

    fn delete(&mut self) -> pb::DeleteRangeRequest {
        // Mostly one key: wide deletions would leave little to look at.
        let (key, range_end) =
            if self.random.random_ratio(3, 4) { (self.key(), Bytes::new()) } else { self.range_of_keys() };
        pb::DeleteRangeRequest { key, range_end, prev_kv: self.random.random() }
    }

    fn compare(&mut self, naive: &Naive) -> pb::Compare {
        let key = self.key();
        let range_end = if self.random.random_ratio(1, 3) { self.range_of_keys().1 } else { Bytes::new() };
        let targets = [
            CompareTarget::Version,
            CompareTarget::Create,
            CompareTarget::Mod,
            CompareTarget::Value,
            CompareTarget::Lease,
        ];
        let target = targets[self.random.random_range(0..targets.len())];
        let number = self.random.random_range(0..=naive.revision());
        let small = self.random.random_range(0..4);
        let union = match target {
            CompareTarget::Version => TargetUnion::Version(small),
            CompareTarget::Create => TargetUnion::CreateRevision(number),
            CompareTarget::Mod => TargetUnion::ModRevision(number),
            CompareTarget::Value => TargetUnion::Value(self.value()),
            CompareTarget::Lease => TargetUnion::Lease(small),
        };
        let results =
            [CompareResult::Equal, CompareResult::Greater, CompareResult::Less, CompareResult::NotEqual];
        // What is given for another target, or not at all, counts as 0.
        let target_union = match self.random.random_range(0..10) {
            0 => None,
            1 => Some(TargetUnion::ModRevision(small)),
            _ => Some(union),
        };
        pb::Compare {
            result: results[self.random.random_range(0..results.len())].into(),
            target: target.into(),
            key,
            range_end,
            target_union,
        }
    }

    fn branch(&mut self, naive: &Naive, depth: usize, changed: &mut Changed) -> Vec<pb::RequestOp> {
        let mut ops = Vec::new();
        for _ in 0..self.random.random_range(0..4) {
            let request = match self.random.random_range(0..10) {
                0..=4 => {
                    let put = self.key();
                    let meets = changed.deleted.iter().any(|(from, end)| Changed::meet(&put, from, end));
                    if meets || !changed.puts.insert(put.clone()) {
                        continue;
                    }
                    Request::RequestPut(self.put(put))
                }
                5 | 6 => {
                    let delete = self.delete();
                    if changed.puts.iter().any(|put| Changed::meet(put, &delete.key, &delete.range_end)) {
                        continue;
                    }
                    changed.deleted.push((delete.key.clone(), delete.range_end.clone()));
                    Request::RequestDeleteRange(delete)
                }
                7 if depth > 0 => Request::RequestTxn(self.nested(naive, depth - 1, changed)),
                _ => Request::RequestRange(self.range(naive)),
            };
            ops.push(pb::RequestOp { request: Some(request) });
        }
        ops
    }

    fn nested(&mut self, naive: &Naive, depth: usize, changed: &mut Changed) -> pb::TxnRequest {
        let compare = (0..self.random.random_range(0..3)).map(|_| self.compare(naive)).collect();
        // The branches exclude each other; what stands behind the transaction must get along with both.
        let (mut one, mut other) = (changed.clone(), changed.clone());
        let success = self.branch(naive, depth, &mut one);
        let failure = self.branch(naive, depth, &mut other);
        changed.puts = &one.puts | &other.puts;
        changed.deleted.extend(one.deleted);
        changed.deleted.extend(other.deleted);
        pb::TxnRequest { compare, success, failure }
    }

    pub fn command(&mut self, naive: &Naive) -> Kind {
        match self.random.random_range(0..40) {
            0..=15 => {
                let key = self.key();
                Kind::Put(self.put(key))
            }
            16..=21 => Kind::DeleteRange(self.delete()),
            22..=31 => Kind::Txn(self.nested(naive, 2, &mut Changed::default())),
            32 => {
                let revision = self.random.random_range(naive.compacted - 1..=naive.revision() + 1);
                Kind::Compact(pb::CompactionRequest { revision, physical: false })
            }
            33..=35 => Kind::LeaseGrant(pb::LeaseGrantRequest {
                id: self.random.random_range(0..=LEASES),
                ttl: if self.random.random_ratio(1, 20) {
                    9_000_000_001
                } else {
                    self.random.random_range(1..5000)
                },
            }),
            36 => Kind::LeaseRevoke(pb::LeaseRevokeRequest { id: self.random.random_range(1..=LEASES) }),
            37 | 38 => {
                let checkpoints = vec![pb::LeaseCheckpoint {
                    id: self.random.random_range(1..=LEASES),
                    remaining_ttl: self.random.random_range(0..100),
                }];
                Kind::LeaseCheckpoint(pb::LeaseCheckpointRequest { checkpoints })
            }
            _ => {
                // Mostly lowered: nothing is written while one is raised.
                let action = [0, 1, 2, 2, 2, 2][self.random.random_range(0..6)];
                let alarm = self.random.random_range(0..3);
                Kind::Alarm(pb::AlarmRequest { action, member_id: self.random.random_range(1..3), alarm })
            }
        }
    }
}

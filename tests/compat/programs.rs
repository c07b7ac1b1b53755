//! Random programs: what is asked of both servers, from a seed. Never talks to a server.
//!
//! A program is made without knowing the store it runs on. Small positive revisions in its requests count from
//! the store's revision at its start, and lease ids from `SERVER_CHOSEN` on mean the n-th lease whose id the
//! server chose; `resolve` turns both into real ones.

pub mod kv;
pub mod lease;
pub mod txn;
pub mod watch;

use decklog::wire::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, HashKvRequest, LeaseGrantRequest, LeaseKeepAliveRequest,
    LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest, PutRequest, RangeRequest, TxnRequest,
    WatchCreateRequest,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// Revisions from here on are asked for as they are; smaller positive ones count from the program's start.
pub const FIRST_LITERAL_REVISION: i64 = 1_000_000_000;
/// Lease id `SERVER_CHOSEN + n` stands for the n-th lease of the program whose id the server chose.
pub const SERVER_CHOSEN: i64 = 5_000_000_000;

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    Range(RangeRequest),
    Put(PutRequest),
    DeleteRange(DeleteRangeRequest),
    Txn(TxnRequest),
    Compact(CompactionRequest),
    HashKv(HashKvRequest),
    LeaseGrant(LeaseGrantRequest),
    LeaseRevoke(LeaseRevokeRequest),
    LeaseTimeToLive(LeaseTimeToLiveRequest),
    LeaseLeases(LeaseLeasesRequest),
    LeaseKeepAlive(LeaseKeepAliveRequest),
    WatchCreate(WatchCreateRequest),
    /// Cancels watch `id` of the `stream`-th watch stream.
    WatchCancel {
        stream: usize,
        id: i64,
    },
    WatchProgress {
        stream: usize,
    },
}

impl Step {
    /// Whether a member answers from what it has applied itself.
    pub fn is_local(&self) -> bool {
        match self {
            Self::Range(request) => request.serializable,
            // Without operations, or with serializable reads alone, it reads what is here.
            Self::Txn(_) => true,
            Self::HashKv(_)
            | Self::LeaseTimeToLive(_)
            | Self::LeaseLeases(_)
            | Self::LeaseKeepAlive(_)
            | Self::WatchCreate(_)
            | Self::WatchCancel { .. }
            | Self::WatchProgress { .. } => true,
            Self::Put(_)
            | Self::DeleteRange(_)
            | Self::Compact(_)
            | Self::LeaseGrant(_)
            | Self::LeaseRevoke(_) => false,
        }
    }
}

/// What the choices of one program are made from.
pub struct Chooser {
    random: StdRng,
    prefix: String,
    /// The step being made; about as many revisions exist by then.
    step: usize,
}

/// The `index`-th program of a seed: always the same `steps` steps.
pub fn program(seed: u64, index: u64, steps: usize) -> Vec<Step> {
    let random = StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(index));
    let mut chooser = Chooser { random, prefix: format!("p{index}/"), step: 0 };
    (0..steps)
        .map(|step| {
            chooser.step = step;
            chooser.any_step()
        })
        .collect()
}

impl Chooser {
    fn any_step(&mut self) -> Step {
        match self.below(100) {
            0..25 => Step::Put(self.put()),
            25..43 => Step::Range(self.range()),
            43..50 => Step::DeleteRange(self.delete_range()),
            50..70 => Step::Txn(txn::harmless(self.txn(3))),
            70..73 => Step::Compact(self.compaction()),
            73..75 => Step::HashKv(HashKvRequest { revision: self.revision() }),
            75..88 => self.lease_step(),
            _ => self.watch_step(),
        }
    }

    pub fn below(&mut self, bound: u32) -> u32 {
        self.random.random_range(0..bound)
    }

    pub fn one_in(&mut self, n: u32) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.random.random_range(0..choices.len())].clone()
    }

    /// Mostly one of a few keys, so that programs collide with themselves; rarely empty.
    pub fn key(&mut self) -> bytes::Bytes {
        if self.one_in(60) {
            return bytes::Bytes::new();
        }
        let tail: &[u8] =
            self.pick(&[b"a", b"a", b"b", b"b", b"c", b"a/x", b"d", b"", b"\0", b"a\xff", b"\xff\xff"]);
        [self.prefix.as_bytes(), tail].concat().into()
    }

    /// Empty (one key), from-key, the whole prefix, another key, or an end at or before `key`.
    pub fn range_end(&mut self, key: &[u8]) -> bytes::Bytes {
        match self.below(12) {
            0..5 => bytes::Bytes::new(),
            5 => bytes::Bytes::from_static(b"\0"),
            6 => bytes::Bytes::copy_from_slice(key),
            7..9 => self.whole_prefix_end(),
            _ => self.key(),
        }
    }

    /// Zero, negative, beyond all, or one that the program has about reached.
    pub fn revision(&mut self) -> i64 {
        match self.below(16) {
            0..5 => 0,
            5 => self.pick(&[-1, i64::MIN]),
            6 => self.pick(&[FIRST_LITERAL_REVISION, i64::MAX]),
            _ => {
                let reached = self.step as u32 / 2 + 3;
                i64::from(self.below(reached)) + 1
            }
        }
    }
}

//! What is written: values that do not compress, and rounds, both a function of the seed, so that what is found later can be
//! checked to the byte.

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};

/// One revision and its value.
#[derive(Clone)]
pub struct Change {
    pub revision: u64,
    pub value: Bytes,
}

/// Changes that are written as one, with the number that they stand for.
#[derive(Clone)]
pub struct Round {
    pub applied: u64,
    pub changes: Vec<Change>,
    /// A small row that this round overwrites, with `applied`.
    pub slot: Option<u8>,
}

/// Small rows that rounds overwrite in turn.
pub const SLOTS: u8 = 16;
/// Bytes that a revision counts for besides its value: its key in etcd's form.
pub const KEY_BYTES: u64 = 17;

/// What compaction leaves: a tenth.
pub fn is_kept(revision: u64) -> bool {
    revision.is_multiple_of(10)
}

pub fn value(seed: u64, revision: u64, bytes: usize) -> Bytes {
    let mut value = vec![0; bytes];
    random(seed, revision).fill_bytes(&mut value);
    value.into()
}

fn random(seed: u64, number: u64) -> SmallRng {
    SmallRng::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// Sizes of the values in a round of the crash runs.
pub fn sizes(seed: u64, applied: u64) -> Vec<usize> {
    let mut random = random(!seed, applied);
    // Now and then some megabytes: more than an engine buffers.
    let most = if random.random_ratio(1, 10) { 4000 } else { 100 };
    let count = random.random_range(1..most);
    let size = |random: &mut SmallRng| match random.random_ratio(1, 300) {
        true => random.random_range(30_000..100_000),
        false => random.random_range(0..1500),
    };
    (0..count).map(|_| size(&mut random)).collect()
}

/// A round of the crash runs; its first revision is that of the round before and its length.
pub fn crash_round(seed: u64, applied: u64, first: u64) -> Round {
    let changes = sizes(seed, applied).into_iter().zip(first..);
    let changes = changes.map(|(bytes, revision)| Change { revision, value: value(seed, revision, bytes) });
    let slot = u8::try_from(applied % u64::from(SLOTS)).expect("below the number of slots");
    Round { applied, changes: changes.collect(), slot: Some(slot) }
}

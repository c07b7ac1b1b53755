//! sled 0.34.7 as rows, set up as Decklog's store sets it up.

use std::path::Path;
use std::time::{Duration, Instant};

use sled_stable as sled;

use super::rows::{Op, Rows};
use super::{CACHE_BYTES, Failure};

/// sled lets go of its lock some time after its last handle is dropped.
const LOCK_PATIENCE: Duration = Duration::from_secs(20);

pub struct Stable(sled::Db);

impl Stable {
    pub fn open(directory: &Path) -> Result<Self, Failure> {
        let config = sled::Config::new()
            .path(directory.join("stable"))
            .mode(sled::Mode::HighThroughput)
            .cache_capacity(CACHE_BYTES as u64)
            .segment_size(4 << 20)
            .flush_every_ms(None);
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            match config.open() {
                Err(sled::Error::Io(error))
                    if error.to_string().contains("could not acquire lock") && Instant::now() < deadline =>
                {
                    std::thread::yield_now();
                }
                opened => return Ok(Self(opened?)),
            }
        }
    }
}

impl Rows for Stable {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        Ok(self.0.get(key)?.map(|value| value.to_vec()))
    }

    fn scan(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), Failure> {
        for row in self.0.range(from..) {
            let (key, value) = row?;
            if !visit(&key, &value) {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, ops: Vec<Op>) -> Result<(), Failure> {
        let mut batch = sled::Batch::default();
        for op in ops {
            match op {
                Op::Put(key, value) => batch.insert(key, value),
                Op::Remove(key) => batch.remove(key),
            }
        }
        Ok(self.0.apply_batch(batch)?)
    }

    fn flush(&self) -> Result<(), Failure> {
        self.0.flush()?;
        Ok(())
    }

    /// It has no way.
    fn give_back(&self) -> Result<(), Failure> {
        self.flush()
    }
}

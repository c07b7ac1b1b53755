//! sled 1.0 alpha as rows: one tree, a batch per round. `LEAF` is how many rows stand in a leaf.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use sled_alpha as sled;

use super::rows::{Op, Rows};
use super::{CACHE_BYTES, Failure};
use crate::process;

/// Flushes after which it has given back what it will.
const MAX_FLUSHES: usize = 20;

pub struct Alpha<const LEAF: usize> {
    /// A handle may go from thread to thread, but not be used by two: one is for flushing, one for the rest.
    rest: Mutex<sled::Db<LEAF>>,
    flushing: Mutex<sled::Db<LEAF>>,
    directory: PathBuf,
}

impl<const LEAF: usize> Alpha<LEAF> {
    pub fn open(directory: &Path) -> Result<Self, Failure> {
        let directory = directory.join("alpha");
        let config =
            sled::Config::new().path(&directory).cache_capacity_bytes(CACHE_BYTES).flush_every_ms(None);
        let db = config.open()?;
        Ok(Self { rest: Mutex::new(db.clone()), flushing: Mutex::new(db), directory })
    }

    fn db(&self) -> MutexGuard<'_, sled::Db<LEAF>> {
        self.rest.lock().expect("no holder panics")
    }
}

impl<const LEAF: usize> Rows for Alpha<LEAF> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        Ok(self.db().get(key)?.map(|value| value.to_vec()))
    }

    fn scan(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), Failure> {
        for row in self.db().range(from..) {
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
        Ok(self.db().apply_batch(batch)?)
    }

    fn flush(&self) -> Result<(), Failure> {
        self.flushing.lock().expect("no holder panics").flush()?;
        Ok(())
    }

    /// It moves what is scattered when it flushes.
    fn give_back(&self) -> Result<(), Failure> {
        let mut before = u64::MAX;
        for _ in 0..MAX_FLUSHES {
            self.flush()?;
            let now = process::disk_bytes(&self.directory)?;
            if now >= before {
                break;
            }
            before = now;
        }
        Ok(())
    }
}

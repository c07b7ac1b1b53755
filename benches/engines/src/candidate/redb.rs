//! redb as rows: commits that are not durable, and an empty durable one to flush.

use std::path::Path;
use std::sync::{RwLock, RwLockReadGuard};

use redb::{Database, Durability, ReadableDatabase, TableDefinition};

use super::rows::{Op, Rows};
use super::{CACHE_BYTES, Failure};

const TABLE: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");

/// The lock is for compaction, which must be alone.
pub struct Redb(RwLock<Database>);

impl Redb {
    pub fn open(directory: &Path) -> Result<Self, Failure> {
        let mut builder = Database::builder();
        let db = builder.set_cache_size(CACHE_BYTES).create(directory.join("redb"))?;
        let rows = Self(RwLock::new(db));
        // The table is there from the start.
        rows.apply(Vec::new())?;
        Ok(rows)
    }

    fn db(&self) -> RwLockReadGuard<'_, Database> {
        self.0.read().expect("no holder panics")
    }
}

impl Rows for Redb {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Failure> {
        let table = self.db().begin_read()?.open_table(TABLE)?;
        Ok(table.get(key)?.map(|value| value.value().to_vec()))
    }

    fn scan(&self, from: &[u8], visit: &mut dyn FnMut(&[u8], &[u8]) -> bool) -> Result<(), Failure> {
        let table = self.db().begin_read()?.open_table(TABLE)?;
        for row in table.range(from..)? {
            let (key, value) = row?;
            if !visit(key.value(), value.value()) {
                break;
            }
        }
        Ok(())
    }

    fn apply(&self, ops: Vec<Op>) -> Result<(), Failure> {
        let db = self.db();
        let mut writing = db.begin_write()?;
        writing.set_durability(Durability::None)?;
        let mut table = writing.open_table(TABLE)?;
        for op in ops {
            match op {
                Op::Put(key, value) => drop(table.insert(key.as_slice(), value.as_slice())?),
                Op::Remove(key) => drop(table.remove(key.as_slice())?),
            }
        }
        drop(table);
        Ok(writing.commit()?)
    }

    fn flush(&self) -> Result<(), Failure> {
        Ok(self.db().begin_write()?.commit()?)
    }

    fn give_back(&self) -> Result<(), Failure> {
        while self.0.write().expect("no holder panics").compact()? {}
        Ok(())
    }
}

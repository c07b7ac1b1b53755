//! The store over sled: revisions packed into blocks, small tables beside them, one batch per round.
//! Owns everything in its directory. All writing methods belong to one thread; reads come from any.
//! docs/storage.md has the layout and the reasons.

mod beside;
mod blocks;
mod commit;
mod current;
mod database;
mod engine;
mod pass;
mod rising;
mod room;
mod rows;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::ops::{Bound, ControlFlow};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::{Error, Round, Sizes, Store, StoredChange, Table, change_size, row_size};
use crate::ids::{FullRevision, LogPosition, Revision};
use blocks::{BLOCK_BYTES, Block, CHUNK_BYTES};
use commit::{Standing, Step, Writer};
use engine::{Engine, Ops};
use pass::Pass;
use rows::Applied;

/// Tries to read a block that is being replaced by another.
const MAX_READ_TRIES: usize = 8;
/// Bytes of revisions that a slice of a compaction looks at, and when the disk is nearly full.
const MAX_SLICE_BYTES: u64 = 2 << 20;
const MAX_TIGHT_SLICE_BYTES: u64 = 256 << 10;

/// Bytes of memory that reads may use.
#[derive(Clone, Copy, Debug)]
pub struct SledOptions {
    /// Decoded blocks.
    pub cache_bytes: u64,
    /// sled's own pages.
    pub engine_cache_bytes: u64,
}

impl Default for SledOptions {
    fn default() -> Self {
        Self { cache_bytes: 64 << 20, engine_cache_bytes: 32 << 20 }
    }
}

/// What is done with each change of a store that is opened.
pub type VisitChange<'a> = dyn FnMut(&StoredChange) + 'a;

#[derive(Clone)]
struct BlockWeight;

impl Weighter<FullRevision, Arc<Block>> for BlockWeight {
    fn weight(&self, _first: &FullRevision, block: &Arc<Block>) -> u64 {
        block.memory() as u64
    }
}

/// See the module.
pub struct SledStore {
    directory: PathBuf,
    engine: Engine,
    cache: Cache<FullRevision, Arc<Block>, BlockWeight>,
    /// The first revision of every block: held for one search, or for one batch that removes blocks.
    index: RwLock<BTreeSet<FullRevision>>,
    writer: Mutex<Writer>,
    in_use: AtomicU64,
    on_disk: AtomicU64,
}

impl SledStore {
    /// Opens the store of a directory, which is made when it is missing.
    ///
    /// # Errors
    /// `Damaged`, `Locked`; faults of the disk.
    pub fn open(directory: &Path, options: &SledOptions) -> Result<Self, Error> {
        let engine = Engine::open(directory, options.engine_cache_bytes)?;
        Self::over(directory, engine, options, None)
    }

    /// `visit` gets every change, in order: all pages are read here anyway, for the index of blocks.
    fn over(
        directory: &Path,
        engine: Engine,
        options: &SledOptions,
        visit: Option<&mut VisitChange<'_>>,
    ) -> Result<Self, Error> {
        let applied = applied_of(directory, &engine)?;
        let items = usize::try_from(options.cache_bytes).unwrap_or(usize::MAX) / BLOCK_BYTES;
        let store = Self {
            directory: directory.to_owned(),
            cache: Cache::with_weighter(items, options.cache_bytes, BlockWeight),
            index: RwLock::default(),
            writer: Mutex::default(),
            in_use: AtomicU64::new(applied.in_use),
            on_disk: AtomicU64::new(engine.size_on_disk()),
            engine,
        };
        let index = store.read_index(visit)?;
        *store.index.write() = index;
        let (open, open_bytes) = store.last_block()?;
        store.writer.lock().standing = Standing { applied, open, open_bytes };
        Ok(store)
    }

    fn read_index(&self, mut visit: Option<&mut VisitChange<'_>>) -> Result<BTreeSet<FullRevision>, Error> {
        let mut firsts = Vec::new();
        self.engine.scan(rows::BLOCK_PREFIX, &mut |key, row| {
            let first = in_store(&self.directory, rows::block_first(key))?;
            firsts.push(first);
            let Some(visit) = &mut visit else {
                return Ok(());
            };
            let block = in_store(&self.directory, Block::decode(first, row))?;
            for place in 0..block.len() {
                if let Some(change) = self.change(&block, place)? {
                    visit(&change);
                }
            }
            Ok(())
        })?;
        Ok(firsts.into_iter().collect())
    }

    /// The changes of the newest block and its size, unless it is full.
    fn last_block(&self) -> Result<(Vec<StoredChange>, usize), Error> {
        let last = self.index.read().last().copied();
        let block = last.map(|last| self.load(last, |_| true)).transpose()?.flatten();
        match block.filter(|block| block.len_bytes() < BLOCK_BYTES) {
            Some(block) => Ok((self.changes_of(&block)?, block.len_bytes())),
            None => Ok(Default::default()),
        }
    }

    /// The first revision of the block that may hold `at`.
    fn first_of(&self, at: FullRevision) -> Option<FullRevision> {
        self.index.read().range(..=at).next_back().copied()
    }

    /// The block of this first revision, for who looks for `at`; `None` when it is not there any more.
    fn block_for(&self, first: FullRevision, at: FullRevision) -> Result<Option<Arc<Block>>, Error> {
        if let Some(block) = self.cache.get(&first)
            && block.covers(at)
        {
            return Ok(Some(block));
        }
        let block = self.load(first, |block| block.find(at).is_some())?;
        if let Some(block) = &block {
            self.cache.insert(first, block.clone());
        }
        Ok(block)
    }

    /// `is_wanted`: see `Engine::get_alone`.
    fn load(
        &self,
        first: FullRevision,
        is_wanted: impl Fn(&Block) -> bool,
    ) -> Result<Option<Arc<Block>>, Error> {
        let is_wanted = |row: &[u8]| Block::decode(first, row).is_ok_and(|block| is_wanted(&block));
        let row = self.engine.get_alone(&rows::block_key(first), is_wanted)?;
        row.map(|row| in_store(&self.directory, Block::decode(first, &row)).map(Arc::new)).transpose()
    }

    /// For who goes through many, and has come to `at`.
    fn load_in_turn(&self, first: FullRevision, at: FullRevision) -> Result<Option<Block>, Error> {
        let is_wanted = |row: &[u8]| Block::decode(first, row).is_ok_and(|block| block.covers(at));
        let row = self.engine.get_in_turn(&rows::block_key(first), is_wanted)?;
        row.map(|row| in_store(&self.directory, Block::decode(first, &row))).transpose()
    }

    /// The change in a place of a block, with its chunks put together; `None` when it was removed meanwhile.
    fn change(&self, block: &Block, place: usize) -> Result<Option<StoredChange>, Error> {
        let (change, chunked) = block.change(place);
        if chunked == 0 {
            return Ok(Some(change));
        }
        let damaged = |number: u32, detail: &str| Error::Damaged {
            place: format!("{}, chunk {number} of revision {}", self.place(), change.at.main),
            detail: detail.to_owned(),
        };
        let mut pair = Vec::with_capacity(chunked.min(2 * CHUNK_BYTES));
        let mut number = 0;
        while pair.len() < chunked {
            let Some(row) = self.engine.get_alone(&rows::chunk_key(change.at, number), |_| true)? else {
                return if self.is_stored(block.first(), change.at)? {
                    Err(damaged(number, "it is missing"))
                } else {
                    Ok(None)
                };
            };
            let place = || format!("{}, chunk {number} of revision {}", self.place(), change.at.main);
            let chunk = rows::checked(&row, place)?;
            if chunk.is_empty() || pair.len() + chunk.len() > chunked {
                return Err(damaged(number, "it has a wrong length"));
            }
            pair.extend_from_slice(&chunk);
            number += 1;
        }
        Ok(Some(StoredChange { pair: pair.into(), ..change }))
    }

    /// Whether the block of this first revision still has a change: removed with it are its chunks.
    fn is_stored(&self, first: FullRevision, at: FullRevision) -> Result<bool, Error> {
        Ok(self.load(first, |_| true)?.is_some_and(|block| block.find(at).is_some()))
    }

    fn changes_of(&self, block: &Block) -> Result<Vec<StoredChange>, Error> {
        let mut changes = Vec::with_capacity(block.len());
        for place in 0..block.len() {
            changes.extend(self.change(block, place)?);
        }
        Ok(changes)
    }

    fn place(&self) -> String {
        self.directory.display().to_string()
    }

    /// Adds the changes of a round to the newest block and to new ones.
    fn write_changes(
        standing: &mut Standing,
        changes: &[StoredChange],
        ops: &mut Ops,
        firsts: &mut Vec<FullRevision>,
    ) {
        for change in changes {
            if standing.open_bytes >= BLOCK_BYTES {
                Self::seal(standing, ops, firsts);
            }
            for (number, chunk) in blocks::chunks(change) {
                ops.put(rows::chunk_key(change.at, number), rows::with_checksum(chunk));
            }
            standing.open_bytes += blocks::encoded_len(change);
            standing.open.push(change.clone());
        }
        if !changes.is_empty() {
            pass::put_block(&standing.open, ops, firsts);
        }
    }

    fn seal(standing: &mut Standing, ops: &mut Ops, firsts: &mut Vec<FullRevision>) {
        pass::put_block(&standing.open, ops, firsts);
        standing.open.clear();
        standing.open_bytes = 0;
    }

    fn row_delta(&self, round: &Round) -> Result<i64, Error> {
        let mut delta = 0;
        // Only the last write of a key counts, and it is compared with what stood there before the round.
        let mut last = std::collections::HashMap::new();
        for write in &round.tables {
            last.insert((write.table, &write.key), &write.value);
        }
        for ((table, key), value) in last {
            if let Some(before) = self.engine.get(&rows::table_key(table, key))? {
                delta -= signed(row_size(key, &before[rows::CHECKSUM_BYTES.min(before.len())..]));
            }
            if let Some(value) = value {
                delta += signed(row_size(key, value));
            }
        }
        Ok(delta)
    }

    /// First revisions of the blocks that may hold changes in a span.
    fn blocks_between(&self, from: FullRevision, end: FullRevision) -> Vec<FullRevision> {
        let index = self.index.read();
        let start = index.range(..=from).next_back().copied().unwrap_or(from);
        index.range(start..).take_while(|first| **first < end).copied().collect()
    }

    /// The block that holds the first change at or after `at`, unless it lies further on.
    fn block_at_or_after(&self, at: FullRevision) -> Option<FullRevision> {
        let index = self.index.read();
        index.range(..=at).next_back().or_else(|| index.range(at..).next()).copied()
    }
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

impl Store for SledStore {
    fn applied(&self) -> LogPosition {
        self.writer.lock().standing.applied.position
    }

    fn write(&self, round: &Round) -> Result<(), Error> {
        let mut writer = self.writer.lock();
        self.mend(&mut writer)?;
        let (mut ops, mut added) = (Ops::default(), Vec::new());
        let mut after = writer.standing.clone();
        Self::write_changes(&mut after, &round.changes, &mut ops, &mut added);
        let bytes: u64 = round.changes.iter().map(change_size).sum();
        let in_use = (after.applied.in_use + bytes).saturating_add_signed(self.row_delta(round)?);
        for write in &round.tables {
            let key = rows::table_key(write.table, &write.key);
            match &write.value {
                Some(value) => ops.put(key, rows::with_checksum(value)),
                None => ops.remove(key, 0),
            }
        }
        after.applied = Applied { position: round.applied, in_use };
        self.commit(&mut writer, ops, Step { after, added, removed: Vec::new() })
    }

    fn flush(&self) -> Result<LogPosition, Error> {
        let mut writer = self.writer.lock();
        self.mend(&mut writer)?;
        self.flush_batch(&mut writer)?;
        self.on_disk.store(self.engine.size_on_disk(), Ordering::Release);
        Ok(writer.standing.applied.position)
    }

    fn read(&self, at: FullRevision) -> Result<Option<StoredChange>, Error> {
        for _ in 0..MAX_READ_TRIES {
            let Some(first) = self.first_of(at) else {
                return Ok(None);
            };
            // Gone, or without it: perhaps replaced since the index was asked.
            let block = self.block_for(first, at)?;
            if let Some((place, block)) = block.as_ref().and_then(|block| Some((block.find(at)?, block))) {
                return self.change(block, place);
            }
            if block.is_some() && self.first_of(at) == Some(first) {
                return Ok(None);
            }
        }
        let detail = "a block that the index names is missing".to_owned();
        Err(Error::Damaged { place: format!("{}, revision {}", self.place(), at.main), detail })
    }

    fn read_rising(&self, wanted: &[FullRevision], alone: bool) -> Result<Vec<Option<Bytes>>, Error> {
        self.rising(wanted, alone)
    }

    fn scan(
        &self,
        from: FullRevision,
        to: FullRevision,
        visit: &mut dyn FnMut(&StoredChange) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        let mut next = from;
        while next < to {
            let Some(first) = self.block_at_or_after(next) else {
                return Ok(());
            };
            // Gone: replaced since the index was asked.
            let Some(block) = self.load_in_turn(first, next)? else {
                continue;
            };
            if !block.covers(next) && self.block_at_or_after(next) != Some(first) {
                continue;
            }
            for place in block.places_from(next) {
                let Some(change) = self.change(&block, place)? else {
                    continue;
                };
                if change.at >= to || visit(&change).is_break() {
                    return Ok(());
                }
            }
            next = if block.covers(next) {
                block.last().successor()
            } else {
                let after = (Bound::Excluded(next.max(first)), Bound::Unbounded);
                match self.index.read().range(after).next() {
                    Some(following) => *following,
                    None => return Ok(()),
                }
            };
        }
        Ok(())
    }

    fn table(&self, table: Table) -> Result<Vec<(Bytes, Bytes)>, Error> {
        let prefix = rows::table_key(table, &[]);
        let mut found = Vec::new();
        self.engine.scan(&prefix, &mut |key, row| {
            let value = rows::checked(row, || format!("{}, a row of the {table:?} table", self.place()))?;
            found.push((Bytes::copy_from_slice(&key[prefix.len()..]), value));
            Ok(())
        })?;
        Ok(found)
    }

    fn retain(
        &self,
        from: FullRevision,
        through: Revision,
        limit: usize,
        keep: &mut dyn FnMut(&StoredChange) -> bool,
    ) -> Result<Option<FullRevision>, Error> {
        let mut writer = self.writer.lock();
        self.mend(&mut writer)?;
        // The newest block is closed: from here on it is one like the others.
        writer.standing = Standing { applied: writer.standing.applied, ..Standing::default() };
        let end = FullRevision::start_of(Revision(through.0 + 1));
        let max_bytes = if self.engine.is_nearly_full() { MAX_TIGHT_SLICE_BYTES } else { MAX_SLICE_BYTES };
        let mut pass = Pass::default();
        let mut next = None;
        for first in self.blocks_between(from, end) {
            if pass.looked_at >= limit || pass.looked_at_bytes >= max_bytes {
                next = Some(first.max(from));
                break;
            }
            let Some(block) = self.load_in_turn(first, first)? else {
                continue;
            };
            let changes = self.changes_of(&block)?;
            pass.block(first, &block, changes, &mut |change| {
                change.at < from || change.at >= end || keep(change)
            });
        }
        pass.close_run();
        if !pass.removed.is_empty() {
            let Applied { position, in_use } = writer.standing.applied;
            let applied = Applied { position, in_use: in_use.saturating_sub(pass.dropped_bytes) };
            let after = Standing { applied, ..Standing::default() };
            let step = Step { after, added: pass.added, removed: pass.removed };
            self.commit(&mut writer, pass.ops, step)?;
            // The next batch would, while readers wait for the index.
            self.flush_batch(&mut writer)?;
        }
        Ok(next)
    }

    fn sizes(&self) -> Sizes {
        Sizes { on_disk: self.on_disk.load(Ordering::Acquire), in_use: self.in_use.load(Ordering::Acquire) }
    }

    fn check_space(&self, bytes: u64) -> Result<(), Error> {
        // A database in which a write has failed takes nothing, however much room there is.
        self.mend(&mut self.writer.lock())?;
        self.engine.check_space(bytes)
    }

    fn is_nearly_full(&self) -> bool {
        self.engine.is_nearly_full()
    }

    fn take_place(&self) -> Result<(), Error> {
        self.engine.take_place()
    }

    fn discard(&self) {
        self.engine.discard();
    }

    fn defragment(&self, rows: usize) -> Result<bool, Error> {
        let mut writer = self.writer.lock();
        self.mend(&mut writer)?;
        let more = self.engine.defragment(rows)?;
        if !more {
            self.on_disk.store(self.engine.size_on_disk(), Ordering::Release);
        }
        Ok(more)
    }
}

/// Which entry the database of a store stands for.
fn applied_of(directory: &Path, engine: &Engine) -> Result<Applied, Error> {
    match engine.get(rows::APPLIED)? {
        Some(row) => in_store(directory, rows::decode_applied(&row)),
        // The engine has checked that it is there.
        None => Ok(Applied::default()),
    }
}

/// Damage that a decoder of rows found, with the store's directory before the row: decoders know rows alone.
fn in_store<T>(directory: &Path, decoded: Result<T, Error>) -> Result<T, Error> {
    decoded.map_err(|error| match error {
        Error::Damaged { place, detail } => {
            Error::Damaged { place: format!("{}, {place}", directory.display()), detail }
        }
        other => other,
    })
}

//! Many changes at once, in order: each block is found once and answers for all that stand in it.

use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::super::{Error, Store};
use super::SledStore;
use super::blocks::{Block, CHUNK_BYTES};
use crate::ids::FullRevision;

/// Pairs that are less than this part of their block are copied out of it.
const SPARSE_PART: usize = 4;

impl SledStore {
    /// See `Store::read_rising`.
    pub(super) fn rising(&self, wanted: &[FullRevision], alone: bool) -> Result<Vec<Option<Bytes>>, Error> {
        let mut pairs = Vec::with_capacity(wanted.len());
        let (mut before, mut places) = (None, Vec::new());
        while let Some(at) = wanted.get(pairs.len()) {
            places.clear();
            if let Some(first) = self.first_of(*at)
                && let Some(block) = self.block_after(before, first, *at)?
            {
                let rest = wanted[pairs.len()..].iter().take_while(|at| block.covers(**at));
                places.extend(rest.map_while(|at| block.find(*at)));
                self.take(&block, &places, alone, &mut pairs)?;
                before = Some(first);
            }
            // Not there, or in a block that was replaced meanwhile.
            if places.is_empty() {
                pairs.push(self.read(*at)?.map(|change| change.pair));
            }
        }
        Ok(pairs)
    }

    /// The block of this first revision, which may be the one that follows `before`.
    fn block_after(
        &self,
        before: Option<FullRevision>,
        first: FullRevision,
        at: FullRevision,
    ) -> Result<Option<Arc<Block>>, Error> {
        if let Some(block) = self.cache.get(&first)
            && block.covers(at)
        {
            return Ok(Some(block));
        }
        let following = before.and_then(|before| {
            let index = self.index.read();
            index.range((Bound::Excluded(before), Bound::Unbounded)).next().copied()
        });
        if following != Some(first) {
            return self.block_for(first, at);
        }
        let block = self.load_in_turn(first, at)?.map(Arc::new);
        if let Some(block) = &block {
            self.cache.insert(first, block.clone());
        }
        Ok(block)
    }

    /// The pairs in some places of a block. With `alone` they leave it where they are a small part of it, as when keys were
    /// written in any order: a large answer would hold many times its size.
    fn take(
        &self,
        block: &Block,
        places: &[usize],
        alone: bool,
        pairs: &mut Vec<Option<Bytes>>,
    ) -> Result<(), Error> {
        let bytes: usize = places.iter().map(|place| block.pair_bytes(*place)).sum();
        let is_copied = alone && bytes * SPARSE_PART < block.len_bytes();
        for place in places {
            let pair = self.change(block, *place)?.map(|change| change.pair);
            let pair = match pair {
                Some(pair) if is_copied && pair.len() <= CHUNK_BYTES => Some(Bytes::copy_from_slice(&pair)),
                pair => pair,
            };
            pairs.push(pair);
        }
        Ok(())
    }
}

//! One slice of a compaction over the blocks: what goes, and how what is kept is packed anew.

use super::super::{StoredChange, change_size};
use super::blocks::{self, BLOCK_BYTES, Block};
use super::engine::Ops;
use super::rows;
use crate::ids::FullRevision;

/// Blocks up to this size are joined with their neighbours when a compaction passes.
const SMALL_BLOCK_BYTES: usize = BLOCK_BYTES / 2;

/// One slice of a compaction: blocks that lose something, or are small, are packed anew with their neighbours.
#[derive(Default)]
pub(super) struct Pass {
    pub ops: Ops,
    pub added: Vec<FullRevision>,
    pub removed: Vec<FullRevision>,
    /// Kept changes of the blocks removed since the last that stays.
    run: Vec<StoredChange>,
    pub looked_at: usize,
    pub looked_at_bytes: u64,
    pub dropped_bytes: u64,
}

impl Pass {
    pub fn block(
        &mut self,
        first: FullRevision,
        block: &Block,
        changes: Vec<StoredChange>,
        keep: &mut dyn FnMut(&StoredChange) -> bool,
    ) {
        self.looked_at += changes.len();
        self.looked_at_bytes += changes.iter().map(change_size).sum::<u64>();
        let before = changes.len();
        let mut kept = Vec::with_capacity(before);
        for change in changes {
            if keep(&change) {
                kept.push(change);
                continue;
            }
            self.dropped_bytes += change_size(&change);
            for (number, chunk) in blocks::chunks(&change) {
                self.ops.remove(rows::chunk_key(change.at, number), chunk.len());
            }
        }
        if kept.len() == before && block.len_bytes() >= SMALL_BLOCK_BYTES {
            return self.close_run();
        }
        self.ops.remove(rows::block_key(first), block.len_bytes());
        self.removed.push(first);
        self.run.extend(kept);
    }

    pub fn close_run(&mut self) {
        repack(&mut self.run, &mut self.ops, &mut self.added);
    }
}

/// Puts a run of kept changes back into blocks of full size.
fn repack(run: &mut Vec<StoredChange>, ops: &mut Ops, added: &mut Vec<FullRevision>) {
    let (mut start, mut bytes) = (0, 0);
    for (place, change) in run.iter().enumerate() {
        if bytes >= BLOCK_BYTES {
            put_block(&run[start..place], ops, added);
            (start, bytes) = (place, 0);
        }
        bytes += blocks::encoded_len(change);
    }
    put_block(&run[start..], ops, added);
    run.clear();
}

/// Adds the row of a block, if it holds anything.
pub(super) fn put_block(changes: &[StoredChange], ops: &mut Ops, firsts: &mut Vec<FullRevision>) {
    if let Some(first) = changes.first() {
        ops.put(rows::block_key(first.at), blocks::encode(changes));
        firsts.push(first.at);
    }
}

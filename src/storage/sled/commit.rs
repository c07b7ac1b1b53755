//! Batches of the store: written, shown to readers, and taken back when sled could not make one durable for want of room.
//! Owns what is known of the batch since the last flush; at most one is not flushed.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;

use super::super::{Error, StoredChange};
use super::engine::Ops;
use super::room::Share;
use super::rows::{self, Applied};
use super::{SledStore, in_store};
use crate::ids::FullRevision;

/// What only the writing thread uses.
#[derive(Default)]
pub(super) struct Writer {
    pub standing: Standing,
    /// The batch since the last flush; perhaps one of which is not known whether it was written.
    unflushed: Option<Change>,
    /// The database was opened anew, and it has not been looked at whether it holds that batch.
    is_unsure: bool,
}

/// Where the store stands before and after a batch.
#[derive(Clone, Default)]
pub(super) struct Standing {
    pub applied: Applied,
    /// The newest block while it is not full: it is written again with each round.
    pub open: Vec<StoredChange>,
    pub open_bytes: usize,
}

/// What a batch changes beside rows: where it leads, and first revisions of blocks.
#[derive(Default)]
pub(super) struct Step {
    pub after: Standing,
    pub added: Vec<FullRevision>,
    pub removed: Vec<FullRevision>,
}

struct Change {
    before: Standing,
    step: Step,
    /// Those of the added that were there before.
    replaced: Vec<FullRevision>,
}

type Index = BTreeSet<FullRevision>;

impl SledStore {
    /// Writes ops with the applied row, then shows them to readers.
    ///
    /// # Errors
    /// `Full`: nothing has changed, or everything has. Faults of the disk.
    pub(super) fn commit(&self, writer: &mut Writer, mut ops: Ops, step: Step) -> Result<(), Error> {
        if writer.unflushed.is_some() {
            self.flush_batch(writer)?;
        }
        ops.put(rows::APPLIED.to_vec(), rows::encode_applied(step.after.applied));
        let replaced = {
            let index = self.index.read();
            step.added.iter().filter(|first| index.contains(first)).copied().collect()
        };
        let change = Change { before: writer.standing.clone(), step, replaced };
        let written = if change.step.removed.is_empty() {
            // Nobody reads what a round adds before it is here: readers need not wait for it.
            // One that adds no revisions ends a compaction, or is small.
            let share = if change.step.added.is_empty() { Share::Compaction } else { Share::Round };
            let written = self.engine.apply(&ops, share);
            written.map(|()| self.show(writer, &change, &mut self.index.write()))
        } else {
            let mut index = self.index.write();
            let written = self.engine.apply(&ops, Share::Compaction);
            written.map(|()| self.show(writer, &change, &mut index))
        };
        writer.unflushed = Some(change);
        written.map_err(|fault| self.mended(writer, fault))
    }

    /// Makes the batch before durable.
    ///
    /// # Errors
    /// `Full`: it may be gone. Faults of the disk.
    pub(super) fn flush_batch(&self, writer: &mut Writer) -> Result<(), Error> {
        self.engine.flush().map_err(|fault| self.mended(writer, fault))?;
        writer.unflushed = None;
        Ok(())
    }

    /// To be called before anything is written. After a write that found no room, the database is opened anew.
    ///
    /// # Errors
    /// `Full` when there is no room for that; faults of the disk.
    pub(super) fn mend(&self, writer: &mut Writer) -> Result<(), Error> {
        if !writer.is_unsure && !self.engine.has_failed() {
            return Ok(());
        }
        // The database opened anew is there for readers only while the index is held here, until it is that of the database. Whoever
        // asked the index before, and finds less than that promised, asks it again.
        let mut index = match self.engine.mend(|| self.index.write())? {
            Some(index) => {
                writer.is_unsure = true;
                index
            }
            None if writer.is_unsure => self.index.write(),
            None => return Ok(()),
        };
        let row = self.engine.get(rows::APPLIED)?;
        let applied = row.map(|row| in_store(&self.directory, rows::decode_applied(&row))).transpose()?;
        let unsure = |found| {
            let place = self.directory.display().to_string();
            let detail = format!("opened anew, it stands for {found:?}, which was never flushed");
            Err(Error::Damaged { place, detail })
        };
        match (applied, &writer.unflushed) {
            (Some(applied), Some(change)) => {
                let happened = match (applied == change.before.applied, applied == change.step.after.applied)
                {
                    (true, true) => self.has_happened(change)?,
                    (false, false) => return unsure(Some(applied)),
                    (_, is_after) => is_after,
                };
                let change = writer.unflushed.take().expect("it was looked at");
                match happened {
                    true => self.show(writer, &change, &mut index),
                    false => self.hide(writer, &change, &mut index),
                }
            }
            (Some(applied), None) if applied == writer.standing.applied => {}
            (found, _) => return unsure(found),
        }
        writer.is_unsure = false;
        Ok(())
    }

    /// Whether the database holds a batch that left the applied row as it was: by the blocks that it adds or removes. When
    /// there are none it is written again, which changes nothing.
    fn has_happened(&self, change: &Change) -> Result<bool, Error> {
        let Step { added, removed, .. } = &change.step;
        let is_there = |first: &FullRevision| Ok(self.engine.get(&rows::block_key(*first))?.is_some());
        if let Some(new) = added.iter().find(|first| !change.replaced.contains(first)) {
            return is_there(new);
        }
        match removed.iter().find(|first| !added.contains(first)) {
            Some(gone) => is_there(gone).map(|is_there| !is_there),
            None => Ok(false),
        }
    }

    /// The error to tell, after making good what can be.
    fn mended(&self, writer: &mut Writer, fault: Error) -> Error {
        if !matches!(fault, Error::Full { .. }) {
            return fault;
        }
        match self.mend(writer) {
            Ok(()) | Err(Error::Full { .. }) => fault,
            Err(worse) => worse,
        }
    }

    fn show(&self, writer: &mut Writer, change: &Change, index: &mut Index) {
        forget(index, &change.step.removed);
        index.extend(&change.step.added);
        self.stand(writer, &change.step.after, change);
    }

    fn hide(&self, writer: &mut Writer, change: &Change, index: &mut Index) {
        forget(index, &change.step.added);
        index.extend(change.step.removed.iter().chain(&change.replaced));
        self.stand(writer, &change.before, change);
    }

    fn stand(&self, writer: &mut Writer, standing: &Standing, change: &Change) {
        // What was cached under a first revision may have grown or shrunk.
        for first in change.step.removed.iter().chain(&change.step.added) {
            self.cache.remove(first);
        }
        writer.standing = standing.clone();
        self.in_use.store(standing.applied.in_use, Ordering::Release);
    }
}

fn forget(index: &mut Index, firsts: &[FullRevision]) {
    for first in firsts {
        index.remove(first);
    }
}

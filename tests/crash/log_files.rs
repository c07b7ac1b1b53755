//! The log's files, taken apart with the server's own code and put together again.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use decklog::storage::disk::RealDisk;
use decklog::storage::wal::{HardState, Inspected, Owner, Wal, WalEntry, WalOptions, inspect};

const ENTRIES_OF_A_RECORD: usize = 50;

/// The log of a data directory, taken out of its files.
pub struct Log {
    pub owner: Owner,
    pub hard_state: HardState,
    pub entries: Vec<WalEntry>,
    /// The beginnings of the last segment's records, and at the end where the next would go.
    pub last_offsets: Vec<usize>,
    /// How much of each segment before the last is in use.
    pub ends: Vec<usize>,
}

impl Log {
    pub fn of(data: &Path) -> Self {
        let (mut owner, mut hard_state) = (None, HardState::default());
        let (mut entries, mut last_offsets, mut ends) = (Vec::new(), Vec::new(), Vec::new());
        let visited = inspect(&RealDisk::existing(&data.join("wal")), &mut |found| match found {
            Inspected::Head { owner: found, .. } => {
                owner = Some(found);
                last_offsets = vec![0];
            }
            Inspected::Batch { offset, hard_state: found, entries: more, .. } => {
                hard_state = found;
                entries.extend(more);
                last_offsets.push(offset);
            }
            Inspected::Tail { offset, .. } => last_offsets.push(offset),
            Inspected::End { offset, .. } => ends.push(offset),
            Inspected::Closed { .. } => {}
            Inspected::Damaged { segment, offset } => panic!("{segment} is damaged at {offset}"),
        });
        visited.expect("the log can be read");
        Self { owner: owner.expect("it has a segment"), hard_state, entries, last_offsets, ends }
    }

    /// Of all entries' data.
    pub fn bytes(&self) -> u64 {
        self.entries.iter().map(|entry| entry.data.len() as u64).sum()
    }

    /// Puts it in place of a directory's log, in segments of so many bytes.
    pub fn replace(&self, data: &Path, segment_bytes: u64) {
        fs::remove_dir_all(data.join("wal")).expect("there is a log");
        let disk = RealDisk::new(&data.join("wal")).expect("a folder can be made");
        let opened = Wal::open(Arc::new(disk), self.owner, WalOptions { segment_bytes });
        let (mut wal, _) = opened.expect("a new log");
        for entries in self.entries.chunks(ENTRIES_OF_A_RECORD) {
            wal.append(Some(self.hard_state), entries).expect("it can be written");
        }
        wal.flush().expect("it can be flushed");
    }
}

//! What every candidate can do, and which there are.

mod alpha;
mod blocks;
mod own;
mod plain;
mod redb;
mod rows;
mod stable;

use std::path::Path;

use bytes::Bytes;
use clap::ValueEnum;

use crate::workload::Round;

/// Why a run ended early; only printed.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Memory that a candidate may use for what it has read: what the server's store gets by default.
const CACHE_BYTES: usize = 96 << 20;
/// Changes that one slice of compaction looks at: the server's default.
const COMPACTION_CHANGES: usize = 1000;

/// A store. One thread writes and compacts; another may flush meanwhile.
pub trait Candidate: Send + Sync {
    /// Of the newest round written, or recovered.
    fn applied(&self) -> u64;

    /// One round, as a whole or not at all; durable after `flush`.
    fn write(&self, round: &Round) -> Result<(), Failure>;

    /// Makes what was written before durable, and returns through which round that is.
    fn flush(&self) -> Result<u64, Failure>;

    fn read(&self, revision: u64) -> Result<Option<Bytes>, Failure>;

    /// Visits every revision in order.
    fn scan(&self, visit: &mut dyn FnMut(u64, &[u8])) -> Result<(), Failure>;

    /// What stands in the small rows that rounds overwrite.
    fn slots(&self) -> Result<Vec<(u8, u64)>, Failure>;

    /// Removes what `workload::is_kept` refuses in a slice of `from..=through`; returns where to go on.
    fn compact(&self, from: u64, through: u64) -> Result<Option<u64>, Failure>;

    /// Gives space back to the file system, as far as the candidate can.
    fn defragment(&self) -> Result<(), Failure>;
}

/// How rounds are formed and flushed.
#[derive(Clone, Copy)]
pub enum Pace {
    /// As the server's store thread under full load: rounds of this many bytes, each flushed by the same thread.
    Server { round_bytes: usize },
    /// Rounds of so many changes; another thread flushes again and again.
    Small { changes: usize },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Name {
    /// Decklog's store, fed as the server feeds it.
    Decklog,
    /// Decklog's store, in small rounds like the others.
    DecklogSmall,
    /// sled 0.34.7, a row per revision.
    StablePlain,
    /// sled 1.0 alpha, a row per revision.
    AlphaPlain,
    /// sled 1.0 alpha, revisions in blocks.
    AlphaBlocks,
    /// redb, a row per revision.
    RedbPlain,
}

impl Name {
    pub fn pace(self) -> Pace {
        match self {
            Self::Decklog => Pace::Server { round_bytes: 8 << 20 },
            _ => Pace::Small { changes: 100 },
        }
    }

    pub fn argument(self) -> String {
        let value = self.to_possible_value().expect("no candidate is hidden");
        value.get_name().to_owned()
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::Decklog => "A: decklog's store, rounds of 8 MiB",
            Self::DecklogSmall => "A: decklog's store, rounds of 100",
            Self::StablePlain => "A': sled 0.34.7, plain",
            Self::AlphaPlain => "B: sled 1.0 alpha 124, plain",
            Self::AlphaBlocks => "B': sled 1.0 alpha 124, blocks",
            Self::RedbPlain => "C: redb 4.6.0, plain",
        }
    }

    /// Opens the store in a directory that exists.
    pub fn open(self, directory: &Path) -> Result<Box<dyn Candidate>, Failure> {
        Ok(match self {
            Self::Decklog | Self::DecklogSmall => Box::new(own::Own::open(directory)?),
            Self::StablePlain => Box::new(plain::Plain::open(stable::Stable::open(directory)?)?),
            Self::AlphaPlain => Box::new(plain::Plain::open(alpha::Alpha::<1024>::open(directory)?)?),
            Self::AlphaBlocks => Box::new(blocks::Blocks::open(alpha::Alpha::<16>::open(directory)?)?),
            Self::RedbPlain => Box::new(plain::Plain::open(redb::Redb::open(directory)?)?),
        })
    }
}

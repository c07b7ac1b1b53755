//! A database beside the live one, for the state that another member sends: made while the live one is in use, and named
//! as the live one when the log has decided for it. Owns which numbers such databases have.

use std::fs;
use std::path::Path;

use super::super::Error;
use super::super::disk::of_io;
use super::current::{database, number_of, read_current, remove_others, write_current};
use super::database::Live;
use super::engine::{Engine, begin_database, open_again};
use super::{SledOptions, SledStore, VisitChange, applied_of};
use crate::ids::LogPosition;

/// Databases of so many numbers are a generation: copies of each other, made by defragmentations. A received state begins
/// the next, so that it is never taken for a copy.
const GENERATION: u64 = 1 << 32;

pub(super) fn generation(number: u64) -> u64 {
    number / GENERATION
}

impl Engine {
    /// Begins an empty database beside the live one; what an earlier one has left goes.
    fn begin_beside(directory: &Path, cache_bytes: u64) -> Result<Self, Error> {
        let current = live_number(directory)?;
        remove_beside(directory, current)?;
        let Some(number) = (generation(current) + 1).checked_mul(GENERATION).filter(|next| *next < u64::MAX)
        else {
            return Err(damaged(directory, "no further number is left for a database".to_owned()));
        };
        let live = begin_database(directory, number, cache_bytes)?;
        Ok(Self::over(directory, live, cache_bytes))
    }

    /// The database beside the live one, if there is one.
    fn reopen_beside(directory: &Path, cache_bytes: u64) -> Result<Option<Self>, Error> {
        let current = live_number(directory)?;
        let Some(number) = numbers_beside(directory, current)?.pop() else {
            return Ok(None);
        };
        let database = open_again(&database(directory, number), cache_bytes)?;
        Ok(Some(Self::over(directory, Live::new(database, number), cache_bytes)))
    }

    /// Names this database as the live one.
    pub fn take_place(&self) -> Result<(), Error> {
        let number = self.live.load().number;
        if live_number(&self.directory)? == number {
            return Ok(());
        }
        self.is_live();
        write_current(&self.directory, number)?;
        if let Err(error) = remove_others(&self.directory, number) {
            tracing::warn!(%error, "the files of the store before stay until the next start");
        }
        Ok(())
    }

    /// Removes this database, unless it is the live one.
    pub fn discard(&self) {
        let number = self.live.load().number;
        let removed = live_number(&self.directory).and_then(|live| {
            let path = database(&self.directory, number);
            if live == number { Ok(()) } else { remove(&path) }
        });
        if let Err(error) = removed {
            tracing::warn!(%error, "the files of a state that is not wanted stay until the next start");
        }
    }
}

impl SledStore {
    /// Begins an empty store beside the one that stands in a directory; what an earlier one has left goes. It is one of its
    /// own until `take_place`, and the one that is there may be in use all the time.
    ///
    /// # Errors
    /// Faults of the disk.
    pub fn begin_beside(directory: &Path, options: &SledOptions) -> Result<Self, Error> {
        let engine = Engine::begin_beside(directory, options.engine_cache_bytes)?;
        Self::over(directory, engine, options, None)
    }

    /// Opens the store of a directory under a log that begins after an entry because a received state holds what was
    /// before it. Was the process stopped before that state was in its place, it is put there; a state that the log knows
    /// nothing of is removed. `visit` gets every change of the store that is opened, in order.
    ///
    /// # Errors
    /// `Damaged`, also when the state that the log counts on is not there; `Locked`; faults of the disk.
    pub fn open_after(
        directory: &Path,
        options: &SledOptions,
        begins_after: Option<LogPosition>,
        visit: &mut VisitChange<'_>,
    ) -> Result<Self, Error> {
        let live = Engine::open(directory, options.engine_cache_bytes)?;
        let stands_for = applied_of(directory, &live)?.position;
        let Some(begin) = begins_after.filter(|begin| stands_for.index < begin.index) else {
            remove_beside(directory, live_number(directory)?)?;
            return Self::over(directory, live, options, Some(visit));
        };
        let missing = |found: &str| {
            let (begin, stands_for) = (begin.index, stands_for.index);
            let detail = format!(
                "the log begins after entry {begin}, whose state another member sent, but the store stands for entry \
                 {stands_for}, and {found}"
            );
            damaged(directory, detail)
        };
        let Some(engine) = Engine::reopen_beside(directory, options.engine_cache_bytes)? else {
            return Err(missing("what was received is not there"));
        };
        let applied = applied_of(directory, &engine)?.position;
        if applied != begin {
            return Err(missing(&format!("what was received stands for entry {}", applied.index)));
        }
        let received = Self::over(directory, engine, options, Some(visit))?;
        received.engine.take_place()?;
        tracing::info!(index = begin.index.0, "a received state was put in the place of the store");
        Ok(received)
    }
}

fn live_number(directory: &Path) -> Result<u64, Error> {
    read_current(directory)?.ok_or_else(|| damaged(directory, "it names no live database".to_owned()))
}

/// Numbers of later generations than that of the live one, rising.
fn numbers_beside(directory: &Path, current: u64) -> Result<Vec<u64>, Error> {
    let mut numbers = Vec::new();
    for entry in fs::read_dir(directory).map_err(|source| of_io(directory, source))? {
        let path = entry.map_err(|source| of_io(directory, source))?.path();
        numbers.extend(number_of(&path).filter(|number| generation(*number) > generation(current)));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn remove_beside(directory: &Path, current: u64) -> Result<(), Error> {
    for number in numbers_beside(directory, current)? {
        remove(&database(directory, number))?;
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), Error> {
    fs::remove_dir_all(path).map_err(|source| of_io(path, source))
}

fn damaged(directory: &Path, detail: String) -> Error {
    Error::Damaged { place: directory.display().to_string(), detail }
}

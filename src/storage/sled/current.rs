//! Which database of a directory is the live one. Owns the directories' names and the file that names one of them.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use super::super::Error;
use super::super::disk::of_io;
use super::beside::generation;

/// Names the live directory; replaced as a whole.
pub(super) const CURRENT: &str = "CURRENT";
const MAGIC: &str = "decklog store 1 ";

pub(super) fn database(directory: &Path, number: u64) -> PathBuf {
    directory.join(format!("db-{number}"))
}

/// The number of a database's directory.
pub(super) fn number_of(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.strip_prefix("db-")?.parse().ok()
}

/// The number of the live database; `None` in a directory that has none yet.
pub(super) fn read_current(directory: &Path) -> Result<Option<u64>, Error> {
    let path = directory.join(CURRENT);
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(of_io(&path, source)),
    };
    match parse_current(&text) {
        Some(number) => Ok(Some(number)),
        None => {
            let place = path.display().to_string();
            Err(Error::Damaged { place, detail: "it does not name a store of this version".to_owned() })
        }
    }
}

/// The number of the live database and the checksum of it: another that is there, too, would be as good, and wrong.
pub(super) fn current(number: u64) -> String {
    format!("{MAGIC}{:08x} {number}\n", crc32c::crc32c(&number.to_be_bytes()))
}

/// The number in a text that `current` made; nothing else will do.
pub(super) fn parse_current(text: &[u8]) -> Option<u64> {
    let numbers = str::from_utf8(text).ok()?.strip_prefix(MAGIC)?;
    let number = numbers.trim_end().split(' ').next_back()?.parse().ok()?;
    (current(number).as_bytes() == text && number < u64::MAX).then_some(number)
}

/// A directory with anything but an unfinished first database and no `CURRENT` is not a new one.
pub(super) fn refuse_foreign(directory: &Path) -> Result<(), Error> {
    let mut entries = fs::read_dir(directory).map_err(|source| of_io(directory, source))?;
    let unfinished = ["db-1", "CURRENT.new"];
    if entries.all(|entry| entry.is_ok_and(|entry| unfinished.iter().any(|name| entry.file_name() == *name)))
    {
        return Ok(());
    }
    let place = directory.display().to_string();
    Err(Error::Damaged { place, detail: format!("it holds files, but no {CURRENT}") })
}

pub(super) fn write_current(directory: &Path, number: u64) -> Result<(), Error> {
    let (path, temporary) = (directory.join(CURRENT), directory.join("CURRENT.new"));
    let write = || {
        let mut file = fs::File::create(&temporary)?;
        file.write_all(current(number).as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, &path)?;
        fs::File::open(directory)?.sync_all()
    };
    write().map_err(|source| of_io(&path, source))
}

/// Removes databases that are not the live one: copies that were not finished, and the one that was replaced. What is being
/// received beside them is not theirs.
pub(super) fn remove_others(directory: &Path, number: u64) -> Result<(), Error> {
    for entry in fs::read_dir(directory).map_err(|source| of_io(directory, source))? {
        let path = entry.map_err(|source| of_io(directory, source))?.path();
        let is_database = path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("db-"));
        let is_later = number_of(&path).is_some_and(|other| generation(other) > generation(number));
        if is_database && !is_later && path != database(directory, number) {
            fs::remove_dir_all(&path).map_err(|source| of_io(&path, source))?;
        }
    }
    Ok(())
}

//! What `trace.c` wrote down: every change that a server made to its files, and every sync, in order.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// `trace.c`'s number for a file: its inode and time of birth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId(pub u64);

/// A record and where it begins in the trace.
#[derive(Clone, Debug)]
pub struct Record {
    pub position: u64,
    pub action: Action,
}

/// What was done. Paths are whole.
#[derive(Clone, Debug)]
pub enum Action {
    Create { path: PathBuf, file: FileId },
    MakeDirectory { path: PathBuf, file: FileId },
    Write { file: FileId, offset: u64, bytes: Written },
    Truncate { file: FileId, length: u64 },
    Rename { from: PathBuf, to: PathBuf },
    Remove { path: PathBuf },
    SyncBegin { file: FileId, number: u64 },
    SyncEnd { path: PathBuf, file: FileId, number: u64 },
}

/// Bytes of a write; runs of zeros are told by their length.
#[derive(Clone, Debug)]
pub enum Written {
    Zeros(usize),
    Bytes { trace: Arc<Vec<u8>>, from: usize, length: usize },
}

impl Written {
    pub fn len(&self) -> usize {
        match self {
            Self::Zeros(length) | Self::Bytes { length, .. } => *length,
        }
    }

    /// Some of the bytes, to `out`.
    pub fn copy(&self, start: usize, out: &mut [u8]) {
        match self {
            Self::Zeros(_) => out.fill(0),
            Self::Bytes { trace, from, .. } => {
                out.copy_from_slice(&trace[from + start..from + start + out.len()]);
            }
        }
    }
}

/// How long a trace is by now: what is written down below that has happened.
pub fn length(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |found| found.len())
}

/// Reads a trace; a half record at its end (the process was killed) is not there.
pub fn read(path: &Path) -> Vec<Record> {
    let trace = Arc::new(fs::read(path).expect("the trace can be read"));
    let mut records = Vec::new();
    let mut position = 0;
    while let Some(length) = number_at(&trace, position, 4)
        && position + usize::try_from(length).expect("small") <= trace.len()
    {
        records.push(Record { position: position as u64, action: action(&trace, position) });
        position += usize::try_from(length).expect("small");
    }
    records
}

fn number_at(trace: &[u8], position: usize, bytes: usize) -> Option<u64> {
    let mut number = [0; 8];
    number[..bytes].copy_from_slice(trace.get(position..position + bytes)?);
    Some(u64::from_le_bytes(number))
}

/// `trace.c` has the layout.
fn action(trace: &Arc<Vec<u8>>, position: usize) -> Action {
    const HEAD_BYTES: usize = 36;
    let number = |offset, bytes| number_at(trace, position + offset, bytes).expect("a whole record");
    let small = |offset, bytes| usize::try_from(number(offset, bytes)).expect("small");
    let (length, path_length, other_length) = (small(0, 4), small(6, 2), small(8, 2));
    let text = |start: usize, length: usize| {
        let bytes = &trace[position + start..position + start + length];
        PathBuf::from(String::from_utf8(bytes.to_vec()).expect("paths of tests are text"))
    };
    let path = text(HEAD_BYTES, path_length);
    let (file, argument, zeros) = (FileId(number(12, 8)), number(20, 8), small(28, 8));
    let data = HEAD_BYTES + path_length + other_length;
    match trace[position + 4] {
        1 => Action::Create { path, file },
        2 => Action::MakeDirectory { path, file },
        3 if zeros > 0 => Action::Write { file, offset: argument, bytes: Written::Zeros(zeros) },
        3 => {
            let bytes = Written::Bytes { trace: trace.clone(), from: position + data, length: length - data };
            Action::Write { file, offset: argument, bytes }
        }
        4 => Action::Truncate { file, length: argument },
        5 => Action::Rename { from: path, to: text(HEAD_BYTES + path_length, other_length) },
        6 => Action::Remove { path },
        7 => Action::SyncBegin { file, number: argument },
        8 => Action::SyncEnd { path, file, number: argument },
        unknown => panic!("the trace has a record of the kind {unknown} at {position}"),
    }
}

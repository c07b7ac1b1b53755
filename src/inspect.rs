//! `decklog inspect DIR`: what a data directory holds, without changing anything in it. The store is looked at in a
//! copy: the engine writes when it opens.

use std::ffi::OsString;
use std::fmt::Write;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;

use crate::command;
use crate::datadir::{self, FirstStart};
use crate::ids::FullRevision;
use crate::mvcc::Keyspace;
use crate::storage::disk::{Disk, RealDisk};
use crate::storage::wal::{self, Inspected, Owner, WalEntry};
use crate::storage::{SledOptions, SledStore, Store, Table};
use crate::wire::etcdserverpb::Member;

/// Prints what a data directory holds: ids, log, store, tables, checksums. Changes nothing.
#[derive(Debug, Parser)]
#[command(name = "decklog inspect")]
struct Options {
    /// The data directory.
    directory: PathBuf,
    /// Where the log stands, when apart.
    #[arg(long)]
    wal_dir: Option<PathBuf>,
    /// Print the commands of every log entry.
    #[arg(long)]
    entries: bool,
}

/// Why a directory cannot be looked at.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    DataDir(#[from] datadir::Error),
    #[error(transparent)]
    Store(#[from] crate::storage::Error),
    #[error(transparent)]
    Keyspace(#[from] crate::mvcc::Error),
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    #[error("cannot print: {0}")]
    Print(#[from] std::fmt::Error),
}

/// Runs the tool with the arguments behind `inspect`. Damage ends it with a failure, after everything was printed.
pub fn run(args: Vec<OsString>) -> ExitCode {
    let args = std::iter::once(OsString::from("decklog inspect")).chain(args);
    let options = match Options::try_parse_from(args) {
        Ok(options) => options,
        Err(error) => {
            let printed = error.print().is_ok();
            return if printed && !error.use_stderr() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
    };
    let mut report = Report::default();
    let result = report.directory(&options);
    print!("{}", report.text);
    match result {
        Ok(()) if !report.damaged => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("decklog inspect: {error}");
            ExitCode::FAILURE
        }
    }
}

#[derive(Default)]
struct Report {
    text: String,
    /// Whose log it should be.
    owner: Option<Owner>,
    damaged: bool,
}

impl Report {
    fn directory(&mut self, options: &Options) -> Result<(), Error> {
        let FirstStart { member, cluster, members, joins, .. } = datadir::identity(&options.directory)?;
        writeln!(self.text, "member {:016x}, cluster {:016x}", member.0, cluster.0)?;
        let how = if joins { "joined" } else { "began with" };
        for first in members {
            let urls: Vec<_> = first.peer_urls.iter().map(ToString::to_string).collect();
            writeln!(self.text, "  {how} {:016x}: {:?}, peers {urls:?}", first.id.0, first.name)?;
        }
        self.owner = Some(Owner { member, cluster });
        let log = options.wal_dir.clone().unwrap_or_else(|| options.directory.join("wal"));
        self.log(&log, options.entries)?;
        self.store(&options.directory.join("store"))
    }

    fn log(&mut self, directory: &Path, entries: bool) -> Result<(), Error> {
        let disk = RealDisk::existing(directory);
        writeln!(self.text, "log {}", disk.place())?;
        let mut printed = Ok(());
        wal::inspect(&disk, &mut |record| {
            if printed.is_ok() {
                printed = self.record(record, entries);
            }
        })?;
        Ok(printed?)
    }

    fn record(&mut self, record: Inspected, entries: bool) -> std::fmt::Result {
        match record {
            Inspected::Head { segment, owner, hard_state } => {
                let wal::HardState { term, vote, commit } = hard_state;
                let foreign = self.owner.is_some_and(|expected| expected != owner);
                self.damaged |= foreign;
                let foreign = if foreign { ", NOT THIS MEMBER'S" } else { "" };
                writeln!(
                    self.text,
                    "  {segment} at 0: of {owner}{foreign}; term {term}, vote {vote:x}, commit {commit}"
                )
            }
            Inspected::Batch { segment, offset, hard_state, entries: found } => {
                let span = match (found.first(), found.last()) {
                    (Some(mark), _) if mark.is_mark() => {
                        format!("the log begins after entry {} of term {}", mark.index, mark.term)
                    }
                    (Some(first), Some(last)) => format!("entries {} to {}", first.index, last.index),
                    _ => "no entries".to_owned(),
                };
                let bytes: usize = found.iter().map(|entry| entry.data.len()).sum();
                let wal::HardState { term, vote, commit } = hard_state;
                writeln!(
                    self.text,
                    "  {segment} at {offset}: term {term}, vote {vote:x}, commit {commit}; {span}, {bytes} bytes"
                )?;
                for entry in found.iter().filter(|entry| entries && !entry.is_mark()) {
                    self.entry(entry)?;
                }
                Ok(())
            }
            Inspected::End { segment, offset } => {
                writeln!(self.text, "  {segment} at {offset}: goes on in the next segment")
            }
            Inspected::Closed { segment, offset } => {
                writeln!(self.text, "  {segment} at {offset}: closed in order")
            }
            Inspected::Tail { segment, offset } => writeln!(self.text, "  {segment} at {offset}: ends"),
            Inspected::Damaged { segment, offset } => {
                self.damaged = true;
                writeln!(self.text, "  {segment} at {offset}: DAMAGED")
            }
        }
    }

    fn entry(&mut self, entry: &WalEntry) -> std::fmt::Result {
        write!(self.text, "    entry {} of term {}:", entry.index, entry.term)?;
        match command::decode(entry.index, &entry.data) {
            Ok(batch) => {
                for command in &batch.commands {
                    write!(self.text, " {}", command::name(command))?;
                }
                writeln!(self.text)
            }
            Err(error) => {
                self.damaged = true;
                writeln!(self.text, " DAMAGED: {error}")
            }
        }
    }

    fn store(&mut self, directory: &Path) -> Result<(), Error> {
        let copy = Copy::of(directory)?;
        let store = Arc::new(SledStore::open(&copy.0, &SledOptions::default())?);
        let (applied, sizes) = (store.applied(), store.sizes());
        writeln!(
            self.text,
            "store {}: the state after entry {} of term {}; {} bytes on disk, {} in use",
            directory.display(),
            applied.index,
            applied.term,
            sizes.on_disk,
            sizes.in_use
        )?;
        let (mut changes, mut first, mut last) = (0_u64, None, None);
        store.scan(FullRevision::default(), FullRevision::new(i64::MAX, 0), &mut |change| {
            changes += 1;
            first.get_or_insert(change.at.main);
            last = Some(change.at.main);
            ControlFlow::Continue(())
        })?;
        if let (Some(first), Some(last)) = (first, last) {
            writeln!(self.text, "  {changes} changes of revisions {first} to {last}, all checksums right")?;
        }
        for table in [Table::Meta, Table::Lease, Table::Alarm, Table::Member, Table::Auth] {
            self.table(&*store, table)?;
        }
        let reader = Keyspace::recover(store)?.keyspace.reader();
        let hash = reader.hash_kv(0)?;
        writeln!(
            self.text,
            "  revision {}, compacted at {}, {} keys, HashKV {}",
            hash.revision,
            hash.compacted,
            reader.live_keys(),
            hash.hash
        )?;
        Ok(())
    }

    fn table(&mut self, store: &dyn Store, table: Table) -> Result<(), Error> {
        for (key, value) in store.table(table)? {
            write!(self.text, "  {table:?} ")?;
            match table {
                Table::Meta => {
                    writeln!(self.text, "{}: {}", String::from_utf8_lossy(&key), numbers(&value))?;
                }
                Table::Member if key.len() == 9 => {
                    writeln!(self.text, "{}: removed for good", hex(&key[1..]))?
                }
                Table::Member => match <Member as prost::Message>::decode(value) {
                    Ok(member) => writeln!(
                        self.text,
                        "{:016x}: {:?}{}, peers {:?}, clients {:?}",
                        member.id,
                        member.name,
                        if member.is_learner { ", learner" } else { "" },
                        member.peer_ur_ls,
                        member.client_ur_ls
                    )?,
                    Err(error) => {
                        self.damaged = true;
                        writeln!(self.text, "{}: DAMAGED: {error}", hex(&key))?;
                    }
                },
                Table::Lease => writeln!(self.text, "{}: ttl and remaining {}", hex(&key), numbers(&value))?,
                Table::Alarm | Table::Auth => writeln!(self.text, "{}: {}", hex(&key), hex(&value))?,
            }
        }
        Ok(())
    }
}

/// Bytes as the big-endian numbers that tables hold.
fn numbers(value: &[u8]) -> String {
    let numbers = value.chunks_exact(8).map(|bytes| {
        let bytes: [u8; 8] = bytes.try_into().expect("pieces of eight");
        i64::from_be_bytes(bytes).to_string()
    });
    numbers.collect::<Vec<_>>().join(", ")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A copy of a directory, removed in the end.
struct Copy(PathBuf);

impl Copy {
    fn of(directory: &Path) -> Result<Self, Error> {
        let name = format!("decklog-inspect-{}-{:016x}", std::process::id(), rand::random::<u64>());
        let copy = Self(std::env::temp_dir().join(name));
        copy_tree(directory, &copy.0)
            .map_err(|source| Error::Io { path: directory.display().to_string(), source })?;
        Ok(copy)
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("decklog inspect: cannot remove {}: {error}", self.0.display());
        }
    }
}

fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        let kind = entry.file_type()?;
        if entry.file_name() == "ballast" {
            // It holds room alone.
            continue;
        }
        if kind.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else if kind.is_file() {
            // Nothing else is ours, and a pipe would be waited for.
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

//! What is run, in which order: every part of every candidate as a child process, one after the other.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::ValueEnum;
use serde_json::{Map, Value, json};

use crate::candidate::{Failure, Name};
use crate::crashes::{self, Ending};

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// Many small values: CPU, memory, disk, reads, a start.
    Small,
    /// 4 GiB of values of 1 KiB: whether memory is bounded.
    Large,
    Kills,
    Cuts,
}

#[derive(clap::Args)]
pub struct Options {
    /// Seconds instead of the better part of an hour; figures that say nothing.
    #[arg(long)]
    pub quick: bool,
    /// Write all figures to this file, too.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Candidates; all when not given.
    #[arg(long, value_delimiter = ',')]
    pub only: Vec<Name>,
    /// Cases; all when not given.
    #[arg(long, value_delimiter = ',')]
    pub cases: Vec<Case>,
    /// Chooses values, reads and crashes; random when not given.
    #[arg(long)]
    pub seed: Option<u64>,
    /// Where data is put; made, and removed in the end.
    #[arg(long)]
    pub directory: Option<PathBuf>,
    /// Values of 300 bytes.
    #[arg(long, default_value_t = 1_000_000)]
    pub small_revisions: u64,
    /// Values of 1 KiB.
    #[arg(long, default_value_t = 4 << 20)]
    pub large_revisions: u64,
    #[arg(long, default_value_t = 100)]
    pub kills: u64,
    #[arg(long, default_value_t = 50)]
    pub cuts: u64,
    /// A fill that takes longer ends early.
    #[arg(long, default_value_t = 300)]
    pub max_seconds: u64,
    /// A fill that takes more memory ends early, in MiB.
    #[arg(long, default_value_t = 6144)]
    pub max_resident: u64,
}

impl Options {
    pub fn make_quick(&mut self) {
        self.small_revisions = 20_000;
        self.large_revisions = 20_000;
        self.kills = 2;
        self.cuts = 2;
    }

    pub fn candidates(&self) -> Vec<Name> {
        if self.only.is_empty() { Name::value_variants().to_vec() } else { self.only.clone() }
    }

    fn cases(&self) -> Vec<Case> {
        if self.cases.is_empty() { Case::value_variants().to_vec() } else { self.cases.clone() }
    }
}

/// Figures of a candidate: an object with one member per case.
pub type Results = Vec<(Name, Value)>;

pub fn run_all(options: &Options, seed: u64, directory: &Path) -> Result<Results, Failure> {
    let mut results = Vec::new();
    for name in options.candidates() {
        let mut found = Map::new();
        for case in options.cases() {
            let value = case.to_possible_value().expect("no case is hidden");
            eprintln!("{}: {}", name.title(), value.get_name());
            let figures = match case {
                Case::Small => measure(options, name, seed, directory, (options.small_revisions, 300)),
                Case::Large => measure(options, name, seed, directory, (options.large_revisions, 1024)),
                Case::Kills => crashes::run(name, Ending::Kill, options.kills, seed, directory),
                Case::Cuts => crashes::run(name, Ending::PowerCut, options.cuts, seed, directory),
            };
            let figures = figures?;
            eprintln!("  {figures}");
            found.insert(value.get_name().to_owned(), figures);
        }
        results.push((name, Value::Object(found)));
    }
    Ok(results)
}

/// All parts over one store. One that fails is told in its place, and ends the case.
fn measure(
    options: &Options,
    name: Name,
    seed: u64,
    directory: &Path,
    (mut revisions, bytes): (u64, u64),
) -> Result<Value, Failure> {
    let store = directory.join("store");
    fs::create_dir(&store)?;
    let mut figures = Map::new();
    for part in ["fill", "read", "compact"] {
        let mut child = Command::new(env::current_exe()?);
        child.args(["measure", "--part", part, "--candidate", &name.argument()]);
        child.arg("--directory").arg(&store);
        let numbers = [
            ("--seed", seed),
            ("--revisions", revisions),
            ("--bytes", bytes),
            ("--max-seconds", options.max_seconds),
            ("--max-resident", options.max_resident),
        ];
        for (argument, number) in numbers {
            child.arg(argument).arg(number.to_string());
        }
        let output = child.output()?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            let reason = format!("{}: {}", output.status, text.trim());
            figures.insert(part.to_owned(), json!({ "failed": reason }));
            break;
        }
        let found: Value = serde_json::from_slice(&output.stdout)?;
        // A fill that ended early is what the others go on with.
        revisions = found["revisions"].as_u64().unwrap_or(revisions);
        figures.insert(part.to_owned(), found);
    }
    fs::remove_dir_all(&store)?;
    Ok(Value::Object(figures))
}

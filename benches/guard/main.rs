//! Guards the hot paths: what each costs in instructions, counted by valgrind, held against a committed baseline.
//! Counts, not times, so that a busy machine changes nothing. docs/testing.md says what follows from a failure.
//!
//! ```sh
//! cargo test --bench guard                          # compares
//! cargo test --bench guard -- --write               # renews the baseline
//! cargo test --bench guard -- --profile apply-put   # where the instructions of one case are
//! ```

mod baseline;
mod cases;
mod counter;
#[path = "../../tests/common/counted.rs"]
mod store_metrics;
mod valgrind;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use baseline::{Baseline, Count};
use counter::Counter;

/// How the program calls itself under valgrind: the cases to count, and a directory behind.
const ALL: &str = "--count-all";
const ONLY: &str = "--count-only";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [ALL, directory] => {
            cases::run(&Counter::All, Path::new(directory));
            Ok(())
        }
        [ONLY, case, directory] => {
            cases::run(&Counter::Only(case.to_owned()), Path::new(directory));
            Ok(())
        }
        [] => compare(),
        ["--write"] => write(),
        ["--profile", case] => profile(case),
        _ => Err(format!("{args:?}: there are --write and --profile CASE")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("guard: {reason}");
            ExitCode::FAILURE
        }
    }
}

/// Every architecture has counts of its own.
fn baseline_path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("benches/guard/{}.txt", std::env::consts::ARCH))
}

fn compare() -> Result<(), String> {
    let path = baseline_path();
    if !path.exists() {
        println!(
            "SKIPPED guard: {} is not there; `cargo test --bench guard -- --write` makes it",
            path.display()
        );
        return Ok(());
    }
    let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let baseline = Baseline::parse(&text)?;
    let verdict = baseline.compare(&counts()?);
    verdict.lines.iter().for_each(|line| println!("{line}"));
    let compiler = compiler()?;
    if compiler != baseline.compiler {
        println!("the baseline is of {}, and this is {compiler}", baseline.compiler);
    }
    verdict.outcome()
}

fn write() -> Result<(), String> {
    let text = Baseline { compiler: compiler()?, counts: counts()? }.text();
    let path = baseline_path();
    fs::write(&path, &text).map_err(|error| format!("{}: {error}", path.display()))?;
    println!("{text}written to {}", path.display());
    Ok(())
}

fn profile(case: &str) -> Result<(), String> {
    let directory = directory()?;
    let out = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("callgrind.{case}"));
    if !valgrind::profile(&out, &[ONLY, case], directory.path())? {
        return Err(format!("there is no case {case}"));
    }
    println!("callgrind_annotate --auto=no --inclusive=yes {}", out.display());
    Ok(())
}

fn counts() -> Result<Vec<Count>, String> {
    if !cfg!(debug_assertions) {
        return Err("the baseline is of the profile of tests: cargo test --bench guard".to_owned());
    }
    valgrind::count(&[ALL], directory()?.path())
}

fn directory() -> Result<tempfile::TempDir, String> {
    tempfile::tempdir().map_err(|error| format!("no directory to work in: {error}"))
}

fn compiler() -> Result<String, String> {
    let output = Command::new("rustc").arg("--version").output();
    let output = output.map_err(|error| format!("rustc does not say its version: {error}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

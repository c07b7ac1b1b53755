//! Start-up and stop: what is refused and how, configuration files, the data directory, ids, logs, signals.

mod data_dir;
mod files;
mod ids;
mod logs;
mod refused;
mod stop;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::captured::{Captured, Output};

const LIMIT: Duration = Duration::from_secs(60);

/// Runs a program to its end in `folder`, with no `ETCD_` variables but these.
fn run_in(folder: &Path, program: &Path, args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(program);
    command.args(args).current_dir(folder).envs(variables.iter().copied());
    Captured::run(&mut command, "", LIMIT).unwrap_or_else(|fault| panic!("{args:?}: {fault}"))
}

/// The names in a folder, sorted.
fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("the folder is there");
    let mut names: Vec<String> =
        entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Exit code 1, one line on stderr, nothing on stdout.
fn assert_refused(output: &Output, line: &str) {
    assert_eq!(output.stderr_text(), format!("decklog: {line}\n"));
    assert_eq!((output.code, output.stdout_text().as_str()), (Some(1), ""));
}

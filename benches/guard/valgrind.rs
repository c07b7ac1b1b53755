//! Runs this program once more, under valgrind's callgrind, and reads what it counted.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::baseline::Count;

/// What would make counts differ from machine to machine, or from run to run, is fixed; of the rest of the environment
/// nothing is handed on but PATH.
const ENVIRONMENT: [(&str, &str); 2] = [
    // glibc would choose by the processor how it copies and compares; what is left is what every x86-64 has.
    (
        "GLIBC_TUNABLES",
        "glibc.cpu.hwcaps=-AVX2,-AVX_Fast_Unaligned_Load,-AVX512F,-AVX512VL,-ERMS,-FSRM,-SSE4_1,-SSE4_2,-SSSE3",
    ),
    // The allocator would give memory back by the clock.
    ("MIMALLOC_PURGE_DELAY", "-1"),
];

/// One count for each line that `program` prints, which is called with these arguments and a directory to work in.
///
/// # Errors
/// Without valgrind, or when a case fails.
pub fn count(arguments: &[&str], directory: &Path) -> Result<Vec<Count>, String> {
    let out = directory.join("counts");
    let printed = run(&["--dump-after=*guard_case*", "--combine-dumps=yes"], &out, arguments, directory)?;
    let counted = fs::read_to_string(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    let totals = totals(&counted)?;
    let cases: Vec<&str> = printed.lines().collect();
    if totals.len() != cases.len() {
        return Err(format!("{} cases, but {} counts of valgrind", cases.len(), totals.len()));
    }
    cases.iter().zip(totals).map(|(case, total)| of_case(case, total)).collect()
}

/// Leaves in `out` what `callgrind_annotate` reads; says whether anything was counted.
///
/// # Errors
/// As `count`.
pub fn profile(out: &Path, arguments: &[&str], directory: &Path) -> Result<bool, String> {
    Ok(!run(&[], out, arguments, directory)?.is_empty())
}

fn run(options: &[&str], out: &Path, arguments: &[&str], directory: &Path) -> Result<String, String> {
    let program = std::env::current_exe().map_err(|error| format!("where is this program? {error}"))?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet", "--toggle-collect=*guard_counted*"])
        .args(options)
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(program)
        .args(arguments)
        .arg(directory.join("data"))
        .env_clear()
        .envs(ENVIRONMENT)
        .envs(std::env::var_os("PATH").map(|path| ("PATH", path)))
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot start valgrind, the Debian package of this name: {error}"))?;
    if !output.status.success() {
        return Err(format!("the cases under valgrind: {}", output.status));
    }
    String::from_utf8(output.stdout).map_err(|error| format!("the cases print no text: {error}"))
}

/// Each part of the file has its sum in a line of its own; the last is of the end of the program.
fn totals(counted: &str) -> Result<Vec<u64>, String> {
    let parts = counted.split("\npart: ").filter(|part| part.contains("\ndesc: Trigger: --dump-after"));
    let total = |part: &str| {
        let total = part.lines().find_map(|line| line.strip_prefix("totals: "));
        let total = total.ok_or("a part of valgrind's counts has no sum")?;
        total.trim().parse().map_err(|error| format!("a sum of valgrind's: {total}: {error}"))
    };
    parts.map(total).collect()
}

/// `line`: the case's name and how many operations it does.
fn of_case(line: &str, total: u64) -> Result<Count, String> {
    let (case, operations) = line.split_once(' ').ok_or_else(|| format!("this is no case: {line}"))?;
    let operations: u64 = operations.parse().map_err(|error| format!("this is no case: {line}: {error}"))?;
    Ok(Count { case: case.to_owned(), instructions: total / operations })
}

//! Libraries in C that are loaded before the server's own: faults and records from inside the process.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Compiles `name`.c into `folder`. Without a compiler, says on stdout that `test` is skipped; panics when
/// `DECKLOG_REQUIRE_PEERS=1`, so that a gate cannot pass by having no compiler.
pub fn library_or_skip(test: &str, name: &str, folder: &Path) -> Option<PathBuf> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/crash").join(name).with_extension("c");
    let library = folder.join(name).with_extension("so");
    let compiled = Command::new("cc")
        .args(["-Wall", "-O2", "-shared", "-fPIC", "-o"])
        .args([&library, &source])
        .args(["-ldl", "-lpthread"])
        .output();
    match compiled {
        Ok(output) if output.status.success() => Some(library),
        Ok(output) => panic!("cc refuses {name}.c:\n{}", String::from_utf8_lossy(&output.stderr)),
        Err(error) => {
            skip(test, &format!("no cc: {error}"));
            None
        }
    }
}

/// Says that a test is skipped; panics when nothing may be.
pub fn skip(test: &str, reason: &str) {
    assert!(env::var("DECKLOG_REQUIRE_PEERS").as_deref() != Ok("1"), "{test} needs more: {reason}");
    println!("SKIPPED {test}: {reason}");
}

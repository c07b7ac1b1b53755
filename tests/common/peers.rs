//! Finds the programs of real etcd that tests compare with. Never fetches anything: `tests/peers.sh` does.

use std::env;
use std::path::PathBuf;

/// The peer program `name`, from `$DECKLOG_PEERS` (a folder with the programs, or with a `bin` holding them)
/// or else from `PATH`. Without it, says on stdout that `test` is skipped; panics when
/// `DECKLOG_REQUIRE_PEERS=1`, so that a gate cannot pass by having no peers.
pub fn peer_or_skip(test: &str, name: &str) -> Option<PathBuf> {
    let found = folders().into_iter().map(|folder| folder.join(name)).find(|path| path.is_file());
    if found.is_none() {
        assert!(
            env::var("DECKLOG_REQUIRE_PEERS").as_deref() != Ok("1"),
            "{test} needs {name}, which is neither in $DECKLOG_PEERS nor in PATH (see tests/peers.sh)"
        );
        println!("SKIPPED {test}: {name} is neither in $DECKLOG_PEERS nor in PATH (see tests/peers.sh)");
    }
    found
}

fn folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if let Some(peers) = env::var_os("DECKLOG_PEERS").map(PathBuf::from) {
        folders.extend([peers.clone(), peers.join("bin")]);
    }
    if let Some(path) = env::var_os("PATH") {
        folders.extend(env::split_paths(&path));
    }
    folders
}

//! Where etcd's interface stands as tables, and how two tables are compared.

use std::collections::BTreeSet;
use std::env;
use std::path::{Path, PathBuf};

use serde_json::Value;

/// The table with this file name. Without the tables, says on stdout that `test` is skipped; panics when
/// `DECKLOG_REQUIRE_PEERS=1`, so that a gate cannot pass by having none.
pub fn table_or_skip(test: &str, name: &str) -> Option<Value> {
    let path = folder().join(name);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => {
            let missing =
                format!("{} cannot be read ({error}); DECKLOG_ETCD_API names its folder", path.display());
            assert!(env::var("DECKLOG_REQUIRE_PEERS").as_deref() != Ok("1"), "{test}: {missing}");
            println!("SKIPPED {test}: {missing}");
            return None;
        }
    };
    Some(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
}

fn folder() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/etcd-api");
    env::var_os("DECKLOG_ETCD_API").map_or_else(beside, PathBuf::from)
}

/// The text of a field that every row has.
pub fn text<'a>(row: &'a Value, field: &str) -> &'a str {
    row[field].as_str().unwrap_or_else(|| panic!("{field} is a text in {row}"))
}

/// Panics with every line that stands on one side alone.
pub fn assert_same(what: &str, theirs: &BTreeSet<String>, ours: &BTreeSet<String>) {
    let lines = |from: &BTreeSet<String>, other: &BTreeSet<String>, mark: &str| {
        from.difference(other).map(|line| format!("{mark} {line}\n")).collect::<String>()
    };
    let (missing, invented) = (lines(theirs, ours, "missing: "), lines(ours, theirs, "not etcd's:"));
    assert!(missing.is_empty() && invented.is_empty(), "{what} differ:\n{missing}{invented}");
}

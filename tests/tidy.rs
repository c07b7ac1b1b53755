//! What the files of the project must be like, beyond what the compiler and clippy see: which module may use which,
//! how long a file may be, words that may not stand in it. docs/architecture.md shows the table of arrows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Lines of a file, at most. What is generated stands in the build's folder and does not count.
const MAX_LINES: usize = 500;

/// Files that may be longer, with the reason.
const LONGER: &[(&str, &str)] = &[];

/// Modules that everybody may use: they use nothing but each other.
const GROUND: [&str; 6] = ["courier", "give_way", "ids", "inbox", "version", "wire"];

/// Who may use whom. Data moves one way: rpc, consensus, apply, mvcc, watch.
const ARROWS: &[(&str, &[&str])] = &[
    ("alarm", &["storage"]),
    ("apply", &["alarm", "command", "lease", "members", "mvcc", "snapshot", "storage"]),
    ("background", &["command", "config", "consensus", "lease", "metrics", "mvcc"]),
    ("bench", &[]),
    ("command", &[]),
    ("config", &[]),
    ("consensus", &["command", "members", "snapshot", "storage"]),
    ("datadir", &["config", "storage"]),
    ("health", &["config"]),
    ("inspect", &["command", "datadir", "mvcc", "storage"]),
    ("lease", &["command", "mvcc", "storage"]),
    ("logging", &["config"]),
    ("members", &["command", "storage"]),
    ("metrics", &["alarm", "consensus", "mvcc", "watch"]),
    ("mvcc", &["storage"]),
    ("peers", &["command", "consensus", "datadir", "members", "metrics", "snapshot"]),
    ("persist", &["consensus", "mvcc", "snapshot", "storage"]),
    ("process", &["storage"]),
    (
        "rpc",
        &[
            "alarm",
            "command",
            "config",
            "consensus",
            "lease",
            "members",
            "metrics",
            "mvcc",
            "peers",
            "persist",
            "watch",
        ],
    ),
    (
        "server",
        &[
            "alarm",
            "apply",
            "background",
            "command",
            "config",
            "consensus",
            "datadir",
            "lease",
            "members",
            "metrics",
            "mvcc",
            "peers",
            "persist",
            "rpc",
            "snapshot",
            "storage",
            "watch",
        ],
    ),
    ("snapshot", &["alarm", "lease", "members", "mvcc", "storage"]),
    ("storage", &[]),
    ("watch", &["mvcc"]),
];

/// Words that may not stand in a folder's Rust files, but in the files listed.
const BANNED: &[(&str, &[&str], &[&str])] = &[
    ("src", &["TODO", "FIXME", "XXX", "for now", "todo!", "unimplemented!", "dbg!"], &[]),
    (
        "src",
        &["print!", "println!", "eprint!", "eprintln!"],
        &["src/main.rs", "src/bench.rs", "src/health.rs", "src/inspect.rs", "src/process.rs"],
    ),
    ("src", &["sled"], &["src/storage.rs", "src/storage/"]),
    (
        "src",
        &["std::fs"],
        &[
            "src/storage.rs",
            "src/storage/",
            "src/datadir.rs",
            "src/datadir/known.rs",
            "src/config/file.rs",
            "src/config/help.rs",
            "src/logging.rs",
            "src/inspect.rs",
            "src/metrics/sample/process.rs",
            "src/bench/cpu.rs",
        ],
    ),
    // Texts of etcd's errors come from the one table.
    ("src", &["\"etcdserver:"], &["src/rpc/status.rs"]),
    ("src", &["#[allow", "#![allow", "#[ignore", "should_panic"], &[]),
    ("tests", &["TODO", "FIXME", "#[allow", "#![allow", "#[ignore", "should_panic"], &["tests/tidy.rs"]),
    ("benches", &["TODO", "FIXME", "#[allow", "#![allow"], &[]),
];

#[test]
fn modules_use_only_what_the_table_of_arrows_says() {
    let mut used: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    // Files of tests alone may use what they like.
    let is_code = |file: &SourceFile| !file.name.ends_with("/tests.rs") && !file.name.contains("/tests/");
    for file in rust_files("src").into_iter().filter(is_code) {
        let module =
            Path::new(&file.name).iter().nth(1).map(|part| part.to_string_lossy().replace(".rs", ""));
        let module = module.expect("a file below src");
        let uses = used.entry(module.clone()).or_default();
        uses.extend(paths(&file.text).into_iter().filter(|path| *path != module));
    }
    let mut wrong = Vec::new();
    for (module, uses) in used.iter().filter(|(module, _)| !["lib", "main"].contains(&module.as_str())) {
        let ground = GROUND.contains(&module.as_str());
        let row = ARROWS.iter().find(|(name, _)| name == module).map(|(_, may)| *may);
        let Some(may) = row.or(ground.then_some(&[][..])) else {
            wrong.push(format!("{module} is not in the table"));
            continue;
        };
        let allowed = |name: &&String| may.contains(&name.as_str()) || GROUND.contains(&name.as_str());
        wrong.extend(uses.iter().filter(|name| !allowed(name)).map(|name| format!("{module} uses {name}")));
        let unused = may.iter().filter(|name| !uses.contains(**name));
        wrong.extend(unused.map(|name| format!("{module} does not use {name} any more")));
    }
    assert!(wrong.is_empty(), "against the table of arrows: {wrong:#?}");
}

#[test]
fn arrows_make_no_circle() {
    let mut left: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    while !left.is_empty() {
        let free = |may: &[&str]| may.iter().all(|name| !left.contains_key(name));
        let lowest: Vec<_> = left.iter().filter(|(_, may)| free(may)).map(|(name, _)| *name).collect();
        assert!(!lowest.is_empty(), "these use each other: {:?}", left.keys());
        left.retain(|name, _| !lowest.contains(name));
    }
}

#[test]
fn files_are_short_and_say_what_they_are() {
    let mut wrong = Vec::new();
    for file in ["src", "tests", "benches"].into_iter().flat_map(rust_files) {
        let lines = file.text.lines().count();
        let longer = LONGER.iter().any(|(name, _)| *name == file.name);
        if lines > MAX_LINES && !longer {
            wrong.push(format!("{} has {lines} lines, more than {MAX_LINES}", file.name));
        }
        if !file.text.starts_with("//!") {
            wrong.push(format!("{} does not begin with a comment on what it is", file.name));
        }
        if file.name.ends_with("/mod.rs") {
            wrong.push(format!("{} should stand beside its folder under the folder's name", file.name));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn banned_words_stand_nowhere() {
    let mut wrong = Vec::new();
    for (folder, words, allowed) in BANNED {
        for file in rust_files(folder) {
            if allowed
                .iter()
                .any(|name| file.name == *name || (name.ends_with('/') && file.name.starts_with(name)))
            {
                continue;
            }
            for (number, line) in file.text.lines().enumerate() {
                let found = words.iter().filter(|word| has_word(line, word));
                wrong.extend(found.map(|word| format!("{}:{}: {word}", file.name, number + 1)));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// What docs/operations.md quotes of the log and of stderr stands in the sources, word by word. `...`, ID, X and Y stand for
/// what differs.
#[test]
fn lines_that_operators_are_told_of_are_written() {
    let mut sources = String::new();
    for file in rust_files("src") {
        // A text goes on in the next line behind a backslash.
        let lines = file.text.lines().map(|line| line.trim_start());
        sources.extend(lines.map(|line| line.strip_suffix('\\').map_or(format!("{line}\n"), str::to_owned)));
    }
    let document = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md"));
    let document = document.expect("a text file");
    let cells = column(&document, "fault", 1).chain(column(&document, "it says", 0));
    let quoted: Vec<&str> = cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
    assert!(quoted.len() > 15, "{quoted:#?}");
    let stands_for = |word: &str| matches!(word, "..." | "ID" | "X" | "Y" | "\"b\"");
    let mut wrong = Vec::new();
    for quote in quoted.into_iter().filter(|quote| *quote != "peer" && *quote != "leader") {
        let words: Vec<&str> = quote.split(' ').collect();
        let pieces = words.split(|word| stands_for(word.trim_end_matches(','))).map(|piece| piece.join(" "));
        // What a cause is told behind stands elsewhere.
        let pieces = pieces.flat_map(|piece| piece.split(": ").map(str::to_owned).collect::<Vec<_>>());
        wrong.extend(pieces.filter(|piece| !sources.contains(piece)));
    }
    assert!(wrong.is_empty(), "docs/operations.md quotes what nobody writes: {wrong:#?}");
}

/// docs/storage.md begins with every place that docs/operations.md names in a data directory.
#[test]
fn both_documents_name_the_same_files() {
    let read = |name| fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name));
    let operations = read("docs/operations.md").expect("a text file");
    let storage = read("docs/storage.md").expect("a text file");
    let (list, _) = storage.split_once("\n## ").expect("it has sections");
    let places = column(&operations, "place", 0).filter_map(|cell| cell.split('`').nth(1));
    let places: Vec<&str> = places.collect();
    assert!(places.len() > 5, "{places:?}");
    let missing = places.iter().filter(|place| !list.contains(&format!("DATA-DIR/{place} ")));
    let missing: Vec<_> = missing.collect();
    assert!(missing.is_empty(), "docs/storage.md does not name {missing:?}");
}

/// A test that waits for something gives a busy machine this long at least.
#[test]
fn tests_are_patient() {
    const LEAST_SECONDS: u64 = 30;
    let mut wrong = Vec::new();
    for file in ["src", "tests"].into_iter().flat_map(rust_files) {
        if file.name.starts_with("src") && !file.name.ends_with("/tests.rs") {
            continue;
        }
        for (number, line) in file.text.lines().enumerate() {
            let is_limit = line.contains("LIMIT: Duration")
                || line.contains("DEADLINE: Duration")
                || line.contains("let deadline = ");
            let seconds = line.split_once("from_secs(").and_then(|(_, rest)| rest.split(')').next());
            let seconds = seconds.and_then(|text| text.parse::<u64>().ok());
            if is_limit && seconds.is_some_and(|seconds| seconds < LEAST_SECONDS) {
                wrong.push(format!("{}:{}: {}", file.name, number + 1, line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "less than {LEAST_SECONDS} s: {wrong:#?}");
}

/// `tests/bugs` is of use only as long as its patches fit the sources.
#[test]
fn known_bugs_can_still_be_put_back() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let folder = fs::read_dir(root.join("tests/bugs")).expect("the patches");
    let mut patches: Vec<PathBuf> = folder.map(|entry| entry.expect("an entry").path()).collect();
    patches.retain(|path| path.extension().is_some_and(|extension| extension == "patch"));
    patches.sort();
    let table = fs::read_to_string(root.join("docs/testing.md")).expect("a text file");
    for (number, patch) in patches.iter().enumerate().skip(1) {
        let name = patch.file_name().expect("it has a name").to_string_lossy();
        assert!(name.starts_with(&format!("{number:02}-")), "{number:02} is missing before {name}");
        let text = fs::read_to_string(patch).expect("a text file");
        let field = |field: &str| text.lines().find_map(|line| line.strip_prefix(field));
        let fields = (field("bug: "), field("known: "), field("test: "));
        let (Some(bug), Some(known), Some(test)) = fields else {
            panic!("{name} does not say what it is and how it is found");
        };
        assert!(text.contains(&format!("bug({number})")), "{name} is not what {number} chooses");
        let row = format!("| {number:02}: {bug} | {known} | `{test}` |");
        assert!(table.contains(&row), "docs/testing.md has no row {row}");
    }
    let applied = Command::new("git").args(["apply", "--check"]).args(&patches).current_dir(root).output();
    let applied = applied.expect("git runs");
    assert!(applied.status.success(), "{}", String::from_utf8_lossy(&applied.stderr));
}

/// The cells in a column of the table whose first column has this title.
fn column<'a>(document: &'a str, title: &str, place: usize) -> impl Iterator<Item = &'a str> {
    let head = format!("| {title} |");
    let lines = document.lines().skip_while(move |line| !line.starts_with(&head)).skip(2);
    let rows = lines.take_while(|line| line.starts_with('|'));
    rows.map(move |row| row.split('|').nth(place + 1).expect("a row has its columns").trim())
}

struct SourceFile {
    /// From the project's folder.
    name: String,
    text: String,
}

/// Every Rust file below a folder of the project.
fn rust_files(folder: &str) -> Vec<SourceFile> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut folders: Vec<PathBuf> = vec![root.join(folder)];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the project") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).expect("below the project").to_string_lossy().into_owned();
                files.push(SourceFile { name, text: fs::read_to_string(&path).expect("a text file") });
            }
        }
    }
    assert!(!files.is_empty(), "{folder} has Rust files");
    files
}

/// Modules that a file names by `crate::`, alone or in a group.
fn paths(text: &str) -> BTreeSet<String> {
    let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
    let mut found = BTreeSet::new();
    for (place, _) in code.match_indices("crate::") {
        let rest = &code[place + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(group) => found.extend(group_members(group)),
            None => drop(found.insert(word(rest))),
        }
    }
    // What the library itself exports stands beside its modules.
    found.retain(|name| name.starts_with(|first: char| first.is_ascii_lowercase()));
    found
}

/// The first words between commas, up to the brace that closes the group.
fn group_members(group: &str) -> Vec<String> {
    let (mut members, mut depth, mut start) = (Vec::new(), 0_usize, 0);
    for (place, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                members.push(word(group[start..place].trim()));
                start = place + 1;
                if letter == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    members
}

fn word(text: &str) -> String {
    text.chars().take_while(|letter| letter.is_ascii_alphanumeric() || *letter == '_').collect()
}

/// Whether a line has the word, not as a part of a longer one.
fn has_word(line: &str, banned: &str) -> bool {
    let is_part =
        |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    line.match_indices(banned).any(|(place, _)| {
        let before = line[..place].chars().next_back();
        let after = line[place + banned.len()..].chars().next();
        let open_end = !banned.ends_with(|last: char| last.is_alphanumeric());
        !is_part(before) && (open_end || !is_part(after))
    })
}

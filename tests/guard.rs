//! What is said of instruction counts beside a baseline: `benches/guard`, which counts, has no tests of its own.

#[path = "../benches/guard/baseline.rs"]
mod baseline;

use baseline::{Baseline, Count, Verdict};

const FILE: &str =
    "# of the hot paths\ncompiler rustc 1.90.0 (of some day)\napply-put    1000\nrange        20\n";

fn now(counts: &[(&str, u64)]) -> Vec<Count> {
    counts
        .iter()
        .map(|(case, instructions)| Count { case: (*case).to_owned(), instructions: *instructions })
        .collect()
}

fn verdict(counts: &[(&str, u64)]) -> Verdict {
    Baseline::parse(FILE).expect("a baseline").compare(&now(counts))
}

/// The line of a case, in which one word at least must stand.
fn line<'a>(verdict: &'a Verdict, case: &str, word: &str) -> &'a str {
    let found = verdict.lines.iter().find(|line| line.starts_with(case) && line.contains(word));
    found.unwrap_or_else(|| panic!("no line of {case} with {word} in {:#?}", verdict.lines))
}

#[test]
fn more_than_a_tenth_above_the_baseline_fails() {
    let verdict = verdict(&[("apply-put", 1101), ("range", 22)]);
    assert!(verdict.outcome().is_err_and(|reason| reason.starts_with("1 of ") && reason.contains("--write")));
    let line = line(&verdict, "apply-put", "FAILED");
    assert!(line.contains("1101") && line.contains("1000") && line.contains("+10.1 %"), "{line}");
    assert!(!verdict.lines.iter().any(|line| line.starts_with("range") && line.contains("FAILED")));
}

#[test]
fn more_than_a_tenth_below_it_is_told_and_passes() {
    let verdict = verdict(&[("apply-put", 899), ("range", 18)]);
    assert_eq!(verdict.outcome(), Ok(()));
    line(&verdict, "apply-put", "renew the baseline");
    assert!(!verdict.lines.iter().any(|line| line.starts_with("range") && line.contains("renew")));
}

#[test]
fn a_case_that_one_side_alone_has_fails() {
    let verdict = verdict(&[("apply-put", 1000), ("watch", 5)]);
    assert_eq!(verdict.failures, 2);
    line(&verdict, "watch", "FAILED");
    line(&verdict, "range", "FAILED");
}

#[test]
fn what_is_written_is_read_again() {
    let baseline = Baseline {
        compiler: "rustc 1.90.0 (of some day)".to_owned(),
        counts: now(&[("a", 1), ("b", u64::MAX)]),
    };
    assert_eq!(Baseline::parse(&baseline.text()), Ok(baseline));
}

#[test]
fn a_file_that_is_no_baseline_is_refused() {
    for text in ["apply-put", "apply-put many", "apply-put 1\napply-put 1", "apply-put -1"] {
        assert!(Baseline::parse(text).is_err(), "{text}");
    }
}

/// A count that wraps would pass as a better one.
#[test]
fn counts_of_any_size_are_judged() {
    let huge = Baseline { compiler: String::new(), counts: now(&[("a", u64::MAX / 2), ("b", 0)]) };
    assert_eq!(huge.compare(&now(&[("a", u64::MAX), ("b", 1)])).failures, 2);
}

/// Every baseline that is committed can be read, and has something in it. Without the first, the gate would skip what it guards.
#[test]
fn committed_baselines_are_whole() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/guard");
    let files = std::fs::read_dir(folder).expect("the bench").map(|entry| entry.expect("an entry").path());
    let files: Vec<_> =
        files.filter(|path| path.extension().is_some_and(|extension| extension == "txt")).collect();
    assert!(files.iter().any(|path| path.ends_with("x86_64.txt")), "{files:?}");
    for path in files {
        let text = std::fs::read_to_string(&path).expect("a text file");
        let baseline = Baseline::parse(&text).expect("a baseline");
        assert!(baseline.counts.len() > 10 && !baseline.compiler.is_empty(), "{}", path.display());
    }
}

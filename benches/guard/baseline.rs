//! The committed counts and what is said of new ones. Pure: text and numbers in, lines out (tests/guard.rs).

use std::collections::BTreeMap;

/// A case fails when it is more percent above the baseline, and is told when it is more below.
const TOLERANCE_PERCENT: u128 = 10;

/// Instructions of one operation of a case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    pub case: String,
    pub instructions: u64,
}

/// The committed file.
#[derive(Debug, PartialEq, Eq)]
pub struct Baseline {
    /// What `rustc --version` said.
    pub compiler: String,
    pub counts: Vec<Count>,
}

/// What is to be said of counts.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// A line per case.
    pub lines: Vec<String>,
    /// Cases that cost too much, or that only one side has.
    pub failures: usize,
}

impl Verdict {
    /// # Errors
    /// How many cases failed, and what to do.
    pub fn outcome(&self) -> Result<(), String> {
        match self.failures {
            0 => Ok(()),
            failures => Err(format!(
                "{failures} of the hot paths failed; if that is meant, renew the baseline by `cargo test --bench guard -- \
                 --write` and commit it"
            )),
        }
    }
}

impl Baseline {
    /// # Errors
    /// The line that is none of ours.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut baseline = Self { compiler: String::new(), counts: Vec::new() };
        for line in text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, value) =
                line.split_once(' ').ok_or_else(|| format!("a line of the baseline: {line}"))?;
            if name == "compiler" {
                value.trim().clone_into(&mut baseline.compiler);
                continue;
            }
            let instructions =
                value.trim().parse().map_err(|error| format!("a line of the baseline: {line}: {error}"))?;
            if baseline.counts.iter().any(|count| count.case == name) {
                return Err(format!("the baseline has {name} twice"));
            }
            baseline.counts.push(Count { case: name.to_owned(), instructions });
        }
        Ok(baseline)
    }

    pub fn text(&self) -> String {
        let mut text = format!(
            "# Instructions of one operation, by `cargo test --bench guard -- --write` (docs/testing.md).\ncompiler {}\n",
            self.compiler
        );
        for Count { case, instructions } in &self.counts {
            text += &format!("{case:<24} {instructions}\n");
        }
        text
    }

    pub fn compare(&self, now: &[Count]) -> Verdict {
        let mut verdict = Verdict::default();
        let mut before: BTreeMap<&str, u64> =
            self.counts.iter().map(|count| (count.case.as_str(), count.instructions)).collect();
        for Count { case, instructions } in now {
            let (line, is_failure) = match before.remove(case.as_str()) {
                Some(before) => judge(case, before, *instructions),
                None => (
                    format!("{case}: FAILED, {instructions} instructions, and the baseline does not have it"),
                    true,
                ),
            };
            verdict.lines.push(line);
            verdict.failures += usize::from(is_failure);
        }
        for (case, instructions) in before {
            verdict
                .lines
                .push(format!("{case}: FAILED, baseline {instructions}, and it is not counted any more"));
            verdict.failures += 1;
        }
        verdict
    }
}

/// The line of one case, and whether it fails.
fn judge(case: &str, before: u64, now: u64) -> (String, bool) {
    let percent = (now as f64 / before as f64 - 1.0) * 100.0;
    let line = format!("{case}: {now} instructions, baseline {before}, {percent:+.1} %");
    let (now, before) = (u128::from(now) * 100, u128::from(before));
    if now > before * (100 + TOLERANCE_PERCENT) {
        (format!("{line}: FAILED, above +{TOLERANCE_PERCENT} %"), true)
    } else if now < before * (100 - TOLERANCE_PERCENT) {
        (format!("{line}: better; renew the baseline, so that it stays so"), false)
    } else {
        (line, false)
    }
}

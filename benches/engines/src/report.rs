//! The figures as one Markdown table, a column per candidate, and as JSON.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::plan::{Options, Results};

/// How a figure is printed.
#[derive(Clone, Copy)]
enum Form {
    Plain,
    Microseconds,
    Seconds,
    Mebibytes,
    /// Times the bytes that stand at this place.
    Times(&'static str),
}

const ROWS: &[(&str, &str, Form)] = &[
    ("**values of 300 B**: revisions", "/small/fill/revisions", Form::Plain),
    ("fill, flushed: CPU us per revision", "/small/fill/cpu_us", Form::Microseconds),
    ("fill: MiB sent to the disk", "/small/fill/written", Form::Mebibytes),
    ("fill: resident, peak MiB", "/small/fill/peak", Form::Mebibytes),
    ("fill: resident, in the end MiB", "/small/fill/resident", Form::Mebibytes),
    ("fill: disk / live", "/small/fill/disk", Form::Times("/small/fill/live")),
    ("start: CPU s", "/small/read/open/cpu_s", Form::Seconds),
    ("start: s", "/small/read/open/seconds", Form::Seconds),
    ("read, anywhere: CPU us", "/small/read/uniform_cpu_us", Form::Microseconds),
    ("read, a hot hundredth: CPU us", "/small/read/hot_cpu_us", Form::Microseconds),
    ("scan: CPU us per row", "/small/read/scan_cpu_us", Form::Microseconds),
    ("start, reads, scan: resident, peak MiB", "/small/read/peak", Form::Mebibytes),
    ("compact 90 %: CPU us per revision", "/small/compact/compact/cpu_us", Form::Microseconds),
    ("compact 90 %: resident, peak MiB", "/small/compact/compact/peak", Form::Mebibytes),
    ("compact 90 %: disk / live", "/small/compact/compact/disk", Form::Times("/small/compact/live")),
    ("defragment: CPU s", "/small/compact/defragment/cpu_s", Form::Seconds),
    ("defragment: resident, peak MiB", "/small/compact/defragment/peak", Form::Mebibytes),
    ("defragment: disk / live", "/small/compact/defragment/disk", Form::Times("/small/compact/live")),
    ("**values of 1 KiB**: revisions", "/large/fill/revisions", Form::Plain),
    ("fill, flushed: CPU us per revision", "/large/fill/cpu_us", Form::Microseconds),
    ("fill: resident, peak MiB", "/large/fill/peak", Form::Mebibytes),
    ("fill: resident, in the end MiB", "/large/fill/resident", Form::Mebibytes),
    ("fill: disk / live", "/large/fill/disk", Form::Times("/large/fill/live")),
    ("start: CPU s", "/large/read/open/cpu_s", Form::Seconds),
    ("start: resident MiB", "/large/read/open/resident", Form::Mebibytes),
    ("read, anywhere: CPU us", "/large/read/uniform_cpu_us", Form::Microseconds),
    ("start, reads, scan: resident, peak MiB", "/large/read/peak", Form::Mebibytes),
    ("compact 90 %: resident, peak MiB", "/large/compact/compact/peak", Form::Mebibytes),
    ("defragment: resident, peak MiB", "/large/compact/defragment/peak", Form::Mebibytes),
    ("defragment: disk / live", "/large/compact/defragment/disk", Form::Times("/large/compact/live")),
    ("**crashes**: kills", "/kills/crashes", Form::Plain),
    ("no exact prefix after", "/kills/failed", Form::Plain),
    ("rounds lost, median", "/kills/rounds_lost_median", Form::Plain),
    ("rounds lost, most", "/kills/rounds_lost_max", Form::Plain),
    ("power cuts", "/cuts/crashes", Form::Plain),
    ("no exact prefix after", "/cuts/failed", Form::Plain),
];

/// What a candidate has to meet: a title, the largest value, and the figures that must not be above it.
struct Criterion {
    title: &'static str,
    at_most: f64,
    figures: &'static [&'static str],
    /// What each figure is divided by.
    per: Option<&'static [&'static str]>,
}

const CRITERIA: &[Criterion] = &[
    Criterion {
        title: "at most 8 us of CPU per revision of 300 B",
        at_most: 8.0,
        figures: &["/small/fill/cpu_us"],
        per: None,
    },
    Criterion {
        title: "at most 1 GiB resident with all values of 1 KiB",
        at_most: (1_u64 << 30) as f64,
        figures: &[
            "/large/fill/peak",
            "/large/read/peak",
            "/large/compact/compact/peak",
            "/large/compact/defragment/peak",
        ],
        per: None,
    },
    Criterion {
        title: "disk at most 2 times live after compaction and defragmentation",
        at_most: 2.0,
        // Of the large case: with little data, a few empty segments weigh more than it.
        figures: &["/large/compact/defragment/disk"],
        per: Some(&["/large/compact/live"]),
    },
    Criterion {
        title: "an exact prefix after every kill",
        at_most: 0.0,
        figures: &["/kills/failed"],
        per: None,
    },
    Criterion {
        title: "an exact prefix after every power cut",
        at_most: 0.0,
        figures: &["/cuts/failed"],
        per: None,
    },
];

impl Criterion {
    /// `-` when a figure is missing and none speaks against it.
    fn verdict(&self, found: &Value) -> &'static str {
        let number = |place: &str| found.pointer(place).and_then(Value::as_f64);
        let values: Vec<Option<f64>> = match self.per {
            None => self.figures.iter().map(|figure| number(figure)).collect(),
            Some(per) => {
                let pairs = self.figures.iter().zip(per);
                pairs.map(|(figure, per)| Some(number(figure)? / number(per)?)).collect()
            }
        };
        if values.iter().flatten().any(|value| *value > self.at_most) {
            "no"
        } else if values.iter().any(Option::is_none) {
            "-"
        } else {
            "yes"
        }
    }
}

pub fn table(options: &Options, seed: u64, results: &Results) -> String {
    let mut text = format!("Seed {seed}{}.\n\n|", if options.quick { ", quick" } else { "" });
    for (name, _) in results {
        write!(text, " | {}", name.title()).expect("a string takes everything");
    }
    text.push_str(" |\n|---");
    text.push_str(&"|---:".repeat(results.len()));
    text.push_str("|\n");
    for (title, place, form) in ROWS {
        // A case that was not run has no rows.
        if results.iter().all(|(_, found)| found.pointer(place).is_none()) {
            continue;
        }
        let cells = results.iter().map(|(_, found)| cell(found, place, *form));
        writeln!(text, "| {title} | {} |", cells.collect::<Vec<_>>().join(" | "))
            .expect("a string takes everything");
    }
    // Little data says nothing about them.
    for criterion in CRITERIA.iter().filter(|_| !options.quick) {
        let verdicts: Vec<_> = results.iter().map(|(_, found)| criterion.verdict(found)).collect();
        writeln!(text, "| **{}** | {} |", criterion.title, verdicts.join(" | "))
            .expect("a string takes everything");
    }
    text
}

fn cell(found: &Value, place: &str, form: Form) -> String {
    let number = |place: &str| found.pointer(place).and_then(Value::as_f64);
    let Some(figure) = number(place) else {
        return "-".to_owned();
    };
    match form {
        Form::Plain => format!("{figure}"),
        Form::Microseconds | Form::Seconds => format!("{figure:.2}"),
        Form::Mebibytes => format!("{:.0}", figure / f64::from(1 << 20)),
        Form::Times(of) => number(of).map_or("-".to_owned(), |of| format!("{:.2}", figure / of)),
    }
}

pub fn json(options: &Options, seed: u64, results: &Results) -> Value {
    let candidates = results.iter().map(|(name, found)| (name.argument(), found.clone()));
    json!({
        "seed": seed,
        "quick": options.quick,
        "candidates": candidates.collect::<serde_json::Map<_, _>>(),
    })
}

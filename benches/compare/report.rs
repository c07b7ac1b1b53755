//! What was measured: docs/benchmarks*.json, the chart, and the tables in README.md and docs/performance.md.

use serde_json::{Value, json};

use crate::servers::Kind;
use crate::{chart, goals, table};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What is compared: its name, where it stands in a result, and whether more is better.
pub const MEASURES: [(&str, &str, bool); 4] = [
    ("throughput", "/operations_per_second", true),
    ("p99", "/latency_us/p99", false),
    ("CPU per operation", "/server_cpu_us_per_operation", false),
    ("once", ONCE, false),
];
/// Of what happens once: no throughput, and its samples are no pairs.
pub const ONCE: &str = "/once";

/// What is measured in one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Alone,
    Three,
    Store,
    Limits,
}

impl Mode {
    const ALL: [Self; 4] = [Self::Alone, Self::Three, Self::Store, Self::Limits];

    fn path(self, extension: &str) -> String {
        let name = match self {
            Self::Alone => "benchmarks",
            Self::Three => "benchmarks-3-members",
            Self::Store => "benchmarks-store",
            Self::Limits => "benchmarks-limits",
        };
        format!("{ROOT}/docs/{name}.{extension}")
    }

    /// The document with its table, and the name of the place there.
    fn place(self) -> (&'static str, &'static str) {
        match self {
            Self::Alone => ("README.md", "1"),
            Self::Three => ("README.md", "3"),
            Self::Store => ("docs/performance.md", "store"),
            Self::Limits => ("docs/performance.md", "limits"),
        }
    }
}

/// Results of a case, by round.
#[derive(Default)]
pub struct Case {
    pub name: String,
    pub arguments: Vec<String>,
    /// Of what happens once; empty for a load.
    pub unit: String,
    /// What Decklog is held to by itself.
    pub at_most: Option<f64>,
    pub etcd: Vec<Value>,
    pub decklog: Vec<Value>,
}

impl Case {
    /// Of a load, with the load tool's arguments.
    pub fn new(name: &str, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(ToString::to_string).collect();
        Self { name: name.to_owned(), arguments, ..Self::default() }
    }

    /// Of what happens once and is a figure in this unit.
    pub fn once(name: &str, unit: &str) -> Self {
        Self { name: name.to_owned(), unit: unit.to_owned(), ..Self::default() }
    }

    pub fn add(&mut self, kind: Kind, result: Value) {
        match kind {
            Kind::Etcd => self.etcd.push(result),
            Kind::Decklog => self.decklog.push(result),
        }
    }

    /// etcd and Decklog.
    pub fn sides(&self, pointer: &str) -> (Spread, Spread) {
        let side = |values: &[Value]| Spread::of(values.iter().map(|value| number(value, pointer)));
        (side(&self.etcd), side(&self.decklog))
    }

    /// Of what etcd and Decklog have, round by round.
    pub fn ratios(&self, pointer: &str, ratio: fn(f64, f64) -> f64) -> Spread {
        if pointer == ONCE {
            let (etcd, decklog) = self.sides(pointer);
            return Spread::of(std::iter::once(ratio(etcd.median, decklog.median)));
        }
        let pairs = self.etcd.iter().zip(&self.decklog);
        Spread::of(pairs.map(|(etcd, decklog)| ratio(number(etcd, pointer), number(decklog, pointer))))
    }
}

/// A median with the smallest and largest.
#[derive(Clone, Copy)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Spread {
    pub fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |place: usize| values.get(place).copied().unwrap_or(f64::NAN);
        let last = values.len().saturating_sub(1);
        // Of an even number of values, the middle of the two in the middle.
        let median = f64::midpoint(at(last / 2), at(last.div_ceil(2)));
        Self { median, low: at(0), high: at(last) }
    }

    pub fn text(self, figure: impl Fn(f64) -> String) -> String {
        let (median, low, high) = (figure(self.median), figure(self.low), figure(self.high));
        if low == high { median } else { format!("{median} ({low} to {high})") }
    }
}

fn number(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap_or(f64::NAN)
}

/// A whole measurement.
pub struct Report {
    pub mode: Mode,
    pub rounds: usize,
    pub seconds: f64,
    /// Puts per second of an open loop.
    pub rate: f64,
    /// Day and machine.
    pub measured: String,
    pub cases: Vec<Case>,
}

impl Report {
    /// What was measured last.
    ///
    /// # Errors
    /// When it is not there or not whole.
    pub fn read(mode: Mode) -> Result<Self, String> {
        let path = mode.path("json");
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let whole: Value = serde_json::from_str(&text).map_err(|error| format!("{path}: {error}"))?;
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let cases = list(&whole["cases"]);
        let cases = cases.iter().map(|case| Case {
            name: word(&case["case"]),
            arguments: list(&case["arguments"]).iter().map(word).collect(),
            unit: word(&case["unit"]),
            at_most: case["at_most"].as_f64(),
            etcd: list(&case["etcd"]),
            decklog: list(&case["decklog"]),
        });
        let field = |name: &str| whole[name].as_f64().ok_or_else(|| format!("{path} has no {name}"));
        Ok(Self {
            mode,
            rounds: field("rounds")? as usize,
            seconds: field("seconds")?,
            rate: field("rate")?,
            measured: word(&whole["measured"]),
            cases: cases.collect(),
        })
    }

    /// Writes figures and chart below docs.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self) -> Result<(), String> {
        let cases = self.cases.iter().map(|case| {
            json!({
                "case": case.name, "arguments": case.arguments, "unit": case.unit, "at_most": case.at_most,
                "etcd": case.etcd, "decklog": case.decklog,
            })
        });
        let cases: Vec<Value> = cases.collect();
        let whole = json!({
            "measured": self.measured, "rounds": self.rounds, "seconds": self.seconds, "rate": self.rate,
            "cases": cases,
        });
        let text = serde_json::to_string_pretty(&whole).map_err(|error| error.to_string())?;
        write(&self.mode.path("json"), &(text + "\n"))?;
        // Limits have no other side to be drawn against.
        if self.mode == Mode::Limits {
            return Ok(());
        }
        let rows: Vec<_> = self.cases.iter().map(table::Row::of).collect();
        write(&self.mode.path("svg"), &chart::draw(&rows))
    }

    /// Puts the table where it belongs, and makes that of the goals again.
    ///
    /// # Errors
    /// When there is no such place, or a file cannot be written.
    pub fn write_tables(&self) -> Result<(), String> {
        write_into(self.mode.place(), &table::of(self))?;
        let reports = Mode::ALL.into_iter().filter(|mode| std::path::Path::new(&mode.path("json")).exists());
        let reports: Vec<Self> = reports.map(Self::read).collect::<Result<_, _>>()?;
        write_into(("docs/performance.md", "goals"), &goals::table(&reports))
    }
}

/// Between the two comments that name the place.
fn write_into((document, place): (&str, &str), table: &str) -> Result<(), String> {
    let path = format!("{ROOT}/{document}");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    let (begin, end) = (format!("<!-- measured: {place} -->\n"), "<!-- measured: end -->");
    let (before, rest) = text.split_once(&begin).ok_or_else(|| format!("{path} has no {begin}"))?;
    let (_, after) = rest.split_once(end).ok_or_else(|| format!("{path} has no {end}"))?;
    write(&path, &format!("{before}{begin}\n{table}\n{end}{after}"))
}

fn write(path: &str, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{path}: {error}"))
}

//! What was measured: the table, docs/benchmarks*.json, the chart, and the README's part.

use serde_json::{Value, json};

use crate::chart;
use crate::servers::Kind;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

/// What is compared: its name, where it stands in a result, and whether more is better.
pub const MEASURES: [(&str, &str, bool); 4] = [
    ("throughput", "/operations_per_second", true),
    ("p99", "/latency_us/p99", false),
    ("CPU per operation", "/server_cpu_us_per_operation", false),
    ("time", TIME, false),
];
/// Of what happens once: no throughput, and its samples are no pairs.
const TIME: &str = "/time_ms";

/// Results of a case, by round.
pub struct Case {
    name: String,
    arguments: Vec<String>,
    etcd: Vec<Value>,
    decklog: Vec<Value>,
}

impl Case {
    pub fn new(name: &str, arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(ToString::to_string).collect();
        Self { name: name.to_owned(), arguments, etcd: Vec::new(), decklog: Vec::new() }
    }

    pub fn add(&mut self, kind: Kind, result: Value) {
        match kind {
            Kind::Etcd => self.etcd.push(result),
            Kind::Decklog => self.decklog.push(result),
        }
    }
}

/// A whole measurement.
pub struct Report {
    pub members: usize,
    pub rounds: usize,
    pub seconds: String,
    pub cases: Vec<Case>,
}

/// A median with the smallest and largest.
#[derive(Clone, Copy)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |place: usize| values.get(place).copied().unwrap_or(f64::NAN);
        let last = values.len().saturating_sub(1);
        // Of an even number of values, the middle of the two in the middle.
        let median = f64::midpoint(at(last / 2), at(last.div_ceil(2)));
        Self { median, low: at(0), high: at(last) }
    }
}

/// A case in table and chart: for each measure, how much better Decklog was, and both sides.
pub struct Row {
    pub name: String,
    /// Above 1: Decklog is better. Not finite where it is not measured.
    pub better: Vec<Spread>,
    sides: Vec<(Spread, Spread)>,
}

fn number(value: &Value, pointer: &str) -> f64 {
    value.pointer(pointer).and_then(Value::as_f64).unwrap_or(f64::NAN)
}

impl Row {
    fn of(case: &Case) -> Self {
        let (mut better, mut sides) = (Vec::new(), Vec::new());
        for (_, pointer, more_is_better) in MEASURES {
            let side = |values: &[Value]| Spread::of(values.iter().map(|value| number(value, pointer)));
            let (etcd, decklog) = (side(&case.etcd), side(&case.decklog));
            let ratio = |etcd: f64, decklog: f64| {
                if more_is_better { decklog / etcd } else { etcd / decklog }
            };
            let pairs = case.etcd.iter().zip(&case.decklog);
            better.push(match pointer {
                TIME => Spread::of(std::iter::once(ratio(etcd.median, decklog.median))),
                _ => Spread::of(
                    pairs.map(|(etcd, decklog)| ratio(number(etcd, pointer), number(decklog, pointer))),
                ),
            });
            sides.push((etcd, decklog));
        }
        Self { name: case.name.clone(), better, sides }
    }

    fn is_of_time(&self) -> bool {
        self.better.last().is_some_and(|time| time.median.is_finite())
    }
}

impl Report {
    /// docs/benchmarks.json, or of several members docs/benchmarks-N-members.json.
    fn path(members: usize, extension: &str) -> String {
        match members {
            1 => format!("{ROOT}/docs/benchmarks.{extension}"),
            _ => format!("{ROOT}/docs/benchmarks-{members}-members.{extension}"),
        }
    }

    /// What was measured last.
    ///
    /// # Errors
    /// When it is not there or not whole.
    pub fn read(members: usize) -> Result<Self, String> {
        let path = Self::path(members, "json");
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let whole: Value = serde_json::from_str(&text).map_err(|error| format!("{path}: {error}"))?;
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let cases = list(&whole["cases"]);
        let cases = cases.iter().map(|case| Case {
            name: word(&case["case"]),
            arguments: list(&case["arguments"]).iter().map(word).collect(),
            etcd: list(&case["etcd"]),
            decklog: list(&case["decklog"]),
        });
        let rounds = whole["rounds"].as_u64().and_then(|rounds| usize::try_from(rounds).ok());
        let rounds = rounds.ok_or_else(|| format!("{path}: how many rounds?"))?;
        Ok(Self { members, rounds, seconds: word(&whole["seconds"]), cases: cases.collect() })
    }

    /// Writes figures and chart below docs.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self) -> Result<(), String> {
        let cases: Vec<Value> = self
            .cases
            .iter()
            .map(|case| json!({"case": case.name, "arguments": case.arguments, "etcd": case.etcd, "decklog": case.decklog}))
            .collect();
        let whole =
            json!({"members": self.members, "rounds": self.rounds, "seconds": self.seconds, "cases": cases});
        let text = serde_json::to_string_pretty(&whole).map_err(|error| error.to_string())?;
        write(&Self::path(self.members, "json"), &(text + "\n"))?;
        write(&Self::path(self.members, "svg"), &chart::draw(&self.rows()))
    }

    /// Puts the table into the README, between the two comments that name it.
    ///
    /// # Errors
    /// When they are not there, or the file cannot be written.
    pub fn write_into_readme(&self) -> Result<(), String> {
        let path = format!("{ROOT}/README.md");
        let text = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let (begin, end) = (format!("<!-- measured: {} -->\n", self.members), "<!-- measured: end -->");
        let (before, rest) = text.split_once(&begin).ok_or_else(|| format!("{path} has no {begin}"))?;
        let (_, after) = rest.split_once(end).ok_or_else(|| format!("{path} has no {end}"))?;
        write(&path, &format!("{before}{begin}\n{}\n{end}{after}", self.table()))
    }

    fn rows(&self) -> Vec<Row> {
        self.cases.iter().map(Row::of).collect()
    }

    pub fn table(&self) -> String {
        let rows = self.rows();
        let mut text = format!(
            "Median of {} rounds of {} s (smallest to largest); above 1, Decklog is better.\n\n\
             | case | throughput | etcd, Decklog per s | p99 | etcd, Decklog us | CPU per operation | etcd, Decklog us |\n\
             | --- | --- | --- | --- | --- | --- | --- |\n",
            self.rounds, self.seconds
        );
        for row in rows.iter().filter(|row| !row.is_of_time()) {
            text += &format!("| {} ", row.name);
            for (spread, (etcd, decklog)) in row.better.iter().zip(&row.sides).take(3) {
                // No latency of its own: an event is counted when it comes.
                if spread.median.is_finite() {
                    let Spread { median, low, high } = spread;
                    let (etcd, decklog) = (figure(etcd.median), figure(decklog.median));
                    text += &format!("| **{median:.2}** ({low:.2} to {high:.2}) | {etcd}, {decklog} ");
                } else {
                    text += "| | ";
                }
            }
            text += "|\n";
        }
        text + &times(&rows) + &self.starts()
    }

    fn starts(&self) -> String {
        let start = |pick: fn(&Case) -> &Vec<Value>| {
            let values = self.cases.iter().flat_map(|case| pick(case).iter());
            Spread::of(values.filter_map(|value| value["start_ms"].as_f64())).median
        };
        let (etcd, decklog) = (start(|case| &case.etcd), start(|case| &case.decklog));
        let what = match self.members {
            1 => "Start on an empty directory until it serves".to_owned(),
            members => format!("Start of {members} members on empty directories until all serve"),
        };
        format!("\n{what}: etcd {etcd:.0} ms, Decklog {decklog:.0} ms (median).\n")
    }
}

/// The table of what happens once.
fn times(rows: &[Row]) -> String {
    let rows: Vec<_> = rows.iter().filter(|row| row.is_of_time()).collect();
    if rows.is_empty() {
        return String::new();
    }
    let mut text = String::from("\n| once | time | etcd ms | Decklog ms |\n| --- | --- | --- | --- |\n");
    for row in rows {
        if let (Some(better), Some((etcd, decklog))) = (row.better.last(), row.sides.last()) {
            let side = |Spread { median, low, high }: &Spread| format!("{median:.0} ({low:.0} to {high:.0})");
            text += &format!(
                "| {} | **{:.2}** | {} | {} |\n",
                row.name,
                better.median,
                side(etcd),
                side(decklog)
            );
        }
    }
    text
}

fn figure(number: f64) -> String {
    if number >= 100.0 { format!("{number:.0}") } else { format!("{number:.1}") }
}

fn write(path: &str, text: &str) -> Result<(), String> {
    std::fs::write(path, text).map_err(|error| format!("{path}: {error}"))
}

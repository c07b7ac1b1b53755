//! Decklog beside etcd: both are started in turn on fresh directories, round after round, and driven by the same
//! load. Prints a table of ratios with their spread; writes docs/benchmarks.json and docs/benchmarks.svg.
//!
//! `cargo bench --bench compare -- --rounds 5 --seconds 4`; etcd is looked for in `$DECKLOG_PEERS` and PATH.

mod chart;
mod servers;

use std::process::{Command, ExitCode};

use serde_json::{Value, json};
use servers::{Kind, Server};

/// Name, what it is called in the table, and the arguments of `decklog bench`.
const CASES: &[(&str, &[&str])] = &[
    ("put, 1 client", &["put", "--clients", "1", "--connections", "1"]),
    ("put, 10 clients", &["put", "--clients", "10"]),
    ("put, 100 clients", &["put", "--clients", "100"]),
    ("put, 1000 clients", &["put", "--clients", "1000", "--connections", "100"]),
    ("range, linearizable, 100 clients", &["range", "--fill", "--clients", "100"]),
    ("range, serializable, 100 clients", &["range", "--fill", "--serializable", "--clients", "100"]),
    ("range, linearizable, 1000 clients", &["range", "--fill", "--clients", "1000", "--connections", "100"]),
    ("txn-put, 100 clients", &["txn-put", "--clients", "100"]),
    ("mixed 80/20, 100 clients", &["mixed", "--fill", "--clients", "100"]),
    ("watch fan-out to 500", &["watch-fanout", "--clients", "500"]),
    ("put to its event, 1 client", &["watch-latency", "--clients", "1", "--connections", "1"]),
    ("lease keep-alive, 100 clients", &["lease-keepalive", "--clients", "100"]),
    ("range of 10 000 keys, 4 clients", &["range-many", "--clients", "4"]),
];

/// What is compared: its name, where it stands in a result, and whether more is better.
const MEASURES: [(&str, &str, bool); 3] = [
    ("throughput", "/operations_per_second", true),
    ("p99", "/latency_us/p99", false),
    ("CPU per operation", "/server_cpu_us_per_operation", false),
];

struct Options {
    rounds: usize,
    seconds: String,
    decklog: String,
    /// Measure nothing: make table and chart again from docs/benchmarks.json.
    redraw: bool,
}

impl Options {
    fn parse() -> Result<Self, String> {
        let decklog = concat!(env!("CARGO_MANIFEST_DIR"), "/target/release/decklog").to_owned();
        let mut options = Self { rounds: 5, seconds: "4".to_owned(), decklog, redraw: false };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--rounds" => {
                    options.rounds = value()?.parse().map_err(|error| format!("--rounds: {error}"))?
                }
                "--seconds" => options.seconds = value()?,
                "--decklog" => options.decklog = value()?,
                "--redraw" => options.redraw = true,
                // Cargo says so to every bench.
                "--bench" => {}
                _ => {
                    return Err(format!(
                        "unknown argument {arg}: there are --rounds, --seconds, --decklog, --redraw"
                    ));
                }
            }
        }
        Ok(options)
    }
}

/// Results of a case, by round.
#[derive(Default)]
struct Results {
    etcd: Vec<Value>,
    decklog: Vec<Value>,
}

fn main() -> ExitCode {
    match Options::parse().and_then(|options| run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<(), String> {
    let results = if options.redraw { read()? } else { measure(options)? };
    let rows: Vec<Row> =
        CASES.iter().zip(&results).map(|((name, _), results)| Row::of(name, results)).collect();
    println!("{}", table(&rows, options, &results));
    write(&rows, options, &results)
}

fn measure(options: &Options) -> Result<Vec<Results>, String> {
    let etcd = servers::find_etcd()?;
    let mut results: Vec<Results> = CASES.iter().map(|_| Results::default()).collect();
    for round in 0..options.rounds {
        for (place, (name, args)) in CASES.iter().enumerate() {
            eprintln!("round {} of {}: {name}", round + 1, options.rounds);
            // The order changes: neither always runs on a machine that the other has warmed.
            let mut order = [Kind::Etcd, Kind::Decklog];
            if round % 2 == 1 {
                order.reverse();
            }
            for kind in order {
                let program = if kind == Kind::Etcd { &etcd } else { &options.decklog };
                let server = Server::start(kind, program)?;
                let mut result = drive(&server, &options.decklog, args, &options.seconds)?;
                result["start_ms"] = json!(server.started_in.as_secs_f64() * 1e3);
                match kind {
                    Kind::Etcd => results[place].etcd.push(result),
                    Kind::Decklog => results[place].decklog.push(result),
                }
            }
        }
    }
    Ok(results)
}

/// What was measured last.
fn read() -> Result<Vec<Results>, String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/benchmarks.json");
    let text = std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let whole: Value = serde_json::from_str(&text).map_err(|error| format!("{path}: {error}"))?;
    let runs = |case: &Value, whose: &str| case[whose].as_array().cloned().unwrap_or_default();
    let cases = CASES.iter().enumerate().map(|(place, _)| &whole["cases"][place]);
    Ok(cases.map(|case| Results { etcd: runs(case, "etcd"), decklog: runs(case, "decklog") }).collect())
}

fn drive(server: &Server, tool: &str, args: &[&str], seconds: &str) -> Result<Value, String> {
    let output = Command::new(tool)
        .arg("bench")
        .args(args)
        .args(["--json", "--seconds", seconds, "--endpoint", &server.endpoint])
        .args(["--pid", &server.pid().to_string()])
        .output()
        .map_err(|error| format!("{tool}: {error}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(&text).map_err(|error| {
        format!("{}: {error}: {text}{}", args.join(" "), String::from_utf8_lossy(&output.stderr))
    })
}

/// A median with the smallest and largest.
#[derive(Clone, Copy)]
pub struct Spread {
    pub median: f64,
    pub low: f64,
    pub high: f64,
}

impl Spread {
    fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |place: usize| values.get(place).copied().unwrap_or(f64::NAN);
        let last = values.len().saturating_sub(1);
        // Of an even number of values, the middle of the two in the middle.
        let median = f64::midpoint(at(last / 2), at(last.div_ceil(2)));
        Self { median, low: at(0), high: at(last) }
    }
}

/// A case in the table: for each measure, how much better Decklog was, and both medians.
pub struct Row {
    pub name: String,
    /// Above 1: Decklog is better.
    pub better: Vec<Spread>,
    medians: Vec<(f64, f64)>,
}

impl Row {
    fn of(name: &str, results: &Results) -> Self {
        let number =
            |value: &Value, pointer: &str| value.pointer(pointer).and_then(Value::as_f64).unwrap_or(f64::NAN);
        let (mut better, mut medians) = (Vec::new(), Vec::new());
        for (_, pointer, more_is_better) in MEASURES {
            let pairs = results.etcd.iter().zip(&results.decklog);
            let ratios = pairs.map(|(etcd, decklog)| {
                let ratio = number(decklog, pointer) / number(etcd, pointer);
                if more_is_better { ratio } else { 1.0 / ratio }
            });
            better.push(Spread::of(ratios.collect()));
            let median = |values: &[Value]| {
                Spread::of(values.iter().map(|value| number(value, pointer)).collect()).median
            };
            medians.push((median(&results.etcd), median(&results.decklog)));
        }
        Self { name: name.to_owned(), better, medians }
    }
}

fn median_of(results: &[Results], pick: impl Fn(&Results) -> &Vec<Value>, key: &str) -> f64 {
    let values =
        results.iter().flat_map(|result| pick(result).iter().filter_map(|value| value[key].as_f64()));
    Spread::of(values.collect()).median
}

fn table(rows: &[Row], options: &Options, results: &[Results]) -> String {
    let mut text = format!(
        "Median of {} rounds of {} s (smallest to largest); above 1, Decklog is better.\n\n\
         | case | throughput | etcd, Decklog per s | p99 | etcd, Decklog us | CPU per operation | etcd, Decklog us |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
        options.rounds, options.seconds
    );
    for row in rows {
        text += &format!("| {} ", row.name);
        for (spread, (etcd, decklog)) in row.better.iter().zip(&row.medians) {
            // No latency of its own: an event is counted when it comes.
            if spread.median.is_finite() {
                let Spread { median, low, high } = spread;
                text += &format!(
                    "| **{median:.2}** ({low:.2} to {high:.2}) | {}, {} ",
                    figure(*etcd),
                    figure(*decklog)
                );
            } else {
                text += "| | ";
            }
        }
        text += "|\n";
    }
    let start = |pick: fn(&Results) -> &Vec<Value>| median_of(results, pick, "start_ms");
    text += &format!(
        "\nStart on an empty directory until it serves: etcd {:.0} ms, Decklog {:.0} ms (median).\n",
        start(|results| &results.etcd),
        start(|results| &results.decklog)
    );
    text
}

fn figure(number: f64) -> String {
    if number >= 100.0 { format!("{number:.0}") } else { format!("{number:.1}") }
}

fn write(rows: &[Row], options: &Options, results: &[Results]) -> Result<(), String> {
    let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/docs");
    let cases: Vec<Value> = CASES
        .iter()
        .zip(results)
        .map(|((name, args), results)| json!({"case": name, "arguments": args, "etcd": results.etcd, "decklog": results.decklog}))
        .collect();
    let whole = json!({"rounds": options.rounds, "seconds": options.seconds, "cases": cases});
    let text = serde_json::to_string_pretty(&whole).map_err(|error| error.to_string())?;
    std::fs::write(format!("{docs}/benchmarks.json"), text + "\n").map_err(|error| error.to_string())?;
    std::fs::write(format!("{docs}/benchmarks.svg"), chart::draw(rows)).map_err(|error| error.to_string())
}

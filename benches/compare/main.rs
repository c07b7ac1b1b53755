//! Decklog beside etcd: both are started in turn on fresh directories, round after round, and driven by the same
//! load. Prints a table of ratios with their spread; writes figures and a chart below docs, and with `--readme` the table
//! into the README.
//!
//! `cargo bench --bench compare -- --rounds 5 --seconds 4` for one member, `-- --members 3` for three; etcd is looked for in
//! `$DECKLOG_PEERS` and PATH.

mod alone;
mod chart;
mod client;
mod load;
mod report;
mod servers;
mod three;

use std::process::ExitCode;

use report::Report;
use servers::Programs;

struct Options {
    members: usize,
    decklog: String,
    /// Measure nothing: make table and chart again from the figures below docs.
    redraw: bool,
    /// Write the table into README.md.
    readme: bool,
    of_three: three::Options,
}

const KNOWN: &str =
    "--members 1 or 3, --rounds, --seconds, --kills, --keys, --decklog PROGRAM, --redraw, --readme";

impl Options {
    fn parse() -> Result<Self, String> {
        let decklog = concat!(env!("CARGO_MANIFEST_DIR"), "/target/release/decklog").to_owned();
        let of_three = three::Options { rounds: 5, seconds: "4".to_owned(), kills: 10, keys: 1_000_000 };
        let mut options = Self { members: 1, decklog, redraw: false, readme: false, of_three };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--members" => options.members = number(&arg, &value()?)?,
                "--rounds" => options.of_three.rounds = number(&arg, &value()?)?,
                "--kills" => options.of_three.kills = number(&arg, &value()?)?,
                "--keys" => options.of_three.keys = number(&arg, &value()?)?,
                "--seconds" => options.of_three.seconds = value()?,
                "--decklog" => options.decklog = value()?,
                "--redraw" => options.redraw = true,
                "--readme" => options.readme = true,
                // Cargo says so to every bench.
                "--bench" => {}
                _ => return Err(format!("unknown argument {arg}: there are {KNOWN}")),
            }
        }
        if !matches!(options.members, 1 | 3) {
            return Err(format!("--members {}: there are 1 and 3", options.members));
        }
        Ok(options)
    }
}

fn number<T: std::str::FromStr<Err: std::fmt::Display>>(flag: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("{flag} {text}: {error}"))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let done = match Options::parse() {
        Ok(options) => run(options).await,
        Err(error) => Err(error),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), String> {
    let report = if options.redraw {
        Report::read(options.members)?
    } else {
        let three::Options { rounds, seconds, .. } = &options.of_three;
        let programs = Programs { etcd: servers::find_etcd()?, decklog: options.decklog.clone() };
        let cases = match options.members {
            1 => alone::measure(&programs, *rounds, seconds).await?,
            _ => three::measure(&programs, &options.of_three).await?,
        };
        Report { members: options.members, rounds: *rounds, seconds: seconds.clone(), cases }
    };
    println!("{}", report.table());
    report.write()?;
    if options.readme { report.write_into_readme() } else { Ok(()) }
}

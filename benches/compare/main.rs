//! Decklog beside etcd: both are started in turn on fresh directories, round after round, and driven by the same
//! load. Prints a table of ratios with their spread; writes figures and a chart below docs, and with `--write` the tables
//! into README.md and docs/performance.md.
//!
//! `cargo bench --bench compare -- --rounds 5 --seconds 4` for one member, `-- --members 3` for three, `-- --store` for what a
//! full store takes, `-- --limits` for the limits that Decklog is held to by itself. etcd is looked for in `$DECKLOG_PEERS`
//! and PATH.

mod alone;
mod busy;
mod chart;
mod client;
mod echo;
mod goals;
mod limits;
mod load;
mod options;
mod report;
mod servers;
mod stopped;
mod store;
mod table;
mod three;
mod used;

use std::process::ExitCode;

use options::Options;
use report::{Mode, Report};
use servers::Programs;

fn main() -> ExitCode {
    if std::env::args().nth(1).is_some_and(|arg| arg == echo::FLAG) {
        return ended(echo::serve());
    }
    ended(Options::parse().and_then(|options| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.map_err(|error| error.to_string())?.block_on(run(options))
    }))
}

fn ended(result: Result<(), String>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compare: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(options: Options) -> Result<(), String> {
    let report = if options.redraw {
        Report::read(options.mode)?
    } else {
        let measured = used::circumstances()?;
        let programs = Programs { etcd: servers::find_etcd()?, decklog: options.decklog.clone() };
        let cases = match options.mode {
            Mode::Alone => alone::measure(&programs, &options).await?,
            Mode::Three => three::measure(&programs, &options).await?,
            Mode::Store => store::measure(&programs, &options).await?,
            Mode::Limits => limits::measure(&programs, &options).await?,
        };
        Report {
            mode: options.mode,
            rounds: options.rounds,
            seconds: options.seconds,
            rate: options.rate,
            measured,
            cases,
        }
    };
    println!("{}", table::of(&report));
    if options.only.is_some() {
        return Ok(());
    }
    report.write()?;
    if options.write { report.write_tables() } else { Ok(()) }
}

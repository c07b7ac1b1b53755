//! `decklog bench`: a load tool for any server that speaks the etcd v3 API.
//! Knows nothing of our server: it drives it, or etcd, from outside. It sends requests that are encoded already and
//! does not decode answers, so that what is measured is the server.

mod cases;
mod codec;
mod connections;
mod cpu;
mod drive;
mod report;
mod steering;
mod watching;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};

/// What is driven.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Case {
    /// Puts of random keys.
    Put,
    /// Puts of every key once; it ends with the last of them.
    Fill,
    /// Ranges of one key.
    Range,
    /// Transactions with one compare and one put.
    TxnPut,
    /// Four ranges to one put.
    Mixed,
    /// Puts of one key that many watchers watch; an operation is an event delivered.
    WatchFanout,
    /// Puts of keys that have one watcher each; an operation is a put.
    WatchKeys,
    /// From a put to its event at a watcher.
    WatchLatency,
    /// Renewals of leases, one lease and one stream per client.
    LeaseKeepalive,
    /// Ranges over all keys, or over pages of them.
    RangeMany,
}

/// Drives a server and reports throughput, latencies, errors and the server's CPU time.
#[derive(Clone, Debug, Parser)]
#[command(name = "decklog bench")]
pub struct Options {
    /// What to drive.
    pub case: Case,
    /// Where the server is; several are used in turn.
    #[arg(long = "endpoint", default_value = "http://127.0.0.1:2379")]
    pub endpoints: Vec<String>,
    /// Requests in flight; for watch-fanout and watch-keys the number of watchers.
    #[arg(long, default_value_t = 100)]
    pub clients: usize,
    /// Streams that carry the watchers; without it each has its own.
    #[arg(long)]
    pub streams: Option<usize>,
    /// Puts in flight of watch-fanout and watch-keys: one is over when all watchers have its event.
    #[arg(long, default_value_t = 1)]
    pub writers: usize,
    /// Connections that carry them.
    #[arg(long, default_value_t = 10)]
    pub connections: usize,
    #[arg(long, default_value_t = 24)]
    pub key_size: usize,
    #[arg(long, default_value_t = 256)]
    pub value_size: usize,
    /// Distinct keys.
    #[arg(long, default_value_t = 10_000)]
    pub keys: u64,
    /// Stop after so many operations.
    #[arg(long)]
    pub total: Option<u64>,
    /// Stop after so many seconds of measuring.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// Seconds before measuring begins.
    #[arg(long, default_value_t = 1.0)]
    pub warm_up: f64,
    /// Measure from a line on standard input until it ends, instead of by time.
    #[arg(long)]
    pub steered: bool,
    /// Operations per second, sent when they are due whatever became of those before; without it each client
    /// sends its next request when the last is answered.
    #[arg(long)]
    pub rate: Option<f64>,
    /// Ranges that need not be linearizable.
    #[arg(long)]
    pub serializable: bool,
    /// Keys in an answer to range-many, which then begins anywhere; 0 for all keys.
    #[arg(long, default_value_t = 0)]
    pub limit: u64,
    /// Let range-many count the keys only.
    #[arg(long)]
    pub count_only: bool,
    /// Put all keys first (ranges need some).
    #[arg(long)]
    pub fill: bool,
    /// A server's process: its CPU time, context switches and memory are reported; of several, the sums.
    #[arg(long = "pid")]
    pub pids: Vec<u32>,
    /// Print one JSON object.
    #[arg(long)]
    pub json: bool,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

/// Runs the tool with the arguments behind `bench`.
pub fn run(args: Vec<OsString>) -> ExitCode {
    let options = match Options::try_parse_from(std::iter::once(OsString::from("decklog bench")).chain(args))
    {
        Ok(options) => options,
        Err(error) => {
            // Help goes to standard output and is no failure.
            return if error.print().is_ok() && !error.use_stderr() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            };
        }
    };
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.to_string()),
    };
    match runtime.block_on(drive::drive(&options)) {
        Ok(result) => {
            println!("{}", if options.json { result.json().to_string() } else { result.text() });
            if result.operations() == 0 { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
        Err(error) => fail(&error.to_string()),
    }
}

fn fail(error: &str) -> ExitCode {
    eprintln!("decklog bench: {error}");
    ExitCode::FAILURE
}

//! What the command line asks for.

use crate::report::Mode;

const KNOWN: &str = "--members 1 or 3, --store, --limits, --large, --rounds, --seconds, --kills, --keys, --rate, \
                     --only TEXT, --decklog PROGRAM, --redraw, --write";

pub struct Options {
    pub mode: Mode,
    pub rounds: usize,
    pub seconds: f64,
    /// Leaders killed.
    pub kills: usize,
    /// In a full store.
    pub keys: u64,
    /// Puts per second of an open loop.
    pub rate: f64,
    /// Among the limits, those of 4 GiB, too.
    pub large: bool,
    /// Measure only what has this in its name, and write no file.
    pub only: Option<String>,
    pub decklog: String,
    /// Measure nothing: make table and chart again from the figures below docs.
    pub redraw: bool,
    /// Write the tables into README.md and docs/performance.md.
    pub write: bool,
}

impl Options {
    /// # Errors
    /// When an argument is not known, or a value is none.
    pub fn parse() -> Result<Self, String> {
        let mut options = Self {
            mode: Mode::Alone,
            rounds: 5,
            seconds: 4.0,
            kills: 10,
            keys: 1_000_000,
            rate: 5000.0,
            large: false,
            only: None,
            decklog: concat!(env!("CARGO_MANIFEST_DIR"), "/target/release/decklog").to_owned(),
            redraw: false,
            write: false,
        };
        let mut args = std::env::args().skip(1);
        while let Some(arg) = args.next() {
            let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "--members" => options.mode = of_members(&value()?)?,
                "--store" => options.mode = Mode::Store,
                "--limits" => options.mode = Mode::Limits,
                "--large" => options.large = true,
                "--rounds" => options.rounds = number(&arg, &value()?)?,
                "--seconds" => options.seconds = number(&arg, &value()?)?,
                "--kills" => options.kills = number(&arg, &value()?)?,
                "--keys" => options.keys = number(&arg, &value()?)?,
                "--rate" => options.rate = number(&arg, &value()?)?,
                "--only" => options.only = Some(value()?),
                "--decklog" => options.decklog = value()?,
                "--redraw" => options.redraw = true,
                "--write" => options.write = true,
                // Cargo says so to every bench.
                "--bench" => {}
                _ => return Err(format!("unknown argument {arg}: there are {KNOWN}")),
            }
        }
        Ok(options)
    }

    /// Whether what has this name is to be measured.
    pub fn wants(&self, name: &str) -> bool {
        self.only.as_ref().is_none_or(|only| name.contains(only.as_str()))
    }
}

fn of_members(text: &str) -> Result<Mode, String> {
    match text {
        "1" => Ok(Mode::Alone),
        "3" => Ok(Mode::Three),
        _ => Err(format!("--members {text}: there are 1 and 3")),
    }
}

fn number<T: std::str::FromStr<Err: std::fmt::Display>>(flag: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|error| format!("{flag} {text}: {error}"))
}

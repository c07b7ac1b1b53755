//! Log lines as etcd's users know them: one JSON object a line, or words for a console.

use std::fmt;
use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

use crate::config::LogConfig;

/// Why lines cannot go where they should.
#[derive(Debug, thiserror::Error)]
#[error("cannot open the log file {path} of --log-outputs: {source}")]
pub struct Error {
    path: String,
    source: io::Error,
}

/// Begins to log. Called once.
///
/// # Errors
/// When a log file cannot be opened.
pub fn begin(config: &LogConfig) -> Result<(), Error> {
    let outputs = Outputs::open(&config.outputs)?;
    let level = match config.level.as_str() {
        "debug" => LevelFilter::DEBUG,
        "warn" => LevelFilter::WARN,
        "error" | "dpanic" | "panic" | "fatal" => LevelFilter::ERROR,
        _ => LevelFilter::INFO,
    };
    let builder = tracing_subscriber::fmt().with_max_level(level).with_writer(outputs);
    // A second call, as in tests with several servers, finds the first still in place.
    let begun = if config.json {
        tracing::subscriber::set_global_default(builder.event_format(JsonLines).finish())
    } else {
        tracing::subscriber::set_global_default(builder.with_ansi(false).finish())
    };
    if let Err(error) = begun {
        tracing::debug!(%error, "logging has begun already");
    }
    Ok(())
}

/// Where lines go: all of them to each.
struct Outputs(Vec<Output>);

#[derive(Clone)]
enum Output {
    Stderr,
    Stdout,
    File(Arc<File>),
}

impl Outputs {
    fn open(names: &[String]) -> Result<Self, Error> {
        let open = |name: &String| match name.as_str() {
            "default" | "stderr" => Ok(Output::Stderr),
            "stdout" => Ok(Output::Stdout),
            path => match File::options().create(true).append(true).open(path) {
                Ok(file) => Ok(Output::File(Arc::new(file))),
                Err(source) => Err(Error { path: path.to_owned(), source }),
            },
        };
        Ok(Self(names.iter().map(open).collect::<Result<_, _>>()?))
    }
}

/// One line on its way.
struct Line(Vec<Output>);

impl Write for Line {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for output in &self.0 {
            match output {
                Output::Stderr => io::stderr().write_all(bytes)?,
                Output::Stdout => io::stdout().write_all(bytes)?,
                Output::File(file) => (&**file).write_all(bytes)?,
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Outputs {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line(self.0.clone())
    }
}

/// `{"level":"info","ts":"...","caller":"...","msg":"...", fields}`
struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        _: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let mut ts = String::new();
        SystemTime.format_time(&mut Writer::new(&mut ts))?;
        let level = match *metadata.level() {
            Level::ERROR => "error",
            Level::WARN => "warn",
            Level::INFO => "info",
            _ => "debug",
        };
        let mut fields = Fields(Map::new());
        event.record(&mut fields);
        let message = fields.0.remove("message").unwrap_or_default();
        let (target, line) = (metadata.target(), metadata.line().unwrap_or(0));
        let caller = Value::from(format!("{target}:{line}"));
        let (ts, rest) = (Value::from(ts), Value::from(fields.0).to_string());
        write!(writer, "{{\"level\":\"{level}\",\"ts\":{ts},\"caller\":{caller},\"msg\":{message}")?;
        if rest.len() > 2 {
            write!(writer, ",{}", &rest[1..rest.len() - 1])?;
        }
        writeln!(writer, "}}")
    }
}

struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0.insert(field.name().to_owned(), Value::from(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), Value::from(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), Value::from(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), Value::from(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), Value::from(value));
    }
}

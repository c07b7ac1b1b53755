//! A value other than the default for each flag, and the forms in which it can be given.

use decklog::config::flags::{Flag, Kind};
use serde_json::{Value, json};

/// A value for a flag, with the flags that it cannot do without.
pub struct Sample {
    flag: &'static Flag,
    pub value: String,
    pub companions: &'static [(&'static str, &'static str)],
}

type Companions = &'static [(&'static str, &'static str)];

const URL: &str = "http://127.0.0.1:23790";

impl Sample {
    pub fn of(flag: &'static Flag) -> Self {
        let (value, companions): (&str, Companions) = match flag.name {
            "listen-client-urls" => (URL, &[("advertise-client-urls", URL)]),
            "initial-cluster" => ("default=http://127.0.0.1:23790", &[("initial-advertise-peer-urls", URL)]),
            "election-timeout" => ("1234", &[]),
            "initial-cluster-state" => ("existing", &[]),
            "auto-compaction-retention" => ("90m", &[]),
            "auto-compaction-mode" => ("revision", &[("auto-compaction-retention", "1000")]),
            "max-concurrent-streams" => ("100", &[]),
            "metrics" => ("extensive", &[]),
            "log-level" => ("debug", &[]),
            "log-format" => ("console", &[]),
            "log-outputs" => ("stdout", &[]),
            _ => (by_kind(flag), &[]),
        };
        Self { flag, value: value.to_owned(), companions }
    }

    /// The companions as arguments, with others behind them.
    pub fn with_companions(&self, args: &[String]) -> Vec<String> {
        let companions = self.companions.iter().map(|(name, value)| format!("--{name}={value}"));
        companions.chain(args.iter().cloned()).collect()
    }

    /// Arguments that say the same as `--flag=value`.
    pub fn other_arguments(&self) -> Vec<Vec<String>> {
        let (name, value) = (self.flag.name, &self.value);
        let mut forms = vec![vec![format!("-{name}={value}")]];
        if self.flag.kind != Kind::Bool {
            forms.push(vec![format!("--{name}"), value.clone()]);
            forms.push(vec![format!("-{name}"), value.clone()]);
        } else if value == "true" {
            forms.extend([vec![format!("--{name}")], vec![format!("-{name}")]]);
            forms.extend(["1", "t", "T", "TRUE", "True"].map(|word| vec![format!("--{name}={word}")]));
        } else {
            forms.extend(["0", "f", "F", "FALSE", "False"].map(|word| vec![format!("--{name}={word}")]));
        }
        forms
    }

    /// Configuration files that say the same: YAML and JSON, with the value as text and in its own type.
    pub fn files(&self) -> Vec<String> {
        let text = |value: &str| Value::from(value);
        let mut own = match self.flag.kind {
            Kind::Unsigned | Kind::Signed => vec![json!(self.value.parse::<i64>().expect("a number"))],
            Kind::Bool => vec![json!(self.value == "true")],
            // As etcd's files have it: in nanoseconds.
            Kind::Duration => vec![json!(7_000_000_000_u64)],
            Kind::Urls => vec![json!([self.value])],
            Kind::Text => Vec::new(),
        };
        own.push(text(&self.value));
        let mut files = Vec::new();
        for value in own {
            let mut map = serde_json::Map::new();
            map.extend(self.companions.iter().map(|(name, value)| ((*name).to_owned(), text(value))));
            map.insert(self.flag.name.to_owned(), value);
            files.push(map.iter().map(|(key, value)| format!("{key}: {value}\n")).collect());
            files.push(Value::from(map).to_string());
        }
        files
    }
}

fn by_kind(flag: &Flag) -> &'static str {
    match flag.kind {
        Kind::Text => "sample",
        Kind::Bool if flag.default == "true" => "false",
        Kind::Bool => "true",
        Kind::Unsigned => "123",
        Kind::Signed => "1073741824",
        Kind::Duration => "7s",
        Kind::Urls => URL,
    }
}

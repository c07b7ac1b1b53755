//! Raw values: flags, variables or a file, checked for their form alone. One place to ask for each.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use super::flags::{self, Flag, Kind, Use};
use super::{Error, Url, duration, file};

/// Flags that only the command line has.
const COMMAND_LINE_ONLY: [&str; 3] = ["config-file", "version", "help"];
/// Flags beside those of discovery that only the first start of a member reads, as in etcd.
const FIRST_START_ONLY: [&str; 3] = ["initial-cluster", "initial-cluster-state", "initial-cluster-token"];
/// Variables that look like flags and are none.
const NOT_FLAGS: [&str; 2] = ["ETCD_VERSION", "ETCD_CONFIG_FILE"];

/// What was given, by flag.
#[derive(Debug, Default)]
pub struct Values {
    given: BTreeMap<&'static str, String>,
    pub warnings: Vec<String>,
}

/// What the command line asks for before any value counts.
#[derive(Debug)]
pub enum Asked {
    Values(Values),
    Version,
    Help,
}

/// Reads arguments and variables, or the file that they name instead.
///
/// # Errors
/// See `Error`.
pub fn read(args: Vec<OsString>, env: &[(OsString, OsString)]) -> Result<Asked, Error> {
    let mut values = Values::default();
    let mut config_file = variable(env, "ETCD_CONFIG_FILE");
    let mut args = args.into_iter().map(text).collect::<Result<Vec<_>, _>>()?.into_iter().peekable();
    while let Some(arg) = args.next() {
        let Some(body) =
            arg.strip_prefix("--").or_else(|| arg.strip_prefix('-')).filter(|body| !body.is_empty())
        else {
            return Err(Error::NotAFlag(arg));
        };
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        match name {
            "version" => return Ok(Asked::Version),
            "help" | "h" => return Ok(Asked::Help),
            _ => {}
        }
        let is_bool = flags::find(name).is_some_and(|flag| flag.kind == Kind::Bool);
        let value = match value {
            Some(value) => value,
            None if is_bool => "true".to_owned(),
            None if flags::find(name).is_none() && name != "config-file" => return Err(unknown(name)),
            None => args.next().ok_or_else(|| Error::NeedsValue(name.to_owned()))?,
        };
        if name == "config-file" {
            config_file = Some(value);
        } else {
            values.set(name, value)?;
        }
    }
    if let Some(path) = config_file {
        return file::read(&path, !values.given.is_empty()).map(Asked::Values);
    }
    values.add_variables(env)?;
    Ok(Asked::Values(values))
}

fn text(arg: OsString) -> Result<String, Error> {
    arg.into_string().map_err(|arg| Error::NotAFlag(arg.to_string_lossy().into_owned()))
}

fn variable(env: &[(OsString, OsString)], name: &str) -> Option<String> {
    let found = env.iter().find(|(key, value)| key == name && !value.is_empty());
    found.map(|(_, value)| value.to_string_lossy().into_owned())
}

impl Values {
    /// Takes a value of a flag; a later one replaces an earlier.
    ///
    /// # Errors
    /// `UnknownFlag`, `Value`.
    pub fn set(&mut self, name: &str, value: String) -> Result<(), Error> {
        let Some(flag) = flags::find(name) else {
            return Err(unknown(name));
        };
        check_form(flag, &value)?;
        self.given.insert(flag.name, value);
        Ok(())
    }

    fn add_variables(&mut self, env: &[(OsString, OsString)]) -> Result<(), Error> {
        for (key, value) in env {
            let (key, value) = (key.to_string_lossy(), value.to_string_lossy());
            let Some(rest) = key.strip_prefix("ETCD_") else {
                continue;
            };
            if NOT_FLAGS.contains(&key.as_ref()) || value.is_empty() {
                continue;
            }
            let name = rest.to_ascii_lowercase().replace('_', "-");
            let Some(flag) = flags::find(&name) else {
                self.warnings.push(format!("unrecognized environment variable {key}={value}"));
                continue;
            };
            if self.given.contains_key(flag.name) {
                return Err(Error::Shadowed { variable: key.into_owned(), flag: flag.name });
            }
            check_form(flag, &value)?;
            self.given.insert(flag.name, value.into_owned());
        }
        Ok(())
    }

    pub fn is_given(&self, name: &str) -> bool {
        self.given.contains_key(name)
    }

    /// The value of a flag: given, or its default.
    pub fn text(&self, name: &'static str) -> &str {
        let default = || flags::find(name).map_or("", |flag| flag.default);
        self.given.get(name).map_or_else(default, String::as_str)
    }

    pub fn bool(&self, name: &'static str) -> bool {
        go_bool(self.text(name)) == Some(true)
    }

    pub fn unsigned(&self, name: &'static str) -> u64 {
        self.text(name).parse().unwrap_or(0)
    }

    pub fn signed(&self, name: &'static str) -> i64 {
        self.text(name).parse().unwrap_or(0)
    }

    pub fn duration(&self, name: &'static str) -> Duration {
        duration::parse(self.text(name)).unwrap_or_default()
    }

    pub fn urls(&self, name: &'static str) -> Vec<Url> {
        parse_urls(self.text(name)).unwrap_or_default()
    }

    /// Forgets what only the first start of a member asks for.
    pub fn forget_first_start(&mut self) {
        self.given.retain(|name, _| {
            let is_first_start = name.starts_with("discovery") || FIRST_START_ONLY.contains(name);
            !is_first_start
        });
    }

    /// Refuses what must not be ignored, and notes what is.
    ///
    /// # Errors
    /// `Refused`.
    pub fn check_uses(&mut self) -> Result<(), Error> {
        for (name, value) in &self.given {
            let Some(flag) = flags::find(name) else {
                continue;
            };
            match flag.action {
                Use::Refused(why) if !is_default(flag, value) => {
                    return Err(Error::Refused { flag: flag.name, value: value.clone(), why });
                }
                Use::Ignored(why) if !is_default(flag, value) => {
                    self.warnings.push(format!("--{name} has no effect: {why}"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// However it is written.
fn is_default(flag: &Flag, value: &str) -> bool {
    let same = match flag.kind {
        Kind::Bool => go_bool(value) == go_bool(flag.default),
        Kind::Duration => duration::parse(value) == duration::parse(flag.default),
        Kind::Text | Kind::Unsigned | Kind::Signed | Kind::Urls => false,
    };
    same || value == flag.default
}

/// What Go's `strconv.ParseBool` takes.
fn go_bool(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn parse_urls(text: &str) -> Result<Vec<Url>, super::UrlError> {
    text.split(',').filter(|url| !url.trim().is_empty()).map(Url::parse).collect()
}

fn check_form(flag: &'static Flag, value: &str) -> Result<(), Error> {
    let wrong = |what: String| Err(Error::Value { flag: flag.name, value: value.to_owned(), what });
    match flag.kind {
        Kind::Text => Ok(()),
        Kind::Bool if go_bool(value).is_some() => Ok(()),
        Kind::Bool => wrong("it must be true or false".to_owned()),
        Kind::Unsigned if value.parse::<u64>().is_ok_and(|number| u32::try_from(number).is_ok()) => Ok(()),
        Kind::Unsigned => wrong("it must be a whole number from 0 to 4294967295".to_owned()),
        Kind::Signed if value.parse::<i64>().is_ok() => Ok(()),
        Kind::Signed => wrong("it must be a whole number".to_owned()),
        Kind::Duration if duration::parse(value).is_some() => Ok(()),
        Kind::Duration => wrong("it must be a time such as 10s or 1h30m".to_owned()),
        Kind::Urls => parse_urls(value).map(drop).or_else(|error| wrong(error.to_string())),
    }
}

/// An unknown name, with what may have been meant.
pub fn unknown(name: &str) -> Error {
    let hint = if let Some(stable) = name.strip_prefix("experimental-") {
        let successor =
            flags::find(stable).map_or(String::new(), |flag| format!("; --{} took its place", flag.name));
        format!("etcd 3.7 has no --experimental flags any more{successor}")
    } else {
        let names = flags::all().map(|flag| flag.name).chain(COMMAND_LINE_ONLY);
        match names.map(|known| (distance(name, known), known)).min() {
            Some((near, known)) if near <= 3 => format!("did you mean --{known}?"),
            _ => "--help lists all flags".to_owned(),
        }
    };
    Error::UnknownFlag { name: name.to_owned(), hint }
}

/// Letters to change, add or take away to make one name the other.
fn distance(left: &str, right: &str) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in right.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[right.len()]
}

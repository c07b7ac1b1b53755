//! The configuration file: YAML or JSON, keys named as flags. Durations as nanoseconds, as etcd has them, or as
//! people write them. An unknown key is refused: etcd ignores it, and typing errors go unseen.

use serde_json::Value;

use super::flags::{self, Kind};
use super::values::{self, Values};
use super::{Error, duration};

/// Blocks of keys with a name of their own; every key in them belongs to TLS.
const TLS_BLOCKS: [&str; 2] = ["client-transport-security", "peer-transport-security"];

/// Reads a file; `others_given`: flags stand beside it, which then do not count.
///
/// # Errors
/// `File`, and what values are refused for.
pub fn read(path: &str, others_given: bool) -> Result<Values, Error> {
    let fault = |what: String| Error::File { path: path.to_owned(), what };
    let text = std::fs::read_to_string(path).map_err(|error| fault(error.to_string()))?;
    let parsed: Value = serde_saphyr::from_str(&text).map_err(|error| {
        // Below its first line the parser shows the place in the text.
        let told = error.to_string();
        let line = told.lines().next().unwrap_or_default();
        fault(line.strip_prefix("error: ").unwrap_or(line).to_owned())
    })?;
    let map = match parsed {
        Value::Object(map) => map,
        Value::Null => serde_json::Map::new(),
        _ => return Err(fault("it must be a map of flag names to values".to_owned())),
    };
    let mut read = Values::default();
    if others_given {
        read.warnings
            .push(format!("--config-file {path} is given: all other flags and variables are ignored"));
    }
    for (key, value) in map {
        if TLS_BLOCKS.contains(&key.as_str()) {
            check_tls_block(&key, &value)?;
            continue;
        }
        if value.is_null() {
            continue;
        }
        let Some(flag) = flags::find(&key) else {
            let Error::UnknownFlag { hint, .. } = values::unknown(&key) else {
                return Err(fault(format!("unknown key {key:?}")));
            };
            return Err(fault(format!("unknown key {key:?}: {}", hint.replace("--", ""))));
        };
        let text = to_text(flag.kind, &value)
            .ok_or_else(|| fault(format!("the value of {key:?} has a wrong form: {value}")))?;
        read.set(flag.name, text)?;
    }
    Ok(read)
}

/// A block with anything set asks for TLS.
fn check_tls_block(key: &str, value: &Value) -> Result<(), Error> {
    let is_set = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        _ => true,
    };
    let asked = value.as_object().is_some_and(|block| block.values().any(is_set));
    if asked {
        let why = "TLS comes in a later version; without it connections would be open";
        let flag = if key.starts_with("peer") { "peer-cert-file" } else { "cert-file" };
        return Err(Error::Refused { flag, value: format!("{key} in the file"), why });
    }
    Ok(())
}

fn to_text(kind: Kind, value: &Value) -> Option<String> {
    match (kind, value) {
        (Kind::Duration, Value::Number(nanoseconds)) => Some(format!("{}ns", nanoseconds.as_u64()?)),
        (Kind::Duration, Value::String(text)) => duration::parse(text).map(|_| text.clone()),
        (_, Value::String(text)) => Some(text.clone()),
        (_, Value::Number(number)) => Some(number.to_string()),
        (_, Value::Bool(flag)) => Some(flag.to_string()),
        (Kind::Urls | Kind::Text, Value::Array(list)) => {
            let texts: Option<Vec<&str>> = list.iter().map(Value::as_str).collect();
            Some(texts?.join(","))
        }
        _ => None,
    }
}

//! The configuration file: YAML or JSON, keys named as flags. Durations as nanoseconds, as etcd has them, or as
//! people write them. An unknown key is refused: etcd ignores it, and typing errors go unseen.

use serde_json::Value;

use super::flags::{self, Kind};
use super::values::{self, Values};
use super::{Error, duration};

const NO_TLS: &str = "TLS comes in a later version; without it connections would be open";
const NO_DISCOVERY: &str = "discovery comes in a later version; name the members with --initial-cluster";

/// Blocks of keys that are refused when anything in them is set: the block, the flag it stands for, and why.
const REFUSED_BLOCKS: [(&str, &str, &str); 3] = [
    ("client-transport-security", "cert-file", NO_TLS),
    ("peer-transport-security", "peer-cert-file", NO_TLS),
    ("discovery-config", "discovery-endpoints", NO_DISCOVERY),
];
/// The block whose keys are flags without their first word.
const SOCKET_BLOCK: &str = "socket-options";

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
        if let Some((_, flag, why)) = REFUSED_BLOCKS.iter().find(|(block, _, _)| *block == key) {
            if is_set(&value) {
                return Err(Error::Refused { flag, value: format!("{key} in the file"), why });
            }
        } else if let (SOCKET_BLOCK, Value::Object(options)) = (key.as_str(), &value) {
            for (option, value) in options {
                set(&mut read, &format!("socket-{option}"), value, &fault)?;
            }
        } else {
            set(&mut read, &key, &value, &fault)?;
        }
    }
    Ok(read)
}

/// Takes one key; one without a value says nothing.
fn set(read: &mut Values, key: &str, value: &Value, fault: &dyn Fn(String) -> Error) -> Result<(), Error> {
    if value.is_null() {
        return Ok(());
    }
    let Some(flag) = flags::find(key) else {
        let Error::UnknownFlag { hint, .. } = values::unknown(key) else {
            return Err(fault(format!("unknown key {key:?}")));
        };
        return Err(fault(format!("unknown key {key:?}: {}", hint.replace("--", ""))));
    };
    let text = to_text(flag.kind, value)
        .ok_or_else(|| fault(format!("the value of {key:?} has a wrong form: {value}")))?;
    read.set(flag.name, text)
}

/// Whether a block asks for anything.
fn is_set(block: &Value) -> bool {
    match block {
        Value::Null | Value::Bool(false) => false,
        Value::String(text) => !text.is_empty(),
        Value::Array(list) => !list.is_empty(),
        Value::Object(map) => map.values().any(is_set),
        _ => true,
    }
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

//! What is wrong with a history: the rule, and one line for each thing that contradicts another.

use std::fmt;

use super::history::{Event, History, Operation, Outcome, Pair, Request, Response};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// More revisions than there were writes, or one below the first.
    Count,
    /// One revision, one write.
    RevisionOnce,
    /// Who begins after another has ended sees what that one saw.
    RealTime,
    /// Every answer is that of the state at its revision.
    Answer,
    /// What is compacted cannot be read any more.
    Compacted,
    /// Every revision has a cause: an acknowledged write, one whose outcome is unknown, or the end of a lease.
    Cause,
    /// A lease lives as long as was promised, and not after its end.
    Lease,
    /// A watch tells revisions in order, and the changes of one in order.
    Ordered,
    /// A watch tells nothing twice.
    Unique,
    /// A watch tells a revision at once.
    Atomic,
    /// A watch leaves out nothing.
    Reliable,
    /// A watch begins where it was asked to, or says that this is compacted.
    Resumable,
    /// A watch says how far it is only when that much was told.
    Bookmarkable,
    /// A watch tells nothing that it was not asked for.
    Filter,
    /// A watch tells what happened.
    Event,
    /// A watch tells the pair of the revision before.
    PrevKv,
    /// Too many ways to place what is unknown: neither right nor wrong was found.
    Undecided,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    pub rule: Rule,
    pub lines: Vec<String>,
}

impl Violation {
    pub fn new(rule: Rule, lines: impl IntoIterator<Item = String>) -> Self {
        Self { rule, lines: lines.into_iter().collect() }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the history breaks {:?}:", self.rule)?;
        self.lines.iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// A thing in a history that saw a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    Operation(usize),
    /// Watcher, session, response.
    Told(usize, usize, usize),
}

impl Source {
    pub fn line(self, history: &History) -> String {
        match self {
            Self::Operation(place) => history.operations[place].to_string(),
            Self::Told(watcher, place, told) => {
                let client = history.watchers[watcher].client;
                let session = &history.watchers[watcher].sessions[place];
                let (member, told) = (session.member, &session.told[told]);
                let (at, revision) = (millis(told.at_ns), told.revision);
                format!("watcher {client} at member {member}, {at} ms, revision {revision}: {:?}", told.what)
            }
        }
    }
}

fn millis(ns: u64) -> String {
    format!("{}.{:03}", ns / 1_000_000, ns / 1000 % 1000)
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { client, member, start_ns, end_ns, request, outcome } = self;
        let (start, end) = (millis(*start_ns), millis(*end_ns));
        write!(f, "client {client} at member {member}, {start}..{end} ms: {request} -> {outcome}")
    }
}

impl fmt::Display for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Put { key, value, lease: 0, .. } => write!(f, "put {key:?}={value:?}"),
            Self::Put { key, value, lease, .. } => write!(f, "put {key:?}={value:?} lease {lease}"),
            Self::Delete { keys, .. } => write!(f, "delete {:?}..{:?}", keys.key, keys.end),
            Self::Range(range) => {
                let kind = if range.serializable { "serializable range" } else { "range" };
                write!(f, "{kind} {:?}..{:?}", range.keys.key, range.keys.end)?;
                if range.revision > 0 { write!(f, " at {}", range.revision) } else { Ok(()) }
            }
            other => write!(f, "{other:?}"),
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok { revision, response } => write!(f, "revision {revision}, {response}"),
            Self::Failed => f.write_str("not done"),
            Self::Unknown => f.write_str("unknown"),
        }
    }
}

impl fmt::Display for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range { pairs, count, .. } => {
                write!(f, "{count} found")?;
                pairs.iter().try_for_each(|pair| write!(f, ", {pair}"))
            }
            other => write!(f, "{other:?}"),
        }
    }
}

impl fmt::Display for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, value, created, modified, version, lease } = self;
        write!(f, "{key:?}={value:?} (created {created}, modified {modified}, version {version}")?;
        if *lease != 0 { write!(f, ", lease {lease})") } else { f.write_str(")") }
    }
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_delete {
            true => write!(f, "delete of {:?} at {}", self.pair.key, self.pair.modified)?,
            false => write!(f, "put {}", self.pair)?,
        }
        self.prev.iter().try_for_each(|prev| write!(f, ", before {prev}"))
    }
}

//! When requests were sent and answered, told as the length of the trace at that moment: what is written down behind
//! an answer came after it, and a request has no effect before it is sent.

use std::path::{Path, PathBuf};

use crate::trace;

/// Looks at a trace; without one, no time passes.
#[derive(Clone, Debug, Default)]
pub struct Clock(Option<PathBuf>);

/// A request that had an effect, answered or not.
#[derive(Clone, Debug)]
pub struct Note<T> {
    pub sent: u64,
    pub answered: Option<u64>,
    pub effect: T,
}

impl Clock {
    pub fn of(trace: &Path) -> Self {
        Self(Some(trace.to_owned()))
    }

    pub fn now(&self) -> u64 {
        self.0.as_deref().map_or(0, trace::length)
    }
}

/// How many of the notes must have had their effect when the power is cut at `position`, and how many may have.
pub fn bounds<T>(notes: &[Note<T>], position: u64) -> (usize, usize) {
    let least = notes.iter().rposition(|note| note.answered.is_some_and(|at| at <= position));
    let most = notes.iter().position(|note| note.sent >= position);
    (least.map_or(0, |last| last + 1), most.unwrap_or(notes.len()))
}

//! What is done to a log while no raft runs over it: what a lost store must be made good with, and how the log goes on then.
//! Owns no state; every change is one record of the log.

use super::log::BEGINNING;
use crate::command::{self, Kind, MemberChange};
use crate::ids::{LogIndex, LogPosition, Term};
use crate::storage::Error;
use crate::storage::wal::{HardState, Wal, WalContent, WalEntry};

/// The kind of an entry that changes members.
pub(super) const CHANGE: u8 = 2;

/// The state that a log needs below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NeededState {
    /// It stands for this entry or a later one: the log has what follows.
    pub at_least: LogIndex,
    /// The log does not say how far it went: the state must hold everything that was ever acknowledged.
    pub confirmed: bool,
}

/// `None` for a log that follows nothing: its member has not begun.
pub fn needed_state(content: &WalContent) -> Option<NeededState> {
    let exactly = |at_least| Some(NeededState { at_least, confirmed: false });
    if let Some(first) = content.entries.first() {
        return exactly(LogIndex(first.index - 1));
    }
    if let Some(after) = content.begins_after {
        return exactly(after.index);
    }
    let commit = LogIndex(content.hard_state.commit);
    (commit > BEGINNING.index).then_some(NeededState { at_least: commit, confirmed: true })
}

/// Makes the log go on after a state that stands for `position`. Its entries behind that stay, for this member has
/// acknowledged them; when it does not come so far, or has never been part of the course that the state followed, it begins after
/// the state: durable when this returns, and after `decide` was called.
///
/// # Errors
/// `Damaged` when the state contradicts what this member knows to be committed; faults of the disk.
pub fn go_on_after(
    wal: &mut Wal,
    content: &mut WalContent,
    position: LogPosition,
    decide: impl FnOnce(),
) -> Result<(), Error> {
    let known = term_of(content, position.index);
    let is_before_first = content.entries.first().is_some_and(|first| first.index == position.index.0 + 1);
    // Of which term the entry before the first was may not be known any more, but that it was committed is.
    if known == Some(position.term) || (known.is_none() && is_before_first) {
        return Ok(());
    }
    if known.is_some() && position.index.0 <= content.hard_state.commit {
        let detail = format!(
            "its entry {} is committed and not of term {}, as in the state of the other member",
            position.index, position.term
        );
        return Err(Error::Damaged { place: "the raft log".to_owned(), detail });
    }
    let HardState { term, vote, .. } = content.hard_state;
    // It has voted for nobody in a term that it has not seen.
    let vote = if position.term.0 > term { 0 } else { vote };
    let hard_state = HardState { term: term.max(position.term.0), vote, commit: position.index.0 };
    decide();
    wal.begin_after(hard_state, position)?;
    wal.flush()?;
    content.hard_state = hard_state;
    content.begins_after = Some(position);
    content.entries.clear();
    Ok(())
}

fn term_of(content: &WalContent, index: LogIndex) -> Option<Term> {
    let Some(first) = content.entries.first().map(|first| first.index) else {
        return content.begins_after.filter(|after| after.index == index).map(|after| after.term);
    };
    if index.0 + 1 == first {
        return content.begins_after.filter(|after| after.index == index).map(|after| after.term);
    }
    let place = usize::try_from(index.0.checked_sub(first)?).ok()?;
    content.entries.get(place).map(|entry| Term(entry.term))
}

/// The changes of members that stand in a log behind `after`, in order.
///
/// # Errors
/// `Damaged` for an entry that is none of ours.
pub fn changes_in(content: &WalContent, after: LogIndex) -> Result<Vec<MemberChange>, Error> {
    let entries = content.entries.iter().filter(|entry| entry.index > after.0 && entry.kind == CHANGE);
    entries.map(change_of).collect()
}

fn change_of(entry: &WalEntry) -> Result<MemberChange, Error> {
    let damaged = |detail: String| Error::Damaged { place: format!("log entry {}", entry.index), detail };
    let batch = command::decode(entry.index, &entry.data).map_err(|error| damaged(error.to_string()))?;
    match batch.commands.into_iter().next().and_then(|command| command.kind) {
        Some(Kind::MemberChange(change)) => Ok(change),
        _ => Err(damaged("it holds no change of members".to_owned())),
    }
}

#[cfg(test)]
mod tests;

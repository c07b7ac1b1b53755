//! What is done to a log while no raft runs over it: what a lost store must be made good with, and how the log goes on then.
//! Owns no state; every change is one record of the log.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost::Message as _;

use super::log::{BEGINNING, check_fit};
use crate::command::{self, Batch, Kind, MemberChange};
use crate::ids::{LogIndex, LogPosition, MemberId, Term};
use crate::members::Membership;
use crate::storage::Error;
use crate::storage::wal::{HardState, Wal, WalContent, WalEntry};
use crate::wire::log::member_change::Kind as Change;

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

/// Makes `own` the only member of its cluster: everything in the log counts as committed, and behind it stand the changes
/// that drop the others, as of a term in which this member alone leads. One record: after a crash all of it is there or
/// nothing. Does nothing when it stands alone already.
///
/// # Errors
/// `NotAMember` when it has no state, or was removed; `Log` when log and store do not fit, for faults of the disk.
pub fn stand_alone(
    wal: &mut Wal,
    content: &mut WalContent,
    applied: LogPosition,
    mut members: Membership,
    own: MemberId,
) -> Result<(), super::Error> {
    check_fit(content, applied)?;
    for change in changes_in(content, applied.index)? {
        // As consensus and apply do: what the rules refuse changes nothing.
        if let Err(rejection) = members.apply(&change) {
            tracing::debug!(%rejection, "a change of members in the log does nothing");
        }
    }
    let Some(member) = members.get(own) else {
        return Err(super::Error::NotAMember(own));
    };
    let promotion = member.is_learner.then_some(Change::Promote(own.0));
    let others = members.list().into_iter().filter(|member| member.id != own.0);
    let changes: Vec<_> = promotion.into_iter().chain(others.map(|other| Change::Remove(other.id))).collect();
    if changes.is_empty() {
        return Ok(());
    }
    let last = content.entries.last().map_or(applied.index.0, |last| last.index);
    let newest = content.entries.last().map_or(0, |last| last.term);
    let term = 1 + content.hard_state.term.max(applied.term.0).max(newest);
    let entry = |(index, kind): (u64, Change)| WalEntry {
        index,
        term,
        kind: CHANGE,
        data: batch_of(own, MemberChange { kind: Some(kind), ..MemberChange::default() }),
    };
    let entries: Vec<_> = (last + 1..).zip(changes).map(entry).collect();
    let commit = last + entries.len() as u64;
    let hard_state = HardState { term, vote: own.0, commit };
    tracing::warn!(dropped = entries.len(), term, "this member stands alone from here on");
    wal.append(Some(hard_state), &entries)?;
    wal.flush()?;
    content.hard_state = hard_state;
    content.entries.extend(entries);
    Ok(())
}

/// Who belongs to `members`, those after `applied`, or comes after them, and is removed by what the log knows to be
/// committed: they are gone already, though the store does not say so yet.
///
/// # Errors
/// `Damaged` for an entry that is none of ours.
pub fn removed_in(
    content: &WalContent,
    applied: LogIndex,
    members: &Membership,
) -> Result<BTreeSet<MemberId>, Error> {
    let mut after = members.clone();
    for change in changes_between(content, applied, LogIndex(content.hard_state.commit))? {
        if let Err(rejection) = after.apply(&change) {
            tracing::debug!(%rejection, "a change of members in the log does nothing");
        }
    }
    Ok(after.removed().filter(|id| !members.is_removed(*id)).collect())
}

fn batch_of(proposer: MemberId, change: MemberChange) -> Bytes {
    let commands = vec![Kind::MemberChange(change).into()];
    Batch { proposer: proposer.0, sequence: 0, commands }.encode_to_vec().into()
}

/// The changes of members that stand in a log behind `after`, in order.
///
/// # Errors
/// `Damaged` for an entry that is none of ours.
pub fn changes_in(content: &WalContent, after: LogIndex) -> Result<Vec<MemberChange>, Error> {
    changes_between(content, after, LogIndex(u64::MAX))
}

fn changes_between(
    content: &WalContent,
    after: LogIndex,
    through: LogIndex,
) -> Result<Vec<MemberChange>, Error> {
    let is_between = |entry: &&WalEntry| entry.index > after.0 && entry.index <= through.0;
    let entries = content.entries.iter().filter(is_between).filter(|entry| entry.kind == CHANGE);
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

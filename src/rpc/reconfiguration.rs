//! `--strict-reconfig-check`: which changes of members are refused because they could cost the quorum. etcd's rules in
//! etcd's order. Pure: who is connected is told. Asked by the leader alone, before a change goes into the log.

use super::status::ClientError;
use crate::command::MemberChange;
use crate::ids::MemberId;
use crate::wire::etcdserverpb::Member;
use crate::wire::log::member_change::Kind as Change;

/// The leader's connection to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// It is the leader itself.
    Own,
    /// It has held long enough to be relied on.
    Sound,
    /// It is new.
    Fresh,
    Broken,
}

impl Connection {
    fn counts(self) -> bool {
        matches!(self, Self::Own | Self::Sound)
    }
}

/// Whether the members that have started and are connected can go on after a change.
///
/// # Errors
/// `MemberNotEnoughStarted`, `Unhealthy`.
pub fn check(
    change: &MemberChange,
    members: &[Member],
    connection: impl Fn(MemberId) -> Connection,
) -> Result<(), ClientError> {
    let voters = || members.iter().filter(|member| !member.is_learner);
    let all = voters().count();
    let started = voters().filter(|member| is_started(member)).count();
    let connected = voters().filter(|member| connection(MemberId(member.id)).counts()).count();
    match &change.kind {
        Some(Change::Add(added)) => {
            // One that stands alone cannot grow otherwise.
            let is_second = all == 1 && started == 1;
            if !added.is_learner && !is_second && started < quorum(all + 1) {
                return Err(ClientError::MemberNotEnoughStarted);
            }
            // The new member is taken for one that cannot be reached.
            if all > 1 && connected < quorum(all + 1) {
                return Err(ClientError::Unhealthy);
            }
        }
        Some(Change::Promote(_)) => {
            // The learner is in sync, so it has started.
            if started + 1 < quorum(all + 1) {
                return Err(ClientError::MemberNotEnoughStarted);
            }
        }
        Some(Change::Remove(id)) => {
            if members.iter().any(|member| member.id == *id && member.is_learner) {
                return Ok(());
            }
            let left = || voters().filter(|member| member.id != *id);
            if left().filter(|member| is_started(member)).count() < quorum(left().count()) {
                return Err(ClientError::MemberNotEnoughStarted);
            }
            // One that is down is no part of the quorum that there is.
            let is_down = connection(MemberId(*id)) == Connection::Broken;
            if !is_down && connected < 1 + quorum(all.saturating_sub(1)) {
                return Err(ClientError::Unhealthy);
            }
        }
        Some(Change::Update(_)) | None => {}
    }
    Ok(())
}

/// It has said its name.
fn is_started(member: &Member) -> bool {
    !member.name.is_empty()
}

fn quorum(voters: usize) -> usize {
    voters / 2 + 1
}

#[cfg(test)]
mod tests;

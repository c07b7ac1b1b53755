//! Since when the other voters can be reached without a break. The links write it; a request whose time is over is judged
//! by it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::ids::MemberId;

/// See the module. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Connections(Arc<Mutex<Known>>);

/// A lock, because links, consensus and requests are on different threads; it is held for a look.
#[derive(Debug, Default)]
struct Known {
    voters: Vec<u64>,
    since: BTreeMap<MemberId, Instant>,
}

impl Connections {
    /// A member can be reached from now on, for as long as the returned value lives.
    pub fn begin(&self, member: MemberId) -> Connected {
        let since = Instant::now();
        self.0.lock().since.insert(member, since);
        Connected { connections: self.clone(), member, since }
    }

    /// Since when a member can be reached; `None` when it cannot.
    pub fn since(&self, member: MemberId) -> Option<Instant> {
        self.0.lock().since.get(&member).copied()
    }

    pub(super) fn set_voters(&self, voters: Vec<u64>) {
        self.0.lock().voters = voters;
    }

    /// Whether one that is no other member's leader has had a quorum since `start`, counting itself.
    pub(super) fn had_quorum_since(&self, start: Instant) -> bool {
        let known = self.0.lock();
        let held = |voter: &&u64| known.since.get(&MemberId(**voter)).is_some_and(|since| *since < start);
        let reached = known.voters.iter().filter(held).count() + 1;
        reached > known.voters.len() / 2
    }

    /// Whether a member has been reachable since `start`.
    pub(super) fn had_since(&self, member: MemberId, start: Instant) -> bool {
        self.since(member).is_some_and(|since| since < start)
    }
}

/// A connection that holds.
#[derive(Debug)]
pub struct Connected {
    connections: Connections,
    member: MemberId,
    since: Instant,
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut known = self.connections.0.lock();
        // A younger connection to the same member may have taken its place.
        if known.since.get(&self.member) == Some(&self.since) {
            known.since.remove(&self.member);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quorum_counts_voters_that_were_reached_all_the_time() {
        let connections = Connections::default();
        connections.set_voters(vec![1, 2, 3, 4, 5]);
        let one = connections.begin(MemberId(2));
        let _learner = connections.begin(MemberId(9));
        let two = connections.begin(MemberId(3));
        let start = Instant::now() + std::time::Duration::from_nanos(1);
        assert!(connections.had_quorum_since(start));
        drop(two);
        let _again = connections.begin(MemberId(3));
        let late = connections.since(MemberId(3)).expect("it is reached");
        assert!(!connections.had_quorum_since(start.min(late)));
        assert!(connections.had_since(MemberId(2), start));
        drop(one);
        assert!(!connections.had_since(MemberId(2), start));
        assert_eq!(connections.since(MemberId(2)), None);
    }

    #[test]
    fn an_old_connection_that_ends_late_takes_nothing_from_a_new_one() {
        let connections = Connections::default();
        let old = connections.begin(MemberId(2));
        let first = old.since;
        let new = std::iter::repeat_with(|| connections.begin(MemberId(2))).find(|new| new.since > first);
        drop(old);
        assert!(connections.since(MemberId(2)).is_some());
        drop(new);
        assert_eq!(connections.since(MemberId(2)), None);
    }
}

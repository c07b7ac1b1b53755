//! Every cluster of up to seven voters, with each number of them started, connected, or neither, and learners beside
//! them: what may be changed is counted anew here, by trying the quorum of what would be left.

use Connection::{Broken, Fresh, Own, Sound};

use super::*;

const MAX_VOTERS: u64 = 7;

fn member(id: u64, name: &str, is_learner: bool) -> Member {
    Member { id, name: name.to_owned(), is_learner, ..Member::default() }
}

fn change(kind: Change) -> MemberChange {
    MemberChange { kind: Some(kind), ..MemberChange::default() }
}

/// A cluster: the leader is 1; the last voters have not started, those before them are down.
#[derive(Clone, Copy, Debug)]
struct Cluster {
    voters: u64,
    unstarted: u64,
    down: u64,
    learners: u64,
}

impl Cluster {
    fn every(mut look: impl FnMut(Self)) {
        for voters in 1..=MAX_VOTERS {
            for unstarted in 0..voters {
                for down in 0..voters - unstarted {
                    (0..=2).for_each(|learners| look(Self { voters, unstarted, down, learners }));
                }
            }
        }
    }

    fn members(self) -> Vec<Member> {
        let voter = |id| member(id, if id > self.voters - self.unstarted { "" } else { "named" }, false);
        let learners = (100..100 + self.learners).map(|id| member(id, "learner", true));
        (1..=self.voters).map(voter).chain(learners).collect()
    }

    fn up(self) -> u64 {
        self.voters - self.unstarted - self.down
    }

    fn connection(self, id: MemberId) -> Connection {
        match id.0 {
            1 => Own,
            100.. => Sound,
            id if id <= self.up() => Sound,
            _ => Broken,
        }
    }

    fn check(self, kind: Change) -> Result<(), ClientError> {
        check(&change(kind), &self.members(), |id| self.connection(id))
    }
}

/// Whether so many of so many are more than half.
fn carries(able: u64, of: u64) -> bool {
    2 * able > of
}

#[test]
fn a_voter_is_added_when_the_members_that_are_up_carry_the_larger_cluster() {
    let mut allowed_beside_one_that_is_down = false;
    Cluster::every(|cluster| {
        let Cluster { voters, unstarted, down, .. } = cluster;
        let is_alone = voters == 1;
        let expected = if !is_alone && !carries(voters - unstarted, voters + 1) {
            Err(ClientError::MemberNotEnoughStarted)
        } else if !is_alone && !carries(cluster.up(), voters + 1) {
            Err(ClientError::Unhealthy)
        } else {
            Ok(())
        };
        assert_eq!(cluster.check(Change::Add(member(50, "", false))), expected, "{cluster:?}");
        allowed_beside_one_that_is_down |= down > 0 && expected.is_ok();
    });
    assert!(allowed_beside_one_that_is_down, "etcd refused that once, although the quorum stood");
}

#[test]
fn a_learner_is_added_when_the_members_that_are_up_would_carry_a_voter_more() {
    Cluster::every(|cluster| {
        let may = cluster.voters == 1 || carries(cluster.up(), cluster.voters + 1);
        let expected = if may { Ok(()) } else { Err(ClientError::Unhealthy) };
        assert_eq!(cluster.check(Change::Add(member(50, "", true))), expected, "{cluster:?}");
    });
}

#[test]
fn a_learner_is_promoted_when_it_and_those_that_have_started_carry_the_larger_cluster() {
    Cluster::every(|cluster| {
        let Cluster { voters, unstarted, .. } = cluster;
        let may = carries(voters - unstarted + 1, voters + 1);
        let expected = if may { Ok(()) } else { Err(ClientError::MemberNotEnoughStarted) };
        assert_eq!(cluster.check(Change::Promote(100)), expected, "{cluster:?}");
    });
}

#[test]
fn a_voter_is_removed_when_the_rest_can_go_on() {
    Cluster::every(|cluster| {
        for id in 1..=cluster.voters {
            let (left, rest) = (cluster.voters - 1, |able: u64, is_one: bool| able - u64::from(is_one));
            let started = cluster.voters - cluster.unstarted;
            let is_up = cluster.connection(MemberId(id)) != Broken;
            let expected = if !carries(rest(started, id <= started), left) {
                Err(ClientError::MemberNotEnoughStarted)
            } else if is_up && !carries(rest(cluster.up(), true), left) {
                Err(ClientError::Unhealthy)
            } else {
                Ok(())
            };
            assert_eq!(cluster.check(Change::Remove(id)), expected, "{id} of {cluster:?}");
        }
    });
}

#[test]
fn what_costs_no_quorum_is_never_refused() {
    Cluster::every(|cluster| {
        for id in 100..100 + cluster.learners {
            assert_eq!(cluster.check(Change::Remove(id)), Ok(()), "{cluster:?}");
        }
        assert_eq!(cluster.check(Change::Update(member(1, "", false))), Ok(()), "{cluster:?}");
    });
}

#[test]
fn the_last_member_stays() {
    let alone = Cluster { voters: 1, unstarted: 0, down: 0, learners: 1 };
    assert_eq!(alone.check(Change::Remove(1)), Err(ClientError::MemberNotEnoughStarted));
}

/// It may break again at any moment: it is no member to rely on, and none to be rid of without a look at the rest.
#[test]
fn a_fresh_connection_does_not_count() {
    let members: Vec<_> = (1..=3).map(|id| member(id, "named", false)).collect();
    let connection = |id: MemberId| [Own, Fresh, Broken][usize::try_from(id.0).expect("small") - 1];
    let check = |kind| check(&change(kind), &members, connection);
    assert_eq!(check(Change::Add(member(4, "", false))), Err(ClientError::Unhealthy));
    assert_eq!(check(Change::Remove(2)), Err(ClientError::Unhealthy));
    assert_eq!(check(Change::Remove(3)), Ok(()));
}

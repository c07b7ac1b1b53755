//! What only the leader does: renew leases, tell their time, change members. Asked by this member's clients, or by other
//! members for theirs.

use std::time::{Duration, Instant};

use tonic::Status;

use super::mismatched;
use super::reconfiguration::{self, Connection};
use super::status::{ClientError, is_of_etcd};
use super::validate;
use crate::command::{Kind, MemberChange, Outcome};
use crate::consensus::{ConsensusError, Handle};
use crate::ids::{LeaseId, MemberId, Term};
use crate::lease::Leases;
use crate::members::Members;
use crate::metrics::Metrics;
use crate::peers::{Leader, Peers, says_removed};
use crate::wire::etcdserverpb as pb;
use crate::wire::log::member_change::Kind as Change;

/// How much of the leader's log a learner must have before it votes, of 100.
const READY_PERCENT: u64 = 90;
/// A connection counts as sound after so long, as in etcd.
const HEALTHY_AFTER: Duration = Duration::from_secs(5);
/// How often a leader that is not there is looked for.
const RETRY: Duration = Duration::from_millis(50);

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Leading {
    /// This member.
    pub own: MemberId,
    pub consensus: Handle,
    pub peers: Peers,
    pub leases: Leases,
    pub members: Members,
    pub metrics: Metrics,
    /// By how much a new leader lengthens every lease: so long the one before may have renewed it unseen.
    pub extension: Duration,
    /// A change that could cost the quorum is refused.
    pub strict: bool,
    pub max_learners: usize,
}

/// Whom to ask.
enum Who {
    Here,
    There(MemberId),
}

impl Leading {
    /// Waits for a leader as long as a request waits.
    async fn who(&self, deadline: Instant) -> Result<Who, Status> {
        loop {
            let status = self.consensus.status();
            if status.is_leader {
                return Ok(Who::Here);
            }
            if status.leader != MemberId(0) {
                return Ok(Who::There(status.leader));
            }
            if Instant::now() >= deadline {
                return Err(ClientError::NoLeader.into());
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.consensus.request_timeout()
    }

    /// Renews a lease wherever the leader is: its seconds, 0 when there is none.
    ///
    /// # Errors
    /// What the client is to be told.
    pub async fn renew(&self, id: LeaseId) -> Result<i64, Status> {
        let deadline = self.deadline();
        loop {
            let renewed = match self.who(deadline).await? {
                Who::Here => self.renew_lease(id).await,
                Who::There(leader) => self.peers.renew_lease(leader, id).await,
            };
            match renewed {
                Err(status) if may_ask_again(&status) && Instant::now() < deadline => {
                    tokio::time::sleep(RETRY).await;
                }
                renewed => return renewed.map_err(for_client),
            }
        }
    }

    /// What time a lease has left, wherever the leader is.
    ///
    /// # Errors
    /// What the client is to be told.
    pub async fn time_left(&self, id: LeaseId, keys: bool) -> Result<pb::LeaseTimeToLiveResponse, Status> {
        let deadline = self.deadline();
        loop {
            let told = match self.who(deadline).await? {
                Who::Here => self.time_to_live(id, keys).await,
                Who::There(leader) => self.peers.time_to_live(leader, id, keys).await,
            };
            match told {
                Err(status) if may_ask_again(&status) && Instant::now() < deadline => {
                    tokio::time::sleep(RETRY).await;
                }
                told => return told.map_err(for_client),
            }
        }
    }

    /// Changes members wherever the leader is: who belongs to the cluster then.
    ///
    /// # Errors
    /// What the client is to be told. When the way to the leader broke, the change may have been made.
    pub async fn change(&self, change: MemberChange) -> Result<Vec<pb::Member>, Status> {
        if self.consensus.status().leader == MemberId(0) {
            // With no leader to judge it, what this member sees is reason enough to refuse: nobody waits for nothing.
            self.check_quorum(&change)?;
        }
        let deadline = self.deadline();
        loop {
            let changed = match self.who(deadline).await? {
                Who::Here => self.change_members(change.clone()).await,
                Who::There(leader) => self.peers.change_members(leader, &change).await,
            };
            match changed {
                Err(status) if is_not_leader(&status) && Instant::now() < deadline => {
                    tokio::time::sleep(RETRY).await;
                }
                changed => return changed.map_err(for_client),
            }
        }
    }

    /// Makes a learner a voter, wherever the leader is.
    ///
    /// # Errors
    /// Why the leader refuses, or that it was not reached.
    pub async fn promote(&self, member: MemberId) -> Result<(), String> {
        let change = MemberChange { kind: Some(Change::Promote(member.0)), ..MemberChange::default() };
        self.change(change).await.map(drop).map_err(|status| status.message().to_owned())
    }

    /// Begins a new leader's time for leases, when it is new; `false` when it does not know all of them yet.
    pub fn lead(&self, term: Term) -> bool {
        let alone = self.members.now().voters().len() == 1;
        let extension = if alone { Duration::ZERO } else { self.extension };
        self.leases.lead(term, self.consensus.status().applied.term, Instant::now(), extension)
    }

    /// This member still leads in this term, after everything before this call.
    async fn confirm(&self, term: Term) -> Result<(), Status> {
        self.consensus.read_barrier().await.map_err(ClientError::from)?;
        let status = self.consensus.status();
        if status.is_leader && status.term == term { Ok(()) } else { Err(ClientError::NotLeader.into()) }
    }

    /// After a barrier it is only a newer leader that can be in the way.
    fn check_lead(&self, term: Term) -> Result<(), Status> {
        if self.lead(term) { Ok(()) } else { Err(ClientError::NotLeader.into()) }
    }

    /// The term in which this member leads.
    fn term(&self) -> Result<Term, Status> {
        let status = self.consensus.status();
        if status.is_leader { Ok(status.term) } else { Err(ClientError::NotLeader.into()) }
    }

    /// A lease gets all its time, for good: a checkpoint that says less is lifted first. Returns the seconds; 0 when
    /// there is no such lease any more.
    pub async fn begin_time(&self, id: LeaseId) -> Result<i64, ConsensusError> {
        let Some(renewed) = self.leases.renew(id, Instant::now()) else {
            return Ok(0);
        };
        if renewed.is_checkpointed {
            let checkpoints = vec![pb::LeaseCheckpoint { id: id.0, remaining_ttl: 0 }];
            let lift = Kind::LeaseCheckpoint(pb::LeaseCheckpointRequest { checkpoints });
            self.consensus.propose(lift.into()).await?;
            // Revoked while the lift was on its way: nothing of it is left to promise.
            if !self.leases.exists(id) {
                return Ok(0);
            }
        }
        Ok(renewed.ttl)
    }

    /// Whether a change leaves enough members that have started and are connected.
    fn check_quorum(&self, change: &MemberChange) -> Result<(), ClientError> {
        if !self.strict {
            return Ok(());
        }
        reconfiguration::check(change, &self.members.list(), |id| self.connection(id))
    }

    fn connection(&self, member: MemberId) -> Connection {
        if member == self.own {
            return Connection::Own;
        }
        match self.consensus.progress().connections.since(member) {
            Some(since) if since.elapsed() > HEALTHY_AFTER => Connection::Sound,
            Some(_) => Connection::Fresh,
            None => Connection::Broken,
        }
    }

    /// A learner is promoted when it has nearly all of the log.
    async fn check_promotion(&self, id: u64) -> Result<(), Status> {
        if self.members.get(MemberId(id)).is_none() {
            // A new leader may not have applied yet what added it.
            self.consensus.read_barrier().await.map_err(ClientError::from)?;
        }
        let known = self.members.get(MemberId(id)).ok_or(ClientError::MemberNotFound)?;
        if !known.is_learner {
            return Ok(());
        }
        let percent = self.consensus.percent_of_log(MemberId(id)).await.map_err(ClientError::from)?;
        if percent >= READY_PERCENT { Ok(()) } else { Err(ClientError::LearnerNotReady.into()) }
    }

    async fn checked_change(&self, mut change: MemberChange) -> Result<Vec<pb::Member>, Status> {
        if let Some(Change::Promote(id)) = change.kind {
            self.check_promotion(id).await?;
        }
        change.kind = change.kind.map(validate::member_change).transpose()?;
        self.check_quorum(&change)?;
        change.max_learners = Some(self.max_learners as u64);
        let outcome = self.consensus.change_members(change).await;
        let Outcome::Members(members) = outcome.map_err(ClientError::from)? else {
            return Err(mismatched("a change of members"));
        };
        Ok(members)
    }
}

fn is_not_leader(status: &Status) -> bool {
    status.message() == ClientError::NotLeader.text()
}

/// The leader has changed, or cannot be reached: what changes nothing for good may be asked once more.
fn may_ask_again(status: &Status) -> bool {
    is_not_leader(status) || status.code() == tonic::Code::Unavailable && !is_of_etcd(status)
}

/// Clients know etcd's errors. What members tell each other, and what became of the way between them, is no word to them.
fn for_client(status: Status) -> Status {
    if says_removed(&status) {
        return ClientError::Stopped.into();
    }
    match status.code() {
        tonic::Code::Unavailable if !is_of_etcd(&status) => ClientError::Timeout.into(),
        _ => status,
    }
}

#[tonic::async_trait]
impl Leader for Leading {
    async fn renew_lease(&self, id: LeaseId) -> Result<i64, Status> {
        let term = self.term()?;
        // Everything granted before this call is known here.
        self.consensus.read_barrier().await.map_err(ClientError::from)?;
        self.check_lead(term)?;
        let ttl = self.begin_time(id).await.map_err(ClientError::from)?;
        // After the renewal: another leader that has been elected since gives the lease all its time anew.
        self.confirm(term).await?;
        if ttl > 0 {
            self.metrics.lease_renewed.inc();
        }
        Ok(ttl)
    }

    async fn time_to_live(&self, id: LeaseId, keys: bool) -> Result<pb::LeaseTimeToLiveResponse, Status> {
        let term = self.term()?;
        self.confirm(term).await?;
        self.check_lead(term)?;
        let found = self.leases.time_to_live(id, keys, Instant::now());
        let (header, id) = (None, id.0);
        Ok(match found {
            Some(lease) => pb::LeaseTimeToLiveResponse {
                header,
                id,
                ttl: lease.remaining,
                granted_ttl: lease.granted,
                keys: lease.keys,
            },
            None => pb::LeaseTimeToLiveResponse { header, id, ttl: -1, ..Default::default() },
        })
    }

    async fn change_members(&self, change: MemberChange) -> Result<Vec<pb::Member>, Status> {
        self.term()?;
        let is_promotion = matches!(change.kind, Some(Change::Promote(_)));
        let changed = self.checked_change(change).await;
        match &changed {
            Ok(_) if is_promotion => self.metrics.promote_successes.inc(),
            Err(status) if is_promotion && !is_not_leader(status) => {
                self.metrics.promote_failures.with_label_values(&[status.message()]).inc();
            }
            _ => {}
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    /// A client of a member that had just been removed was told "the member has been permanently removed from the cluster".
    #[test]
    fn clients_are_told_etcds_errors_and_nothing_else() {
        let removed = Status::permission_denied("the member has been permanently removed from the cluster");
        assert_eq!(for_client(removed).message(), ClientError::Stopped.text());
        let broken = for_client(Status::unavailable("tcp connect error"));
        assert_eq!((broken.code(), broken.message()), (Code::Unavailable, ClientError::Timeout.text()));
        let own = for_client(ClientError::LeaseNotFound.into());
        assert_eq!((own.code(), own.message()), (Code::NotFound, ClientError::LeaseNotFound.text()));
    }
}

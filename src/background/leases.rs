//! Revokes leases whose time is over, and checkpoints how much time the long ones have left.

use std::time::{Duration, Instant};

use tokio::time::MissedTickBehavior;

use crate::command::{Command, Kind};
use crate::consensus::Handle;
use crate::ids::{LeaseId, Term};
use crate::lease::Leases;
use crate::metrics::Metrics;
use crate::wire::etcdserverpb as pb;

const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Leases revoked in one look, and proposals for them under way at once.
const MAX_DUE_PER_LOOK: usize = 500;
const MAX_REVOKES_IN_FLIGHT: usize = 16;
/// How often the time that leases have left is noted in the log.
const CHECKPOINT_INTERVAL: Duration = Duration::from_secs(300);
const MAX_CHECKPOINTS_PER_COMMAND: usize = 1000;

/// The job. Runs until it is dropped. `lead` begins the time of leases in a term in which this member leads; `false` while
/// it does not know all of them.
pub async fn run(leases: Leases, consensus: Handle, metrics: Metrics, lead: impl Fn(Term) -> bool) {
    let mut ticks = tokio::time::interval(LOOK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut next_checkpoint = Instant::now() + CHECKPOINT_INTERVAL;
    loop {
        ticks.tick().await;
        let status = consensus.status();
        if !status.is_leader || !lead(status.term) {
            continue;
        }
        let now = Instant::now();
        let due = leases.due(now, MAX_DUE_PER_LOOK);
        for some in due.chunks(MAX_REVOKES_IN_FLIGHT) {
            revoke(some, status.term, &consensus, &metrics).await;
        }
        if now >= next_checkpoint {
            next_checkpoint = now + CHECKPOINT_INTERVAL;
            checkpoint(&leases, &consensus, CHECKPOINT_INTERVAL).await;
        }
    }
}

async fn revoke(due: &[LeaseId], term: Term, consensus: &Handle, metrics: &Metrics) {
    let proposals: Vec<_> = due
        .iter()
        .map(|id| {
            let (id, consensus) = (*id, consensus.clone());
            tokio::spawn(async move {
                let kind = Kind::LeaseRevoke(pb::LeaseRevokeRequest { id: id.0 });
                // A leader that was, and does not know it yet, revokes nothing.
                let command = Command { kind: Some(kind), only_in_term: term.0 };
                (id, consensus.propose(command).await)
            })
        })
        .collect();
    for proposal in proposals {
        match proposal.await {
            Ok((_, Ok(_))) => {
                metrics.lease_expired.inc();
                metrics.lease_revoked.inc();
            }
            // It is still due: the next look tries again.
            Ok((id, Err(error))) => tracing::debug!(%id, %error, "cannot revoke an expired lease"),
            Err(error) => tracing::warn!(%error, "revoking a lease ended early"),
        }
    }
}

/// Notes in the log what every lease longer than `longer_than` has left.
pub async fn checkpoint(leases: &Leases, consensus: &Handle, longer_than: Duration) {
    if !consensus.status().is_leader {
        return;
    }
    let ids = leases.to_checkpoint(Instant::now(), longer_than);
    for some in ids.chunks(MAX_CHECKPOINTS_PER_COMMAND) {
        let ordered = leases.order_checkpoint(some, Instant::now(), |left| {
            let checkpoints = left
                .iter()
                .map(|(id, remaining)| pb::LeaseCheckpoint { id: id.0, remaining_ttl: *remaining });
            let request = pb::LeaseCheckpointRequest { checkpoints: checkpoints.collect() };
            let kind = Kind::LeaseCheckpoint(request);
            consensus.order(&Command { kind: Some(kind), only_in_term: consensus.status().term.0 })
        });
        let noted = match ordered {
            Ok(ordered) => ordered.outcome().await,
            Err(error) => Err(error),
        };
        if let Err(error) = noted {
            tracing::warn!(%error, "cannot checkpoint leases");
            return;
        }
    }
}

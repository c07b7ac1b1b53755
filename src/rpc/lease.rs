//! The lease service. Changes go through the log; a renewal is the leader's own affair and does not.

use std::pin::Pin;
use std::time::Instant;

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::header::Headers;
use super::leading::Leading;
use super::quota::Quota;
use super::status::ClientError;
use super::{count_failure, mismatched, validate};
use crate::command::{Kind, Outcome, Rejection};
use crate::consensus::{ConsensusError, Handle};
use crate::ids::LeaseId;
use crate::lease::{Leases, MAX_TTL};
use crate::metrics::Metrics;
use crate::wire::etcdserverpb as pb;
use crate::wire::etcdserverpb::lease_server::Lease;

/// Answers of one keep-alive stream that wait for its client.
const MAX_QUEUED_ANSWERS: usize = 16;

/// What the service needs. Cheap to clone.
#[derive(Clone)]
pub struct LeaseService {
    pub consensus: Handle,
    pub headers: Headers,
    pub leases: Leases,
    pub leading: Leading,
    pub quota: Quota,
    /// Seconds that every lease gets at least: one and a half election timeouts, rounded up.
    pub min_ttl: i64,
    pub metrics: Metrics,
}

impl LeaseService {
    async fn grant(&self, id: LeaseId, ttl: i64) -> Result<pb::LeaseGrantResponse, ConsensusError> {
        let ttl = ttl.max(self.min_ttl);
        let request = pb::LeaseGrantRequest { id: id.0, ttl };
        match self.consensus.propose(Kind::LeaseGrant(request).into()).await? {
            Outcome::LeaseGrant(response) => Ok(response),
            _ => Err(ConsensusError::Rejected(Rejection::UnknownCommand)),
        }
    }

    async fn renew(&self, id: LeaseId) -> Result<pb::LeaseKeepAliveResponse, Status> {
        // Before the look at the lease, as in etcd: nobody is told of time at a revision from which on it is revoked.
        let header = Some(self.headers.now());
        let ttl = self.leading.renew(id).await?;
        Ok(pb::LeaseKeepAliveResponse { header, id: id.0, ttl })
    }
}

/// A random positive id.
fn random_id() -> LeaseId {
    LeaseId(rand::random_range(1..=i64::MAX))
}

#[tonic::async_trait]
impl Lease for LeaseService {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let pb::LeaseGrantRequest { id, ttl } = request.into_inner();
        self.quota.check(validate::GRANT_COST).await?;
        if ttl > MAX_TTL {
            return Err(ClientError::LeaseTTLTooLarge.into());
        }
        let granted = loop {
            let chosen = if id == 0 { random_id() } else { LeaseId(id) };
            match self.grant(chosen, ttl).await {
                Err(ConsensusError::Rejected(Rejection::LeaseExists)) if id == 0 => {}
                granted => break granted,
            }
        };
        let mut response = granted.map_err(|error| Status::from(ClientError::from(error)))?;
        let status = self.consensus.status();
        // Now, not when the expiry job looks next.
        if status.is_leader && self.leading.lead(status.term) {
            self.leading.begin_time(LeaseId(response.id)).await.map_err(ClientError::from)?;
        }
        self.metrics.lease_granted.inc();
        self.metrics.lease_ttl.observe(response.ttl as f64);
        self.headers.fill(&mut response.header);
        Ok(Response::new(response))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let command = Kind::LeaseRevoke(request.into_inner());
        let outcome = self.consensus.propose(command.into()).await;
        let Outcome::LeaseRevoke(mut response) = outcome.map_err(ClientError::from)? else {
            return Err(mismatched("LeaseRevoke"));
        };
        self.metrics.lease_revoked.inc();
        self.headers.fill(&mut response.header);
        Ok(Response::new(response))
    }

    type LeaseKeepAliveStream =
        Pin<Box<dyn Stream<Item = Result<pb::LeaseKeepAliveResponse, Status>> + Send>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let mut requests = request.into_inner();
        let (answers, receiver) = mpsc::channel(MAX_QUEUED_ANSWERS);
        let service = self.clone();
        tokio::spawn(async move {
            while let Some(request) = requests.message().await.transpose() {
                let answer = match request {
                    Ok(request) => service.renew(LeaseId(request.id)).await,
                    Err(status) => {
                        count_failure(&service.metrics, "lease-keepalive", &status);
                        Err(status)
                    }
                };
                let failed = answer.is_err();
                if answers.send(answer).await.is_err() || failed {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let pb::LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let mut response = self.leading.time_left(LeaseId(id), keys).await?;
        response.header = Some(self.headers.now());
        Ok(Response::new(response))
    }

    async fn lease_leases(
        &self,
        _request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let leases = self.leases.list(Instant::now());
        let leases = leases.into_iter().map(|id| pb::LeaseStatus { id: id.0 }).collect();
        Ok(Response::new(pb::LeaseLeasesResponse { header: Some(self.headers.now()), leases }))
    }
}

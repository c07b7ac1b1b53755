//! The election service, registered so that its callers learn what is missing.

use std::pin::Pin;

use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::later;
use crate::wire::v3electionpb as pb;
use crate::wire::v3electionpb::election_server::Election;

/// Answers every call with what is missing.
#[derive(Clone, Copy)]
pub struct ElectionService;

#[tonic::async_trait]
impl Election for ElectionService {
    async fn campaign(
        &self,
        _request: Request<pb::CampaignRequest>,
    ) -> Result<Response<pb::CampaignResponse>, Status> {
        Err(later("Election.Campaign"))
    }

    async fn proclaim(
        &self,
        _request: Request<pb::ProclaimRequest>,
    ) -> Result<Response<pb::ProclaimResponse>, Status> {
        Err(later("Election.Proclaim"))
    }

    async fn leader(
        &self,
        _request: Request<pb::LeaderRequest>,
    ) -> Result<Response<pb::LeaderResponse>, Status> {
        Err(later("Election.Leader"))
    }

    type ObserveStream = Pin<Box<dyn Stream<Item = Result<pb::LeaderResponse, Status>> + Send>>;

    async fn observe(
        &self,
        _request: Request<pb::LeaderRequest>,
    ) -> Result<Response<Self::ObserveStream>, Status> {
        Err(later("Election.Observe"))
    }

    async fn resign(
        &self,
        _request: Request<pb::ResignRequest>,
    ) -> Result<Response<pb::ResignResponse>, Status> {
        Err(later("Election.Resign"))
    }
}

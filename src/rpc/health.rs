//! gRPC's health service: serving, for as long as it answers. It knows the server as a whole alone.

use std::pin::Pin;

use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use crate::wire::health as pb;
use crate::wire::health::health_check_response::ServingStatus;
use crate::wire::health::health_server::Health;

/// See the module.
#[derive(Clone, Copy)]
pub struct HealthService;

#[tonic::async_trait]
impl Health for HealthService {
    async fn check(
        &self,
        request: Request<pb::HealthCheckRequest>,
    ) -> Result<Response<pb::HealthCheckResponse>, Status> {
        if !request.into_inner().service.is_empty() {
            return Err(Status::not_found("unknown service"));
        }
        Ok(Response::new(pb::HealthCheckResponse { status: ServingStatus::Serving.into() }))
    }

    async fn list(
        &self,
        _request: Request<pb::HealthListRequest>,
    ) -> Result<Response<pb::HealthListResponse>, Status> {
        let serving = pb::HealthCheckResponse { status: ServingStatus::Serving.into() };
        Ok(Response::new(pb::HealthListResponse { statuses: [(String::new(), serving)].into() }))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<pb::HealthCheckResponse, Status>> + Send>>;

    /// One answer; the stream then stays open until client or server end.
    async fn watch(
        &self,
        request: Request<pb::HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let known = request.into_inner().service.is_empty();
        let status = if known { ServingStatus::Serving } else { ServingStatus::ServiceUnknown };
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(async move {
            let answer = pb::HealthCheckResponse { status: status.into() };
            if sender.send(Ok(answer)).await.is_ok() {
                sender.closed().await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

//! The lock service, registered so that its callers learn what is missing.

use tonic::{Request, Response, Status};

use super::later;
use crate::wire::v3lockpb as pb;
use crate::wire::v3lockpb::lock_server::Lock;

/// Answers every call with what is missing.
#[derive(Clone, Copy)]
pub struct LockService;

#[tonic::async_trait]
impl Lock for LockService {
    async fn lock(&self, _request: Request<pb::LockRequest>) -> Result<Response<pb::LockResponse>, Status> {
        Err(later("Lock.Lock"))
    }

    async fn unlock(
        &self,
        _request: Request<pb::UnlockRequest>,
    ) -> Result<Response<pb::UnlockResponse>, Status> {
        Err(later("Lock.Unlock"))
    }
}

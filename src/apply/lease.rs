//! Leases as replicated state: granted, revoked with their keys, checkpointed.

use super::{Applier, Failure, header};
use crate::command::Outcome;
use crate::ids::LeaseId;
use crate::mvcc::KeyRange;
use crate::wire::etcdserverpb as pb;

impl Applier {
    pub(super) fn lease_grant(
        &mut self,
        request: &pb::LeaseGrantRequest,
    ) -> Result<pb::LeaseGrantResponse, Failure> {
        let ttl = self.leases.grant(LeaseId(request.id), request.ttl)?;
        let header = Some(header(self.keyspace.revision()));
        Ok(pb::LeaseGrantResponse { header, id: request.id, ttl, error: String::new() })
    }

    /// Deletes the lease's keys, in order, as one revision.
    pub(super) fn lease_revoke(
        &mut self,
        request: &pb::LeaseRevokeRequest,
    ) -> Result<pb::LeaseRevokeResponse, Failure> {
        let keys = self.leases.revoke(LeaseId(request.id))?;
        let mut write = self.keyspace.write();
        for key in keys {
            write.delete_range(&KeyRange::One(key));
        }
        Ok(pb::LeaseRevokeResponse { header: Some(header(write.revision())) })
    }

    pub(super) fn lease_checkpoint(&mut self, request: &pb::LeaseCheckpointRequest) -> Outcome {
        for checkpoint in &request.checkpoints {
            self.leases.checkpoint(LeaseId(checkpoint.id), checkpoint.remaining_ttl);
        }
        Outcome::LeaseCheckpoint
    }
}

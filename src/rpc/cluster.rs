//! The cluster service: who the members are. Changing them comes in a later version.

use tonic::{Request, Response, Status};

use super::header::Headers;
use super::later;
use super::status::ClientError;
use crate::consensus::Handle;
use crate::ids::Revision;
use crate::members::Members;
use crate::wire::etcdserverpb as pb;
use crate::wire::etcdserverpb::cluster_server::Cluster;

/// What the service needs. Cheap to clone.
#[derive(Clone)]
pub struct ClusterService {
    pub consensus: Handle,
    pub headers: Headers,
    pub members: Members,
}

#[tonic::async_trait]
impl Cluster for ClusterService {
    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        if request.into_inner().linearizable {
            self.consensus.read_barrier().await.map_err(ClientError::from)?;
        }
        // As in etcd, the headers of this service carry no revision.
        let header = Some(self.headers.at(Revision(0)));
        Ok(Response::new(pb::MemberListResponse { header, members: self.members.list() }))
    }

    async fn member_add(
        &self,
        _request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        Err(later("Cluster.MemberAdd"))
    }

    async fn member_remove(
        &self,
        _request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        Err(later("Cluster.MemberRemove"))
    }

    async fn member_update(
        &self,
        _request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        Err(later("Cluster.MemberUpdate"))
    }

    async fn member_promote(
        &self,
        _request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        Err(later("Cluster.MemberPromote"))
    }
}

//! The cluster service: who the members are, and changing that by way of the leader.

use std::time::{SystemTime, UNIX_EPOCH};

use tonic::{Request, Response, Status};

use super::header::Headers;
use super::leading::Leading;
use super::status::ClientError;
use super::validate;
use crate::command::MemberChange;
use crate::config::new_member_id;
use crate::consensus::Handle;
use crate::ids::{MemberId, Revision};
use crate::members::Members;
use crate::wire::etcdserverpb as pb;
use crate::wire::etcdserverpb::cluster_server::Cluster;
use crate::wire::log::member_change::Kind as Change;

/// What the service needs. Cheap to clone.
#[derive(Clone)]
pub struct ClusterService {
    pub consensus: Handle,
    pub headers: Headers,
    pub members: Members,
    pub leading: Leading,
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
        request: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        let pb::MemberAddRequest { peer_ur_ls, is_learner } = request.into_inner();
        let mut peer_ur_ls = validate::peer_urls(peer_ur_ls)?;
        peer_ur_ls.sort_unstable();
        // As in etcd: the time makes the id one that never was.
        let id = new_member_id(&peer_ur_ls, unix_seconds());
        let member = pb::Member { id: id.0, peer_ur_ls, is_learner, ..pb::Member::default() };
        let members = self.change(Change::Add(member.clone())).await?;
        let header = Some(self.headers.at(Revision(0)));
        Ok(Response::new(pb::MemberAddResponse { header, member: Some(member), members }))
    }

    async fn member_remove(
        &self,
        request: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        let members = self.change(Change::Remove(request.into_inner().id)).await?;
        Ok(Response::new(pb::MemberRemoveResponse { header: Some(self.headers.at(Revision(0))), members }))
    }

    async fn member_update(
        &self,
        request: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        let pb::MemberUpdateRequest { id, peer_ur_ls } = request.into_inner();
        // etcd takes any URLs here, and its members then panic. A member that is not there is told first, as in etcd.
        let peer_ur_ls = match validate::peer_urls(peer_ur_ls) {
            Err(_) if self.members.get(MemberId(id)).is_none() => {
                return Err(ClientError::MemberNotFound.into());
            }
            checked => checked?,
        };
        let member = pb::Member { id, peer_ur_ls, ..pb::Member::default() };
        let members = self.change(Change::Update(member)).await?;
        Ok(Response::new(pb::MemberUpdateResponse { header: Some(self.headers.at(Revision(0))), members }))
    }

    async fn member_promote(
        &self,
        request: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        let members = self.change(Change::Promote(request.into_inner().id)).await?;
        Ok(Response::new(pb::MemberPromoteResponse { header: Some(self.headers.at(Revision(0))), members }))
    }
}

impl ClusterService {
    async fn change(&self, kind: Change) -> Result<Vec<pb::Member>, Status> {
        self.leading.change(MemberChange { kind: Some(kind), ..MemberChange::default() }).await
    }
}

fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

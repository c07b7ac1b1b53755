//! What peers send: checked against who they say they are, then handed to consensus or to the leader's services.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use super::batch::Sorted;
use super::{BIRTH, CLUSTER, FROM, Peers, REBORN, REMOVED, TO, URLS, max_message_bytes};
use crate::command::MemberChange;
use crate::consensus::{Handle, Message};
use crate::datadir::Birth;
use crate::ids::{LeaseId, MemberId};
use crate::members::Members;
use crate::snapshot::Importer;
use crate::wire::etcdserverpb::{
    LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, Member,
};
use crate::wire::peer as pb;
use crate::wire::peer::peer_server::{Peer, PeerServer};

/// Echoes that the peer has not taken; it can do without one.
const MAX_QUEUED_ECHOES: usize = 8;

/// How long this member tries to know all changes of members before it tells who they are; below what the asking one waits.
const CATCH_UP: Duration = Duration::from_secs(1);

/// What the leader does for other members' clients. Errors are for the clients.
#[tonic::async_trait]
pub trait Leader: Send + Sync + 'static {
    /// Seconds; 0 when there is no such lease.
    async fn renew_lease(&self, id: LeaseId) -> Result<i64, Status>;

    async fn time_to_live(&self, id: LeaseId, keys: bool) -> Result<LeaseTimeToLiveResponse, Status>;

    /// Who belongs to the cluster then.
    async fn change_members(&self, change: MemberChange) -> Result<Vec<Member>, Status>;
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct PeerService {
    pub peers: Peers,
    pub consensus: Handle,
    pub members: Members,
    pub importer: Importer,
    pub leader: Arc<dyn Leader>,
}

/// A member, and which life of it.
#[derive(Clone, Copy, Debug)]
struct Caller {
    id: MemberId,
    birth: Birth,
}

impl PeerService {
    /// What takes the calls.
    pub fn server(self, max_request_bytes: usize) -> PeerServer<Self> {
        PeerServer::new(self).max_decoding_message_size(max_message_bytes(max_request_bytes))
    }

    /// Who calls.
    async fn caller(&self, metadata: &MetadataMap) -> Result<Caller, Status> {
        let caller = self.addressed(metadata)?;
        self.admit(caller).await?;
        Ok(caller)
    }

    /// Whether a member is still one, and the one that it was when this one met it first. That is noted, once and for good,
    /// before anything that it says counts: an emptied member never votes under its old id where it was known.
    async fn admit(&self, caller: Caller) -> Result<(), Status> {
        let Caller { id, birth } = caller;
        let members = self.members.now();
        if members.is_removed(id) || self.peers.0.removed_in_log.contains(&id) {
            return Err(Status::permission_denied(REMOVED));
        }
        let known = &self.peers.0.known;
        let is_same = match known.is_same(id, birth) {
            None if members.contains(id) => {
                let known = known.clone();
                let met = tokio::task::spawn_blocking(move || known.meet(id, birth)).await;
                let met = met.map_err(|error| Status::internal(error.to_string()))?;
                met.map_err(|error| Status::unavailable(error.to_string()))?
            }
            known => known != Some(false),
        };
        if is_same {
            return Ok(());
        }
        tracing::warn!(from = %format!("{:x}", id.0), "refused a member that has lost its data since it was met");
        Err(Status::permission_denied(REBORN))
    }

    /// Who calls, when this member is meant.
    fn addressed(&self, metadata: &MetadataMap) -> Result<Caller, Status> {
        let id = |key: &str| {
            let text = metadata.get(key).and_then(|value| value.to_str().ok());
            text.and_then(|text| u64::from_str_radix(text, 16).ok())
                .ok_or_else(|| Status::invalid_argument(format!("{key} is missing or no id")))
        };
        let (cluster, from, to) = (id(CLUSTER)?, MemberId(id(FROM)?), MemberId(id(TO)?));
        if cluster != self.peers.0.cluster.0 {
            let own = self.peers.0.cluster.0;
            tracing::warn!(
                from = %format!("{:x}", from.0),
                theirs = %format!("{cluster:x}"),
                ours = %format!("{own:x}"),
                "refused a member of another cluster: cluster ID mismatch"
            );
            return Err(Status::failed_precondition("cluster ID mismatch"));
        }
        if to != self.peers.0.member {
            let own = self.peers.0.member.0;
            tracing::warn!(
                from = %format!("{:x}", from.0),
                wanted = %format!("{:x}", to.0),
                ours = %format!("{own:x}"),
                "refused a member that wants another one here: member ID mismatch"
            );
            return Err(Status::failed_precondition("member ID mismatch"));
        }
        // What was made before there were births says none.
        let birth = if metadata.contains_key(BIRTH) { Birth(id(BIRTH)?) } else { Birth::default() };
        Ok(Caller { id: from, birth })
    }

    /// A member, or one that has a link as a guest. Others may choose any id: nothing is counted under it.
    pub(super) fn knows(&self, id: MemberId) -> bool {
        self.members.now().contains(id) || self.peers.has_link(id)
    }

    /// Hands on what a batch holds.
    pub(super) fn take(&self, from: MemberId, batch: pb::MessageBatch) {
        let bytes = batch.encoded_len();
        let Sorted { messages, refused, why } = Sorted::of(from, batch);
        let label = format!("{:x}", from.0);
        if let Some(why) = why {
            tracing::warn!(from = label, refused, %why, "messages of a member cannot be taken");
        }
        if self.knows(from) {
            let metrics = &self.peers.0.metrics;
            metrics.peer_received_bytes.with_label_values(&[&label]).inc_by(bytes as u64);
            if refused > 0 {
                metrics.peer_received_failures.with_label_values(&[&label]).inc_by(refused);
            }
        }
        if !messages.is_empty() {
            // Small messages take more room here than they took on their way.
            let room = bytes + messages.len() * size_of::<Message>();
            self.consensus.receive(messages, room);
        }
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    type MessagesStream = Pin<Box<dyn Stream<Item = Result<pb::Echo, Status>> + Send>>;

    async fn messages(
        &self,
        request: Request<Streaming<pb::MessageBatch>>,
    ) -> Result<Response<Self::MessagesStream>, Status> {
        let caller = self.caller(request.metadata()).await?;
        let from = caller.id;
        let mut stay = None;
        if !self.members.now().contains(from) {
            let urls = request.metadata().get(URLS).and_then(|urls| urls.to_str().ok()).unwrap_or_default();
            let urls: Vec<_> = urls.split(',').map(str::to_owned).collect();
            stay = self.peers.meet(&self.consensus, from, &urls);
        }
        let mut batches = request.into_inner();
        let (echoes, receiver) = mpsc::channel(MAX_QUEUED_ECHOES);
        let service = self.clone();
        tokio::spawn(async move {
            let _stay = stay;
            loop {
                let batch = match batches.message().await {
                    Ok(Some(batch)) => batch,
                    Ok(None) => return,
                    Err(status) => {
                        tracing::debug!(from = %format!("{:x}", from.0), %status, "a peer's stream broke");
                        return;
                    }
                };
                if let Err(refused) = service.admit(caller).await {
                    drop(echoes.try_send(Err(refused)));
                    return;
                }
                if batch.sent_at != 0 {
                    drop(echoes.try_send(Ok(pb::Echo { sent_at: batch.sent_at })));
                }
                service.take(from, batch);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<pb::SnapshotPiece>>,
    ) -> Result<Response<pb::SnapshotReply>, Status> {
        let from = self.caller(request.metadata()).await?.id;
        self.receive_state(from, request.into_inner()).await.map(Response::new)
    }

    type StateStream = Pin<Box<dyn Stream<Item = Result<pb::SnapshotPiece, Status>> + Send>>;

    async fn state(&self, request: Request<pb::StateRequest>) -> Result<Response<Self::StateStream>, Status> {
        let to = self.caller(request.metadata()).await?.id;
        let pieces = self.lend_state(to, request.into_inner()).await?;
        Ok(Response::new(Box::pin(ReceiverStream::new(pieces))))
    }

    async fn members(
        &self,
        _request: Request<pb::MembersRequest>,
    ) -> Result<Response<pb::MembersReply>, Status> {
        // Who asks has perhaps been added a moment ago, and this member need not have heard of it. Without a leader, what is
        // known here is the best that there is.
        if self.consensus.status().leader != MemberId(0) {
            drop(tokio::time::timeout(CATCH_UP, self.consensus.read_barrier()).await);
        }
        let members = self.members.now();
        Ok(Response::new(pb::MembersReply {
            cluster_id: self.peers.0.cluster.0,
            members: members.list(),
            removed: members.removed().map(|id| id.0).collect(),
            begun: self.peers.0.known.begun().into_iter().map(|id| id.0).collect(),
        }))
    }

    async fn change_members(
        &self,
        request: Request<MemberChange>,
    ) -> Result<Response<pb::ChangeMembersReply>, Status> {
        self.caller(request.metadata()).await?;
        let members = self.leader.change_members(request.into_inner()).await?;
        Ok(Response::new(pb::ChangeMembersReply { members }))
    }

    async fn renew_lease(
        &self,
        request: Request<LeaseKeepAliveRequest>,
    ) -> Result<Response<LeaseKeepAliveResponse>, Status> {
        self.caller(request.metadata()).await?;
        let id = request.into_inner().id;
        let ttl = self.leader.renew_lease(LeaseId(id)).await?;
        Ok(Response::new(LeaseKeepAliveResponse { header: None, id, ttl }))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        self.caller(request.metadata()).await?;
        let LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        Ok(Response::new(self.leader.time_to_live(LeaseId(id), keys).await?))
    }
}

//! The maintenance service: status, alarms, hashes, giving space back.

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_stream::Stream;
use tonic::{Request, Response, Status};

use super::header::Headers;
use super::status::{self, ClientError};
use super::{later, mismatched};
use crate::alarm::Alarms;
use crate::command::{Kind, Outcome};
use crate::consensus::Handle;
use crate::ids::{MemberId, Revision};
use crate::members::Members;
use crate::metrics::Metrics;
use crate::mvcc::{HashKv, Reader};
use crate::persist::Mailbox;
use crate::version::{CLUSTER_VERSION, ETCD_VERSION};
use crate::wire::etcdserverpb as pb;
use crate::wire::etcdserverpb::alarm_request::AlarmAction;
use crate::wire::etcdserverpb::maintenance_server::Maintenance;

/// What `Status` says of the quota when none was set.
const DEFAULT_QUOTA_BYTES: i64 = 2 << 30;

/// How often a leadership on its way is looked at.
const TRANSFER_LOOK: Duration = Duration::from_millis(10);

/// What the service needs. Cheap to clone.
#[derive(Clone)]
pub struct MaintenanceService {
    pub consensus: Handle,
    pub headers: Headers,
    pub reader: Reader,
    pub alarms: Alarms,
    pub members: Members,
    pub mailbox: Arc<Mailbox>,
    pub quota_bytes: Option<u64>,
    pub metrics: Metrics,
}

impl MaintenanceService {
    fn errors(&self) -> Vec<String> {
        let mut errors = Vec::new();
        if self.consensus.status().leader == MemberId(0) {
            errors.push(ClientError::NoLeader.text().to_owned());
        }
        for alarm in self.alarms.list(pb::AlarmType::None) {
            let kind = alarm.alarm().as_str_name();
            errors.push(format!("memberID:{} alarm:{kind} ", alarm.member_id));
        }
        errors
    }

    /// Hashing reads everything: not between the connections.
    async fn hash_at(&self, revision: i64) -> Result<HashKv, Status> {
        let reader = self.reader.clone();
        match tokio::task::spawn_blocking(move || reader.hash_kv(revision)).await {
            Ok(hash) => hash.map_err(super::of_read),
            Err(ended) => Err(Status::internal(format!("decklog: hashing ended early: {ended}"))),
        }
    }
}

#[tonic::async_trait]
impl Maintenance for MaintenanceService {
    async fn alarm(&self, request: Request<pb::AlarmRequest>) -> Result<Response<pb::AlarmResponse>, Status> {
        let request = request.into_inner();
        if AlarmAction::try_from(request.action).is_err() {
            // An unknown action does nothing in etcd, and nothing is what it answers.
            return Ok(Response::new(pb::AlarmResponse {
                header: Some(self.headers.now()),
                alarms: Vec::new(),
            }));
        }
        let outcome = self.consensus.propose(Kind::Alarm(request).into()).await;
        let Outcome::Alarm(mut response) = outcome.map_err(ClientError::from)? else {
            return Err(mismatched("Alarm"));
        };
        self.headers.fill(&mut response.header);
        Ok(Response::new(response))
    }

    async fn status(
        &self,
        _request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        let (status, sizes) = (self.consensus.status(), self.reader.sizes());
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        Ok(Response::new(pb::StatusResponse {
            header: Some(self.headers.now()),
            version: ETCD_VERSION.to_owned(),
            db_size: signed(sizes.on_disk),
            leader: status.leader.0,
            raft_index: status.committed.index.0,
            raft_term: status.term.0,
            raft_applied_index: status.applied.index.0,
            errors: self.errors(),
            db_size_in_use: signed(sizes.in_use),
            is_learner: status.is_learner,
            storage_version: CLUSTER_VERSION.to_owned(),
            db_size_quota: self.quota_bytes.map_or(DEFAULT_QUOTA_BYTES, signed),
            downgrade_info: Some(pb::DowngradeInfo::default()),
        }))
    }

    async fn defragment(
        &self,
        _request: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        let timer = self.metrics.defragment_seconds.start_timer();
        let done = self.mailbox.defragment().await;
        timer.observe_duration();
        match done {
            Ok(Ok(())) => Ok(Response::new(pb::DefragmentResponse::default())),
            Ok(Err(fault)) => Err(Status::unknown(format!("decklog: {fault}"))),
            Err(_stopping) => Err(ClientError::Stopped.into()),
        }
    }

    /// Of the key space alone: this store has no file whose bytes could be compared with etcd's.
    async fn hash(&self, _request: Request<pb::HashRequest>) -> Result<Response<pb::HashResponse>, Status> {
        let timer = self.metrics.hash_seconds.start_timer();
        let hash = self.hash_at(0).await?.hash;
        timer.observe_duration();
        Ok(Response::new(pb::HashResponse { header: Some(self.headers.now()), hash }))
    }

    async fn hash_kv(
        &self,
        request: Request<pb::HashKvRequest>,
    ) -> Result<Response<pb::HashKvResponse>, Status> {
        let timer = self.metrics.hash_revision_seconds.start_timer();
        let HashKv { hash, compacted: Revision(compact_revision), revision: Revision(hash_revision) } =
            self.hash_at(request.into_inner().revision).await?;
        timer.observe_duration();
        let header = Some(self.headers.now());
        Ok(Response::new(pb::HashKvResponse { header, hash, compact_revision, hash_revision }))
    }

    type SnapshotStream = Pin<Box<dyn Stream<Item = Result<pb::SnapshotResponse, Status>> + Send>>;

    async fn snapshot(
        &self,
        _request: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        Err(later("Maintenance.Snapshot"))
    }

    async fn move_leader(
        &self,
        request: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        let target = MemberId(request.into_inner().target_id);
        if !self.consensus.status().is_leader {
            return Err(ClientError::NotLeader.into());
        }
        if self.members.get(target).is_none_or(|member| member.is_learner) {
            return Err(ClientError::BadLeaderTransferee.into());
        }
        self.consensus.transfer_leadership(Some(target));
        let deadline = Instant::now() + self.consensus.request_timeout();
        while self.consensus.status().leader != target {
            if Instant::now() >= deadline {
                return Err(status::transfer_timed_out());
            }
            tokio::time::sleep(TRANSFER_LOOK).await;
        }
        Ok(Response::new(pb::MoveLeaderResponse { header: Some(self.headers.now()) }))
    }

    async fn downgrade(
        &self,
        _request: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        Err(later("Maintenance.Downgrade"))
    }
}

//! A call of every RPC, and what is answered without what differs between two clusters by nature.

use std::fmt::Debug;
use std::time::Duration;

use decklog::wire::etcdserverpb as pb;
use decklog::wire::etcdserverpb::request_op::Request as Operation;
use decklog::wire::etcdserverpb::watch_request::RequestUnion;
use decklog::wire::health::HealthCheckRequest;
use decklog::wire::health::health_client::HealthClient;
use decklog::wire::v3electionpb::LeaderRequest;
use decklog::wire::v3electionpb::election_client::ElectionClient;
use decklog::wire::v3lockpb::UnlockRequest;
use decklog::wire::v3lockpb::lock_client::LockClient;
use pb::auth_client::AuthClient;
use pb::cluster_client::ClusterClient;
use pb::kv_client::KvClient;
use pb::lease_client::LeaseClient;
use pb::maintenance_client::MaintenanceClient;
use pb::watch_client::WatchClient;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

pub const LEASE: i64 = 77;
pub const KEY: &str = "key";
const NOBODY: i64 = 404;
/// Above every time that a server takes.
const LIMIT: Duration = Duration::from_secs(60);

/// Whom to ask, and how.
#[derive(Clone)]
pub struct At {
    pub channel: Channel,
    pub member: u64,
    /// Some voter.
    pub voter: u64,
    pub peer_url: String,
    /// Says that there must be a leader.
    pub with_leader: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    Range,
    RangeSerializable,
    RangeEmptyKey,
    Put,
    PutEmptyKey,
    DeleteRange,
    TxnWrites,
    TxnReads,
    TxnReadsSerializable,
    TxnEmpty,
    Compact,
    Watch,
    WatchNegative,
    LeaseGrant,
    LeaseRevokeUnknown,
    LeaseKeepAlive,
    LeaseKeepAliveUnknown,
    LeaseTimeToLive,
    LeaseTimeToLiveUnknown,
    LeaseLeases,
    MemberList,
    MemberListLocal,
    MemberAddExisting,
    MemberRemoveUnknown,
    MemberUpdateUnknown,
    MemberPromoteVoter,
    Alarm,
    Status,
    Defragment,
    Hash,
    HashKv,
    MoveLeaderUnknown,
    Health,
    Snapshot,
    Downgrade,
    AuthStatus,
    Unlock,
    ElectionLeader,
}

pub const CALLS: [Call; 38] = [
    Call::Range,
    Call::RangeSerializable,
    Call::RangeEmptyKey,
    Call::Put,
    Call::PutEmptyKey,
    Call::DeleteRange,
    Call::TxnWrites,
    Call::TxnReads,
    Call::TxnReadsSerializable,
    Call::TxnEmpty,
    Call::Compact,
    Call::Watch,
    Call::WatchNegative,
    Call::LeaseGrant,
    Call::LeaseRevokeUnknown,
    Call::LeaseKeepAlive,
    Call::LeaseKeepAliveUnknown,
    Call::LeaseTimeToLive,
    Call::LeaseTimeToLiveUnknown,
    Call::LeaseLeases,
    Call::MemberList,
    Call::MemberListLocal,
    Call::MemberAddExisting,
    Call::MemberRemoveUnknown,
    Call::MemberUpdateUnknown,
    Call::MemberPromoteVoter,
    Call::Alarm,
    Call::Status,
    Call::Defragment,
    Call::Hash,
    Call::HashKv,
    Call::MoveLeaderUnknown,
    Call::Health,
    Call::Snapshot,
    Call::Downgrade,
    Call::AuthStatus,
    Call::Unlock,
    Call::ElectionLeader,
];

impl Call {
    /// Of a later version: until then it says so.
    pub fn is_later_work(self) -> bool {
        matches!(
            self,
            Self::Snapshot | Self::Downgrade | Self::AuthStatus | Self::Unlock | Self::ElectionLeader
        )
    }
}

type Answer<T> = Result<Response<T>, Status>;

impl At {
    pub fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if self.with_leader {
            request.metadata_mut().insert("hasleader", "true".parse().expect("it is text"));
        }
        request
    }

    /// Who answered, and as of which revision.
    fn header(&self, header: Option<pb::ResponseHeader>) -> String {
        let Some(header) = header else { return "no header".to_owned() };
        let by = if header.member_id == self.member { "itself" } else { "another" };
        let (known, term) = (header.cluster_id != 0, header.raft_term != 0);
        format!("by {by}, revision {}, cluster known {known}, term known {term}", header.revision)
    }

    /// Asks; the answer as text.
    pub async fn ask(&self, call: Call) -> String {
        let asked = async {
            match call {
                Call::Range
                | Call::RangeSerializable
                | Call::RangeEmptyKey
                | Call::Put
                | Call::PutEmptyKey
                | Call::DeleteRange
                | Call::TxnWrites
                | Call::TxnReads
                | Call::TxnReadsSerializable
                | Call::TxnEmpty
                | Call::Compact => self.keys(call).await,
                Call::Watch => self.watch(0).await,
                Call::WatchNegative => self.watch(-1).await,
                Call::LeaseGrant
                | Call::LeaseRevokeUnknown
                | Call::LeaseKeepAlive
                | Call::LeaseKeepAliveUnknown
                | Call::LeaseTimeToLive
                | Call::LeaseTimeToLiveUnknown
                | Call::LeaseLeases => self.leases(call).await,
                Call::MemberList
                | Call::MemberListLocal
                | Call::MemberAddExisting
                | Call::MemberRemoveUnknown
                | Call::MemberUpdateUnknown
                | Call::MemberPromoteVoter => self.members(call).await,
                _ => self.others(call).await,
            }
        };
        tokio::time::timeout(LIMIT, asked).await.unwrap_or_else(|_elapsed| "no answer".to_owned())
    }

    async fn keys(&self, call: Call) -> String {
        let mut client = KvClient::new(self.channel.clone());
        let range = |serializable| pb::RangeRequest { key: KEY.into(), serializable, ..Default::default() };
        let put = pb::PutRequest { key: KEY.into(), value: "v".into(), ..Default::default() };
        match call {
            Call::Range | Call::RangeSerializable => {
                let answer = client.range(self.request(range(call == Call::RangeSerializable))).await;
                told(answer, |it| format!("{} keys, {}", it.count, self.header(it.header)))
            }
            Call::RangeEmptyKey => {
                told(client.range(self.request(pb::RangeRequest::default())).await, |it| format!("{it:?}"))
            }
            Call::Put => told(client.put(self.request(put)).await, |it| self.header(it.header)),
            Call::PutEmptyKey => {
                told(client.put(self.request(pb::PutRequest::default())).await, |it| format!("{it:?}"))
            }
            Call::DeleteRange => {
                let request = pb::DeleteRangeRequest { key: "nothing".into(), ..Default::default() };
                let answer = client.delete_range(self.request(request)).await;
                told(answer, |it| format!("{} deleted, {}", it.deleted, self.header(it.header)))
            }
            Call::Compact => {
                let request = pb::CompactionRequest { revision: 2, physical: false };
                told(client.compact(self.request(request)).await, |it| self.header(it.header))
            }
            _ => {
                let operation = match call {
                    Call::TxnWrites => Some(Operation::RequestPut(put)),
                    Call::TxnReads => Some(Operation::RequestRange(range(false))),
                    Call::TxnReadsSerializable => Some(Operation::RequestRange(range(true))),
                    _ => None,
                };
                let success = operation.into_iter().map(|it| pb::RequestOp { request: Some(it) }).collect();
                let answer = client.txn(self.request(pb::TxnRequest { success, ..Default::default() })).await;
                told(answer, |it| format!("{} answers, {}", it.responses.len(), self.header(it.header)))
            }
        }
    }

    async fn watch(&self, start_revision: i64) -> String {
        let create = pb::WatchCreateRequest { key: KEY.into(), start_revision, ..Default::default() };
        let request = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        // It stays open until the answer has come.
        let requests = futures_util::StreamExt::chain(
            tokio_stream::once(request),
            tokio_stream::pending::<pb::WatchRequest>(),
        );
        first(WatchClient::new(self.channel.clone()).watch(self.request(requests)).await, |it| {
            let (header, reason) = (self.header(it.header), &it.cancel_reason);
            format!(
                "id {}, created {}, canceled {} {reason:?}, {header}",
                it.watch_id, it.created, it.canceled
            )
        })
        .await
    }

    async fn leases(&self, call: Call) -> String {
        let mut client = LeaseClient::new(self.channel.clone());
        match call {
            Call::LeaseGrant => {
                let answer =
                    client.lease_grant(self.request(pb::LeaseGrantRequest { ttl: 100, id: 0 })).await;
                told(answer, |it| format!("{} s, id given {}, {}", it.ttl, it.id > 0, self.header(it.header)))
            }
            Call::LeaseRevokeUnknown => {
                let request = pb::LeaseRevokeRequest { id: NOBODY };
                told(client.lease_revoke(self.request(request)).await, |it| self.header(it.header))
            }
            Call::LeaseKeepAlive | Call::LeaseKeepAliveUnknown => {
                let id = if call == Call::LeaseKeepAlive { LEASE } else { NOBODY };
                let request = self.request(tokio_stream::once(pb::LeaseKeepAliveRequest { id }));
                let answers = client.lease_keep_alive(request).await;
                first(answers, |it| format!("{} has {} s, {}", it.id, it.ttl, self.header(it.header))).await
            }
            Call::LeaseTimeToLive | Call::LeaseTimeToLiveUnknown => {
                let id = if call == Call::LeaseTimeToLive { LEASE } else { NOBODY };
                let request = pb::LeaseTimeToLiveRequest { id, keys: true };
                told(client.lease_time_to_live(self.request(request)).await, |it| {
                    let (keys, header) = (it.keys.len(), self.header(it.header));
                    format!("{} s granted, exists {}, {keys} keys, {header}", it.granted_ttl, it.ttl > 0)
                })
            }
            _ => {
                let answer = client.lease_leases(self.request(pb::LeaseLeasesRequest {})).await;
                told(answer, |it| {
                    let is_there = it.leases.iter().any(|lease| lease.id == LEASE);
                    format!("{} leases, {is_there}, {}", it.leases.len(), self.header(it.header))
                })
            }
        }
    }

    async fn members(&self, call: Call) -> String {
        let mut client = ClusterClient::new(self.channel.clone());
        let peer_ur_ls = vec![self.peer_url.clone()];
        match call {
            Call::MemberList | Call::MemberListLocal => {
                let request = pb::MemberListRequest { linearizable: call == Call::MemberList };
                told(client.member_list(self.request(request)).await, |it| {
                    let learners = it.members.iter().filter(|member| member.is_learner).count();
                    format!("{} members, {learners} learners, {}", it.members.len(), self.header(it.header))
                })
            }
            Call::MemberAddExisting => {
                let request = pb::MemberAddRequest { peer_ur_ls, is_learner: false };
                told(client.member_add(self.request(request)).await, |it| format!("{it:?}"))
            }
            Call::MemberRemoveUnknown => {
                let request = pb::MemberRemoveRequest { id: NOBODY as u64 };
                told(client.member_remove(self.request(request)).await, |it| format!("{it:?}"))
            }
            Call::MemberUpdateUnknown => {
                let request = pb::MemberUpdateRequest { id: NOBODY as u64, peer_ur_ls };
                told(client.member_update(self.request(request)).await, |it| format!("{it:?}"))
            }
            _ => {
                let request = pb::MemberPromoteRequest { id: self.voter };
                told(client.member_promote(self.request(request)).await, |it| format!("{it:?}"))
            }
        }
    }

    async fn others(&self, call: Call) -> String {
        let channel = self.channel.clone();
        let mut client = MaintenanceClient::new(channel.clone());
        match call {
            Call::Alarm => told(client.alarm(self.request(pb::AlarmRequest::default())).await, |it| {
                format!("{} alarms, {}", it.alarms.len(), self.header(it.header))
            }),
            Call::Status => told(client.status(self.request(pb::StatusRequest {})).await, |it| {
                let (learns, header) = (it.is_learner, self.header(it.header));
                format!("leader known {}, learns {learns}, {:?}, {header}", it.leader != 0, it.errors)
            }),
            Call::Defragment => {
                told(client.defragment(self.request(pb::DefragmentRequest {})).await, |it| format!("{it:?}"))
            }
            Call::Hash => {
                told(client.hash(self.request(pb::HashRequest {})).await, |it| self.header(it.header))
            }
            Call::HashKv => {
                let answer = client.hash_kv(self.request(pb::HashKvRequest { revision: 0 })).await;
                told(answer, |it| format!("compacted {}, {}", it.compact_revision, self.header(it.header)))
            }
            Call::MoveLeaderUnknown => {
                let request = pb::MoveLeaderRequest { target_id: NOBODY as u64 };
                told(client.move_leader(self.request(request)).await, |it| format!("{it:?}"))
            }
            Call::Health => {
                let request = self.request(HealthCheckRequest::default());
                told(HealthClient::new(channel).check(request).await, |it| format!("{it:?}"))
            }
            Call::Snapshot => {
                let answers = client.snapshot(self.request(pb::SnapshotRequest {})).await;
                first(answers, |it| format!("blob {}", !it.blob.is_empty())).await
            }
            Call::Downgrade => {
                let request = pb::DowngradeRequest { action: 0, version: "3.4.0".to_owned() };
                told(client.downgrade(self.request(request)).await, |it| format!("{it:?}"))
            }
            Call::AuthStatus => {
                let request = self.request(pb::AuthStatusRequest {});
                told(AuthClient::new(channel).auth_status(request).await, |it| format!("on {}", it.enabled))
            }
            Call::Unlock => {
                let request = self.request(UnlockRequest { key: "none".into() });
                told(LockClient::new(channel).unlock(request).await, |it| format!("{it:?}"))
            }
            _ => {
                let request = self.request(LeaderRequest { name: "none".into() });
                told(ElectionClient::new(channel).leader(request).await, |it| format!("{it:?}"))
            }
        }
    }
}

fn refused(status: &Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

fn told<T>(answer: Answer<T>, text: impl FnOnce(T) -> String) -> String {
    match answer {
        Ok(answer) => text(answer.into_inner()),
        Err(status) => refused(&status),
    }
}

/// What a stream says first.
async fn first<T: Debug>(answers: Answer<Streaming<T>>, text: impl FnOnce(T) -> String) -> String {
    let first = match answers {
        Ok(mut answers) => answers.get_mut().message().await,
        Err(status) => Err(status),
    };
    match first {
        Ok(Some(answer)) => text(answer),
        Ok(None) => "it ended".to_owned(),
        Err(status) => refused(&status),
    }
}

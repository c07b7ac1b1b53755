//! The requests that measuring clusters needs beside those of the load tool.

use std::time::{Duration, Instant};

use bytes::Bytes;
use decklog::wire::etcdserverpb as pb;
use decklog::wire::etcdserverpb::cluster_client::ClusterClient;
use decklog::wire::etcdserverpb::kv_client::KvClient;
use decklog::wire::etcdserverpb::maintenance_client::MaintenanceClient;
use decklog::wire::etcdserverpb::request_op::Request as Operation;
use decklog::wire::etcdserverpb::watch_client::WatchClient;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use tokio::task::JoinSet;
use tokio_stream::StreamExt;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::servers::Member;

const LIMIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(20);
/// Between two tries of a write while nobody leads.
const TRY_INTERVAL: Duration = Duration::from_millis(5);
/// Small enough that the fill is more entries than a log keeps.
const PUTS_PER_TXN: u64 = 50;
const FILL_CLIENTS: u64 = 16;
const VALUE_BYTES: usize = 256;
/// Distinct values.
const VALUES: usize = 1 << 16;
const PREFIX: &str = "join/";

/// Connects when it is used.
pub fn channel(endpoint: &str) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(endpoint.to_owned()).map_err(|error| error.to_string())?;
    Ok(endpoint.tcp_nodelay(true).connect_lazy())
}

/// The place of the leader, once one of the members says that it leads.
pub async fn leader(endpoints: &[String]) -> Result<usize, String> {
    let began = Instant::now();
    while began.elapsed() < LIMIT {
        for (place, endpoint) in endpoints.iter().enumerate() {
            let answer = MaintenanceClient::new(channel(endpoint)?).status(pb::StatusRequest {}).await;
            let leads = |status: &pb::StatusResponse| {
                status.header.as_ref().is_some_and(|header| header.member_id == status.leader)
            };
            if answer.is_ok_and(|answer| leads(answer.get_ref())) {
                return Ok(place);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
    Err("nobody leads".to_owned())
}

pub async fn put(channel: Channel, value: &'static str) -> Result<(), Status> {
    let request = pb::PutRequest {
        key: "leader".into(),
        value: Bytes::from_static(value.as_bytes()),
        ..Default::default()
    };
    KvClient::new(channel).put(request).await.map(drop)
}

/// Begins a write on each of the members every few milliseconds, whatever became of those before, until one is accepted.
pub async fn first_accepted(channels: &[Channel]) -> Result<(), String> {
    let mut tries = JoinSet::new();
    let mut next = tokio::time::interval(TRY_INTERVAL);
    let began = Instant::now();
    let mut last = "no answer".to_owned();
    while began.elapsed() < LIMIT {
        tokio::select! {
            biased;
            Some(ended) = tries.join_next() => match ended.map_err(|error| error.to_string())? {
                Ok(()) => return Ok(()),
                Err(status) => last = Status::to_string(&status),
            },
            _ = next.tick() => {
                for channel in channels {
                    tries.spawn(put(channel.clone(), "after"));
                }
            }
        }
    }
    Err(format!("no write is accepted after the leader's end: {last}"))
}

fn key(number: u64) -> Bytes {
    // 24 bytes, as the load tool's.
    format!("{PREFIX}{number:0width$}", width = 24 - PREFIX.len()).into()
}

/// Puts the keys, some in each transaction.
pub async fn fill(channel: &Channel, keys: u64) -> Result<(), String> {
    // Values that nobody gains from compressing.
    let mut random = vec![0; VALUES + VALUE_BYTES];
    SmallRng::seed_from_u64(1).fill_bytes(&mut random);
    let values = Bytes::from(random);
    let mut tasks = JoinSet::new();
    for client in 0..FILL_CLIENTS {
        let (mut kv, values) = (KvClient::new(channel.clone()), values.clone());
        tasks.spawn(async move {
            let mut first = client * PUTS_PER_TXN;
            while first < keys {
                let numbers = first..keys.min(first + PUTS_PER_TXN);
                let puts = numbers.map(|number| {
                    let value = values.slice(number as usize % VALUES..).slice(..VALUE_BYTES);
                    let put = pb::PutRequest { key: key(number), value, ..Default::default() };
                    pb::RequestOp { request: Some(Operation::RequestPut(put)) }
                });
                let txn = pb::TxnRequest { success: puts.collect(), ..Default::default() };
                kv.txn(txn).await?;
                first += FILL_CLIENTS * PUTS_PER_TXN;
            }
            Ok::<(), Status>(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|error| error.to_string())?.map_err(|status| format!("filling: {status}"))?;
    }
    Ok(())
}

/// The revision that a member is at, by itself; `None` when it does not answer.
pub async fn revision(channel: &Channel) -> Option<i64> {
    let request = pb::RangeRequest { key: PREFIX.into(), serializable: true, ..Default::default() };
    let mut kv = KvClient::new(channel.clone());
    let answer = tokio::time::timeout(Duration::from_secs(1), kv.range(request)).await.ok()?.ok()?;
    Some(answer.into_inner().header?.revision)
}

/// The revision of a member that answers.
pub async fn known_revision(channel: &Channel) -> Result<i64, String> {
    revision(channel).await.ok_or_else(|| "a server does not answer".to_owned())
}

/// Reads from a member that begins, until it answers a linearizable read.
pub async fn first_read(member: &mut Member) -> Result<(), String> {
    let mut kv = KvClient::new(channel(&member.endpoint())?);
    let began = Instant::now();
    loop {
        let request = pb::RangeRequest { key: PREFIX.into(), ..Default::default() };
        match kv.range(request).await {
            Ok(_) => return Ok(()),
            Err(status) if began.elapsed() > LIMIT => {
                return Err(format!("no read after the start: {status}"));
            }
            Err(_) => tokio::time::sleep(TRY_INTERVAL).await,
        }
        member.check_runs()?;
    }
}

/// Compacts everything before a revision, and waits until it has left the store.
pub async fn compact(channel: &Channel, revision: i64) -> Result<(), String> {
    let request = pb::CompactionRequest { revision, physical: true };
    let answer = KvClient::new(channel.clone()).compact(request).await;
    answer.map(drop).map_err(|status| format!("compacting: {status}"))
}

pub async fn defragment(channel: &Channel) -> Result<(), String> {
    let answer = MaintenanceClient::new(channel.clone()).defragment(pb::DefragmentRequest {}).await;
    answer.map(drop).map_err(|status| format!("defragmenting: {status}"))
}

/// Watches everything from a revision on, past its `created`.
pub async fn watch_all(
    channel: Channel,
    start_revision: i64,
) -> Result<tonic::Streaming<pb::WatchResponse>, Status> {
    let create = pb::WatchCreateRequest {
        key: Bytes::from_static(&[0]),
        range_end: Bytes::from_static(&[0]),
        start_revision,
        ..Default::default()
    };
    let union = pb::watch_request::RequestUnion::CreateRequest(create);
    let first = tokio_stream::once(pb::WatchRequest { request_union: Some(union) });
    let messages = first.chain(tokio_stream::pending());
    let mut events = WatchClient::new(channel).watch(messages).await?.into_inner();
    events.message().await?;
    Ok(events)
}

/// How many of the keys a member has, by itself.
pub async fn count(channel: &Channel) -> Result<u64, String> {
    let mut range_end = PREFIX.as_bytes().to_vec();
    if let Some(last) = range_end.last_mut() {
        *last += 1;
    }
    let request = pb::RangeRequest {
        key: PREFIX.into(),
        range_end: range_end.into(),
        serializable: true,
        count_only: true,
        ..Default::default()
    };
    let answer = KvClient::new(channel.clone()).range(request).await.map_err(|status| status.to_string())?;
    u64::try_from(answer.into_inner().count).map_err(|error| error.to_string())
}

/// Its id. Members that began a moment ago do not count as connected yet: asked until they do.
pub async fn add_learner(channel: &Channel, peer_url: &str) -> Result<u64, String> {
    let began = Instant::now();
    loop {
        let request = pb::MemberAddRequest { peer_ur_ls: vec![peer_url.to_owned()], is_learner: true };
        match ClusterClient::new(channel.clone()).member_add(request).await {
            Ok(answer) => {
                return answer
                    .into_inner()
                    .member
                    .map(|member| member.id)
                    .ok_or_else(|| "no member".to_owned());
            }
            Err(status) if began.elapsed() > LIMIT => return Err(format!("adding a member: {status}")),
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}

pub async fn remove(channel: &Channel, id: u64) -> Result<(), String> {
    let request = pb::MemberRemoveRequest { id };
    let answer = ClusterClient::new(channel.clone()).member_remove(request).await;
    answer.map(drop).map_err(|status| format!("removing a member: {status}"))
}

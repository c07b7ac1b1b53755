//! The KV service: validate, then propose or read, then reply.

use std::pin::Pin;
use std::time::Instant;

use tokio::sync::{mpsc, watch};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::header::Headers;
use super::quota::Quota;
use super::status::ClientError;
use super::{mismatched, validate};
use crate::command::{Kind, Outcome};
use crate::consensus::Handle;
use crate::ids::Revision;
use crate::metrics::Metrics;
use crate::mvcc::{self, Operations, RangeCursor, Reader, Snapshot};
use crate::wire::Answer;
use crate::wire::etcdserverpb as pb;
use crate::wire::etcdserverpb::ResponseHeader;
use crate::wire::etcdserverpb::kv_server::Kv;
use crate::wire::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::wire::etcdserverpb::request_op::Request as Operation;

/// A range over more keys than this runs beside the connections, not between them.
const MAX_INLINE_KEYS: u64 = 512;
/// Pairs in the first message of a range stream.
const FIRST_CHUNK_PAIRS: usize = 10;
/// Messages of a range stream that wait for the client.
const MAX_QUEUED_CHUNKS: usize = 4;

/// What the service needs. Cheap to clone.
#[derive(Clone)]
pub struct KvService {
    pub consensus: Handle,
    pub reader: Reader,
    pub headers: Headers,
    pub quota: Quota,
    /// Revision through which compactions have left the store.
    pub removed_through: watch::Receiver<Revision>,
    pub max_txn_ops: usize,
    pub max_request_bytes: usize,
    pub metrics: Metrics,
}

impl KvService {
    /// A learner reads only what need not be the newest.
    fn check_learner(&self, serializable: bool) -> Result<(), Status> {
        let is_refused = !serializable && self.consensus.status().is_learner;
        if is_refused { Err(ClientError::NotSupportedForLearner.into()) } else { Ok(()) }
    }

    async fn barrier(&self, serializable: bool) -> Result<(), Status> {
        if serializable {
            return Ok(());
        }
        self.consensus.read_barrier().await.map_err(client)
    }

    async fn propose(&self, kind: Kind) -> Result<Outcome, Status> {
        self.consensus.propose(kind.into()).await.map_err(client)
    }

    async fn read_txn(&self, request: pb::TxnRequest) -> Result<Answer<pb::TxnResponse>, Status> {
        self.barrier(is_serializable(&request)).await?;
        let began = Instant::now();
        let snapshot = self.reader.snapshot();
        let keys = ranges(&request).map(|range| snapshot.estimate(range)).sum();
        let compares = request.compare.len();
        let result = read(keys, move || mvcc::read_txn(&snapshot, &request).map(ReadTxn::from)).await;
        let success = if result.is_ok() { "true" } else { "false" };
        let seconds = self.metrics.request_seconds.with_label_values(&["ReadonlyTxn", success]);
        seconds.observe(began.elapsed().as_secs_f64());
        let asked = compares + result.as_ref().map_or(0, |read| read.ranges);
        let txns = u64::from(asked > 1);
        self.metrics.count_operations(&Operations { ranges: asked as u64, txns, ..Operations::default() });
        result.map(|read| read.answer)
    }

    /// A long answer goes beside an empty message, in whose place the server sends it.
    fn reply<M: Default>(
        &self,
        answer: Answer<M>,
        header: impl Fn(&mut M) -> &mut Option<ResponseHeader>,
    ) -> Result<Response<M>, Status> {
        match answer {
            Answer::Short(mut message) => {
                self.headers.fill(header(&mut message));
                Ok(Response::new(message))
            }
            Answer::Long(known, message) => {
                let mut response = Response::new(M::default());
                response.extensions_mut().insert(message.framed(&self.headers.filled(known))?);
                Ok(response)
            }
        }
    }
}

/// What a transaction that only reads has found.
struct ReadTxn {
    ranges: usize,
    answer: Answer<pb::TxnResponse>,
}

impl From<pb::TxnResponse> for ReadTxn {
    fn from(response: pb::TxnResponse) -> Self {
        Self { ranges: response.responses.len(), answer: response.into() }
    }
}

#[tonic::async_trait]
impl Kv for KvService {
    async fn range(&self, request: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        let request = request.into_inner();
        self.check_learner(request.serializable)?;
        validate::range(&request)?;
        let arrived = Instant::now();
        self.barrier(request.serializable).await?;
        let began = Instant::now();
        let snapshot = self.reader.snapshot();
        let keys = snapshot.estimate(&request);
        let result = read(keys, move || mvcc::range_response(&snapshot, &request).map(Answer::from)).await;
        self.metrics.ranges.inc();
        self.metrics.range_ended(result.is_ok(), arrived.elapsed(), began.elapsed());
        self.reply(result?, |response| &mut response.header)
    }

    type RangeStreamStream = Pin<Box<dyn Stream<Item = Result<pb::RangeStreamResponse, Status>> + Send>>;

    async fn range_stream(
        &self,
        request: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        let request = request.into_inner();
        validate::range(&request)?;
        check_streamable(&request)?;
        self.barrier(request.serializable).await?;
        self.metrics.ranges.inc();
        let snapshot = self.reader.snapshot();
        let (sender, receiver) = mpsc::channel(MAX_QUEUED_CHUNKS);
        let (headers, max_bytes) = (self.headers.clone(), self.max_request_bytes);
        tokio::spawn(async move {
            if let Err(status) = stream_range(snapshot, request, headers, max_bytes, &sender).await {
                // A client that is gone needs no answer.
                drop(sender.send(Err(status)).await);
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn put(&self, request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        let request = request.into_inner();
        self.quota.check(validate::put_cost(&request)).await?;
        validate::put(&request)?;
        let Outcome::Put(mut response) = self.propose(Kind::Put(request)).await? else {
            return Err(mismatched("Put"));
        };
        self.headers.fill(&mut response.header);
        Ok(Response::new(response))
    }

    async fn delete_range(
        &self,
        request: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        let request = request.into_inner();
        validate::delete_range(&request)?;
        let Outcome::DeleteRange(mut response) = self.propose(Kind::DeleteRange(request)).await? else {
            return Err(mismatched("DeleteRange"));
        };
        self.headers.fill(&mut response.header);
        Ok(Response::new(response))
    }

    async fn txn(&self, request: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        let request = request.into_inner();
        self.quota.check(validate::txn_cost(&request)).await?;
        validate::txn(&request, self.max_txn_ops)?;
        let answer = if is_read_only(&request) {
            self.read_txn(request).await?
        } else {
            match self.propose(Kind::Txn(request)).await? {
                Outcome::Txn(response) => response.into(),
                _ => return Err(mismatched("Txn")),
            }
        };
        self.reply(answer, |response| &mut response.header)
    }

    async fn compact(
        &self,
        request: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        let request = request.into_inner();
        let (physical, revision) = (request.physical, Revision(request.revision));
        let Outcome::Compact(mut response) = self.propose(Kind::Compact(request)).await? else {
            return Err(mismatched("Compact"));
        };
        if physical {
            let mut removed = self.removed_through.clone();
            if removed.wait_for(|through| *through >= revision).await.is_err() {
                return Err(ClientError::Stopped.into());
            }
        }
        self.headers.fill(&mut response.header);
        Ok(Response::new(response))
    }
}

fn client(error: impl Into<ClientError>) -> Status {
    error.into().into()
}

/// Reads here when it is quick, on a thread of its own when it is long.
async fn read<T: Send + 'static>(
    keys: u64,
    read: impl FnOnce() -> Result<T, mvcc::Error> + Send + 'static,
) -> Result<T, Status> {
    if keys <= MAX_INLINE_KEYS {
        return read().map_err(super::status::of_read);
    }
    match tokio::task::spawn_blocking(read).await {
        Ok(result) => result.map_err(super::status::of_read),
        Err(ended) => Err(Status::internal(format!("decklog: a read ended early: {ended}"))),
    }
}

fn ranges(request: &pb::TxnRequest) -> impl Iterator<Item = &pb::RangeRequest> {
    request.success.iter().chain(&request.failure).filter_map(|operation| match &operation.request {
        Some(Operation::RequestRange(range)) => Some(range),
        _ => None,
    })
}

/// Both branches hold ranges alone; a nested transaction counts as a write.
fn is_read_only(request: &pb::TxnRequest) -> bool {
    ranges(request).count() == request.success.len() + request.failure.len()
}

/// Also with no operation at all, as in etcd.
fn is_serializable(request: &pb::TxnRequest) -> bool {
    ranges(request).all(|range| range.serializable)
}

fn check_streamable(request: &pb::RangeRequest) -> Result<(), Status> {
    let sorted = request.sort_order() == SortOrder::Descend
        || (request.sort_target() != SortTarget::Key && !request.count_only);
    if sorted {
        return Err(Status::unimplemented("RangeStream does not support custom sort orders"));
    }
    let filtered = request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0;
    if filtered {
        return Err(Status::unimplemented("RangeStream does not support revision filters"));
    }
    Ok(())
}

/// Sends the pairs in messages that grow and shrink to stay below the size limit; header, count and `more`
/// come with the last, so that all messages merged are the answer of Range.
async fn stream_range(
    snapshot: Snapshot,
    request: pb::RangeRequest,
    headers: Headers,
    max_bytes: usize,
    sender: &mpsc::Sender<Result<pb::RangeStreamResponse, Status>>,
) -> Result<(), Status> {
    let (limit, count_only) = (request.limit, request.count_only);
    let mut cursor = snapshot.cursor(request).map_err(super::status::of_read)?;
    let summary = cursor.summary(if count_only { 0 } else { limit });
    let mut pairs_per_chunk = FIRST_CHUNK_PAIRS;
    loop {
        let mut kvs = Vec::new();
        if !count_only {
            (cursor, kvs) = next_chunk(cursor, pairs_per_chunk, max_bytes).await?;
        }
        let last = count_only || cursor.is_done();
        let bytes: usize = kvs.iter().map(|pair| pair.as_bytes().len() + 8).sum();
        pairs_per_chunk = next_size(pairs_per_chunk, bytes, max_bytes);
        let mut response = pb::RangeResponse { kvs, ..pb::RangeResponse::default() };
        if last {
            response.header = Some(headers.at(summary.revision));
            response.more = summary.more;
            response.count = summary.count;
        }
        let message = pb::RangeStreamResponse { range_response: Some(response) };
        if sender.send(Ok(message)).await.is_err() || last {
            return Ok(());
        }
    }
}

async fn next_chunk(
    mut cursor: RangeCursor,
    pairs: usize,
    max_bytes: usize,
) -> Result<(RangeCursor, Vec<crate::wire::EncodedKeyValue>), Status> {
    read(pairs as u64, move || {
        let kvs = cursor.next(pairs, max_bytes)?;
        Ok((cursor, kvs))
    })
    .await
}

/// Twice as many while that stays below the limit, half as many when it does not.
fn next_size(pairs: usize, bytes: usize, max_bytes: usize) -> usize {
    if bytes.saturating_mul(2) < max_bytes {
        pairs.saturating_mul(2)
    } else if bytes >= max_bytes {
        (pairs / 2).max(1)
    } else {
        pairs
    }
}

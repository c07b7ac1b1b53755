//! The watch service: one stream of requests and answers, with many watchers on it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};

use super::count_failure;
use super::header::Headers;
use super::status::ClientError;
use crate::ids::Revision;
use crate::metrics::Metrics;
use crate::watch::{
    ALL_WATCHERS, Answer, Queued, Refusal, StreamRequests, StreamResponses, Wants, WatchCreate, WatchHub,
};
use crate::wire::EncodedEvent;
use crate::wire::etcdserverpb as pb;
use crate::wire::etcdserverpb::watch_create_request::FilterType;
use crate::wire::etcdserverpb::watch_request::RequestUnion;
use crate::wire::etcdserverpb::watch_server::Watch;

/// What the service needs. Cheap to clone.
#[derive(Clone)]
pub struct WatchService {
    pub hub: WatchHub,
    pub headers: Headers,
    /// Answers of watchers that want fragments are split when they reach so many bytes.
    pub max_fragment_bytes: usize,
    pub metrics: Metrics,
}

#[tonic::async_trait]
impl Watch for WatchService {
    type WatchStream = Responses;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let (requests, responses) = self.hub.open().await.map_err(|stopped| {
            tracing::debug!(%stopped, "no new watch stream");
            Status::from(ClientError::Stopped)
        })?;
        let metrics = self.metrics.clone();
        tokio::spawn(take_requests(request.into_inner(), requests, metrics.clone()));
        let (headers, max_fragment_bytes) = (self.headers.clone(), self.max_fragment_bytes);
        let ready = VecDeque::new();
        Ok(Response::new(Responses { responses, headers, max_fragment_bytes, metrics, ready }))
    }
}

/// Hands on requests until the client stops sending; a stream that breaks is one that has ended.
async fn take_requests(
    mut incoming: Streaming<pb::WatchRequest>,
    requests: StreamRequests,
    metrics: Metrics,
) {
    loop {
        let request = match incoming.message().await {
            Ok(Some(request)) => request,
            Ok(None) => return,
            Err(status) => return count_failure(&metrics, "watch", &status),
        };
        let sent = match request.request_union {
            Some(RequestUnion::CreateRequest(create)) => requests.create(to_create(create)).await,
            Some(RequestUnion::CancelRequest(cancel)) => requests.cancel(cancel.watch_id).await,
            Some(RequestUnion::ProgressRequest(_)) => requests.progress().await,
            None => {
                tracing::debug!("a watch request asks for nothing");
                Ok(())
            }
        };
        if sent.is_err() {
            return;
        }
    }
}

fn to_create(request: pb::WatchCreateRequest) -> WatchCreate {
    let filters: Vec<FilterType> = request.filters().collect();
    let wants = Wants {
        no_put: filters.contains(&FilterType::Noput),
        no_delete: filters.contains(&FilterType::Nodelete),
        previous: request.prev_kv,
        progress: request.progress_notify,
        fragments: request.fragment,
    };
    WatchCreate {
        key: request.key,
        range_end: request.range_end,
        start_revision: request.start_revision,
        id: request.watch_id,
        wants,
    }
}

/// The answers of a stream as messages.
pub struct Responses {
    responses: StreamResponses,
    headers: Headers,
    max_fragment_bytes: usize,
    metrics: Metrics,
    /// Pieces of one answer that are not sent yet.
    ready: VecDeque<pb::WatchResponse>,
}

impl Stream for Responses {
    type Item = Result<pb::WatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(piece) = self.ready.pop_front() {
            return Poll::Ready(Some(Ok(piece)));
        }
        match self.responses.poll_next(context) {
            Poll::Ready(Some(Queued { answer, .. })) if self.metrics.are_extensive() => {
                Poll::Ready(Some(Ok(self.timed_response_of(answer))))
            }
            Poll::Ready(Some(Queued { answer, .. })) => Poll::Ready(Some(Ok(self.response_of(answer)))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Responses {
    fn timed_response_of(&mut self, answer: Answer) -> pb::WatchResponse {
        let (began, metrics) = (Instant::now(), self.metrics.clone());
        let (seconds, events) = match &answer {
            Answer::Events { events, .. } => (&metrics.watch_events_seconds, events.len()),
            Answer::Progress { .. } => (&metrics.watch_progress_seconds, 0),
            _ => (&metrics.watch_control_seconds, 0),
        };
        let response = self.response_of(answer);
        let took = began.elapsed().as_secs_f64();
        seconds.observe(took);
        if events > 0 {
            metrics.watch_event_seconds.observe(took / events as f64);
        }
        response
    }

    fn response_of(&mut self, answer: Answer) -> pb::WatchResponse {
        match answer {
            Answer::Created { id, revision } => {
                pb::WatchResponse { created: true, ..self.response(id, revision) }
            }
            Answer::Refused { reason, revision } => pb::WatchResponse {
                created: true,
                canceled: true,
                cancel_reason: reason_text(reason),
                ..self.response(ALL_WATCHERS, revision)
            },
            Answer::Canceled { id, revision } => {
                pb::WatchResponse { canceled: true, ..self.response(id, revision) }
            }
            Answer::Compacted { id, compacted } => pb::WatchResponse {
                canceled: true,
                compact_revision: compacted.0,
                ..self.response(id, Revision(0))
            },
            Answer::Progress { id, revision } => self.response(id, revision),
            Answer::Events { id, revision, events, fragments } => {
                let whole = pb::WatchResponse { events, ..self.response(id, revision) };
                if fragments { self.split(whole) } else { whole }
            }
        }
    }

    fn response(&self, id: i64, revision: Revision) -> pb::WatchResponse {
        pb::WatchResponse { header: Some(self.headers.at(revision)), watch_id: id, ..Default::default() }
    }

    /// The first piece; the others wait in `ready`.
    fn split(&mut self, mut whole: pb::WatchResponse) -> pb::WatchResponse {
        let events = std::mem::take(&mut whole.events);
        let mut pieces = pieces(events, self.max_fragment_bytes).into_iter().peekable();
        while let Some(events) = pieces.next() {
            let fragment = pieces.peek().is_some();
            self.ready.push_back(pb::WatchResponse { events, fragment, ..whole.clone() });
        }
        self.ready.pop_front().unwrap_or(whole)
    }
}

/// As in etcd, a negative start has the text of the gRPC error.
fn reason_text(reason: Refusal) -> String {
    match reason {
        Refusal::NegativeStart => ClientError::Compacted.text().to_owned(),
        Refusal::EmptyRange | Refusal::DuplicateId => reason.to_string(),
    }
}

/// Runs of events below `max_bytes`; an event above it stands alone.
fn pieces(events: Vec<EncodedEvent>, max_bytes: usize) -> Vec<Vec<EncodedEvent>> {
    let (mut pieces, mut bytes) = (vec![Vec::new()], 0);
    for event in events {
        let size = event.as_bytes().len() + 8;
        let piece = pieces.last_mut().expect("it begins with one");
        if piece.is_empty() || bytes + size < max_bytes {
            piece.push(event);
            bytes += size;
        } else {
            pieces.push(vec![event]);
            bytes = size;
        }
    }
    pieces
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_keep_all_events_in_order_below_the_limit() {
        let events: Vec<_> = (0u8..10).map(|i| EncodedEvent::from_encoded(vec![i; 12].into())).collect();
        let split = pieces(events.clone(), 61);
        assert_eq!(split.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 3, 1]);
        assert_eq!(split.concat(), events);
        assert_eq!(pieces(events, 1).len(), 10);
    }
}

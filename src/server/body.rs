//! Bodies as they pass: gRPC messages are counted and limited by the headers that frame them.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use prometheus::IntCounter;
use tonic::{Code, Status};

use super::in_flight::Guard;
use super::long_body::LongBody;
use super::unary::Reply;
use super::until::Until;
use crate::metrics::{Metrics, Rpc};
use crate::rpc::ClientError;

/// A gRPC message begins with one byte of flags and four of length.
pub const PREFIX_BYTES: usize = 5;

/// Messages that begin in a piece, their bytes without what frames them, and the largest.
#[derive(Default)]
struct Begun {
    messages: u64,
    bytes: u64,
    largest: usize,
}

/// Finds where messages begin, whatever pieces they come in.
#[derive(Default)]
struct Framing {
    prefix: [u8; PREFIX_BYTES],
    have: usize,
    left: usize,
}

impl Framing {
    /// Goes over a piece; returns what began in it.
    fn pass(&mut self, mut data: &[u8]) -> Begun {
        let mut begun = Begun::default();
        while !data.is_empty() {
            if self.left > 0 {
                let skip = self.left.min(data.len());
                self.left -= skip;
                data = &data[skip..];
                continue;
            }
            let take = (PREFIX_BYTES - self.have).min(data.len());
            self.prefix[self.have..self.have + take].copy_from_slice(&data[..take]);
            self.have += take;
            data = &data[take..];
            if self.have == PREFIX_BYTES {
                let [_, length @ ..] = self.prefix;
                self.left = u32::from_be_bytes(length) as usize;
                self.have = 0;
                begun.messages += 1;
                begun.bytes += self.left as u64;
                begun.largest = begun.largest.max(self.left);
            }
        }
        begun
    }
}

/// A request's body: a message above the limit ends it with the error that Go's gRPC gives.
pub struct RequestBody {
    inner: Incoming,
    framing: Framing,
    max_message_bytes: usize,
    messages: IntCounter,
    bytes: IntCounter,
    ends: Vec<Until>,
}

impl RequestBody {
    pub fn new(inner: Incoming, rpc: &Rpc, metrics: &Metrics, max_message_bytes: usize) -> Self {
        let (messages, bytes) = (rpc.received.clone(), metrics.received_bytes.clone());
        Self { inner, framing: Framing::default(), max_message_bytes, messages, bytes, ends: Vec::new() }
    }

    /// Ends it when `end` is ready, whether or not the client has more to say: who waits for more lets go then.
    pub fn end_when(&mut self, end: Until) {
        self.ends.push(end);
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        if self.ends.iter_mut().any(|end| end.poll(context).is_ready()) {
            // It is asked no more after its end.
            self.ends.clear();
            return Poll::Ready(None);
        }
        let Some(frame) = ready!(Pin::new(&mut self.inner).poll_frame(context)) else {
            return Poll::Ready(None);
        };
        let frame = frame?;
        if let Some(data) = frame.data_ref() {
            let Begun { messages, bytes, largest } = self.framing.pass(data);
            self.messages.inc_by(messages);
            self.bytes.inc_by(bytes);
            if largest > self.max_message_bytes {
                let limit = self.max_message_bytes;
                let text = format!("grpc: received message larger than max ({largest} vs. {limit})");
                return Poll::Ready(Some(Err(Status::resource_exhausted(text).into())));
            }
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// What a gRPC answer counts for when it ends.
pub struct Answered {
    pub metrics: Metrics,
    pub rpc: Arc<Rpc>,
    pub began: Instant,
    /// Held while the call is open.
    pub _guard: Guard,
}

impl Answered {
    fn ended(&self, headers: &HeaderMap) {
        let code = headers.get("grpc-status").and_then(|value| value.to_str().ok()?.parse().ok());
        self.ended_with(code.map_or(Code::Unknown, Code::from_i32));
    }

    pub fn ended_with(&self, code: Code) {
        self.rpc.ended(code, self.began.elapsed());
    }
}

/// A response's body.
pub enum ResponseBody {
    Grpc {
        inner: tonic::body::Body,
        framing: FramingState,
        answered: Option<Answered>,
        ends: Vec<End>,
    },
    /// One message, framed, and that all is well.
    Unary {
        message: Bytes,
        answered: Option<Answered>,
    },
    Http(Full<Bytes>),
}

/// When a response is cut off, and what its client is told then.
pub struct End {
    until: Until,
    says: ClientError,
}

/// How far a response has been counted.
#[derive(Default)]
pub struct FramingState(Framing);

impl ResponseBody {
    /// The body of a gRPC answer; an answer that ends with its headers is counted at once.
    pub fn grpc(inner: tonic::body::Body, headers: &HeaderMap, answered: Answered) -> Self {
        let ended = headers.contains_key("grpc-status");
        if ended {
            answered.ended(headers);
        }
        let (framing, answered) = (FramingState::default(), (!ended).then_some(answered));
        Self::Grpc { inner, framing, answered, ends: Vec::new() }
    }

    /// An answer that is one message.
    pub fn of_reply(reply: Reply, answered: Answered) -> http::Response<Self> {
        let mut response = http::Response::new(match reply {
            Reply::Whole(message) => Self::Unary { message, answered: Some(answered) },
            Reply::InPieces(answer) => Self::grpc(LongBody::of(answer), &HeaderMap::new(), answered),
        });
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        response
    }

    pub fn of_http(answer: http::Response<Full<Bytes>>) -> http::Response<Self> {
        answer.map(Self::Http)
    }

    /// One that nothing counts: between members.
    pub fn uncounted(inner: tonic::body::Body) -> Self {
        Self::Grpc { inner, framing: FramingState::default(), answered: None, ends: Vec::new() }
    }

    /// Cuts it off when `until` is ready, in words that make clients try again. A stream that ended well would tell
    /// them that all is done: etcd's client for Go closes a watch for good then.
    pub fn stop_when(&mut self, until: Until, says: ClientError) {
        if let Self::Grpc { ends, .. } = self {
            ends.push(End { until, says });
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Http(full) => Pin::new(full).poll_frame(context).map_err(Into::into),
            Self::Unary { message, answered } => {
                let frame = answered.as_ref().map(|open| match std::mem::take(message) {
                    message if message.is_empty() => Frame::trailers(all_is_well(open)),
                    message => {
                        open.rpc.sent.inc();
                        open.metrics.sent_bytes.inc_by((message.len() - PREFIX_BYTES) as u64);
                        Frame::data(message)
                    }
                });
                if frame.as_ref().is_some_and(Frame::is_trailers) {
                    *answered = None;
                }
                Poll::Ready(frame.map(Ok))
            }
            Self::Grpc { inner, framing, answered, ends } => {
                let come =
                    ends.iter_mut().find_map(|end| end.until.poll(context).is_ready().then_some(end.says));
                if let Some(says) = come.filter(|_| answered.is_some()) {
                    ends.clear();
                    return Poll::Ready(Some(Ok(Frame::trailers(cut_off(inner, answered, says)))));
                }
                let frame = ready!(Pin::new(&mut *inner).poll_frame(context));
                // The stop may have reached the stream's other side first, which then ended it.
                let come = ends.iter().find(|end| end.until.has_come()).map(|end| end.says);
                if let Some(says) = come.filter(|_| answered.is_some() && is_good_end(frame.as_ref())) {
                    ends.clear();
                    return Poll::Ready(Some(Ok(Frame::trailers(cut_off(inner, answered, says)))));
                }
                if let (Some(Ok(frame)), Some(open)) = (&frame, answered.as_ref()) {
                    if let Some(data) = frame.data_ref() {
                        let begun = framing.0.pass(data);
                        open.rpc.sent.inc_by(begun.messages);
                        open.metrics.sent_bytes.inc_by(begun.bytes);
                    } else if let Some(trailers) = frame.trailers_ref() {
                        open.ended(trailers);
                        *answered = None;
                    }
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http(full) => full.is_end_stream(),
            Self::Unary { answered, .. } => answered.is_none(),
            Self::Grpc { inner, .. } => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http(full) => full.size_hint(),
            Self::Unary { .. } => SizeHint::default(),
            Self::Grpc { inner, .. } => inner.size_hint(),
        }
    }
}

/// Whether a stream ends here without saying that anything is wrong.
fn is_good_end<E>(frame: Option<&Result<Frame<Bytes>, E>>) -> bool {
    match frame {
        None => true,
        Some(Ok(frame)) => {
            frame.trailers_ref().is_some_and(|end| end.get("grpc-status").is_some_and(|code| code == "0"))
        }
        Some(Err(_)) => false,
    }
}

/// The trailers of an answer that ended well.
fn all_is_well(open: &Answered) -> HeaderMap {
    open.ended_with(Code::Ok);
    HeaderMap::from_iter([(Status::GRPC_STATUS, HeaderValue::from_static("0"))])
}

/// Ends an answer; these are its trailers.
fn cut_off(inner: &mut tonic::body::Body, answered: &mut Option<Answered>, says: ClientError) -> HeaderMap {
    *inner = tonic::body::Body::empty();
    let status = Status::from(says);
    if let Some(open) = answered.take() {
        open.ended_with(status.code());
    }
    let mut trailers = HeaderMap::new();
    if let Err(error) = status.add_header(&mut trailers) {
        tracing::debug!(%error, "a stream ends without words");
    }
    trailers
}

impl Drop for ResponseBody {
    /// The client went away before the end.
    fn drop(&mut self) {
        if let Self::Grpc { answered: Some(open), .. } | Self::Unary { answered: Some(open), .. } = self {
            open.ended_with(Code::Cancelled);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::sync::watch;

    use super::*;
    use crate::server::in_flight::InFlight;

    /// A stream that ends well, because the server's stop has reached it before it has reached the answer.
    struct EndsForTheStop(watch::Sender<bool>);

    impl Body for EndsForTheStop {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(
            self: Pin<&mut Self>,
            _context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            self.0.send_replace(true);
            let mut trailers = HeaderMap::new();
            Status::ok("").add_header(&mut trailers).expect("headers");
            Poll::Ready(Some(Ok(Frame::trailers(trailers))))
        }
    }

    /// etcd's client for Go closes a watch for good when its stream ends well.
    #[test]
    fn a_stream_that_ends_because_the_server_stops_never_ends_well() {
        let (stop, stopping) = watch::channel(false);
        let metrics = Metrics::new(false);
        let answered = Answered {
            rpc: metrics.rpcs().find("/etcdserverpb.Watch/Watch").expect("it is one"),
            metrics,
            began: Instant::now(),
            _guard: InFlight::uncounted(),
        };
        let inner = tonic::body::Body::new(EndsForTheStop(stop));
        let mut body = ResponseBody::grpc(inner, &HeaderMap::new(), answered);
        body.stop_when(Until::new(stopping), ClientError::Stopped);
        let mut context = Context::from_waker(std::task::Waker::noop());
        let Poll::Ready(Some(Ok(frame))) = Pin::new(&mut body).poll_frame(&mut context) else {
            panic!("it ends at once");
        };
        let trailers = frame.into_trailers().expect("the end");
        assert_eq!(trailers["grpc-status"], "14", "{trailers:?}");
    }

    proptest! {
        #[test]
        fn messages_are_found_in_any_pieces(sizes in proptest::collection::vec(0usize..40, 0..20), piece in 1usize..50) {
            let mut bytes = Vec::new();
            for size in &sizes {
                bytes.push(0);
                bytes.extend_from_slice(&u32::try_from(*size).expect("small").to_be_bytes());
                bytes.resize(bytes.len() + size, 7);
            }
            let mut framing = Framing::default();
            let found: Vec<_> = bytes.chunks(piece).map(|piece| framing.pass(piece)).collect();
            prop_assert_eq!(found.iter().map(|begun| begun.messages).sum::<u64>(), sizes.len() as u64);
            prop_assert_eq!(found.iter().map(|begun| begun.bytes).sum::<u64>(), sizes.iter().sum::<usize>() as u64);
            prop_assert_eq!(found.iter().map(|begun| begun.largest).max().unwrap_or(0), sizes.iter().copied().max().unwrap_or(0));
        }

        /// Headers that promise anything: nothing overflows, and pieces make no difference.
        #[test]
        fn any_bytes_are_counted_alike_in_any_pieces(
            bytes in proptest::collection::vec(prop_oneof![Just(0u8), Just(0xff), any::<u8>()], 0..200),
            piece in 1usize..50,
        ) {
            let whole = Framing::default().pass(&bytes);
            let mut framing = Framing::default();
            let pieces: Vec<_> = bytes.chunks(piece).map(|piece| framing.pass(piece)).collect();
            prop_assert_eq!(pieces.iter().map(|begun| begun.messages).sum::<u64>(), whole.messages);
            prop_assert_eq!(pieces.iter().map(|begun| begun.bytes).sum::<u64>(), whole.bytes);
            prop_assert_eq!(pieces.iter().map(|begun| begun.largest).max().unwrap_or(0), whole.largest);
        }
    }
}

//! The calls that clients make most, without tonic's layers: a request that is one plain message, and an answer that is
//! one. Owns only how those are framed. What is not plain - compressed, in pieces, without a message - goes on to tonic,
//! as it came.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::Request;
use http_body::{Body, Frame, SizeHint};
use prost::Message;
use tonic::Status;
use tonic::metadata::MetadataMap;

use super::body::PREFIX_BYTES;
use crate::rpc::KvService;
use crate::wire::LongAnswer;
use crate::wire::etcdserverpb::kv_server::Kv;

/// What became of a request.
pub enum Unary<B: Body> {
    Answered(Result<Reply, Status>),
    /// It is for tonic.
    NotPlain(Box<Request<Peeked<B>>>),
}

/// The message of an answer, framed.
pub enum Reply {
    Whole(Bytes),
    InPieces(LongAnswer),
}

/// Answers a call of the key space when it is plain.
pub async fn call<B>(kv: &KvService, request: Request<B>) -> Unary<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    macro_rules! answer {
        ($method:ident) => {{
            let (parts, body) = request.into_parts();
            match take_message(body).await {
                Err(peeked) => Unary::NotPlain(Box::new(Request::from_parts(parts, peeked))),
                Ok(bytes) => Unary::Answered(match decode(bytes) {
                    Err(status) => Err(status),
                    Ok(message) => {
                        let metadata = MetadataMap::from_headers(parts.headers);
                        let request = tonic::Request::from_parts(metadata, parts.extensions, message);
                        kv.$method(request).await.and_then(reply)
                    }
                }),
            }
        }};
    }
    let is_encoded = request.headers().contains_key("grpc-encoding");
    match request.uri().path() {
        "/etcdserverpb.KV/Put" if !is_encoded => answer!(put),
        "/etcdserverpb.KV/Range" if !is_encoded => answer!(range),
        "/etcdserverpb.KV/Txn" if !is_encoded => answer!(txn),
        "/etcdserverpb.KV/DeleteRange" if !is_encoded => answer!(delete_range),
        _ => Unary::NotPlain(Box::new(request.map(Peeked::nothing))),
    }
}

fn decode<M: Message + Default>(bytes: Bytes) -> Result<M, Status> {
    M::decode(bytes).map_err(|error| Status::internal(error.to_string()))
}

fn reply(mut response: tonic::Response<impl Message>) -> Result<Reply, Status> {
    match response.extensions_mut().remove() {
        Some(long) => Ok(Reply::InPieces(long)),
        None => framed(response.get_ref()).map(Reply::Whole),
    }
}

fn framed(message: &impl Message) -> Result<Bytes, Status> {
    let length = message.encoded_len();
    let prefix = u32::try_from(length)
        .map_err(|_too_long| Status::resource_exhausted(format!("the answer has {length} bytes")))?;
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES + length);
    bytes.put_u8(0);
    bytes.put_u32(prefix);
    message.encode_raw(&mut bytes);
    Ok(bytes.freeze())
}

type Next<B> = Option<Result<Frame<Bytes>, <B as Body>::Error>>;

async fn next<B: Body<Data = Bytes> + Unpin>(body: &mut B) -> Next<B> {
    poll_fn(|context| Pin::new(&mut *body).poll_frame(context)).await
}

/// The message of a body that is one message in one frame.
async fn take_message<B: Body<Data = Bytes> + Unpin>(mut body: B) -> Result<Bytes, Peeked<B>> {
    let first = next(&mut body).await;
    let Some(message) = message_of::<B>(&first) else {
        return Err(Peeked { frames: [Some(first), None], rest: body });
    };
    if body.is_end_stream() {
        return Ok(message);
    }
    // Some clients end their stream apart from the message.
    match next(&mut body).await {
        None => Ok(message),
        Some(Ok(frame)) if frame.data_ref().is_some_and(Bytes::is_empty) && body.is_end_stream() => {
            Ok(message)
        }
        second => Err(Peeked { frames: [Some(first), Some(second)], rest: body }),
    }
}

/// What a frame holds behind a prefix that says so, and neither more nor less.
fn message_of<B: Body>(frame: &Next<B>) -> Option<Bytes> {
    let data = frame.as_ref()?.as_ref().ok()?.data_ref()?;
    let [0, length @ ..] = *data.first_chunk::<PREFIX_BYTES>()? else {
        return None;
    };
    let message = data.slice(PREFIX_BYTES..);
    (message.remaining() == u32::from_be_bytes(length) as usize).then_some(message)
}

/// A body as it came, though its first frames have been looked at.
pub struct Peeked<B: Body> {
    frames: [Option<Next<B>>; 2],
    rest: B,
}

impl<B: Body> Peeked<B> {
    fn nothing(rest: B) -> Self {
        Self { frames: [None, None], rest }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Peeked<B>
where
    B::Error: Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Next<B>> {
        match self.frames.iter_mut().find_map(Option::take) {
            Some(frame) => Poll::Ready(frame),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.frames.iter().all(Option::is_none) && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use http::HeaderMap;
    use proptest::prelude::*;

    use super::*;

    /// Frames one after the other; it knows its end with the last, or only when it is asked for more.
    #[derive(Clone, Debug)]
    struct Frames {
        left: VecDeque<Bytes>,
        trailers: bool,
        knows_its_end: bool,
    }

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Next<Self>> {
            let next = match self.left.pop_front() {
                Some(data) => Some(Frame::data(data)),
                None => std::mem::take(&mut self.trailers).then(|| Frame::trailers(HeaderMap::new())),
            };
            Poll::Ready(next.map(Ok))
        }

        fn is_end_stream(&self) -> bool {
            self.knows_its_end && self.left.is_empty() && !self.trailers
        }
    }

    fn at_once<T>(future: impl Future<Output = T>) -> T {
        let mut context = Context::from_waker(std::task::Waker::noop());
        match std::pin::pin!(future).poll(&mut context) {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("nothing is waited for"),
        }
    }

    fn all_of<B: Body<Data = Bytes, Error = Infallible> + Unpin>(mut body: B) -> (Vec<Bytes>, bool) {
        let (mut data, mut trailers) = (Vec::new(), false);
        while let Some(Ok(frame)) = at_once(next(&mut body)) {
            match frame.into_data() {
                Ok(bytes) => data.push(bytes),
                Err(_trailers) => trailers = true,
            }
        }
        (data, trailers)
    }

    fn message(text: &[u8]) -> Bytes {
        let length = u32::try_from(text.len()).expect("small").to_be_bytes();
        [&[0], &length[..], text].concat().into()
    }

    proptest! {
        /// A message is taken when it is alone in the first frame; everything else is there for tonic, frame by frame.
        #[test]
        fn what_is_not_one_plain_message_goes_on_as_it_came(
            frames in proptest::collection::vec(prop_oneof![
                Just(Bytes::new()),
                Just(message(b"")),
                Just(message(b"text")),
                Just(message(b"text").slice(..7)),
                Just(Bytes::from_static(b"\x01\0\0\0\x01x")),
                proptest::collection::vec(any::<u8>(), 0..9).prop_map(Bytes::from),
            ], 0..4),
            trailers: bool,
            knows_its_end: bool,
        ) {
            let body = Frames { left: frames.clone().into(), trailers, knows_its_end };
            let length = |frame: &Bytes| u32::from_be_bytes(*frame[1..].first_chunk().expect("four bytes")) as usize;
            let is_whole = |frame: &Bytes| frame.len() >= 5 && frame[0] == 0 && length(frame) == frame.len() - 5;
            let ends = match frames.get(1..) {
                Some([]) => true,
                // Nothing more, but the end of the stream.
                Some([only]) => only.is_empty() && knows_its_end,
                _ => false,
            };
            let is_plain = frames.first().is_some_and(is_whole) && ends && !trailers;
            match at_once(take_message(body)) {
                Ok(bytes) => {
                    prop_assert!(is_plain, "{frames:?}");
                    prop_assert_eq!(&bytes, &frames[0].slice(5..));
                }
                Err(peeked) => {
                    prop_assert!(!is_plain, "{frames:?}");
                    prop_assert_eq!(peeked.is_end_stream(), false);
                    prop_assert_eq!(all_of(peeked), (frames, trailers));
                }
            }
        }
    }

    #[test]
    fn an_answer_is_framed_as_tonic_frames_it() {
        let key = Bytes::from_static(b"key");
        let framed = framed(&crate::wire::etcdserverpb::PutRequest { key, ..Default::default() });
        assert_eq!(framed.expect("it is short"), message(b"\x0a\x03key"));
    }
}

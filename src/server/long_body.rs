//! The body of a long answer: one message in pieces, each made when the connection has room for it, then the trailers.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use http_body::{Body, Frame};
use tokio::runtime::Handle;

use crate::wire::LongAnswer;

/// See the module.
pub struct LongBody {
    answer: LongAnswer,
    is_over: bool,
}

impl LongBody {
    pub fn of(answer: LongAnswer) -> tonic::body::Body {
        tonic::body::Body::new(Self { answer, is_over: false })
    }
}

impl Body for LongBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(piece) = self.answer.next_piece() {
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        if self.is_over {
            return Poll::Ready(None);
        }
        self.is_over = true;
        let trailers = HeaderMap::from_iter([(tonic::Status::GRPC_STATUS, HeaderValue::from_static("0"))]);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.is_over
    }
}

impl Drop for LongBody {
    /// Its client may be gone before the end, and a million pairs take long to let go of: not on a thread that serves
    /// connections.
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let rest = std::mem::take(&mut self.answer);
        if let Ok(runtime) = Handle::try_current() {
            drop(runtime.spawn_blocking(move || drop(rest)));
        }
    }
}

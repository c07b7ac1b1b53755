//! A connection's output: what one turn of its task writes goes out in one system call at the end of the turn.
//! h2 hands over each larger frame and asks for it to be flushed before it makes the next; an answer or an event of
//! a few hundred bytes would cost a system call, and a packet, of its own.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// What waits for the end of the turn, at most; more is written at once.
const MAX_WAITING_BYTES: usize = 64 << 10;
/// Room that an idle connection keeps.
const MAX_KEPT_BYTES: usize = 8 << 10;
/// A write of this size goes straight to the stream when nothing waits before it.
const LARGE_WRITE_BYTES: usize = 16 << 10;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

struct Shared<S> {
    stream: S,
    waiting: Vec<u8>,
    /// Of `waiting`: what the stream has taken.
    written: usize,
}

/// The stream as the protocol's code holds it.
pub struct Coalescing<S>(Arc<Mutex<Shared<S>>>);

/// The other handle of the stream. A lock, because the protocol's code owns its handle; both live in one task, so
/// nobody ever waits for it.
pub struct Output<S>(Arc<Mutex<Shared<S>>>);

/// Both handles of a stream.
pub fn coalesce<S>(stream: S) -> (Coalescing<S>, Output<S>) {
    let shared = Arc::new(Mutex::new(Shared { stream, waiting: Vec::new(), written: 0 }));
    (Coalescing(shared.clone()), Output(shared))
}

impl<S: AsyncWrite + Unpin> Output<S> {
    /// Runs a connection's future, and writes what each of its turns left.
    ///
    /// # Errors
    /// The connection's, or a failed write.
    pub async fn drive<E: Into<BoxError>>(
        &self,
        mut connection: Pin<&mut impl Future<Output = Result<(), E>>>,
    ) -> Result<(), BoxError> {
        poll_fn(|context| {
            let polled = connection.as_mut().poll(context);
            match self.0.lock().poll_write_out(context) {
                Poll::Ready(Err(error)) => Poll::Ready(Err(error.into())),
                // The write goes on in a later turn, of which the stream wakes the task.
                Poll::Ready(Ok(())) | Poll::Pending => polled.map_err(Into::into),
            }
        })
        .await?;
        Ok(poll_fn(|context| self.0.lock().poll_write_out(context)).await?)
    }
}

impl<S: AsyncWrite + Unpin> Shared<S> {
    fn poll_write_out(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.waiting.len() {
            let rest = &self.waiting[self.written..];
            let taken = ready!(Pin::new(&mut self.stream).poll_write(context, rest))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += taken;
        }
        self.written = 0;
        if self.waiting.capacity() > MAX_KEPT_BYTES {
            self.waiting = Vec::new();
        }
        self.waiting.clear();
        Poll::Ready(Ok(()))
    }

    fn poll_room(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.waiting.len() < MAX_WAITING_BYTES {
            Poll::Ready(Ok(()))
        } else {
            self.poll_write_out(context)
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Coalescing<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut shared = self.0.lock();
        ready!(shared.poll_room(context))?;
        let bytes: usize = slices.iter().map(|slice| slice.len()).sum();
        if shared.waiting.is_empty() && bytes >= LARGE_WRITE_BYTES {
            return Pin::new(&mut shared.stream).poll_write_vectored(context, slices);
        }
        let room = MAX_WAITING_BYTES.saturating_sub(shared.waiting.len());
        let mut left = bytes.min(room);
        let taken = left;
        for slice in slices {
            let piece = &slice[..left.min(slice.len())];
            shared.waiting.extend_from_slice(piece);
            left -= piece.len();
        }
        Poll::Ready(Ok(taken))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Done at the end of the turn, by `Output::drive`.
    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.0.lock();
        ready!(shared.poll_write_out(context))?;
        Pin::new(&mut shared.stream).poll_shutdown(context)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Coalescing<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.lock().stream).poll_read(context, buffer)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Everything that a turn wrote is on the wire when it ends, in order, whatever its size.
    #[tokio::test]
    async fn writes_of_any_size_arrive_in_order() {
        let (near, mut far) = tokio::io::duplex(1000);
        let (mut stream, output) = coalesce(near);
        let sizes = [1, 500, LARGE_WRITE_BYTES, 3, MAX_WAITING_BYTES, 7, 200_000, 0, 100];
        let expected: Vec<u8> =
            sizes.iter().zip(1u8..).flat_map(|(size, byte)| std::iter::repeat_n(byte, *size)).collect();
        let reader = tokio::spawn(async move {
            let mut read = Vec::new();
            far.read_to_end(&mut read).await.map(|_| read)
        });
        let mut write = Box::pin(async {
            for (size, byte) in sizes.iter().zip(1u8..) {
                stream.write_all(&vec![byte; *size]).await?;
                stream.flush().await?;
                tokio::task::yield_now().await;
            }
            Ok::<(), io::Error>(())
        });
        output.drive(write.as_mut()).await.expect("the other end reads");
        drop(write);
        drop((output, stream));
        let read = reader.await.expect("the reader does not panic").expect("the stream ends");
        assert!(read == expected, "{} bytes arrived of {}", read.len(), expected.len());
    }

    #[tokio::test]
    async fn a_broken_connection_ends_the_turn() {
        let (near, far) = tokio::io::duplex(10);
        let (mut stream, output) = coalesce(near);
        drop(far);
        let write = std::pin::pin!(async {
            stream.write_all(b"into the void").await?;
            std::future::pending::<Result<(), io::Error>>().await
        });
        assert!(output.drive(write).await.is_err());
    }
}

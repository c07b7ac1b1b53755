//! Which protocol a connection speaks, from its first bytes, which are then read again.
//! Works on any transport: TLS and unix sockets need no other way.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

/// What every HTTP/2 connection begins with.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sniffed {
    Http1,
    Http2,
}

/// Reads until it is certain.
///
/// # Errors
/// When the connection ends or breaks before that.
pub async fn sniff<T: AsyncRead + Unpin>(mut inner: T) -> io::Result<(Sniffed, Rewound<T>)> {
    let mut read = Vec::with_capacity(HTTP2_PREFACE.len());
    loop {
        if !HTTP2_PREFACE.starts_with(&read) {
            return Ok((Sniffed::Http1, Rewound { read, given: 0, inner }));
        }
        if read.len() == HTTP2_PREFACE.len() {
            return Ok((Sniffed::Http2, Rewound { read, given: 0, inner }));
        }
        let mut piece = [0; 24];
        let wanted = HTTP2_PREFACE.len() - read.len();
        let length = inner.read(&mut piece[..wanted]).await?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        read.extend_from_slice(&piece[..length]);
    }
}

/// A transport whose first bytes, read already, are given once more.
pub struct Rewound<T> {
    read: Vec<u8>,
    given: usize,
    inner: T,
}

impl<T: AsyncRead + Unpin> AsyncRead for Rewound<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.given < self.read.len() {
            let length = (self.read.len() - self.given).min(buffer.remaining());
            buffer.put_slice(&self.read[self.given..self.given + length]);
            self.given += length;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.inner).poll_read(context, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Rewound<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::AsyncWriteExt;

    use super::*;

    #[tokio::test]
    async fn tells_the_protocol_and_loses_no_byte() {
        for (sent, expected) in [
            (&b"GET / HTTP/1.1\r\n\r\n"[..], Sniffed::Http1),
            (&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nframe"[..], Sniffed::Http2),
        ] {
            let (protocol, mut rewound) = sniff(sent).await.expect("known");
            let mut read = Vec::new();
            rewound.read_to_end(&mut read).await.expect("read");
            assert_eq!((protocol, read.as_slice()), (expected, sent));
        }
        assert!(sniff(&b"PRI * HT"[..]).await.is_err());
    }

    proptest! {
        /// Whatever comes first, in whatever pieces: it is one of the two, and every byte is read again.
        #[test]
        fn any_beginning_is_known_and_kept(
            agree in 0usize..30,
            rest in proptest::collection::vec(any::<u8>(), 0..60),
            pieces in proptest::collection::vec(1usize..20, 1..40),
        ) {
            let whole: Vec<u8> =
                HTTP2_PREFACE.iter().copied().take(agree).chain(rest).collect();
            let (read, sniffed) = tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(async {
                let (mut client, server) = tokio::io::duplex(16);
                let sent = whole.clone();
                let writes = async move {
                    let mut left = sent.as_slice();
                    for length in pieces.iter().cycle() {
                        let (piece, others) = left.split_at((*length).min(left.len()));
                        if piece.is_empty() || client.write_all(piece).await.is_err() {
                            break;
                        }
                        left = others;
                    }
                };
                let reads = async {
                    let (sniffed, mut rewound) = sniff(server).await.ok()?;
                    let mut read = Vec::new();
                    rewound.read_to_end(&mut read).await.expect("read");
                    Some((read, sniffed))
                };
                tokio::join!(writes, reads).1
            }).unzip();
            let expected = if whole.starts_with(HTTP2_PREFACE) {
                Some(Sniffed::Http2)
            } else {
                (!HTTP2_PREFACE.starts_with(&whole)).then_some(Sniffed::Http1)
            };
            prop_assert_eq!(sniffed, expected);
            prop_assert_eq!(read, expected.map(|_| whole));
        }
    }
}

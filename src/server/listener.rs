//! Listening: one accept loop per address, connections handed out to the workers, HTTP/1.1 and HTTP/2 told apart
//! by their first bytes. An error of `accept` never ends a loop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};

use super::coalesce::coalesce;
use super::dispatch::{Dispatcher, Serves};
use super::places::Places;
use super::sniff::{self, Sniffed};
use crate::courier::Courier;

/// Connections that a worker has not begun to serve.
const MAX_QUEUED_CONNECTIONS: usize = 1024;
const BACKLOG: i32 = 4096;
/// How long a client may take to say which protocol it speaks, and to send the headers of an HTTP/1.1 request.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(300);
/// Headers of one request, in all.
const MAX_HEADER_BYTES: u32 = 256 << 10;
/// Bytes that a client may send ahead, per stream and per connection.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
const MAX_FRAME_BYTES: u32 = 64 << 10;
const TICK: Duration = Duration::from_millis(500);
/// Waits after errors of `accept`, such as too many open files.
const FIRST_BACK_OFF: Duration = Duration::from_millis(10);
const MAX_BACK_OFF: Duration = Duration::from_secs(1);

/// How connections are treated.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionOptions {
    pub max_concurrent_streams: u32,
    /// An idle HTTP/2 connection is asked whether it lives so often, and dropped when it does not answer.
    pub keepalive_interval: Duration,
    pub keepalive_timeout: Duration,
}

/// An accepted connection on its way to a worker: not yet with any runtime, so that the worker's own watches it.
pub struct Accepted {
    stream: std::net::TcpStream,
    serves: Serves,
    /// Given back when the connection has ended.
    place: OwnedSemaphorePermit,
}

/// Opens a socket to accept on; with `reuse_port` another process may accept on the same port.
///
/// # Errors
/// When the address is taken or not ours.
pub fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // As Go does on every listener: a restart need not wait for old connections to be forgotten.
    socket.set_reuse_address(true)?;
    if reuse_port {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Accepts until told to stop, handing connections to the workers in turn.
pub async fn accept(
    listener: TcpListener,
    serves: Serves,
    workers: Arc<Workers>,
    places: Places,
    mut stopping: watch::Receiver<bool>,
) {
    let mut back_off = FIRST_BACK_OFF;
    let mut told = None;
    loop {
        let next = async {
            let place = places.take(serves, &mut told).await.map_err(io::Error::other)?;
            let (stream, _) = listener.accept().await?;
            Ok((stream.into_std()?, place))
        };
        let accepted: io::Result<_> = tokio::select! {
            accepted = next => accepted,
            _ = stopping.wait_for(|stopping| *stopping) => return,
        };
        match accepted {
            Ok((stream, place)) => {
                back_off = FIRST_BACK_OFF;
                workers.give(Accepted { stream, serves, place });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(back_off).await;
                back_off = (back_off * 2).min(MAX_BACK_OFF);
            }
        }
    }
}

/// The queues of the worker threads.
pub struct Workers {
    queues: Vec<mpsc::Sender<Accepted>>,
    next: AtomicUsize,
}

impl Workers {
    /// So many workers, and their ends of the queues.
    pub fn new(count: usize) -> (Self, Vec<mpsc::Receiver<Accepted>>) {
        let (queues, ends) = (0..count).map(|_| mpsc::channel(MAX_QUEUED_CONNECTIONS)).unzip();
        (Self { queues, next: AtomicUsize::new(0) }, ends)
    }

    /// A worker that is far behind refuses: the connection is closed.
    fn give(&self, accepted: Accepted) {
        let place = self.next.fetch_add(1, Ordering::Relaxed) % self.queues.len();
        if self.queues[place].try_send(accepted).is_err() {
            tracing::warn!("too many connections wait to be served; one is closed");
        }
    }
}

/// Serves the connections of one queue on the current runtime until told to stop, then until they have ended.
pub async fn serve(
    mut connections: mpsc::Receiver<Accepted>,
    dispatcher: Arc<Dispatcher>,
    options: ConnectionOptions,
    stopping: watch::Receiver<bool>,
) {
    tokio::spawn(tick());
    tokio::spawn(Courier::run());
    let (open, mut all_closed) = mpsc::channel::<()>(1);
    let mut told = stopping.clone();
    loop {
        let accepted = tokio::select! {
            accepted = connections.recv() => accepted,
            _ = told.wait_for(|stopping| *stopping) => None,
        };
        let Some(Accepted { stream, serves, place }) = accepted else {
            break;
        };
        let (dispatcher, stopping, open) = (dispatcher.clone(), stopping.clone(), open.clone());
        tokio::spawn(async move {
            if let Err(error) = connection(stream, serves, dispatcher, options, stopping).await {
                tracing::debug!(%error, "a connection ended early");
            }
            drop((open, place));
        });
    }
    drop(open);
    // `None` when the last connection has dropped its end.
    all_closed.recv().await;
}

/// A timer earlier than any that a request sets: for a new earliest one, tokio wakes its own thread through the
/// kernel, which would be once per request.
async fn tick() {
    let mut ticks = tokio::time::interval(TICK);
    loop {
        ticks.tick().await;
    }
}

/// Runs a connection; when the server stops, open requests end first. The two kinds of connection have no trait
/// in common.
macro_rules! graceful {
    ($connection:ident, $output:ident, $stopping:ident) => {{
        let mut stopping = $stopping;
        let mut connection = std::pin::pin!($connection);
        tokio::select! {
            ended = $output.drive(connection.as_mut()) => return ended,
            _ = stopping.wait_for(|stopping| *stopping) => connection.as_mut().graceful_shutdown(),
        }
        $output.drive(connection.as_mut()).await
    }};
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

async fn connection(
    stream: std::net::TcpStream,
    serves: Serves,
    dispatcher: Arc<Dispatcher>,
    options: ConnectionOptions,
    stopping: watch::Receiver<bool>,
) -> Result<(), BoxError> {
    let stream = TcpStream::from_std(stream)?;
    stream.set_nodelay(true)?;
    let mut told = stopping.clone();
    let (protocol, stream) = tokio::select! {
        sniffed = tokio::time::timeout(HANDSHAKE_TIMEOUT, sniff::sniff(stream)) => sniffed??,
        _ = told.wait_for(|stopping| *stopping) => return Ok(()),
    };
    let (stream, output) = coalesce(stream);
    let service = hyper::service::service_fn(move |request| dispatcher.clone().call(request, serves));
    match protocol {
        Sniffed::Http2 => {
            let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            builder
                .timer(TokioTimer::new())
                .max_concurrent_streams(options.max_concurrent_streams)
                .max_header_list_size(MAX_HEADER_BYTES)
                .initial_stream_window_size(STREAM_WINDOW_BYTES)
                .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
                .max_frame_size(MAX_FRAME_BYTES)
                .keep_alive_interval(options.keepalive_interval)
                .keep_alive_timeout(options.keepalive_timeout);
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            graceful!(connection, output, stopping)
        }
        Sniffed::Http1 => {
            let mut builder = hyper::server::conn::http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
            let connection = builder.serve_connection(TokioIo::new(stream), service);
            graceful!(connection, output, stopping)
        }
    }
}

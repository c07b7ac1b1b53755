//! One link: connects, streams what its queue brings, and begins anew when the stream breaks.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use prometheus::IntGauge;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::Channel;

use super::queue::{Piece, Queue, Waiting, queue};
use super::{MAX_MESSAGE_BYTES, Peers, endpoint};
use crate::consensus::{Connected, Handle};
use crate::ids::MemberId;
use crate::wire::peer as pb;
use crate::wire::peer::peer_client::PeerClient;

/// Batches that the connection has taken and not sent.
const MAX_BATCHES_UNDER_WAY: usize = 8;
const FIRST_BACK_OFF: Duration = Duration::from_millis(50);
const MAX_BACK_OFF: Duration = Duration::from_secs(1);
/// How often a batch is to be echoed, and how long that may take.
const ECHO_INTERVAL: Duration = Duration::from_secs(1);
const ECHO_TIMEOUT: Duration = Duration::from_secs(5);

/// A member and the way to it. Ends when it is dropped.
pub(super) struct Link {
    urls: Vec<String>,
    /// Of one that has come to us, and that we do not know as a member yet: the stream that the link goes with.
    guest_stream: Option<u64>,
    queue: Queue,
    channel: Arc<Mutex<Channel>>,
    task: AbortHandle,
}

impl Link {
    /// `None` when there is no URL that can be connected to.
    pub fn begin(peers: &Peers, consensus: &Handle, member: MemberId, urls: &[String]) -> Option<Self> {
        Self::begin_as(peers, consensus, (member, None), urls)
    }

    /// To one that has come to us, by a stream with a number.
    pub fn begin_to_guest(
        peers: &Peers,
        consensus: &Handle,
        (guest, stream): (MemberId, u64),
        urls: &[String],
    ) -> Option<Self> {
        Self::begin_as(peers, consensus, (guest, Some(stream)), urls)
    }

    fn begin_as(
        peers: &Peers,
        consensus: &Handle,
        (member, guest_stream): (MemberId, Option<u64>),
        urls: &[String],
    ) -> Option<Self> {
        let endpoints: Vec<_> = urls.iter().filter_map(|url| endpoint(url).ok()).collect();
        let _runtime = peers.0.runtime.enter();
        let channels: Vec<Channel> = endpoints.iter().map(tonic::transport::Endpoint::connect_lazy).collect();
        let channel = Arc::new(Mutex::new(channels.first()?.clone()));
        let (queue, waiting) = queue();
        let runner = Runner {
            peers: peers.clone(),
            consensus: consensus.clone(),
            member,
            is_guest: guest_stream.is_some(),
            channels,
            waiting,
            current: channel.clone(),
            connected: None,
        };
        let task = peers.0.runtime.spawn(runner.run()).abort_handle();
        Some(Self { urls: urls.to_vec(), guest_stream, queue, channel, task })
    }

    pub fn is_guest(&self) -> bool {
        self.guest_stream.is_some()
    }

    pub fn guest_stream(&self) -> Option<u64> {
        self.guest_stream
    }

    /// A guest has come once more: the link ends with the newest of its streams.
    pub fn go_with(&mut self, stream: u64) {
        self.guest_stream = Some(stream);
    }

    pub fn urls(&self) -> &[String] {
        &self.urls
    }

    pub fn queue(&self) -> Queue {
        self.queue.clone()
    }

    /// Of the address that was last of use.
    pub fn channel(&self) -> Channel {
        self.channel.lock().clone()
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A connection, counted for as long as it holds, also when its link ends first. By the gauge itself: the series of a guest
/// is dropped with its link, and must not come back.
struct Active(IntGauge);

impl Active {
    fn begin(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.dec();
    }
}

struct Runner {
    peers: Peers,
    consensus: Handle,
    member: MemberId,
    is_guest: bool,
    /// One for each of the member's URLs, tried in turn.
    channels: Vec<Channel>,
    waiting: Waiting,
    current: Arc<Mutex<Channel>>,
    connected: Option<(Connected, Active)>,
}

impl Runner {
    async fn run(mut self) {
        let mut back_off = FIRST_BACK_OFF;
        let mut told = false;
        for turn in 0.. {
            let channel = self.channels[turn % self.channels.len()].clone();
            *self.current.lock() = channel.clone();
            let ended = self.stream(channel).await;
            if self.connected.take().is_some() {
                (told, back_off) = (false, FIRST_BACK_OFF);
                let metrics = &self.peers.0.metrics;
                metrics.disconnected_peers.with_label_values(&self.labels()).inc();
            }
            self.consensus.unreachable(self.member);
            self.lose_waiting();
            let Err(status) = ended else { return };
            self.peers.heed(self.is_guest, &status);
            if !told {
                tracing::warn!(peer = %format!("{:x}", self.member.0), error = status.message(), "a member cannot be reached");
                told = true;
            }
            tokio::time::sleep(back_off).await;
            back_off = (back_off * 2).min(MAX_BACK_OFF);
        }
    }

    /// Streams until the stream breaks; `Ok` when nothing more will come.
    async fn stream(&mut self, channel: Channel) -> Result<(), Status> {
        let (batches, receiver) = mpsc::channel(MAX_BATCHES_UNDER_WAY);
        let mut client = PeerClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
        let request = self.peers.request(self.member, ReceiverStream::new(receiver));
        let mut echoes = client.messages(request).await?.into_inner();
        tracing::info!(peer = %format!("{:x}", self.member.0), "connected to a member");
        let active = Active::begin(self.peers.0.metrics.active_peers.with_label_values(&self.labels()));
        self.connected = Some((self.consensus.progress().connections.begin(self.member), active));
        // What waited for a connection is old by now.
        self.lose_waiting();
        let mut pings = tokio::time::interval(ECHO_INTERVAL);
        let mut echoed = Instant::now();
        loop {
            let batch = tokio::select! {
                batch = self.waiting.batch() => match batch {
                    Some(batch) => self.counted(batch),
                    None => return Ok(()),
                },
                echo = echoes.message() => {
                    echoed = Instant::now();
                    self.take_echo(echo?)?;
                    continue;
                }
                _ = pings.tick() => {
                    if echoed.elapsed() > ECHO_TIMEOUT {
                        return Err(Status::unavailable("it does not answer"));
                    }
                    pb::MessageBatch { messages: Vec::new(), sent_at: microseconds() }
                }
            };
            let sent = batches.send_timeout(batch, ECHO_TIMEOUT).await;
            sent.map_err(|_full| Status::unavailable("it takes no more messages"))?;
        }
    }

    /// What waits finds no way, and is old by the time there is one.
    fn lose_waiting(&mut self) {
        let lost = self.waiting.lose();
        if lost > 0 {
            let to = format!("{:x}", self.member.0);
            self.peers.0.metrics.peer_sent_failures.with_label_values(&[&to]).inc_by(lost);
        }
    }

    fn counted(&self, batch: Piece) -> pb::MessageBatch {
        let to = format!("{:x}", self.member.0);
        self.peers.0.metrics.peer_sent_bytes.with_label_values(&[&to]).inc_by(batch.bytes as u64);
        pb::MessageBatch { messages: batch.messages, sent_at: 0 }
    }

    fn take_echo(&self, echo: Option<pb::Echo>) -> Result<(), Status> {
        let Some(echo) = echo else {
            return Err(Status::unavailable("it ended the stream"));
        };
        let took = microseconds().saturating_sub(echo.sent_at);
        let to = format!("{:x}", self.member.0);
        let seconds = self.peers.0.metrics.peer_round_trip_seconds.with_label_values(&[&to]);
        seconds.observe(Duration::from_micros(took).as_secs_f64());
        Ok(())
    }

    /// Of what is counted of this member and the other one.
    fn labels(&self) -> [String; 2] {
        [self.peers.0.member.0, self.member.0].map(|id| format!("{id:x}"))
    }
}

fn microseconds() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}

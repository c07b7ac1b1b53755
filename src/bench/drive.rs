//! Driving: fill, warm up, measure. One task per client, each with its own tally.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::ValueEnum;
use indicatif::ProgressBar;
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::cases::{self, Requests};
use super::connections::{self, Client};
use super::report::{Measured, Tally};
use super::{Case, Options, cpu};
use crate::wire::etcdserverpb as pb;

/// Puts in flight while filling.
const FILL_CLIENTS: usize = 64;
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// What all clients share.
struct Shared {
    options: Options,
    measuring: AtomicBool,
    stopped: AtomicBool,
    /// Operations since measuring began.
    done: AtomicU64,
    /// For an open loop: when it began, and the next operation's number.
    began: Instant,
    next: AtomicU64,
}

impl Shared {
    fn runs(&self) -> bool {
        !self.stopped.load(Ordering::Relaxed)
    }

    /// Counts operations of a tally while measuring.
    fn count(&self, tally: &mut Tally, took: Duration) {
        if self.measuring.load(Ordering::Relaxed) {
            tally.done(took);
            self.done.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// When the next operation is due: now, or as the rate has it.
    async fn due(&self) -> Instant {
        let Some(rate) = self.options.rate else {
            return Instant::now();
        };
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let due = self.began + Duration::from_secs_f64(number as f64 / rate);
        tokio::time::sleep_until(due.into()).await;
        due
    }
}

/// # Errors
/// When the server cannot be reached or a watch or lease cannot be made.
pub async fn drive(options: &Options) -> Result<Measured, Box<dyn std::error::Error>> {
    if options.fill || matches!(options.case, Case::RangeMany) {
        fill(options).await?;
    }
    let shared = Arc::new(Shared {
        options: options.clone(),
        measuring: AtomicBool::new(false),
        stopped: AtomicBool::new(false),
        done: AtomicU64::new(0),
        began: Instant::now(),
        next: AtomicU64::new(0),
    });
    let mut clients = JoinSet::new();
    for (number, client) in (0..).zip(connections::clients(options, options.clients.max(1)).await?) {
        let (shared, requests) = (shared.clone(), Requests::new(options, number));
        match options.case {
            Case::WatchFanout => {
                let events = watch(client, &requests).await?;
                clients.spawn(count_events(shared, events));
            }
            Case::WatchLatency => {
                let events = watch(client.clone(), &requests).await?;
                clients.spawn(time_events(shared, client, requests, events));
            }
            Case::LeaseKeepalive => {
                clients.spawn(keep_alive(shared, client));
            }
            _ => {
                clients.spawn(unary(shared, client, requests));
            }
        }
    }
    if options.case == Case::WatchFanout {
        let mut writer = connections::clients(&Options { connections: 1, ..options.clone() }, 1).await?;
        clients.spawn(write_one_key(
            shared.clone(),
            writer.remove(0),
            Requests::new(options, u64::from(u32::MAX)),
        ));
    }
    measure(options, &shared, clients).await
}

async fn measure(
    options: &Options,
    shared: &Shared,
    mut clients: JoinSet<Tally>,
) -> Result<Measured, Box<dyn std::error::Error>> {
    tokio::time::sleep(Duration::from_secs_f64(options.warm_up)).await;
    let bar = progress(options);
    let cpu_before = cpu::nanoseconds(&options.pids);
    let began = Instant::now();
    shared.measuring.store(true, Ordering::Relaxed);
    let limit = Duration::from_secs_f64(options.seconds);
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    loop {
        looks.tick().await;
        let done = shared.done.load(Ordering::Relaxed);
        bar.set_position(if options.total.is_some() { done } else { began.elapsed().as_secs() });
        if began.elapsed() >= limit || options.total.is_some_and(|total| done >= total) || clients.is_empty()
        {
            break;
        }
    }
    shared.measuring.store(false, Ordering::Relaxed);
    let took = began.elapsed();
    let cpu_after = cpu::nanoseconds(&options.pids);
    shared.stopped.store(true, Ordering::Relaxed);
    bar.finish_and_clear();
    let mut tally = Tally::default();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    // Clients that wait for an event that never comes are cut off; what they counted so far is in `done`.
    while let Ok(Some(client)) = tokio::time::timeout_at(deadline, clients.join_next()).await {
        tally.add(&client?);
    }
    let cpu =
        cpu_before.zip(cpu_after).map(|(before, after)| Duration::from_nanos(after.saturating_sub(before)));
    let name = options.case.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned());
    let resident_bytes = cpu::resident_bytes(&options.pids);
    Ok(Measured { case: name, tally, took, cpu, resident_bytes })
}

fn progress(options: &Options) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    ProgressBar::new(options.total.unwrap_or(options.seconds.ceil() as u64))
}

/// Puts every key once.
async fn fill(options: &Options) -> Result<(), Box<dyn std::error::Error>> {
    let next = Arc::new(AtomicU64::new(0));
    let mut tasks = JoinSet::new();
    for mut client in connections::clients(options, FILL_CLIENTS).await? {
        let (next, requests, keys) = (next.clone(), Requests::new(options, 0), options.keys);
        tasks.spawn(async move {
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= keys {
                    return Ok::<(), Status>(());
                }
                client.unary(cases::PUT, requests.put(number)).await?;
            }
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

async fn unary(shared: Arc<Shared>, mut client: Client, mut requests: Requests) -> Tally {
    let mut tally = Tally::default();
    while shared.runs() {
        let (path, message) = requests.next();
        let due = shared.due().await;
        match client.unary(path, message).await {
            Ok(_) => shared.count(&mut tally, due.elapsed()),
            Err(status) => tally.failed(&status),
        }
    }
    tally
}

/// A watcher of the one key, past its `created`.
async fn watch(mut client: Client, requests: &Requests) -> Result<tonic::Streaming<Bytes>, Status> {
    let (sender, receiver) = mpsc::channel(1);
    let create = requests.watch();
    let mut events = client
        .stream(
            cases::WATCH,
            WithSender { stream: ReceiverStream::new(receiver), first: Some(create), _open: sender },
        )
        .await?;
    events.message().await?.ok_or_else(|| Status::unknown("the watch ended at once"))?;
    Ok(events)
}

async fn count_events(shared: Arc<Shared>, mut events: tonic::Streaming<Bytes>) -> Tally {
    let mut tally = Tally::default();
    while shared.runs() {
        match events.message().await {
            Ok(Some(message)) => {
                for _ in 0..events_in(&message) {
                    shared.count(&mut tally, Duration::ZERO);
                }
            }
            Ok(None) => return tally,
            Err(status) => {
                tally.failed(&status);
                return tally;
            }
        }
    }
    tally
}

/// Events are field 11, length-delimited: counted without decoding them.
fn events_in(mut message: &[u8]) -> usize {
    let mut events = 0;
    while let Ok((tag, wire)) = prost::encoding::decode_key(&mut message) {
        events += usize::from(tag == 11);
        let context = prost::encoding::DecodeContext::default();
        if prost::encoding::skip_field(wire, tag, &mut message, context).is_err() {
            break;
        }
    }
    events
}

async fn write_one_key(shared: Arc<Shared>, mut client: Client, requests: Requests) -> Tally {
    let mut tally = Tally::default();
    while shared.runs() {
        shared.due().await;
        if let Err(status) = client.unary(cases::PUT, requests.put(0)).await {
            tally.failed(&status);
        }
    }
    tally
}

/// Puts the key and waits for the event, one at a time.
async fn time_events(
    shared: Arc<Shared>,
    mut client: Client,
    requests: Requests,
    mut events: tonic::Streaming<Bytes>,
) -> Tally {
    let mut tally = Tally::default();
    while shared.runs() {
        let due = shared.due().await;
        if let Err(status) = client.unary(cases::PUT, requests.put(0)).await {
            tally.failed(&status);
            continue;
        }
        match events.message().await {
            Ok(Some(_)) => shared.count(&mut tally, due.elapsed()),
            Ok(None) => return tally,
            Err(status) => {
                tally.failed(&status);
                return tally;
            }
        }
    }
    tally
}

async fn keep_alive(shared: Arc<Shared>, client: Client) -> Tally {
    let mut tally = Tally::default();
    if let Err(status) = renew(&shared, client, &mut tally).await {
        tally.failed(&status);
    }
    tally
}

async fn renew(shared: &Shared, mut client: Client, tally: &mut Tally) -> Result<(), Status> {
    let grant = pb::LeaseGrantRequest { ttl: 600, id: 0 }.encode_to_vec();
    let granted = client.unary(cases::LEASE_GRANT, grant.into()).await?;
    let granted =
        pb::LeaseGrantResponse::decode(granted).map_err(|error| Status::unknown(error.to_string()))?;
    let message: Bytes = pb::LeaseKeepAliveRequest { id: granted.id }.encode_to_vec().into();
    let (sender, receiver) = mpsc::channel(1);
    let ended = || Status::unknown("the stream ended");
    // The first goes ahead: etcd begins to answer with its answer to it.
    sender.try_send(message.clone()).map_err(|_full| ended())?;
    let mut answers = client.stream(cases::KEEP_ALIVE, ReceiverStream::new(receiver)).await?;
    answers.message().await?;
    while shared.runs() {
        let due = shared.due().await;
        if sender.send(message.clone()).await.is_err() {
            return Err(ended());
        }
        answers.message().await?;
        shared.count(tally, due.elapsed());
    }
    Ok(())
}

/// One message, then a stream that stays open for as long as it is held.
struct WithSender {
    first: Option<Bytes>,
    stream: ReceiverStream<Bytes>,
    _open: mpsc::Sender<Bytes>,
}

impl tokio_stream::Stream for WithSender {
    type Item = Bytes;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Bytes>> {
        match self.first.take() {
            Some(first) => std::task::Poll::Ready(Some(first)),
            None => std::pin::Pin::new(&mut self.stream).poll_next(context),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wire::EncodedEvent;

    #[test]
    fn events_are_counted_without_decoding() {
        let events = vec![EncodedEvent::from_encoded(vec![8, 1].into()); 3];
        let response = pb::WatchResponse { watch_id: 7, events, ..Default::default() };
        assert_eq!(events_in(&response.encode_to_vec()), 3);
        assert_eq!(events_in(b"\xff\xff"), 0);
    }

    proptest! {
        #[test]
        fn counting_agrees_with_decoding_and_ends_on_any_bytes(
            bytes in proptest::collection::vec(prop_oneof![Just(0x5a_u8), 0u8..4, any::<u8>()], 0..60),
        ) {
            let counted = events_in(&bytes);
            prop_assert!(counted <= bytes.len());
            if let Ok(response) = pb::WatchResponse::decode(bytes.as_slice()) {
                prop_assert_eq!(counted, response.events.len());
            }
        }
    }
}

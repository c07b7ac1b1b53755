//! Driving: fill, warm up, measure. One task per client, each with its own tally.

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::ValueEnum;
use indicatif::ProgressBar;
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::cases::{self, Requests};
use super::connections::{self, Client};
use super::cpu::{self, Usage};
use super::report::{Measured, Tally};
use super::steering::Steering;
use super::{Case, Options, watching};
use crate::wire::etcdserverpb as pb;

/// Puts in flight while filling.
const FILL_CLIENTS: usize = 64;
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
/// How long clients may take to see that measuring is over.
const STOP_LIMIT: Duration = Duration::from_secs(10);
const DAY_SECONDS: f64 = 86_400.0;

/// What all clients share.
pub struct Shared {
    pub options: Options,
    measuring: AtomicBool,
    stopped: watch::Sender<bool>,
    /// Operations since measuring began.
    done: AtomicU64,
    /// For an open loop: when it began, and the next operation's number.
    began: Instant,
    next: AtomicU64,
    /// The next key to fill.
    next_key: AtomicU64,
}

impl Shared {
    fn new(options: Options) -> Self {
        Self {
            // Without a warm-up everything counts.
            measuring: AtomicBool::new(options.warm_up == 0.0 && !options.steered),
            options,
            stopped: watch::Sender::new(false),
            done: AtomicU64::new(0),
            began: Instant::now(),
            next: AtomicU64::new(0),
            next_key: AtomicU64::new(0),
        }
    }

    pub fn runs(&self) -> bool {
        !*self.stopped.borrow()
    }

    /// Waits until measuring is over.
    pub async fn stopped(&self) {
        self.stopped
            .subscribe()
            .wait_for(|stopped| *stopped)
            .await
            .expect("it sends as long as it is shared");
    }

    fn measures(&self) -> bool {
        self.measuring.load(Ordering::Relaxed)
    }

    /// Counts an operation of a tally while measuring.
    pub fn count(&self, tally: &mut Tally, took: Duration) {
        if self.measures() {
            tally.done(took);
            self.done.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Counts events delivered while measuring; they may be the operations.
    pub fn count_events(&self, tally: &mut Tally, events: u64) {
        if self.measures() {
            tally.events += events;
            if self.options.case == Case::WatchFanout {
                tally.operations += events;
                self.done.fetch_add(events, Ordering::Relaxed);
            }
        }
    }

    /// When the next operation is due: now, or as the rate has it. Whoever is free in time begins when its timer rings, up to a
    /// millisecond later, and is measured from then; whoever is late is measured from when it should have begun.
    pub async fn due(&self) -> Instant {
        let Some(rate) = self.options.rate else {
            return Instant::now();
        };
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let due = self.began + Duration::from_secs_f64(number as f64 / rate);
        if due < Instant::now() {
            return due;
        }
        tokio::time::sleep_until(due.into()).await;
        Instant::now()
    }
}

/// # Errors
/// When the server cannot be reached, a key cannot be put first or a watch cannot be made.
pub async fn drive(options: &Options) -> Result<Measured, Box<dyn std::error::Error>> {
    let whole = |options: Options| Options {
        case: Case::Fill,
        total: Some(options.keys),
        seconds: DAY_SECONDS,
        warm_up: 0.0,
        steered: false,
        ..options
    };
    if options.case == Case::Fill {
        return run(whole(options.clone())).await;
    }
    if options.fill {
        let filled = run(whole(Options { clients: FILL_CLIENTS, rate: None, ..options.clone() })).await?;
        if let Some(error) = filled.tally.errors.into_keys().next() {
            return Err(format!("filling: {error}").into());
        }
    }
    run(options.clone()).await
}

async fn run(options: Options) -> Result<Measured, Box<dyn std::error::Error>> {
    let shared = Arc::new(Shared::new(options));
    let options = &shared.options;
    let mut tasks = JoinSet::new();
    if matches!(options.case, Case::WatchFanout | Case::WatchKeys) {
        watching::spawn(&shared, &mut tasks).await?;
        return measure(&shared, tasks).await;
    }
    for (number, client) in (0..).zip(connections::clients(options, options.clients.max(1)).await?) {
        let (shared, requests) = (shared.clone(), Requests::new(options, number));
        match options.case {
            Case::Fill => tasks.spawn(fill(shared, client, requests)),
            Case::WatchLatency => tasks.spawn(watching::time_events(shared, client, requests)),
            Case::LeaseKeepalive => tasks.spawn(keep_alive(shared, client)),
            _ => tasks.spawn(unary(shared, client, requests)),
        };
    }
    measure(&shared, tasks).await
}

async fn measure(shared: &Shared, mut tasks: JoinSet<Tally>) -> Result<Measured, Box<dyn std::error::Error>> {
    let options = &shared.options;
    let mut steering = options.steered.then(Steering::by_standard_input);
    match &mut steering {
        Some(steering) => steering.begun().await,
        None => tokio::time::sleep(Duration::from_secs_f64(options.warm_up)).await,
    }
    let bar = progress(options);
    let tool = [std::process::id()];
    let before = (Usage::of(&options.pids), Usage::of(&tool));
    let began = Instant::now();
    shared.measuring.store(true, Ordering::Relaxed);
    let mut tally = Tally::default();
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    loop {
        looks.tick().await;
        while let Some(ended) = tasks.try_join_next() {
            tally.add(&ended?);
        }
        let done = shared.done.load(Ordering::Relaxed);
        bar.set_position(if options.total.is_some() { done } else { began.elapsed().as_secs() });
        let is_over = match &steering {
            Some(steering) => steering.has_ended(),
            None => began.elapsed().as_secs_f64() >= options.seconds,
        };
        if is_over || options.total.is_some_and(|total| done >= total) || tasks.is_empty() {
            break;
        }
    }
    shared.measuring.store(false, Ordering::Relaxed);
    let took = began.elapsed();
    let after = (Usage::of(&options.pids), Usage::of(&tool));
    shared.stopped.send_replace(true);
    bar.finish_and_clear();
    let deadline = tokio::time::Instant::now() + STOP_LIMIT;
    // Whoever has no answer by then is cut off, and what it counted is lost.
    while let Ok(Some(ended)) = tokio::time::timeout_at(deadline, tasks.join_next()).await {
        tally.add(&ended?);
    }
    let used = |before: Option<Usage>, after: Option<Usage>| Some(after?.since(before?));
    Ok(Measured {
        case: options.case.to_possible_value().map_or(String::new(), |value| value.get_name().to_owned()),
        tally,
        took,
        used: used(before.0, after.0),
        used_by_tool: used(before.1, after.1),
        resident_bytes: cpu::resident_bytes(&options.pids),
    })
}

fn progress(options: &Options) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    ProgressBar::new(options.total.unwrap_or(options.seconds.ceil() as u64))
}

/// Puts of keys that nobody else has put.
async fn fill(shared: Arc<Shared>, mut client: Client, requests: Requests) -> Tally {
    let mut tally = Tally::default();
    while shared.runs() {
        let number = shared.next_key.fetch_add(1, Ordering::Relaxed);
        if number >= shared.options.keys {
            break;
        }
        let due = shared.due().await;
        match client.unary(cases::PUT, requests.put(number)).await {
            Ok(_) => shared.count(&mut tally, due.elapsed()),
            Err(status) => tally.failed(&status),
        }
    }
    tally
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

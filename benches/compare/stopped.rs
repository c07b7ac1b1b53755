//! Watchers that stop reading, and read on later.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use decklog::wire::etcdserverpb as pb;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tonic::Status;

use crate::client;

/// They live on a thread of their own, which does not look at its sockets until it is told how far to read.
pub struct Stopped {
    read_to: SyncSender<i64>,
    thread: JoinHandle<Result<(), String>>,
}

impl Stopped {
    /// Opens watchers of everything from a revision on, each with a connection of its own.
    pub async fn open(endpoint: String, (watchers, from): (usize, i64)) -> Result<Self, String> {
        let (read_to, told) = sync_channel(1);
        let (opened, is_open) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| error.to_string())?;
            runtime.block_on(async {
                let mut streams = Vec::new();
                for _ in 0..watchers {
                    let events = client::watch_all(client::channel(&endpoint)?, from).await;
                    streams.push(events.map_err(|status| format!("watching: {status}"))?);
                }
                // Nobody waits for it any more when the measurement has failed.
                opened.send(()).ok();
                read_all(streams, from, &told).await
            })
        });
        if is_open.await.is_ok() {
            return Ok(Self { read_to, thread });
        }
        joined(thread)?;
        Err("the watchers have ended".to_owned())
    }

    /// Reads on; returns when each has been told every revision up to this one.
    ///
    /// # Errors
    /// When one misses a revision, or hears it twice or out of order.
    pub fn read_on(self, revision: i64) -> Result<(), String> {
        self.read_to.send(revision).map_err(|error| error.to_string())?;
        joined(self.thread)
    }
}

fn joined(thread: JoinHandle<Result<(), String>>) -> Result<(), String> {
    thread.join().unwrap_or_else(|_panic| Err("the thread of the watchers has failed".to_owned()))
}

async fn read_all(
    streams: Vec<tonic::Streaming<pb::WatchResponse>>,
    from: i64,
    told: &Receiver<i64>,
) -> Result<(), String> {
    // This blocks the thread on purpose: meanwhile nobody reads from its connections.
    let Ok(to) = told.recv() else {
        return Ok(());
    };
    let mut tasks = JoinSet::new();
    for stream in streams {
        tasks.spawn(read(stream, from, to));
    }
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|error| error.to_string())??;
    }
    Ok(())
}

/// Every revision is one event here.
async fn read(mut stream: tonic::Streaming<pb::WatchResponse>, from: i64, to: i64) -> Result<(), String> {
    let mut next = from;
    while next <= to {
        let message = stream.message().await.map_err(|status: Status| status.to_string())?;
        let message = message.ok_or("a watch has ended")?;
        for event in message.events {
            let event = event.decode().map_err(|error| error.to_string())?;
            let pair =
                event.kv.ok_or("an event without a key")?.decode().map_err(|error| error.to_string())?;
            let revision = pair.mod_revision;
            if revision != next {
                return Err(format!("a watcher was told revision {revision} in the place of {next}"));
            }
            next += 1;
        }
    }
    Ok(())
}

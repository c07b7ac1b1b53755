//! A running server, and how it stops: no new requests, open ones end, then the stages in the order of the flow.

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::Error;
use super::first_start::already_there;
use super::in_flight::InFlight;
use crate::background;
use crate::consensus::{Handle, Stopper};
use crate::datadir::DataDir;
use crate::lease::Leases;
use crate::members::Members;
use crate::persist::Mailbox;

/// How long open requests may take to end.
const REQUEST_GRACE: Duration = Duration::from_secs(5);
/// How long connections may take to close after that. No request is open on them any more; some clients never answer
/// that they have heard of the end, or have begun a request that they do not go on with.
const CONNECTION_GRACE: Duration = Duration::from_millis(500);
/// How long another member may take to begin to lead.
const HAND_OVER: Duration = Duration::from_secs(1);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// The front end's parts that a stop needs.
pub struct Front {
    pub(super) stop: watch::Sender<bool>,
    pub(super) in_flight: InFlight,
    pub(super) threads: Vec<JoinHandle<()>>,
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) jobs: JoinSet<()>,
}

/// How a stage ended.
#[derive(Debug)]
pub struct StageEnd {
    pub(super) stage: &'static str,
    pub(super) result: Result<(), String>,
}

impl StageEnd {
    pub(super) fn into_error(self) -> Error {
        let reason = self.result.err().unwrap_or_else(|| "it ended by itself".to_owned());
        Error::Stage { stage: self.stage, reason }
    }

    pub(super) fn unknown() -> Error {
        Error::Stage { stage: "every stage", reason: "they ended by themselves".to_owned() }
    }
}

/// Why a server that ran has ended.
pub type Ended = Result<(), Error>;

/// A server that serves.
pub struct Running {
    pub(super) front: Front,
    pub(super) data_dir: DataDir,
    pub(super) consensus: Handle,
    /// Becomes true when this member is no member any more.
    pub(super) removed: watch::Receiver<bool>,
    /// Becomes true when another member knows that this one has lost its data.
    pub(super) is_reborn: watch::Receiver<bool>,
    pub(super) stop_peers: watch::Sender<bool>,
    pub(super) peer_thread: JoinHandle<()>,
    pub(super) stopper: Stopper,
    pub(super) leases: Leases,
    pub(super) members: Members,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) threads: Vec<JoinHandle<()>>,
    pub(super) ended: mpsc::Receiver<StageEnd>,
}

impl Running {
    /// Where it listens.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.front.addresses
    }

    pub fn member(&self) -> crate::ids::MemberId {
        self.data_dir.member()
    }

    /// Waits until a stage fails, or this member turns out to have forgotten what it promised: then nothing may be answered
    /// any more, and the process must end.
    pub async fn failed(&mut self) -> Error {
        let own = self.data_dir.member().0;
        tokio::select! {
            end = self.ended.recv() => end.map_or_else(StageEnd::unknown, StageEnd::into_error),
            Ok(_) = self.is_reborn.wait_for(|reborn| *reborn) => Error::FirstStart(already_there(own)),
        }
    }

    /// Waits until this member has been removed from the cluster.
    pub fn removed(&self) -> impl Future<Output = ()> + use<> {
        let mut removed = self.removed.clone();
        async move {
            if removed.wait_for(|removed| *removed).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Another member leads before this one stops, so that nobody waits for an election.
    async fn hand_over(&self) {
        let has_others = self.members.now().voters().len() > 1;
        if !has_others || !self.consensus.status().is_leader {
            return;
        }
        self.consensus.transfer_leadership(None);
        wait(HAND_OVER, || !self.consensus.status().is_leader).await;
    }

    /// Stops in order: everything acknowledged is in the store afterwards.
    ///
    /// # Errors
    /// When a stage ended with a fault.
    pub async fn stop(mut self) -> Ended {
        self.front.stop.send_replace(true);
        self.front.jobs.shutdown().await;
        wait(REQUEST_GRACE, || self.front.in_flight.count() == 0).await;
        // A restart goes on with the time that leases have left.
        background::leases::checkpoint(&self.leases, &self.consensus, Duration::ZERO).await;
        self.hand_over().await;
        self.stopper.stop();
        let [consensus, apply, watch, store] = <[JoinHandle<()>; 4]>::try_from(self.threads)
            .unwrap_or_else(|_| unreachable!("four stages were started"));
        // Apply ends when consensus has, the hub when apply has.
        join(vec![consensus, apply, watch]).await?;
        self.mailbox.close();
        join(vec![store]).await?;
        self.stop_peers.send_replace(true);
        let mut fronts = self.front.threads;
        fronts.push(self.peer_thread);
        wait(CONNECTION_GRACE, || fronts.iter().all(JoinHandle::is_finished)).await;
        while let Ok(end) = self.ended.try_recv() {
            if end.result.is_err() {
                return Err(end.into_error());
            }
        }
        drop(self.data_dir);
        Ok(())
    }
}

async fn wait(limit: Duration, done: impl Fn() -> bool) {
    let deadline = Instant::now() + limit;
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    while !done() && Instant::now() < deadline {
        looks.tick().await;
    }
}

async fn join(threads: Vec<JoinHandle<()>>) -> Result<(), Error> {
    let joined = tokio::task::spawn_blocking(move || threads.into_iter().all(|thread| thread.join().is_ok()));
    match joined.await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::Stage { stage: "a stage", reason: "it panicked".to_owned() }),
        Err(error) => Err(Error::Stage { stage: "stopping", reason: error.to_string() }),
    }
}

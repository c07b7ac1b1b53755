//! The thread of the peers: a runtime of its own, so that neither clients nor their number delay a heartbeat. Serves the
//! peer URLs and carries the links to the other members.

use std::io;
use std::net::TcpListener;
use std::sync::Arc;
use std::thread::JoinHandle;

use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::watch;

use super::dispatch::{Dispatcher, Serves};
use super::listener::{self, ConnectionOptions, Workers};
use super::places::Places;
use crate::give_way;

/// A runtime that does not run yet.
pub struct PeerThread(Runtime);

/// What it serves, and how.
pub struct PeerServing {
    pub sockets: Vec<(TcpListener, Serves)>,
    pub dispatcher: Arc<Dispatcher>,
    pub options: ConnectionOptions,
    pub places: Places,
    pub stopping: watch::Receiver<bool>,
}

impl PeerThread {
    pub fn new() -> io::Result<Self> {
        // Threads that it starts read and write states.
        Ok(Self(Builder::new_current_thread().on_thread_start(give_way::from_here_on).enable_all().build()?))
    }

    /// Where links are spawned.
    pub fn handle(&self) -> Handle {
        self.0.handle().clone()
    }

    /// Runs until told to stop.
    pub fn begin(self, serving: PeerServing) -> io::Result<JoinHandle<()>> {
        let body = move || {
            let PeerServing { sockets, dispatcher, options, places, stopping } = serving;
            self.0.block_on(async {
                let (workers, queues) = Workers::new(1);
                let workers = Arc::new(workers);
                for (socket, serves) in sockets {
                    let (workers, places, stopping) = (workers.clone(), places.clone(), stopping.clone());
                    match tokio::net::TcpListener::from_std(socket) {
                        Ok(socket) => {
                            tokio::spawn(listener::accept(socket, serves, workers, places, stopping));
                        }
                        Err(error) => tracing::error!(%error, "cannot serve the other members"),
                    }
                }
                for queue in queues {
                    tokio::spawn(listener::serve(queue, dispatcher.clone(), options, stopping.clone()));
                }
                let mut told = stopping;
                // Ends, too, when nobody could tell any more. Streams of peers have no end: they are cut.
                drop(told.wait_for(|stopping| *stopping).await);
            });
            self.0.shutdown_background();
        };
        std::thread::Builder::new().name("peers".to_owned()).spawn(body)
    }
}

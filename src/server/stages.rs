//! The stages: a thread each for consensus, apply, store and watch, the workers of the front end, and the
//! channels between them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use tokio::sync::{mpsc, watch};

use super::Error;
use super::apply_stage::ApplyStage;
use super::dispatch::{Dispatcher, ServiceParts, Services};
use super::first_start::already_there;
use super::http::HttpEndpoints;
use super::in_flight::InFlight;
use super::listener::{self, ConnectionOptions, Workers};
use super::open::{Listener, Opened, membership_of};
use super::peer_http::PeerEndpoints;
use super::peer_thread::{PeerServing, PeerThread};
use super::places::Places;
use super::remember;
use super::stop::{Front, Running, StageEnd};
use super::tuning::{hub_options, loop_options, persist_metrics, persist_options};
use crate::apply::Applier;
use crate::background;
use crate::command::Kind;
use crate::config::Config;
use crate::consensus::{ConsensusError, Handle, Loop, LoopParts, Node, Stopper};
use crate::courier::Outbox;
use crate::datadir::DataDir;
use crate::give_way;
use crate::ids::{MemberId, Revision};
use crate::lease::Leases;
use crate::members::Members;
use crate::metrics::{Metrics, Sample};
use crate::mvcc::Reader;
use crate::peers::{PeerService, Peers};
use crate::persist::{Mailbox, Persist, PersistParts};
use crate::rpc;
use crate::snapshot::Importer;
use crate::watch as watching;
use crate::watch::WatchHub;
use crate::wire::etcdserverpb as pb;
use crate::wire::membershippb::{Attributes, ClusterMemberAttrSetRequest};

/// Largest number of front-end threads: beyond it the stages behind are what limits.
const MAX_WORKERS: usize = 16;
const MEBIBYTE: usize = 1 << 20;

/// The running core, not yet serving.
pub struct Stages {
    data_dir: DataDir,
    consensus: Handle,
    peers: Peers,
    peer_thread: Option<PeerThread>,
    stopper: Stopper,
    reader: Reader,
    leases: Leases,
    alarms: crate::alarm::Alarms,
    members: Members,
    importer: Importer,
    watches: WatchHub,
    mailbox: Arc<Mailbox>,
    removed_through: watch::Receiver<Revision>,
    metrics: Metrics,
    threads: Vec<JoinHandle<()>>,
    ended: mpsc::Receiver<StageEnd>,
}

/// What ends streams that have no end of their own.
struct Ends {
    stopping: watch::Receiver<bool>,
    leaderless: watch::Receiver<bool>,
}

/// Starts consensus, apply, store and watch.
///
/// # Errors
/// `Thread`.
pub fn start(config: &Config, opened: Opened) -> Result<Stages, Error> {
    let Opened {
        data_dir,
        store,
        keyspace,
        compaction_is_open,
        leases,
        alarms,
        members,
        node,
        importer,
        metrics,
        removed,
    } = opened;
    let (reader, tail, applied) = (keyspace.reader(), keyspace.tail(), store.applied());
    let (peer_thread, peers, consensus_loop, parts) =
        consensus(config, node, (&data_dir, removed), &metrics)?;
    let LoopParts { handle: consensus, stopper, committed } = parts;
    let progress = consensus.progress().clone();
    progress.set_applied(applied);
    let (hub, hub_input, watches) = watching::connect(reader.clone(), hub_options(config));
    let mailbox = Arc::new(Mailbox::default());
    let parts = PersistParts {
        store,
        reader: reader.clone(),
        tail,
        progress: progress.clone(),
        metrics: persist_metrics(&metrics),
    };
    let (persist, removed_through) = Persist::new(parts, compaction_is_open);
    let apply = ApplyStage {
        applier: Applier::new(keyspace, leases.clone(), alarms.clone(), members.clone(), applied),
        committed,
        mailbox: mailbox.clone(),
        hub: hub_input,
        outbox: Outbox::default(),
        progress,
        consensus: consensus.clone(),
        peers: peers.clone(),
        metrics: metrics.clone(),
        warn_after: config.warn.apply,
    };
    let (ends, ended) = mpsc::channel(4);
    let (persist_options, persist_mailbox) = (persist_options(config), mailbox.clone());
    let threads = vec![
        stage("consensus", &ends, consensus_loop, |consensus| consensus.run().map_err(text))?,
        stage("apply", &ends, apply, |apply| apply.run().map_err(text))?,
        stage("watch", &ends, hub, |hub| hub.run().map_err(text))?,
        stage("store", &ends, persist, move |persist| {
            persist.run(&persist_mailbox, &persist_options).map_err(text)
        })?,
    ];
    Ok(Stages {
        data_dir,
        consensus,
        peers,
        peer_thread: Some(peer_thread),
        stopper,
        reader,
        leases,
        alarms,
        members,
        importer,
        watches,
        mailbox,
        removed_through,
        metrics,
        threads,
        ended,
    })
}

/// Consensus with its way to the other members, but for those whom the log has removed.
fn consensus(
    config: &Config,
    node: Node,
    (data_dir, removed): (&DataDir, BTreeSet<MemberId>),
    metrics: &Metrics,
) -> Result<(PeerThread, Peers, Loop, LoopParts), Error> {
    let peer_thread = PeerThread::new()?;
    let peers = Peers::new(data_dir, removed, peer_thread.handle(), metrics.clone());
    let found = membership_of(data_dir.found());
    let seconds = metrics.request_seconds.clone();
    let (consensus_loop, parts) = Loop::new(node, loop_options(config), seconds, |consensus| {
        Box::new(peers.outbound(consensus, found))
    });
    Ok((peer_thread, peers, consensus_loop, parts))
}

fn text(error: impl std::error::Error) -> String {
    error.to_string()
}

/// A thread that tells how it ended. The stage itself is dropped after that: those who then find a channel of its
/// closed end later, and the first end that is told is the cause.
fn stage<S: Send + 'static>(
    name: &'static str,
    ends: &mpsc::Sender<StageEnd>,
    mut stage: S,
    run: impl FnOnce(&mut S) -> Result<(), String> + Send + 'static,
) -> Result<JoinHandle<()>, Error> {
    let ends = ends.clone();
    let body = move || {
        let result = run(&mut stage);
        // Nobody listens any more when the process is ending.
        drop(ends.try_send(StageEnd { stage: name, result }));
    };
    Ok(Builder::new().name(name.to_owned()).spawn(body)?)
}

/// One thread per queue of connections, with a runtime of its own.
fn begin_front<Q, F>(queues: Vec<Q>, serve: impl Fn(Q) -> F) -> std::io::Result<Vec<JoinHandle<()>>>
where
    F: Future<Output = ()> + Send + 'static,
{
    let begin = |(number, queue)| {
        let serve = serve(queue);
        // What other threads woke runs first: all answers of a batch are made before a connection writes them.
        // Threads that it starts are for what blocks: long reads.
        let runtime = tokio::runtime::Builder::new_current_thread()
            .global_queue_interval(1)
            .on_thread_start(give_way::from_here_on)
            .enable_all()
            .build()?;
        Builder::new().name(format!("front-{number}")).spawn(move || runtime.block_on(serve))
    };
    queues.into_iter().enumerate().map(begin).collect()
}

impl Stages {
    /// Waits until the log is replayed, announces this member, and serves.
    ///
    /// # Errors
    /// `Stage` when a stage ended, `NotReady`, `Thread`, `Listen`.
    pub async fn serve(
        mut self,
        config: &Config,
        listeners: Vec<Listener>,
        places: Places,
    ) -> Result<Running, Error> {
        let in_flight = InFlight::default();
        let (stop, stopping) = watch::channel(false);
        let (tell_leaderless, leaderless) = watch::channel(false);
        let ends = Ends { stopping: stopping.clone(), leaderless };
        let dispatcher = Arc::new(self.dispatcher(config, in_flight.clone(), ends));
        let options = ConnectionOptions {
            max_concurrent_streams: config.listen.max_concurrent_streams,
            keepalive_interval: config.listen.keepalive_interval,
            keepalive_timeout: config.listen.keepalive_timeout,
        };
        let (for_peers, listeners): (Vec<_>, Vec<_>) =
            listeners.into_iter().partition(|listener| listener.serves.peer && !listener.serves.grpc);
        let (stop_peers, peers_stopping) = watch::channel(false);
        let peer_thread = self.peer_thread.take().expect("it is taken once").begin(PeerServing {
            sockets: for_peers.into_iter().map(|listener| (listener.socket, listener.serves)).collect(),
            dispatcher: dispatcher.clone(),
            options,
            places: places.clone(),
            stopping: peers_stopping,
        })?;
        self.wait_until_ready().await?;
        self.announce(config).await?;
        let count = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_WORKERS);
        let (workers, queues) = Workers::new(count);
        let workers = Arc::new(workers);
        let front_threads = begin_front(queues, |queue| {
            listener::serve(queue, dispatcher.clone(), options, stopping.clone())
        })?;
        let mut addresses: Vec<SocketAddr> = Vec::new();
        for Listener { socket, serves } in listeners {
            addresses.push(socket.local_addr()?);
            let listener = tokio::net::TcpListener::from_std(socket)?;
            let (workers, places) = (workers.clone(), places.clone());
            tokio::spawn(listener::accept(listener, serves, workers, places, stopping.clone()));
        }
        let jobs = self.jobs(config, tell_leaderless);
        let front = Front { stop, in_flight, threads: front_threads, addresses, jobs };
        Ok(Running {
            front,
            data_dir: self.data_dir,
            consensus: self.consensus,
            removed: self.peers.removed(),
            is_reborn: self.peers.is_reborn(),
            stop_peers,
            peer_thread,
            stopper: self.stopper,
            leases: self.leases,
            members: self.members,
            mailbox: self.mailbox,
            threads: self.threads,
            ended: self.ended,
        })
    }

    fn jobs(&self, config: &Config, tell_leaderless: watch::Sender<bool>) -> tokio::task::JoinSet<()> {
        let mut jobs = tokio::task::JoinSet::new();
        let (consensus, election_timeout) = (self.consensus.clone(), config.raft.election_timeout);
        jobs.spawn(background::leader::run(consensus, election_timeout, tell_leaderless));
        let leading = self.leading(config);
        jobs.spawn(background::leases::run(
            self.leases.clone(),
            self.consensus.clone(),
            self.metrics.clone(),
            move |term| leading.lead(term),
        ));
        jobs.spawn(remember::run(self.members.clone(), self.data_dir.known().clone()));
        if let Some(keep) = config.auto_compaction {
            jobs.spawn(background::auto_compact::run(keep, self.reader.clone(), self.consensus.clone()));
        }
        if config.member.promote_when_ready {
            let (leading, own) = (self.leading(config), self.data_dir.member());
            let promote = move || {
                let leading = leading.clone();
                async move { leading.promote(own).await }
            };
            jobs.spawn(background::promote::run(self.consensus.clone(), promote));
        }
        jobs
    }

    /// A member that leads alone has its log replayed; one of several knows a leader and has what that one had.
    async fn wait_until_ready(&mut self) -> Result<(), Error> {
        let mut waited = false;
        let (mut removed, mut is_reborn) = (self.peers.removed(), self.peers.is_reborn());
        loop {
            tokio::select! {
                Ok(_) = is_reborn.wait_for(|reborn| *reborn) => {
                    return Err(Error::FirstStart(already_there(self.data_dir.member().0)));
                }
                // One that was removed while it was down has no leader any more, and only the others know why.
                Ok(_) = removed.wait_for(|removed| *removed) => {
                    return Err(Error::Removed(self.data_dir.member()));
                }
                ready = self.consensus.read_barrier() => match ready {
                    Err(error) if error.is_timeout() => {
                        if !std::mem::replace(&mut waited, true) {
                            tracing::warn!(%error, "waiting for enough of the other members");
                        }
                    }
                    ready => return ready.map_err(Error::NotReady),
                },
                end = self.ended.recv() => {
                    return Err(end.map_or_else(StageEnd::unknown, StageEnd::into_error));
                }
            }
        }
    }

    /// Name and client URLs go through the log, so that every member knows them; only when they are new.
    async fn announce(&self, config: &Config) -> Result<(), Error> {
        let client_urls: Vec<String> =
            config.member.advertise_client_urls.iter().map(ToString::to_string).collect();
        let id = self.data_dir.member();
        let attributes = Attributes { name: config.name.clone(), client_urls };
        loop {
            let known = self.members.get(id);
            let is_known = |known: &pb::Member| {
                known.name == config.name && known.client_ur_ls == attributes.client_urls
            };
            if known.as_ref().is_some_and(is_known) {
                return Ok(());
            }
            let member_attributes = Some(attributes.clone());
            let request = ClusterMemberAttrSetRequest { member_id: id.0, member_attributes };
            match self.consensus.propose(Kind::MemberAttributes(request).into()).await {
                Ok(_) => return Ok(()),
                // It does no harm twice.
                Err(ConsensusError::LeaderChanged | ConsensusError::TooManyRequests) => {}
                Err(error) if error.is_timeout() => {}
                Err(error) => return Err(Error::NotReady(error)),
            }
        }
    }

    fn dispatcher(&self, config: &Config, in_flight: InFlight, ends: Ends) -> Dispatcher {
        let sample = Sample {
            member: self.data_dir.member(),
            consensus: self.consensus.clone(),
            reader: self.reader.clone(),
            alarms: self.alarms.clone(),
            watches: self.watches.clone(),
            quota_bytes: config.limits.quota_bytes.unwrap_or(0),
        };
        let http = HttpEndpoints {
            consensus: self.consensus.clone(),
            reader: self.reader.clone(),
            alarms: self.alarms.clone(),
            metrics: self.metrics.clone(),
            sample,
        };
        let peer = PeerService {
            peers: self.peers.clone(),
            consensus: self.consensus.clone(),
            members: self.members.clone(),
            importer: self.importer.clone(),
            leader: Arc::new(self.leading(config)),
        };
        Dispatcher {
            peer: peer.server(config.limits.max_request_bytes),
            services: self.services(config),
            http,
            peer_http: PeerEndpoints { cluster: self.data_dir.cluster(), members: self.members.clone() },
            metrics: self.metrics.clone(),
            consensus: self.consensus.clone(),
            in_flight,
            max_request_bytes: config.limits.max_request_bytes,
            stopping: ends.stopping,
            leaderless: ends.leaderless,
        }
    }

    fn leading(&self, config: &Config) -> rpc::Leading {
        rpc::Leading {
            own: self.data_dir.member(),
            consensus: self.consensus.clone(),
            peers: self.peers.clone(),
            leases: self.leases.clone(),
            members: self.members.clone(),
            metrics: self.metrics.clone(),
            extension: config.raft.election_timeout,
            strict: config.member.strict_reconfig_check,
            max_learners: config.member.max_learners,
        }
    }

    fn services(&self, config: &Config) -> Services {
        let (consensus, reader, metrics) = (&self.consensus, &self.reader, &self.metrics);
        let headers = rpc::Headers {
            cluster: self.data_dir.cluster(),
            member: self.data_dir.member(),
            consensus: consensus.clone(),
            reader: reader.clone(),
        };
        let quota = rpc::Quota {
            reader: reader.clone(),
            consensus: consensus.clone(),
            alarms: self.alarms.clone(),
            member: self.data_dir.member(),
            limit: config.limits.quota_bytes,
        };
        let kv = rpc::KvService {
            consensus: consensus.clone(),
            reader: reader.clone(),
            headers: headers.clone(),
            quota: quota.clone(),
            removed_through: self.removed_through.clone(),
            max_txn_ops: config.limits.max_txn_ops,
            max_request_bytes: config.limits.max_request_bytes,
            metrics: metrics.clone(),
        };
        let watch = rpc::WatchService {
            hub: self.watches.clone(),
            headers: headers.clone(),
            max_fragment_bytes: config.limits.max_request_bytes + MEBIBYTE / 2,
            metrics: metrics.clone(),
        };
        let lease = rpc::LeaseService {
            consensus: consensus.clone(),
            headers: headers.clone(),
            leases: self.leases.clone(),
            leading: self.leading(config),
            quota,
            min_ttl: config.raft.min_lease_ttl(),
            metrics: metrics.clone(),
        };
        let cluster = rpc::ClusterService {
            consensus: consensus.clone(),
            headers: headers.clone(),
            members: self.members.clone(),
            leading: self.leading(config),
        };
        let maintenance = rpc::MaintenanceService {
            consensus: consensus.clone(),
            headers: headers.clone(),
            reader: reader.clone(),
            alarms: self.alarms.clone(),
            members: self.members.clone(),
            mailbox: self.mailbox.clone(),
            quota_bytes: config.limits.quota_bytes,
            metrics: metrics.clone(),
        };
        Services::new(ServiceParts {
            kv,
            watch,
            lease,
            cluster,
            maintenance,
            auth: rpc::AuthService { headers },
        })
    }
}

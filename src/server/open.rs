//! Opening: sockets, then what is on disk, recovered and fitted together. Starts nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Error;
use super::dispatch::{HttpScope, Serves};
use super::listener;
use super::refill::refill;
use crate::alarm::Alarms;
use crate::config::{Config, InitialMember, ListenConfig, MemberConfig, Url};
use crate::consensus::{self, BEGINNING, LogTimers, Node, NodeOptions, RaftLog};
use crate::datadir::{self, Birth, DataDir, FirstStart};
use crate::ids::{LogIndex, LogPosition, MemberId};
use crate::lease::Leases;
use crate::members::{Members, Membership};
use crate::metrics::Metrics;
use crate::mvcc::{Keyspace, Recovered};
use crate::peers::{self, KnownCluster};
use crate::snapshot::Importer;
use crate::storage::disk::RealDisk;
use crate::storage::wal::{HardState, Owner, Wal, WalContent, WalOptions};
use crate::storage::{Round, SledOptions, SledStore, Store};
use crate::wire::etcdserverpb as pb;

/// A socket with what is served on it.
pub struct Listener {
    pub socket: std::net::TcpListener,
    pub serves: Serves,
}

/// Everything on disk, in memory.
pub struct Opened {
    pub data_dir: DataDir,
    pub store: Arc<dyn Store>,
    pub keyspace: Keyspace,
    pub compaction_is_open: bool,
    pub leases: Leases,
    pub alarms: Alarms,
    pub members: Members,
    pub node: Node,
    /// Where states of other members come in.
    pub importer: Importer,
    pub metrics: Metrics,
}

/// Opens every socket of the configuration.
///
/// # Errors
/// `Url`, `Listen`.
pub fn listeners(config: &ListenConfig) -> Result<Vec<Listener>, Error> {
    let http_apart = !config.client_http.is_empty();
    let client =
        Serves { grpc: true, http: if http_apart { HttpScope::None } else { HttpScope::All }, peer: false };
    let http = Serves { grpc: false, http: HttpScope::All, peer: false };
    let metrics = Serves { grpc: false, http: HttpScope::Metrics, peer: false };
    let peer = Serves { grpc: false, http: HttpScope::None, peer: true };
    let wanted = [
        (&config.client, client),
        (&config.client_http, http),
        (&config.metrics, metrics),
        (&config.peer, peer),
    ];
    // One socket for an address that several URLs name; it serves what each of them asks for.
    let mut addresses = BTreeMap::new();
    for (urls, serves) in wanted {
        for address in addresses_of(urls)? {
            addresses.entry(address).and_modify(|known: &mut Serves| known.add(serves)).or_insert(serves);
        }
    }
    let mut listeners = Vec::new();
    for (address, serves) in addresses {
        let socket =
            listener::bind(address, config.reuse_port).map_err(|source| Error::Listen { address, source })?;
        listeners.push(Listener { socket, serves });
    }
    Ok(listeners)
}

fn addresses_of(urls: &[Url]) -> Result<Vec<std::net::SocketAddr>, Error> {
    let mut addresses = Vec::new();
    for url in urls {
        addresses.extend(url.bind_addresses()?);
    }
    Ok(addresses)
}

/// Who this member is when its data directory says nothing yet: as the configuration has it, or as the members of the
/// cluster that it joins know it.
///
/// # Errors
/// `FirstStart`: the cluster does not know it, or knows that it had data before.
pub async fn first_start(config: &Config) -> Result<Option<FirstStart>, Error> {
    if datadir::is_initialised(&config.data_dir) {
        return Ok(None);
    }
    let MemberConfig { id, cluster_id, initial, joins, .. } = &config.member;
    let others = initial.iter().filter(|member| member.id != *id).flat_map(|member| &member.peer_urls);
    let others: Vec<_> = others.map(ToString::to_string).collect();
    if *joins {
        let known =
            peers::ask_members(&others).await.map_err(|error| Error::FirstStart(error.to_string()))?;
        return join(config, &known).map(Some);
    }
    // When nobody answers, they have most likely not been started.
    if let Ok(known) = peers::ask_members(&others).await {
        check_new(config, &known)?;
    }
    Ok(Some(FirstStart {
        member: *id,
        cluster: *cluster_id,
        members: initial.clone(),
        joins: false,
        has_log: false,
        birth: new_birth(),
    }))
}

fn join(config: &Config, known: &KnownCluster) -> Result<FirstStart, Error> {
    // As in etcd, a member is known by the URLs that `--initial-cluster` gives it, in whatever order.
    let MemberConfig { id, initial, .. } = &config.member;
    let own = initial.iter().filter(|member| member.id == *id).flat_map(|member| &member.peer_urls);
    let own: BTreeSet<_> = own.map(Url::as_str).collect();
    let is_own = |member: &&pb::Member| own == member.peer_ur_ls.iter().map(String::as_str).collect();
    let Some(member) = known.members.iter().find(is_own) else {
        let urls = own.into_iter().collect::<Vec<_>>().join(",");
        return Err(Error::FirstStart(format!(
            "the cluster has no member with the peer URLs {urls}; add it first with etcdctl member add"
        )));
    };
    if !member.name.is_empty() {
        return Err(Error::FirstStart(already_there(member.id)));
    }
    let members = known.members.iter().map(of_member).collect::<Result<_, Error>>()?;
    Ok(FirstStart {
        member: MemberId(member.id),
        cluster: known.id,
        members,
        joins: true,
        has_log: false,
        birth: new_birth(),
    })
}

/// As the directory keeps it.
///
/// # Errors
/// `FirstStart` when a URL is none.
pub fn of_member(member: &pb::Member) -> Result<InitialMember, Error> {
    let parsed = |url: &String| Url::parse(url).map_err(|error| Error::FirstStart(error.to_string()));
    let peer_urls = member.peer_ur_ls.iter().map(parsed).collect::<Result<_, Error>>()?;
    Ok(InitialMember { id: MemberId(member.id), name: member.name.clone(), peer_urls })
}

/// Never 0.
fn new_birth() -> Birth {
    Birth(rand::random_range(1..=u64::MAX))
}

/// A member that lost its data must not come back under its old id: it may have voted.
fn check_new(config: &Config, known: &KnownCluster) -> Result<(), Error> {
    let MemberConfig { id, cluster_id, .. } = &config.member;
    if known.id != *cluster_id {
        return Err(Error::FirstStart(format!(
            "the members of --initial-cluster belong to cluster {:x}, and this configuration is of cluster {:x}",
            known.id.0, cluster_id.0
        )));
    }
    if known.removed.contains(id) {
        return Err(Error::FirstStart(format!(
            "member {:x} has been permanently removed from the cluster",
            id.0
        )));
    }
    match known.members.iter().find(|member| member.id == id.0) {
        Some(member) if !member.name.is_empty() => Err(Error::FirstStart(already_there(id.0))),
        _ => Ok(()),
    }
}

fn already_there(id: u64) -> String {
    format!(
        "member {id:x} has already been bootstrapped, but its data directory is empty; if the data is lost, replace the \
         member: etcdctl member remove {id:x}, etcdctl member add, then start with --initial-cluster-state=existing"
    )
}

/// The directory with its log.
pub struct OpenedLog {
    pub data_dir: DataDir,
    pub wal: Wal,
    pub content: WalContent,
    pub metrics: Metrics,
}

/// What a store held.
pub struct OpenedStore {
    store: Arc<dyn Store>,
    recovered: Recovered,
    leases: Leases,
    alarms: Alarms,
    membership: Membership,
}

impl OpenedLog {
    /// # Errors
    /// `DataDir`, `Log`.
    pub fn open(config: &Config, first: Option<FirstStart>) -> Result<Self, Error> {
        let mut data_dir = DataDir::open(config, first)?;
        let metrics = Metrics::new(config.extensive_metrics);
        let disk = Arc::new(RealDisk::new(data_dir.log()).map_err(Error::Log)?);
        let owner = Owner { member: data_dir.member(), cluster: data_dir.cluster() };
        let (wal, content) = Wal::open(disk, owner, WalOptions::default()).map_err(Error::Log)?;
        data_dir.log_made()?;
        Ok(Self { data_dir, wal, content, metrics })
    }

    /// Opens the store below the log, and makes the one that a new cluster begins with.
    ///
    /// # Errors
    /// `Store`, `StoreBehind`, `Keyspace`, `Removed`.
    pub fn open_store(&mut self) -> Result<OpenedStore, Error> {
        let place = self.data_dir.store();
        let store: Arc<dyn Store> =
            Arc::new(SledStore::open_after(&place, &SledOptions::default(), self.content.begins_after)?);
        if let Some(initial) = self.data_dir.initial()
            && store.applied().index == LogIndex(0)
            && (self.content.hard_state == HardState::default() || self.content.begins_at_the_beginning())
        {
            bootstrap(initial, &mut self.wal, &mut self.content, &*store)?;
        }
        let applied = store.applied().index;
        if let Some(needed) = consensus::needed_state(&self.content)
            && applied < needed.at_least
        {
            let path = place.display().to_string();
            return Err(Error::StoreBehind { path, applied, first: LogIndex(needed.at_least.0 + 1) });
        }
        let recovered = Keyspace::recover(store.clone())?;
        let leases = Leases::recover(&*store, &recovered.attachments)?;
        let alarms = Alarms::recover(&*store)?;
        let membership = Membership::of_store(&*store)?;
        if membership.is_removed(self.data_dir.member()) {
            return Err(Error::Removed(self.data_dir.member()));
        }
        Ok(OpenedStore { store, recovered, leases, alarms, membership })
    }

    /// The other members, as far as the directory and the log know them.
    ///
    /// # Errors
    /// `DataDir`, `Log`.
    pub fn others(&self) -> Result<Vec<InitialMember>, Error> {
        let mut members = membership_of(&self.data_dir.remembered());
        for change in consensus::changes_in(&self.content, LogIndex(0)).map_err(Error::Log)? {
            if let Err(rejection) = members.apply(&change) {
                tracing::debug!(%rejection, "the directory knew of this change of members");
            }
        }
        let own = self.data_dir.member();
        let others = members.list().into_iter().filter(|member| member.id != own.0);
        others.map(|member| of_member(&member)).collect()
    }

    /// # Errors
    /// `Consensus`, `Log`.
    pub fn begin(self, config: &Config, opened: OpenedStore) -> Result<Opened, Error> {
        let Self { data_dir, wal, content, metrics } = self;
        let OpenedStore { store, recovered, leases, alarms, membership } = opened;
        let importer = store_beside(&data_dir)?;
        let members = Members::new(membership.clone());
        let node = node(config, (wal, content), store.applied(), &metrics, (data_dir.member(), membership))?;
        let Recovered { keyspace, compaction_is_open, .. } = recovered;
        Ok(Opened {
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
        })
    }
}

/// Opens everything. A store that is lost is made good from another member, when there are others.
///
/// # Errors
/// See `Error`.
pub async fn open(config: &Config, first: Option<FirstStart>) -> Result<Opened, Error> {
    let mut log = OpenedLog::open(config, first)?;
    let opened = match log.open_store() {
        Err(lost) if lost.is_lost_store() => {
            let others = log.others()?;
            if others.is_empty() {
                return Err(lost);
            }
            refill(&mut log, &others, &lost).await?;
            log.open_store()?
        }
        opened => opened?,
    };
    log.begin(config, opened)
}

/// Where states of other members come in: beside the store, which is made when there is none.
///
/// # Errors
/// `Store`.
pub fn store_beside(data_dir: &DataDir) -> Result<Importer, Error> {
    let (place, options) = (data_dir.store(), SledOptions::default());
    if !place.exists() {
        drop(SledStore::open(&place, &options)?);
    }
    Ok(Importer::new(move || Ok(Arc::new(SledStore::begin_beside(&place, &options)?))))
}

/// The state that every member of a new cluster begins with. A crash before its end is made good by the next start.
fn bootstrap(
    initial: &[InitialMember],
    wal: &mut Wal,
    content: &mut WalContent,
    store: &dyn Store,
) -> Result<(), Error> {
    if content.hard_state == HardState::default() {
        RaftLog::bootstrap(wal).map_err(Error::Log)?;
        content.hard_state = HardState { term: BEGINNING.term.0, vote: 0, commit: BEGINNING.index.0 };
    }
    let tables = membership_of(initial).rows();
    store.write(&Round { applied: BEGINNING, changes: Vec::new(), tables })?;
    store.flush()?;
    Ok(())
}

/// Members that have not announced themselves.
pub fn membership_of(members: &[InitialMember]) -> Membership {
    let members = members.iter().map(|member| pb::Member {
        id: member.id.0,
        peer_ur_ls: member.peer_urls.iter().map(ToString::to_string).collect(),
        ..pb::Member::default()
    });
    Membership::new(members.collect())
}

fn node(
    config: &Config,
    (wal, content): (Wal, WalContent),
    applied: LogPosition,
    metrics: &Metrics,
    (id, members): (MemberId, Membership),
) -> Result<Node, Error> {
    if content.torn_bytes > 0 {
        tracing::info!(bytes = content.torn_bytes, "dropped a write that the last stop left unfinished");
    }
    let entries = content.entries.len();
    tracing::info!(entries, applied = applied.index.0, "opened the raft log");
    let timers =
        LogTimers { write: metrics.log_write_seconds.clone(), flush: metrics.log_flush_seconds.clone() };
    let log = RaftLog::new(wal, content, applied, &members, timers).map_err(Error::Log)?;
    let ticks = config.raft.election_timeout.as_millis() / config.raft.heartbeat.as_millis().max(1);
    let options = NodeOptions {
        id,
        election_ticks: usize::try_from(ticks).unwrap_or(usize::MAX),
        heartbeat_ticks: 1,
        pre_vote: config.raft.pre_vote,
        applied: applied.index,
        members,
        seed: rand::random(),
    };
    Ok(Node::new(log, &options)?)
}

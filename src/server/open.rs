//! Opening: sockets, then what is on disk, recovered and fitted together. Starts nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Error;
use super::dispatch::{HttpScope, Serves};
use super::first_start::of_member;
use super::listener;
use super::refill::refill;
use crate::alarm::Alarms;
use crate::config::{Config, InitialMember, ListenConfig, Url};
use crate::consensus::{self, BEGINNING, Node, NodeOptions, RaftLog};
use crate::datadir::{DataDir, FirstStart};
use crate::ids::{LogIndex, LogPosition, MemberId};
use crate::lease::Leases;
use crate::members::{Members, Membership};
use crate::metrics::Metrics;
use crate::mvcc::{Keyspace, Recovered, Recovery};
use crate::snapshot::Importer;
use crate::storage::disk::RealDisk;
use crate::storage::wal::{HardState, Owner, Wal, WalContent, WalOptions};
use crate::storage::{self, Round, SledOptions, SledStore, Store};
use crate::wire::etcdserverpb as pb;

/// How long the engine may take to let go of a database of this process.
const LET_GO: Duration = Duration::from_secs(30);
const LET_GO_LOOK: Duration = Duration::from_millis(20);

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
    /// Removed by the log, though the store does not know it yet.
    pub removed: BTreeSet<MemberId>,
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
        let (options, begins_after) = (SledOptions::default(), self.content.begins_after);
        let mut recovery = Recovery::default();
        let store =
            SledStore::open_after(&place, &options, begins_after, &mut |change| recovery.add(change))?;
        let store: Arc<dyn Store> = Arc::new(store);
        if let Some(initial) = self.data_dir.initial() {
            bootstrap(&membership_of(initial), &mut self.wal, &mut self.content, &*store)?;
        }
        let applied = store.applied().index;
        if let Some(needed) = consensus::needed_state(&self.content)
            && applied < needed.at_least
        {
            let path = place.display().to_string();
            return Err(Error::StoreBehind { path, applied, first: LogIndex(needed.at_least.0 + 1) });
        }
        let recovered = recovery.finish(store.clone())?;
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

    /// Drops all other members from the cluster: the log says so when this returns.
    ///
    /// # Errors
    /// `DataDir`, `Consensus`.
    fn stand_alone(&mut self, opened: &OpenedStore) -> Result<(), Error> {
        tracing::warn!(
            "--force-new-cluster: all other members are dropped; leave the flag out of the next start"
        );
        let own = self.data_dir.member();
        // From now on nobody else is asked for a state: they may go on by another course.
        let remembered = self.data_dir.remembered().into_iter().filter(|member| member.id == own);
        self.data_dir.known().set_members(remembered.collect())?;
        let (applied, members) = (opened.store.applied(), opened.membership.clone());
        Ok(consensus::stand_alone(&mut self.wal, &mut self.content, applied, members, own)?)
    }

    /// # Errors
    /// `Consensus`, `Log`.
    pub fn begin(self, config: &Config, opened: OpenedStore) -> Result<Opened, Error> {
        let Self { data_dir, wal, content, metrics } = self;
        let OpenedStore { store, recovered, leases, alarms, membership } = opened;
        let importer = store_beside(&data_dir)?;
        let removed =
            consensus::removed_in(&content, store.applied().index, &membership).map_err(Error::Log)?;
        if !removed.is_empty() {
            tracing::info!(count = removed.len(), "the log has removed members that the store still knows");
        }
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
            removed,
        })
    }
}

/// Opens everything, and with `--force-new-cluster` drops the other members. A store that is lost is made good from another member, when there are others.
///
/// # Errors
/// See `Error`.
pub async fn open(config: &Config, first: Option<FirstStart>) -> Result<Opened, Error> {
    let is_first = first.is_some();
    let mut log = OpenedLog::open(config, first)?;
    let opened = match log.open_store() {
        // Who drops the others has nobody to ask.
        Err(lost) if lost.is_lost_store() && !config.member.force_new_cluster => {
            let others = log.others()?;
            if others.is_empty() {
                return Err(lost);
            }
            refill(&mut log, &others, &lost).await?;
            open_again(&mut log).await?
        }
        opened => opened?,
    };
    if config.member.force_new_cluster && !is_first {
        log.stand_alone(&opened)?;
    }
    log.begin(config, opened)
}

/// The engine lets go of a database on threads of its own: right after that it may still be locked.
async fn open_again(log: &mut OpenedLog) -> Result<OpenedStore, Error> {
    let deadline = Instant::now() + LET_GO;
    loop {
        match log.open_store() {
            Err(Error::Store(storage::Error::Locked { .. })) if Instant::now() < deadline => {
                tokio::time::sleep(LET_GO_LOOK).await;
            }
            opened => return opened,
        }
    }
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

/// Makes the state that every member of a new cluster begins with, where there is none yet: a crash before its end is made
/// good by the next start. Also for tests that start members themselves.
///
/// # Errors
/// `Log`, `Store`.
pub fn bootstrap(
    initial: &Membership,
    wal: &mut Wal,
    content: &mut WalContent,
    store: &dyn Store,
) -> Result<(), Error> {
    let is_new = content.hard_state == HardState::default();
    if store.applied().index != LogIndex(0) || !(is_new || content.begins_at_the_beginning()) {
        return Ok(());
    }
    if is_new {
        RaftLog::bootstrap(wal).map_err(Error::Log)?;
        content.hard_state = HardState { term: BEGINNING.term.0, vote: 0, commit: BEGINNING.index.0 };
    }
    let tables = initial.rows();
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
    let log = RaftLog::new(wal, content, applied, &members, metrics.log_timers()).map_err(Error::Log)?;
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

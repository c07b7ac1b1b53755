//! Opening: sockets, then what is on disk, recovered and fitted together. Starts nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Error;
use super::dispatch::{HttpScope, Serves};
use super::listener;
use crate::alarm::Alarms;
use crate::config::{Config, ListenConfig, Url};
use crate::consensus::{LogTimers, Node, NodeOptions, RaftLog};
use crate::datadir::DataDir;
use crate::lease::Leases;
use crate::members::Members;
use crate::metrics::Metrics;
use crate::mvcc::{Keyspace, Recovered};
use crate::storage::disk::RealDisk;
use crate::storage::wal::{Owner, Wal, WalOptions};
use crate::storage::{SledOptions, SledStore, Store};
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
    pub metrics: Metrics,
}

/// Opens every socket of the configuration.
///
/// # Errors
/// `Url`, `Listen`.
pub fn listeners(config: &ListenConfig) -> Result<Vec<Listener>, Error> {
    let http_apart = !config.client_http.is_empty();
    let client = Serves { grpc: true, http: if http_apart { HttpScope::None } else { HttpScope::All } };
    let http = Serves { grpc: false, http: HttpScope::All };
    let metrics = Serves { grpc: false, http: HttpScope::Metrics };
    let wanted = [(&config.client, client), (&config.client_http, http), (&config.metrics, metrics)];
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

/// # Errors
/// `DataDir`, `Store`, `Keyspace`, `Consensus`.
pub fn open(config: &Config) -> Result<Opened, Error> {
    let data_dir = DataDir::open(config)?;
    let metrics = Metrics::new(config.extensive_metrics);
    let store: Arc<dyn Store> = Arc::new(SledStore::open(&data_dir.store(), &SledOptions::default())?);
    let Recovered { keyspace, attachments, compaction_is_open } = Keyspace::recover(store.clone())?;
    let leases = Leases::recover(&*store, &attachments)?;
    let alarms = Alarms::recover(&*store)?;
    let members = Members::recover(&*store, vec![this_member(config, &data_dir)])?;
    let node = node(config, &data_dir, &*store, &metrics)?;
    Ok(Opened { data_dir, store, keyspace, compaction_is_open, leases, alarms, members, node, metrics })
}

fn node(config: &Config, data_dir: &DataDir, store: &dyn Store, metrics: &Metrics) -> Result<Node, Error> {
    let disk = Arc::new(RealDisk::new(data_dir.log()).map_err(Error::Log)?);
    let owner = Owner { member: data_dir.member(), cluster: data_dir.cluster() };
    let (wal, content) = Wal::open(disk, owner, WalOptions::default()).map_err(Error::Log)?;
    if content.torn_bytes > 0 {
        tracing::info!(bytes = content.torn_bytes, "dropped a write that the last stop left unfinished");
    }
    let (entries, applied) = (content.entries.len(), store.applied());
    tracing::info!(entries, applied = applied.index.0, "opened the raft log");
    let timers =
        LogTimers { write: metrics.log_write_seconds.clone(), flush: metrics.log_flush_seconds.clone() };
    let log = RaftLog::new(wal, content, applied, data_dir.member(), timers).map_err(Error::Log)?;
    let ticks = config.raft.election_timeout.as_millis() / config.raft.heartbeat.as_millis().max(1);
    let options = NodeOptions {
        id: data_dir.member(),
        election_ticks: usize::try_from(ticks).unwrap_or(usize::MAX),
        heartbeat_ticks: 1,
        pre_vote: config.raft.pre_vote,
        applied: applied.index,
    };
    Ok(Node::new(log, &options)?)
}

/// This member before it has announced itself: its ids and peer URLs.
fn this_member(config: &Config, data_dir: &DataDir) -> pb::Member {
    let peer_urls = config.member.advertise_peer_urls.iter().map(ToString::to_string);
    pb::Member { id: data_dir.member().0, peer_ur_ls: peer_urls.collect(), ..pb::Member::default() }
}

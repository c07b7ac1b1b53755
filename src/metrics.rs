//! Metrics under etcd's names: its dashboards and alerts read them. Counters are counted where things happen;
//! gauges are set from what the parts publish when somebody asks.

mod rpc;
mod sample;
mod table;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::RwLock;
use prometheus::{Encoder, Histogram, IntCounter, Registry, TextEncoder};

use crate::consensus::LogTimers;
use crate::mvcc::Operations;

pub use rpc::{Rpc, RpcKind, RpcMetrics};
pub use sample::Sample;
pub use table::Table;

/// All metrics. Cheap to clone; all clones count together.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    registry: Registry,
    table: Table,
    rpcs: RpcMetrics,
    /// Of the labels that are asked for with every range: found once.
    range_success: Histogram,
    range_request_success: Histogram,
    extensive: bool,
    /// Per version that clients have stated: its unary calls and its streams.
    client_versions: RwLock<BTreeMap<String, [IntCounter; 2]>>,
}

impl Metrics {
    /// `extensive`: also how long each RPC and each answer to a watcher took.
    pub fn new(extensive: bool) -> Self {
        let registry = Registry::new();
        let table = Table::new(&registry);
        table::register_idle(&registry);
        let rpcs = RpcMetrics::new(&registry, extensive);
        let range_success = table.range_seconds.with_label_values(&["true"]);
        let range_request_success = table.request_seconds.with_label_values(&["Range", "true"]);
        let client_versions = RwLock::default();
        Self(Arc::new(Inner {
            registry,
            table,
            rpcs,
            range_success,
            range_request_success,
            extensive,
            client_versions,
        }))
    }

    /// Whether more is measured than what costs next to nothing.
    pub fn are_extensive(&self) -> bool {
        self.0.extensive
    }

    pub fn rpcs(&self) -> &RpcMetrics {
        &self.0.rpcs
    }

    /// A range has been read: it `took` so long since it arrived, and so long since its barrier.
    pub fn range_ended(&self, success: bool, took: Duration, reading: Duration) {
        if success {
            self.0.range_success.observe(reading.as_secs_f64());
            self.0.range_request_success.observe(took.as_secs_f64());
        } else {
            self.range_seconds.with_label_values(&["false"]).observe(reading.as_secs_f64());
            self.request_seconds.with_label_values(&["Range", "false"]).observe(took.as_secs_f64());
        }
    }

    /// Those that the log of consensus counts.
    pub fn log_timers(&self) -> LogTimers {
        LogTimers { write: self.log_write_seconds.clone(), flush: self.log_flush_seconds.clone() }
    }

    /// Drops every series of a peer, as one member sees another.
    pub fn forget_peer(&self, local: &str, remote: &str) {
        // A series that is not there is as good as dropped.
        drop(self.active_peers.remove_label_values(&[local, remote]));
        drop(self.disconnected_peers.remove_label_values(&[local, remote]));
        let counters = [
            &self.peer_received_bytes,
            &self.peer_received_failures,
            &self.peer_sent_bytes,
            &self.peer_sent_failures,
            &self.state_receive_failures,
            &self.states_received,
            &self.state_send_failures,
            &self.states_sent,
        ];
        counters.into_iter().for_each(|counter| drop(counter.remove_label_values(&[remote])));
        let gauges = [&self.states_receiving, &self.states_sending];
        gauges.into_iter().for_each(|gauge| drop(gauge.remove_label_values(&[remote])));
        let histograms =
            [&self.peer_round_trip_seconds, &self.state_receive_seconds, &self.state_send_seconds];
        histograms.into_iter().for_each(|histogram| drop(histogram.remove_label_values(&[remote])));
    }

    pub fn count_operations(&self, operations: &Operations) {
        self.ranges.inc_by(operations.ranges);
        self.puts.inc_by(operations.puts);
        self.put_size_bytes.add(i64::try_from(operations.put_bytes).unwrap_or(i64::MAX));
        self.deletes.inc_by(operations.deletes);
        self.txns.inc_by(operations.txns);
    }

    /// Counts a call by the version that its client states. Versions beyond the first `limit` count together: labels must not
    /// grow without end.
    pub fn count_client(&self, kind: RpcKind, version: &str, limit: usize) {
        let place = usize::from(kind != RpcKind::Unary);
        if let Some(counters) = self.0.client_versions.read().get(version) {
            counters[place].inc();
            return;
        }
        let mut known = self.0.client_versions.write();
        let label = if known.len() < limit { version } else { "other" };
        let counters = ["unary", "stream"].map(|kind| self.client_requests.with_label_values(&[kind, label]));
        counters[place].inc();
        if label == version {
            known.insert(version.to_owned(), counters);
        }
    }

    /// Everything in Prometheus' text form.
    ///
    /// # Errors
    /// When a metric contradicts another: a defect of ours.
    pub fn text(&self) -> Result<Vec<u8>, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.0.registry.gather(), &mut text)?;
        Ok(text)
    }
}

impl Deref for Metrics {
    type Target = Table;

    fn deref(&self) -> &Table {
        &self.0.table
    }
}

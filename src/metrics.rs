//! Metrics under etcd's names: its dashboards and alerts read them. Counters are counted where things happen;
//! gauges are set from what the parts publish when somebody asks.

mod rpc;
mod sample;
mod table;

use std::collections::BTreeSet;
use std::ops::Deref;
use std::sync::Arc;

use parking_lot::RwLock;
use prometheus::{Encoder, Histogram, Registry, TextEncoder};

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
    client_versions: RwLock<BTreeSet<String>>,
}

impl Metrics {
    /// `extensive`: also how long each RPC took.
    pub fn new(extensive: bool) -> Self {
        let registry = Registry::new();
        let table = Table::new(&registry);
        table::register_idle(&registry);
        let rpcs = RpcMetrics::new(&registry, extensive);
        let range_success = table.range_seconds.with_label_values(&["true"]);
        let client_versions = RwLock::default();
        Self(Arc::new(Inner { registry, table, rpcs, range_success, client_versions }))
    }

    pub fn rpcs(&self) -> &RpcMetrics {
        &self.0.rpcs
    }

    /// How long ranges took that succeeded.
    pub fn range_success_seconds(&self) -> &Histogram {
        &self.0.range_success
    }

    /// Whether a version that a client states is one of the first `limit`: labels must not grow without end.
    pub fn is_counted_version(&self, version: &str, limit: usize) -> bool {
        if self.0.client_versions.read().contains(version) {
            return true;
        }
        let mut known = self.0.client_versions.write();
        known.len() < limit && known.insert(version.to_owned())
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

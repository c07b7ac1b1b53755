//! Metrics under etcd's names: its dashboards and alerts read them. Counters are counted where things happen;
//! gauges are set from what the parts publish when somebody asks.

mod rpc;
mod sample;
mod table;

use std::ops::Deref;
use std::sync::Arc;

use prometheus::{Encoder, Registry, TextEncoder};

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
}

impl Metrics {
    /// `extensive`: also how long each RPC took.
    pub fn new(extensive: bool) -> Self {
        let registry = Registry::new();
        let table = Table::new(&registry);
        table::register_idle(&registry);
        let rpcs = RpcMetrics::new(&registry, extensive);
        Self(Arc::new(Inner { registry, table, rpcs }))
    }

    pub fn rpcs(&self) -> &RpcMetrics {
        &self.0.rpcs
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

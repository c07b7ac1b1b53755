//! How the stages behave, as the configuration has it.

use crate::config::Config;
use crate::consensus::LoopOptions;
use crate::metrics::Metrics;
use crate::persist::{PersistMetrics, PersistOptions};
use crate::watch::{HubLimits, HubOptions};

pub fn hub_options(config: &Config) -> HubOptions {
    HubOptions { progress_interval: config.progress_notify_interval, limits: HubLimits::DEFAULT }
}

pub fn loop_options(config: &Config) -> LoopOptions {
    LoopOptions {
        tick: config.raft.heartbeat,
        election_timeout: config.raft.election_timeout,
        skip_first_timeout: config.raft.skip_first_timeout,
        catch_up_entries: config.raft.catch_up_entries,
        max_request_bytes: config.limits.max_request_bytes,
        request_timeout: config.raft.request_timeout(),
    }
}

pub fn persist_options(config: &Config) -> PersistOptions {
    PersistOptions {
        round_interval: config.storage.round_interval,
        compaction_batch: config.storage.compaction_batch,
        compaction_pause: config.storage.compaction_pause,
    }
}

/// What the stage of the store counts: also for tests that connect the stages themselves.
pub fn persist_metrics(metrics: &Metrics) -> PersistMetrics {
    PersistMetrics {
        write_seconds: metrics.store_write_seconds.clone(),
        flush_seconds: metrics.store_flush_seconds.clone(),
        slice_milliseconds: metrics.compaction_pause_milliseconds.clone(),
        compaction_milliseconds: metrics.compaction_milliseconds.clone(),
        compacted_keys: metrics.compaction_keys.clone(),
        last_compaction: metrics.compaction_last.clone(),
        defragment_in_flight: metrics.defragment_in_flight.clone(),
    }
}

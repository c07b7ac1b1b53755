//! What the stage of the store counts, for tests that make one themselves.

use decklog::metrics::Metrics;
use decklog::persist::PersistMetrics;

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

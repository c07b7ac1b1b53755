//! Gauges from what the parts publish, set when somebody asks for the metrics.

mod process;

use std::sync::atomic::Ordering;

use super::Metrics;
use crate::alarm::Alarms;
use crate::consensus::Handle;
use crate::ids::MemberId;
use crate::mvcc::Reader;
use crate::version::{CLUSTER_VERSION, ETCD_VERSION};
use crate::watch::WatchHub;
use crate::wire::etcdserverpb::AlarmType;

/// etcd's feature gates with their stages, and whether the server behaves as with the gate.
const FEATURES: [(&str, &str, bool); 11] = [
    ("AllAlpha", "ALPHA", false),
    ("AllBeta", "BETA", false),
    ("CompactHashCheck", "ALPHA", false),
    ("FastLeaseKeepAlive", "BETA", true),
    ("InitialCorruptCheck", "ALPHA", false),
    ("LeaseCheckpoint", "ALPHA", true),
    ("LeaseCheckpointPersist", "ALPHA", true),
    ("PriorityRequest", "ALPHA", false),
    ("SetMemberLocalAddr", "ALPHA", false),
    ("StopGRPCServiceOnDefrag", "ALPHA", false),
    ("TxnModeWriteWithSharedBuffer", "BETA", false),
];

/// Where the gauges come from. Cheap to clone.
#[derive(Clone)]
pub struct Sample {
    pub member: MemberId,
    pub consensus: Handle,
    pub reader: Reader,
    pub alarms: Alarms,
    pub watches: WatchHub,
    /// 0 for none.
    pub quota_bytes: u64,
}

impl Sample {
    /// Sets every gauge.
    pub fn take(&self, metrics: &Metrics) {
        self.consensus(metrics);
        self.store(metrics);
        self.watches(metrics);
        let member = format!("{:x}", self.member.0);
        metrics.server_id.with_label_values(&[&member]).set(1);
        metrics.server_version.with_label_values(&[ETCD_VERSION]).set(1);
        let minor = CLUSTER_VERSION.rsplit_once('.').map_or(CLUSTER_VERSION, |(minor, _)| minor);
        metrics.cluster_version.with_label_values(&[minor]).set(1);
        metrics.go_version.with_label_values(&["rust"]).set(1);
        metrics.auth_revision.set(1);
        for (name, stage, on) in FEATURES {
            metrics.features.with_label_values(&[name, stage]).set(i64::from(on));
        }
        metrics.alarms.reset();
        for alarm in self.alarms.list(AlarmType::None) {
            let owner = format!("{:x}", alarm.member_id);
            metrics.alarms.with_label_values(&[owner.as_str(), alarm.alarm().as_str_name()]).set(1);
        }
        process::take(metrics);
    }

    fn consensus(&self, metrics: &Metrics) {
        let (status, progress) = (self.consensus.status(), self.consensus.progress());
        metrics.has_leader.set(i64::from(status.leader != MemberId(0)));
        metrics.is_leader.set(i64::from(status.is_leader));
        metrics.is_learner.set(i64::from(status.is_learner));
        metrics.proposals_committed.set(signed(status.committed.index.0));
        metrics.proposals_applied.set(signed(status.applied.index.0));
        metrics.proposals_pending.set(signed(progress.pending_proposals()));
        catch_up(&metrics.proposals_failed, progress.failed_proposals());
        catch_up(&metrics.leader_changes, progress.leader_changes());
        catch_up(&metrics.failed_read_indexes, progress.failed_reads());
        catch_up(&metrics.slow_read_indexes, progress.slow_reads());
        catch_up(&metrics.heartbeat_send_failures, progress.failed_heartbeats());
        metrics.log_write_bytes.set(signed(progress.log_bytes()));
    }

    fn store(&self, metrics: &Metrics) {
        let sizes = self.reader.sizes();
        metrics.store_bytes.set(signed(sizes.on_disk));
        metrics.store_bytes_in_use.set(signed(sizes.in_use));
        metrics.quota_bytes.set(signed(self.quota_bytes));
        metrics.current_revision.set(self.reader.revision().0);
        metrics.compact_revision.set(self.reader.compacted().0);
        metrics.keys.set(signed(self.reader.live_keys()));
        metrics.open_reads.set(signed(self.reader.open_snapshots() as u64));
    }

    fn watches(&self, metrics: &Metrics) {
        let stats = self.watches.stats();
        metrics.watch_streams.set(signed(stats.streams.load(Ordering::Relaxed)));
        metrics.watchers.set(signed(stats.watchers.load(Ordering::Relaxed)));
        metrics.slow_watchers.set(signed(stats.slow_watchers.load(Ordering::Relaxed)));
        metrics.pending_events.set(signed(stats.waiting_batches.load(Ordering::Relaxed)));
        catch_up(&metrics.events, stats.events_sent.load(Ordering::Relaxed));
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Brings a counter to a count that is kept elsewhere.
fn catch_up(counter: &prometheus::IntCounter, count: u64) {
    counter.inc_by(count.saturating_sub(counter.get()));
}

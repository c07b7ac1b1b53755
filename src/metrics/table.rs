//! Every metric by name, type, labels and buckets, as etcd's users know them. Owns nothing else.

use prometheus::core::Collector;
use prometheus::{
    Counter as FloatCounter, Gauge as FloatGauge, Histogram, HistogramVec, IntCounter, IntCounterVec,
    IntGauge, IntGaugeVec,
};
use prometheus::{HistogramOpts, Opts, Registry, exponential_buckets};

type Counter = IntCounter;
type CounterVec = IntCounterVec;
type Gauge = IntGauge;
type GaugeVec = IntGaugeVec;

macro_rules! make {
    (Counter, $name:literal, $help:literal, [], $b:tt) => {
        valid(Counter::new($name, $help))
    };
    (Gauge, $name:literal, $help:literal, [], $b:tt) => {
        valid(Gauge::new($name, $help))
    };
    (FloatCounter, $name:literal, $help:literal, [], $b:tt) => {
        valid(FloatCounter::new($name, $help))
    };
    (FloatGauge, $name:literal, $help:literal, [], $b:tt) => {
        valid(FloatGauge::new($name, $help))
    };
    (CounterVec, $name:literal, $help:literal, $labels:tt, $b:tt) => {
        valid(CounterVec::new(Opts::new($name, $help), &$labels))
    };
    (GaugeVec, $name:literal, $help:literal, $labels:tt, $b:tt) => {
        valid(GaugeVec::new(Opts::new($name, $help), &$labels))
    };
    (Histogram, $name:literal, $help:literal, [], $b:tt) => {
        valid(Histogram::with_opts(buckets($name, $help, $b)))
    };
    (HistogramVec, $name:literal, $help:literal, $labels:tt, $b:tt) => {
        valid(HistogramVec::new(buckets($name, $help, $b), &$labels))
    };
}

macro_rules! table {
    ($($field:ident: $type:ident = $name:literal, $help:literal, [$($label:literal),*], $buckets:tt;)*) => {
        /// The metrics that something here counts or sets.
        pub struct Table {
            $(#[doc = $help] pub $field: $type,)*
        }

        impl Table {
            pub(super) fn new(registry: &Registry) -> Self {
                $(let $field = make!($type, $name, $help, [$($label),*], $buckets);
                  register(registry, &$field);)*
                Self { $($field),* }
            }
        }
    };
}

fn valid<T>(made: prometheus::Result<T>) -> T {
    made.expect("names, labels and buckets are constants")
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: &C) {
    registry.register(Box::new(metric.clone())).expect("each name stands here once");
}

fn buckets(name: &str, help: &str, (start, factor, count): (f64, f64, usize)) -> HistogramOpts {
    HistogramOpts::new(name, help).buckets(valid(exponential_buckets(start, factor, count)))
}

table! {
    process_cpu_seconds: FloatCounter = "process_cpu_seconds_total", "CPU time used, in seconds", [], ();
    process_memory: Gauge = "process_resident_memory_bytes", "Resident memory", [], ();
    process_virtual_memory: Gauge = "process_virtual_memory_bytes", "Address space", [], ();
    process_max_virtual_memory: FloatGauge = "process_virtual_memory_max_bytes", "Address space allowed", [], ();
    process_start: FloatGauge = "process_start_time_seconds", "Unix time of the start", [], ();
    process_open_files: Gauge = "process_open_fds", "File descriptors open", [], ();
    process_max_files: Gauge = "process_max_fds", "File descriptors allowed", [], ();
    cluster_version: GaugeVec = "etcd_cluster_version", "Version of the cluster", ["cluster_version"], ();
    auth_revision: Gauge = "etcd_debugging_auth_revision", "Revision of the auth store", [], ();
    lease_granted: Counter = "etcd_debugging_lease_granted_total", "Leases granted", [], ();
    lease_renewed: Counter = "etcd_debugging_lease_renewed_total", "Leases renewed on this leader", [], ();
    lease_revoked: Counter = "etcd_debugging_lease_revoked_total", "Leases revoked", [], ();
    lease_ttl: Histogram = "etcd_debugging_lease_ttl_total", "Granted TTLs in seconds", [], (1.0, 2.0, 24);
    compact_revision: Gauge = "etcd_debugging_mvcc_compact_revision", "Newest compacted revision", [], ();
    current_revision: Gauge = "etcd_debugging_mvcc_current_revision", "Newest revision", [], ();
    compaction_keys: Counter = "etcd_debugging_mvcc_db_compaction_keys_total", "Changes removed by compactions", [], ();
    compaction_last: Gauge = "etcd_debugging_mvcc_db_compaction_last", "Unix time of the last finished compaction", [], ();
    compaction_pause_milliseconds: Histogram = "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds", "Slices of a compaction in milliseconds", [], (1.0, 2.0, 13);
    compaction_milliseconds: Histogram = "etcd_debugging_mvcc_db_compaction_total_duration_milliseconds", "Whole compactions in milliseconds", [], (100.0, 2.0, 14);
    events: Counter = "etcd_debugging_mvcc_events_total", "Changes handed to watchers", [], ();
    index_compaction_pause_milliseconds: Histogram = "etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds", "Pauses of the index for a compaction in milliseconds", [], (0.5, 2.0, 14);
    keys: Gauge = "etcd_debugging_mvcc_keys_total", "Keys that exist", [], ();
    pending_events: Gauge = "etcd_debugging_mvcc_pending_events_total", "Batches of changes that wait for the watch hub", [], ();
    slow_watchers: Gauge = "etcd_debugging_mvcc_slow_watcher_total", "Watchers that read the store because they are behind", [], ();
    put_size_bytes: Gauge = "etcd_debugging_mvcc_total_put_size_in_bytes", "Bytes of keys and values put", [], ();
    watch_streams: Gauge = "etcd_debugging_mvcc_watch_stream_total", "Open watch streams", [], ();
    watchers: Gauge = "etcd_debugging_mvcc_watcher_total", "Open watchers", [], ();
    alarms: GaugeVec = "etcd_debugging_server_alarms", "1 for each active alarm", ["server_id", "alarm_type"], ();
    lease_expired: Counter = "etcd_debugging_server_lease_expired_total", "Leases that ran out", [], ();
    store_write_seconds: Histogram = "etcd_debugging_disk_backend_commit_write_duration_seconds", "Writes of a round to the store without their flush", [], (0.001, 2.0, 14);
    watch_control_seconds: Histogram = "etcd_debugging_server_watch_send_loop_control_stream_duration_seconds", "Making of answers that a watcher is there, or gone (with extensive metrics)", [], (0.001, 2.0, 14);
    watch_progress_seconds: Histogram = "etcd_debugging_server_watch_send_loop_progress_duration_seconds", "Making of progress answers (with extensive metrics)", [], (0.001, 2.0, 14);
    watch_event_seconds: Histogram = "etcd_debugging_server_watch_send_loop_watch_stream_duration_per_event_seconds", "Making of answers with events, for each event (with extensive metrics)", [], (0.001, 2.0, 14);
    watch_events_seconds: Histogram = "etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds", "Making of answers with events (with extensive metrics)", [], (0.001, 2.0, 14);
    store_flush_seconds: Histogram = "etcd_disk_backend_commit_duration_seconds", "Writes of a round to the store with their flush", [], (0.001, 2.0, 14);
    defragment_seconds: Histogram = "etcd_disk_backend_defrag_duration_seconds", "Defragmentations", [], (0.1, 2.0, 13);
    defragment_in_flight: Gauge = "etcd_disk_defrag_inflight", "1 while a defragmentation runs", [], ();
    log_flush_seconds: Histogram = "etcd_disk_wal_fsync_duration_seconds", "Flushes of the raft log", [], (0.001, 2.0, 14);
    log_write_bytes: Gauge = "etcd_disk_wal_write_bytes_total", "Bytes written to the raft log", [], ();
    log_write_seconds: Histogram = "etcd_disk_wal_write_duration_seconds", "Writes to the raft log", [], (0.001, 2.0, 14);
    open_reads: Gauge = "etcd_mvcc_db_open_read_transactions", "Reads that pin a revision right now", [], ();
    store_bytes: Gauge = "etcd_mvcc_db_total_size_in_bytes", "Bytes of the store on disk", [], ();
    store_bytes_in_use: Gauge = "etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of the store that are not removed", [], ();
    deletes: Counter = "etcd_mvcc_delete_total", "Deletions asked for, however many keys each deleted", [], ();
    hash_seconds: Histogram = "etcd_mvcc_hash_duration_seconds", "Hashes of the whole store", [], (0.01, 2.0, 15);
    hash_revision_seconds: Histogram = "etcd_mvcc_hash_rev_duration_seconds", "Hashes at a revision", [], (0.01, 2.0, 15);
    puts: Counter = "etcd_mvcc_put_total", "Puts", [], ();
    ranges: Counter = "etcd_mvcc_range_total", "Ranges, those of transactions, their compares and previous pairs included", [], ();
    txns: Counter = "etcd_mvcc_txn_total", "Commands of more than one range, put or deletion", [], ();
    received_bytes: Counter = "etcd_network_client_grpc_received_bytes_total", "Bytes of gRPC messages received", [], ();
    sent_bytes: Counter = "etcd_network_client_grpc_sent_bytes_total", "Bytes of gRPC messages sent", [], ();
    stream_failures: CounterVec = "etcd_network_server_stream_failures_total", "Streams that failed here", ["Type", "API"], ();
    apply_seconds: HistogramVec = "etcd_server_apply_duration_seconds", "Commands applied", ["version", "op", "success"], (0.0001, 2.0, 20);
    client_requests: CounterVec = "etcd_server_client_requests_total", "Requests by the version that the client states", ["type", "client_api_version"], ();
    features: GaugeVec = "etcd_server_feature_enabled", "1 for each feature that is on", ["name", "stage"], ();
    go_version: GaugeVec = "etcd_server_go_version", "The language it is built with, under the name that dashboards know", ["server_go_version"], ();
    has_leader: Gauge = "etcd_server_has_leader", "1 when there is a leader", [], ();
    health_failures: Counter = "etcd_server_health_failures", "Failed health checks", [], ();
    health_successes: Counter = "etcd_server_health_success", "Passed health checks", [], ();
    health_check: GaugeVec = "etcd_server_healthcheck", "Last result of each check", ["type", "name"], ();
    health_checks: CounterVec = "etcd_server_healthchecks_total", "Results of each check", ["type", "name", "status"], ();
    server_id: GaugeVec = "etcd_server_id", "This member", ["server_id"], ();
    is_leader: Gauge = "etcd_server_is_leader", "1 when this member leads", [], ();
    is_learner: Gauge = "etcd_server_is_learner", "1 when this member learns", [], ();
    leader_changes: Counter = "etcd_server_leader_changes_seen_total", "Changes of the leader seen", [], ();
    proposals_applied: Gauge = "etcd_server_proposals_applied_total", "Newest applied entry", [], ();
    proposals_committed: Gauge = "etcd_server_proposals_committed_total", "Newest committed entry", [], ();
    proposals_failed: Counter = "etcd_server_proposals_failed_total", "Proposals without an outcome", [], ();
    proposals_pending: Gauge = "etcd_server_proposals_pending", "Proposals that wait for their outcome", [], ();
    quota_bytes: Gauge = "etcd_server_quota_backend_bytes", "Quota of the store", [], ();
    range_seconds: HistogramVec = "etcd_server_range_duration_seconds", "Reading of ranges, without the wait for their barrier", ["success"], (0.0001, 2.0, 20);
    failed_read_indexes: Counter = "etcd_server_read_indexes_failed_total", "Reads whose barrier failed", [], ();
    request_seconds: HistogramVec = "etcd_server_request_duration_seconds", "Requests by kind, from arrival to answer", ["type", "success"], (0.001, 2.0, 14);
    slow_applies: Counter = "etcd_server_slow_apply_total", "Batches applied more slowly than the warning says", [], ();
    slow_read_indexes: Counter = "etcd_server_slow_read_indexes_total", "Reads that waited long for their barrier", [], ();
    server_version: GaugeVec = "etcd_server_version", "Version of this server", ["server_version"], ();
    active_peers: GaugeVec = "etcd_network_active_peers", "Peers with a connection", ["Local", "Remote"], ();
    disconnected_peers: CounterVec = "etcd_network_disconnected_peers_total", "Connections to peers that were lost", ["Local", "Remote"], ();
    known_peers: GaugeVec = "etcd_network_known_peers", "Peers of this member", ["Local", "Remote"], ();
    peer_received_bytes: CounterVec = "etcd_network_peer_received_bytes_total", "Bytes of messages received from a peer", ["From"], ();
    peer_received_failures: CounterVec = "etcd_network_peer_received_failures_total", "Messages of a peer that could not be taken", ["From"], ();
    peer_round_trip_seconds: HistogramVec = "etcd_network_peer_round_trip_time_seconds", "Round trips to a peer", ["To"], (0.0001, 2.0, 16);
    peer_sent_bytes: CounterVec = "etcd_network_peer_sent_bytes_total", "Bytes of messages sent to a peer", ["To"], ();
    peer_sent_failures: CounterVec = "etcd_network_peer_sent_failures_total", "Batches of messages for a peer that were lost", ["To"], ();
    heartbeat_send_failures: Counter = "etcd_server_heartbeat_send_failures_total", "Heartbeats that left late or found no way to their member", [], ();
    state_receive_failures: CounterVec = "etcd_network_snapshot_receive_failures", "States of a peer that did not come whole", ["From"], ();
    states_receiving: GaugeVec = "etcd_network_snapshot_receive_inflights_total", "States of a peer that are coming", ["From"], ();
    states_received: CounterVec = "etcd_network_snapshot_receive_success", "States of a peer that came whole", ["From"], ();
    state_receive_seconds: HistogramVec = "etcd_network_snapshot_receive_total_duration_seconds", "Receiving of a state", ["From"], (0.1, 2.0, 10);
    state_send_failures: CounterVec = "etcd_network_snapshot_send_failures", "States that could not be sent", ["To"], ();
    states_sending: GaugeVec = "etcd_network_snapshot_send_inflights_total", "States on their way", ["To"], ();
    states_sent: CounterVec = "etcd_network_snapshot_send_success", "States sent", ["To"], ();
    state_send_seconds: HistogramVec = "etcd_network_snapshot_send_total_duration_seconds", "Sending of a state", ["To"], (0.1, 2.0, 10);
    promote_failures: CounterVec = "etcd_server_learner_promote_failures", "Learners that could not be promoted", ["Reason"], ();
    promote_successes: Counter = "etcd_server_learner_promote_successes", "Learners promoted", [], ();
    installing_states: Gauge = "etcd_server_snapshot_apply_in_progress_total", "1 while a received state is taken over", [], ();
    fd_limit: Gauge = "os_fd_limit", "File descriptors allowed", [], ();
    fd_used: Gauge = "os_fd_used", "File descriptors open", [], ();
}

enum Kind {
    Counter,
    Gauge,
    Histogram,
}

type Idle = (Kind, &'static str, &'static [&'static str], (f64, f64, usize));

/// What has no occasion here: bbolt's pages, snapshot files, the v2 store. They stand at zero.
const IDLE: &[Idle] = &[
    (Kind::Histogram, "etcd_debugging_disk_backend_commit_rebalance_duration_seconds", &[], (0.001, 2.0, 14)),
    (Kind::Histogram, "etcd_debugging_disk_backend_commit_spill_duration_seconds", &[], (0.001, 2.0, 14)),
    (Kind::Histogram, "etcd_debugging_snap_save_marshalling_duration_seconds", &[], (0.001, 2.0, 14)),
    (Kind::Histogram, "etcd_debugging_snap_save_total_duration_seconds", &[], (0.001, 2.0, 14)),
    (Kind::Counter, "etcd_debugging_store_expires_total", &[], (0.0, 0.0, 0)),
    (Kind::Counter, "etcd_debugging_store_reads_failed_total", &["action"], (0.0, 0.0, 0)),
    (Kind::Counter, "etcd_debugging_store_reads_total", &["action"], (0.0, 0.0, 0)),
    (Kind::Counter, "etcd_debugging_store_watch_requests_total", &[], (0.0, 0.0, 0)),
    (Kind::Gauge, "etcd_debugging_store_watchers", &[], (0.0, 0.0, 0)),
    (Kind::Counter, "etcd_debugging_store_writes_failed_total", &["action"], (0.0, 0.0, 0)),
    (Kind::Counter, "etcd_debugging_store_writes_total", &["action"], (0.0, 0.0, 0)),
    (Kind::Histogram, "etcd_disk_backend_snapshot_duration_seconds", &[], (0.01, 2.0, 17)),
    (Kind::Histogram, "etcd_snap_db_fsync_duration_seconds", &[], (0.001, 2.0, 14)),
    (Kind::Histogram, "etcd_snap_db_save_total_duration_seconds", &[], (0.1, 2.0, 10)),
    (Kind::Histogram, "etcd_snap_fsync_duration_seconds", &[], (0.001, 2.0, 14)),
];

pub(super) fn register_idle(registry: &Registry) {
    let help = "Of no occasion here";
    for (kind, name, labels, range) in IDLE {
        match (kind, labels.is_empty()) {
            (Kind::Counter, true) => register(registry, &valid(Counter::new(*name, help))),
            (Kind::Counter, false) => {
                register(registry, &valid(CounterVec::new(Opts::new(*name, help), labels)))
            }
            (Kind::Gauge, true) => register(registry, &valid(Gauge::new(*name, help))),
            (Kind::Gauge, false) => register(registry, &valid(GaugeVec::new(Opts::new(*name, help), labels))),
            (Kind::Histogram, true) => {
                register(registry, &valid(Histogram::with_opts(buckets(name, help, *range))));
            }
            (Kind::Histogram, false) => {
                register(registry, &valid(HistogramVec::new(buckets(name, help, *range), labels)));
            }
        }
    }
}

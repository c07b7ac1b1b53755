//! What the metrics say after a little of everything, and that etcd says the same of itself.

use super::scrape::{Measured, Scrape};
use super::work::{self, EVENTS};
use crate::peers::peer_or_skip;

/// What must be said after the requests of `work`, on etcd as here.
const CERTAIN: [(&str, f64); 37] = [
    ("etcd_debugging_auth_revision", 1.0),
    ("etcd_debugging_lease_granted_total", 2.0),
    ("etcd_debugging_lease_renewed_total", 1.0),
    ("etcd_debugging_lease_revoked_total", 2.0),
    ("etcd_debugging_lease_ttl_total", 2.0),
    ("etcd_debugging_mvcc_compact_revision", 5.0),
    ("etcd_debugging_mvcc_current_revision", 9.0),
    ("etcd_debugging_mvcc_db_compaction_keys_total", 1.0),
    ("etcd_debugging_mvcc_db_compaction_total_duration_milliseconds", 1.0),
    ("etcd_debugging_mvcc_events_total", EVENTS as f64),
    ("etcd_debugging_mvcc_index_compaction_pause_duration_milliseconds", 1.0),
    ("etcd_debugging_mvcc_keys_total", 2.0),
    ("etcd_debugging_mvcc_pending_events_total", 0.0),
    ("etcd_debugging_mvcc_slow_watcher_total", 0.0),
    ("etcd_debugging_mvcc_total_put_size_in_bytes", 30.0),
    ("etcd_debugging_mvcc_watch_stream_total", 1.0),
    ("etcd_debugging_mvcc_watcher_total", 1.0),
    ("etcd_debugging_server_lease_expired_total", 1.0),
    ("etcd_disk_backend_defrag_duration_seconds", 1.0),
    ("etcd_disk_defrag_inflight", 0.0),
    ("etcd_mvcc_delete_total", 3.0),
    ("etcd_mvcc_hash_duration_seconds", 1.0),
    ("etcd_mvcc_hash_rev_duration_seconds", 1.0),
    ("etcd_mvcc_put_total", 6.0),
    ("etcd_mvcc_txn_total", 2.0),
    ("etcd_server_has_leader", 1.0),
    ("etcd_server_health_failures", 0.0),
    ("etcd_server_health_success", 1.0),
    ("etcd_server_is_leader", 1.0),
    ("etcd_server_is_learner", 0.0),
    ("etcd_server_leader_changes_seen_total", 1.0),
    ("etcd_server_proposals_failed_total", 0.0),
    ("etcd_server_proposals_pending", 0.0),
    ("etcd_server_quota_backend_bytes", 2_147_483_648.0),
    ("etcd_server_read_indexes_failed_total", 0.0),
    ("etcd_server_slow_read_indexes_total", 0.0),
    ("etcd_server_snapshot_apply_in_progress_total", 0.0),
];

/// Metrics that must move, or be there at all, however much.
const MORE_THAN_NOTHING: [&str; 13] = [
    "etcd_debugging_mvcc_db_compaction_last",
    "etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds",
    "etcd_disk_backend_commit_duration_seconds",
    "etcd_debugging_disk_backend_commit_write_duration_seconds",
    "etcd_disk_wal_fsync_duration_seconds",
    "etcd_disk_wal_write_bytes_total",
    "etcd_disk_wal_write_duration_seconds",
    "etcd_mvcc_db_total_size_in_bytes",
    "etcd_mvcc_db_total_size_in_use_in_bytes",
    "etcd_network_client_grpc_sent_bytes_total",
    "os_fd_limit",
    "os_fd_used",
    "process_resident_memory_bytes",
];

/// Metrics with labels whose series must be the same here and there.
const SAME_SERIES: [&str; 2] = ["etcd_server_healthcheck", "etcd_server_healthchecks_total"];

#[tokio::test]
async fn metrics_say_what_was_done() {
    let server = Measured::decklog(&["--metrics=extensive"]).await;
    let before = Scrape::of(&server).await;
    let watch = work::do_a_little_of_everything(&server).await;
    let after = Scrape::of(&server).await;
    check_values("decklog", &after);
    check_requests(&before, &after);
    let applied = after.value("etcd_server_proposals_applied_total", &[]);
    assert_eq!(applied, after.value("etcd_server_proposals_committed_total", &[]));
    // Thirteen requests of the work go through the log, and one revocation of a lease that ran out.
    assert_eq!(applied - before.value("etcd_server_proposals_applied_total", &[]), 14.0);
    assert_eq!(after.value("etcd_mvcc_range_total", &[]) - before.value("etcd_mvcc_range_total", &[]), 6.0);
    assert_eq!(after.value("etcd_mvcc_db_open_read_transactions", &[]), 0.0);
    assert_eq!(
        after.value("etcd_debugging_server_watch_send_loop_control_stream_duration_seconds", &[]),
        1.0
    );
    let answers = after.value("etcd_debugging_server_watch_send_loop_watch_stream_duration_seconds", &[]);
    assert!(answers >= 1.0, "{answers} answers with events");
    drop(watch);
    let closed = async {
        while Scrape::of(&server).await.value("etcd_debugging_mvcc_watcher_total", &[]) > 0.0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(work::DEADLINE, closed).await.expect("a closed watch is not counted");
}

#[tokio::test]
async fn etcd_says_the_same_of_itself() {
    let Some(etcd) = peer_or_skip("etcd_says_the_same_of_itself", "etcd") else { return };
    let etcd = Measured::start(&etcd, &["--unsafe-no-fsync"]).await;
    let decklog = Measured::decklog(&[]).await;
    let ((their_moves, theirs), (our_moves, ours)) = tokio::join!(moves(&etcd), moves(&decklog));
    check_values("etcd", &theirs);
    check_values("decklog", &ours);
    assert_eq!(our_moves, their_moves, "decklog's moves, then etcd's");
    for name in SAME_SERIES {
        assert_eq!(ours.all(name), theirs.all(name), "{name}");
    }
}

/// How far some counters move by the work, and everything after it. The start asks for the status until the server
/// serves, which is why only the difference is certain.
async fn moves(measured: &Measured) -> (Vec<(String, f64)>, Scrape) {
    let before = Scrape::of(measured).await;
    let _watch = work::do_a_little_of_everything(measured).await;
    let after = Scrape::of(measured).await;
    let mut moves = vec![];
    for name in ["etcd_network_client_grpc_received_bytes_total", "etcd_server_client_requests_total"] {
        for (labels, value) in after.all(name) {
            let moved = value - before.all(name).get(&labels).unwrap_or(&0.0);
            moves.push((format!("{name}{labels}"), moved));
        }
    }
    for name in ["started", "msg_received", "msg_sent"] {
        let name = format!("grpc_server_{name}_total");
        let series = after.all(&name).into_iter();
        let moved =
            series.map(|(labels, value)| (format!("{name}{labels}"), value - before.all(&name)[&labels]));
        moves.extend(moved.filter(|(_, moved)| *moved != 0.0));
    }
    (moves, after)
}

fn check_values(who: &str, scrape: &Scrape) {
    let mut wrong = Vec::new();
    for (name, expected) in CERTAIN {
        let value = scrape.value(name, &[]);
        if value != expected {
            wrong.push(format!("{name} is {value}, not {expected}"));
        }
    }
    for name in MORE_THAN_NOTHING {
        if scrape.value(name, &[]) <= 0.0 {
            wrong.push(format!("{name} is nothing"));
        }
    }
    let ttls = scrape.sum("etcd_debugging_lease_ttl_total");
    if ttls != 102.0 {
        wrong.push(format!("the TTLs granted are {ttls} together, not 102"));
    }
    assert!(wrong.is_empty(), "{who}: {wrong:#?}");
}

/// Requests by kind, as etcd 3.7 counts them.
fn check_requests(before: &Scrape, after: &Scrape) {
    for (kind, count) in [
        ("Put", 5.0),
        ("Range", 2.0),
        ("DeleteRange", 2.0),
        ("Txn", 1.0),
        ("ReadonlyTxn", 1.0),
        ("LeaseGrant", 2.0),
        ("LeaseRevoke", 2.0),
        ("Compaction", 1.0),
        ("Alarm", 1.0),
    ] {
        let name = "etcd_server_request_duration_seconds";
        assert_eq!(after.value(name, &[("type", kind), ("success", "true")]), count, "{kind}");
        let applied = [("version", "v3"), ("op", kind), ("success", "true")];
        if !matches!(kind, "Range" | "ReadonlyTxn") {
            assert_eq!(after.value("etcd_server_apply_duration_seconds", &applied), count, "{kind}");
        }
    }
    assert_eq!(after.value("etcd_server_range_duration_seconds", &[("success", "true")]), 2.0);
    assert_eq!(before.value("etcd_server_range_duration_seconds", &[("success", "true")]), 0.0);
}

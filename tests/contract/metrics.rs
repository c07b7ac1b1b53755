//! Metrics against metrics.json: names, types, labels, buckets; and their values against what was done, beside
//! those of real etcd after the same requests.

mod scrape;
mod values;
mod work;

use std::collections::BTreeSet;

use serde_json::Value;

use crate::peers::peer_or_skip;
use crate::tables::{assert_same, table_or_skip, text};
use scrape::{Measured, Metric, Scrape};

/// Only etcd's proxy has them.
const PROXY: &str = "etcd_grpc_proxy_";

/// Metrics with labels that nothing gives a value with one member. Neither etcd nor Decklog shows them then.
const NO_OCCASION: [&str; 23] = [
    "etcd_debugging_server_alarms",
    "etcd_debugging_store_reads_failed_total",
    "etcd_debugging_store_reads_total",
    "etcd_debugging_store_writes_failed_total",
    "etcd_debugging_store_writes_total",
    "etcd_network_active_peers",
    "etcd_network_disconnected_peers_total",
    "etcd_network_known_peers",
    "etcd_network_peer_received_bytes_total",
    "etcd_network_peer_received_failures_total",
    "etcd_network_peer_round_trip_time_seconds",
    "etcd_network_peer_sent_bytes_total",
    "etcd_network_peer_sent_failures_total",
    "etcd_network_server_stream_failures_total",
    "etcd_network_snapshot_receive_failures",
    "etcd_network_snapshot_receive_inflights_total",
    "etcd_network_snapshot_receive_success",
    "etcd_network_snapshot_receive_total_duration_seconds",
    "etcd_network_snapshot_send_failures",
    "etcd_network_snapshot_send_inflights_total",
    "etcd_network_snapshot_send_success",
    "etcd_network_snapshot_send_total_duration_seconds",
    "etcd_server_learner_promote_failures",
];

/// Metrics of etcd 3.5 that Decklog does not have, by the beginning of their names.
const NOT_OURS: [(&str, &str); 7] = [
    (PROXY, "only etcd's proxy sets them"),
    ("go_", "Go's runtime"),
    ("promhttp_", "Go's HTTP handler for metrics"),
    ("process_network_", "they count all of the machine's traffic, not the process's"),
    ("etcd_debugging_mvcc_range_total", "not in 3.7 any more"),
    ("etcd_debugging_store_reads_total", "the v2 store, which 3.7 does not have"),
    ("etcd_debugging_store_writes_total", "the v2 store, which 3.7 does not have"),
];

#[tokio::test]
async fn metrics_have_etcds_names_types_labels_and_buckets() {
    let test = "metrics_have_etcds_names_types_labels_and_buckets";
    let Some(table) = table_or_skip(test, "metrics.json") else { return };
    let server = Measured::decklog(&[]).await;
    drop(work::do_a_little_of_everything(&server).await);
    let scrape = Scrape::of(&server).await;
    let rows = table.as_array().expect("a list of metrics");
    let applies = |row: &&Value| !text(row, "name").starts_with(PROXY);
    let shown = |row: &&Value| !NO_OCCASION.contains(&text(row, "name"));
    let theirs = rows.iter().filter(applies).filter(shown).map(line_of_row).collect();
    let is_etcds = |name: &&String| name.starts_with("etcd_") || name.starts_with("os_");
    let ours = scrape.metrics.iter().filter(|(name, _)| is_etcds(name)).map(line_of_metric).collect();
    assert_same("metrics", &theirs, &ours);
}

/// The names of Go's gRPC middleware, one time series for every RPC and code from the start.
#[tokio::test]
async fn every_rpc_is_counted_from_the_start() {
    let server = Measured::decklog(&["--metrics=extensive"]).await;
    let scrape = Scrape::of(&server).await;
    for (name, kind, labels) in [
        ("grpc_server_started_total", "counter", vec!["grpc_method", "grpc_service", "grpc_type"]),
        (
            "grpc_server_handled_total",
            "counter",
            vec!["grpc_code", "grpc_method", "grpc_service", "grpc_type"],
        ),
        ("grpc_server_msg_received_total", "counter", vec!["grpc_method", "grpc_service", "grpc_type"]),
        ("grpc_server_msg_sent_total", "counter", vec!["grpc_method", "grpc_service", "grpc_type"]),
        ("grpc_server_handling_seconds", "histogram", vec!["grpc_method", "grpc_service", "grpc_type"]),
    ] {
        let metric = &scrape.metrics[name];
        assert_eq!((metric.kind.as_str(), metric.labels()), (kind, labels), "{name}");
    }
    for (service, method, client_streams, server_streams) in decklog::wire::RPCS {
        let kind = match (client_streams, server_streams) {
            (true, _) => "bidi_stream",
            (false, true) => "server_stream",
            (false, false) => "unary",
        };
        let of = [("grpc_type", kind), ("grpc_service", service), ("grpc_method", method)];
        for name in ["started", "msg_received", "msg_sent"] {
            scrape.value(&format!("grpc_server_{name}_total"), &of);
        }
        let with_code = [of[0], of[1], of[2], ("grpc_code", "OK")];
        scrape.value("grpc_server_handled_total", &with_code);
    }
}

/// Whatever etcd 3.5 shows after the same requests is here, too, or on the list of what is not.
#[tokio::test]
async fn metrics_of_etcd_are_all_there() {
    let Some(etcd) = peer_or_skip("metrics_of_etcd_are_all_there", "etcd") else { return };
    let decklog = Measured::decklog(&[]).await;
    let etcd = Measured::start(&etcd, &["--unsafe-no-fsync"]).await;
    drop(work::do_a_little_of_everything(&decklog).await);
    drop(work::do_a_little_of_everything(&etcd).await);
    let (ours, theirs) = (Scrape::of(&decklog).await, Scrape::of(&etcd).await);
    let mut missing = BTreeSet::new();
    for (name, metric) in &theirs.metrics {
        let same = ours
            .metrics
            .get(name)
            .is_some_and(|own| own.kind == metric.kind && own.labels() == metric.labels());
        if !same && !NOT_OURS.iter().any(|(prefix, _)| name.starts_with(prefix)) {
            missing.insert(format!("{name}: {} {:?}", metric.kind, metric.labels()));
        }
    }
    assert!(missing.is_empty(), "etcd has, and we have not, or with another type or labels: {missing:#?}");
}

fn line_of_row(row: &Value) -> String {
    let labels = row["labels"].as_array().expect("a list of labels");
    let mut labels: Vec<_> = labels.iter().map(|label| label.as_str().expect("a name")).collect();
    labels.sort_unstable();
    let buckets = row["buckets"].as_str().map(exponential_buckets);
    line(text(row, "name"), text(row, "type"), &labels, &buckets.unwrap_or_default())
}

fn line_of_metric((name, metric): (&String, &Metric)) -> String {
    line(name, &metric.kind, &metric.labels(), &metric.buckets())
}

fn line(name: &str, kind: &str, labels: &[&str], buckets: &[f64]) -> String {
    let buckets: Vec<_> = buckets.iter().map(|bound| format!("{bound:.5e}")).collect();
    format!("{name}: {kind} {labels:?} {}", buckets.join(" "))
}

/// The bounds that `ExponentialBuckets(start, factor, count)` stands for.
fn exponential_buckets(text: &str) -> Vec<f64> {
    let inner = text.strip_prefix("ExponentialBuckets(").and_then(|rest| rest.strip_suffix(')'));
    let numbers = inner.unwrap_or_else(|| panic!("{text} has another form")).split(',');
    let numbers: Vec<f64> = numbers.map(|number| number.trim().parse().expect("a number")).collect();
    let [start, factor, count] = numbers[..] else { panic!("{text} has three numbers") };
    (0..count as i32).map(|power| start * factor.powi(power)).collect()
}

//! What the kernel says of this process. Where it does not tell, gauges stay at 0.

use std::fs;

use super::super::Metrics;
use super::signed;

/// The kernel counts CPU time in hundredths of a second on every Linux we run on.
const TICKS_PER_SECOND: f64 = 100.0;
const PAGE_BYTES: u64 = 4096;

pub(super) fn take(metrics: &Metrics) {
    let open = fs::read_dir("/proc/self/fd").map_or(0, |files| signed(files.count() as u64));
    let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let limit = soft_limit(&limits, "Max open files").and_then(|text| text.parse().ok()).unwrap_or(0);
    metrics.fd_used.set(open);
    metrics.process_open_files.set(open);
    metrics.fd_limit.set(limit);
    metrics.process_max_files.set(limit);
    metrics.process_max_virtual_memory.set(address_space_limit(&limits));
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name in brackets may hold anything; the numbers begin behind it, with field 3.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let field = |number: usize| fields.get(number - 3).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
    let cpu = (field(14) + field(15)) as f64 / TICKS_PER_SECOND;
    metrics.process_cpu_seconds.inc_by((cpu - metrics.process_cpu_seconds.get()).max(0.0));
    metrics.process_virtual_memory.set(signed(field(23)));
    metrics.process_memory.set(signed(field(24).saturating_mul(PAGE_BYTES)));
    metrics.process_start.set(boot_time() + field(22) as f64 / TICKS_PER_SECOND);
}

/// The word behind a limit's name: a number, or `unlimited`.
fn soft_limit<'a>(limits: &'a str, name: &str) -> Option<&'a str> {
    limits.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()
}

/// Prometheus' own word for no limit is the largest number.
fn address_space_limit(limits: &str) -> f64 {
    match soft_limit(limits, "Max address space") {
        Some("unlimited") => u64::MAX as f64,
        Some(bytes) => bytes.parse().unwrap_or(0.0),
        None => 0.0,
    }
}

/// Unix time at which the machine started, in seconds.
fn boot_time() -> f64 {
    let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "));
    line.and_then(|seconds| seconds.trim().parse().ok()).unwrap_or(0.0)
}

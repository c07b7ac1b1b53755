//! What was measured, for people and for programs.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use super::cpu::Usage;

/// Latencies up to a minute, to three digits, in nanoseconds.
const MAX_NANOSECONDS: u64 = 60_000_000_000;

/// What one client counted.
pub struct Tally {
    pub latencies: Histogram<u64>,
    /// Operations without an error; an event delivered counts as one.
    pub operations: u64,
    /// Delivered to watchers.
    pub events: u64,
    pub errors: BTreeMap<String, u64>,
}

impl Default for Tally {
    fn default() -> Self {
        let latencies = Histogram::new_with_max(MAX_NANOSECONDS, 3).expect("constant bounds");
        Self { latencies, operations: 0, events: 0, errors: BTreeMap::new() }
    }
}

impl Tally {
    pub fn done(&mut self, took: Duration) {
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(MAX_NANOSECONDS);
        self.latencies.saturating_record(nanoseconds);
        self.operations += 1;
    }

    pub fn failed(&mut self, status: &tonic::Status) {
        *self.errors.entry(format!("{:?}: {}", status.code(), status.message())).or_default() += 1;
    }

    pub fn add(&mut self, other: &Self) {
        self.latencies.add(&other.latencies).expect("all have the same bounds");
        self.operations += other.operations;
        self.events += other.events;
        for (error, count) in &other.errors {
            *self.errors.entry(error.clone()).or_default() += count;
        }
    }
}

/// A whole run.
pub struct Measured {
    pub case: String,
    pub tally: Tally,
    pub took: Duration,
    /// By the servers, while measuring.
    pub used: Option<Usage>,
    /// By this tool: close to a whole CPU, it is what limits.
    pub used_by_tool: Option<Usage>,
    pub resident_bytes: Option<u64>,
}

impl Measured {
    pub fn operations(&self) -> u64 {
        self.tally.operations
    }

    fn per_second(&self) -> f64 {
        self.tally.operations as f64 / self.took.as_secs_f64().max(1e-9)
    }

    fn cpu_per_operation(&self) -> Option<f64> {
        Some(self.used?.cpu.as_secs_f64() * 1e6 / self.tally.operations.max(1) as f64)
    }

    fn switches_per_operation(&self) -> Option<f64> {
        Some(self.used?.context_switches as f64 / self.tally.operations.max(1) as f64)
    }

    fn tool_cpu_share(&self) -> Option<f64> {
        Some(self.used_by_tool?.cpu.as_secs_f64() / self.took.as_secs_f64().max(1e-9))
    }

    fn micros(&self, percentile: f64) -> f64 {
        self.tally.latencies.value_at_percentile(percentile) as f64 / 1e3
    }

    pub fn json(&self) -> Value {
        json!({
            "case": self.case,
            "operations": self.tally.operations,
            "seconds": self.took.as_secs_f64(),
            "operations_per_second": self.per_second(),
            "latency_us": {
                "p50": self.micros(50.0), "p90": self.micros(90.0), "p99": self.micros(99.0),
                "p99.9": self.micros(99.9), "max": self.tally.latencies.max() as f64 / 1e3,
            },
            "errors": self.tally.errors,
            "events": self.tally.events,
            "server_cpu_us_per_operation": self.cpu_per_operation(),
            "server_context_switches_per_operation": self.switches_per_operation(),
            "tool_cpu_share": self.tool_cpu_share(),
            "server_resident_bytes": self.resident_bytes,
        })
    }

    pub fn text(&self) -> String {
        let mut text = format!(
            "{}: {} operations in {:.2} s, {:.0} per second\nlatency: p50 {:.0} us, p90 {:.0} us, p99 {:.0} us, p99.9 {:.0} us, max {:.0} us",
            self.case,
            self.tally.operations,
            self.took.as_secs_f64(),
            self.per_second(),
            self.micros(50.0),
            self.micros(90.0),
            self.micros(99.0),
            self.micros(99.9),
            self.tally.latencies.max() as f64 / 1e3,
        );
        if let Some(cpu) = self.cpu_per_operation() {
            text += &format!("\nserver: {cpu:.1} us of CPU per operation");
        }
        if let Some(switches) = self.switches_per_operation() {
            text += &format!(", {switches:.2} context switches");
        }
        if let Some(bytes) = self.resident_bytes {
            text += &format!(", {:.1} MB resident", bytes as f64 / 1e6);
        }
        if let Some(share) = self.tool_cpu_share() {
            text += &format!("\nthis tool: {:.0} % of one CPU", share * 100.0);
        }
        for (error, count) in &self.tally.errors {
            text += &format!("\nerror: {count} x {error}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_add_up() {
        let (mut left, mut right) = (Tally::default(), Tally::default());
        for millis in 1..=50 {
            left.done(Duration::from_millis(millis));
            right.done(Duration::from_millis(millis + 50));
        }
        right.failed(&tonic::Status::unavailable("gone"));
        left.add(&right);
        let measured = Measured {
            case: "put".to_owned(),
            tally: left,
            took: Duration::from_secs(2),
            used: Some(Usage { cpu: Duration::from_millis(10), context_switches: 50 }),
            used_by_tool: None,
            resident_bytes: None,
        };
        let json = measured.json();
        assert_eq!(json["operations_per_second"], 50.0);
        assert_eq!(json["server_cpu_us_per_operation"], 100.0);
        assert_eq!(json["server_context_switches_per_operation"], 0.5);
        assert!((json["latency_us"]["p50"].as_f64().expect("a number") - 50_000.0).abs() < 100.0);
        assert_eq!(json["errors"]["Unavailable: gone"], 1);
    }
}

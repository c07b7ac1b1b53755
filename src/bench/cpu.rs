//! What processes have used, from the kernel.

use std::fs;
use std::path::Path;
use std::time::Duration;

const PAGE_BYTES: u64 = 4096;

/// Of all threads that live, so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub cpu: Duration,
    /// Given up, and taken away.
    pub context_switches: u64,
}

impl Usage {
    /// Of processes together; `None` when there are none, or one cannot be read.
    pub fn of(pids: &[u32]) -> Option<Self> {
        let mut total = Self::default();
        for pid in pids {
            for task in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
                // A thread that ends between the listing and here has nothing to add.
                if let Some(thread) = Self::of_thread(&task.ok()?.path()) {
                    total.cpu += thread.cpu;
                    total.context_switches += thread.context_switches;
                }
            }
        }
        if pids.is_empty() { None } else { Some(total) }
    }

    fn of_thread(task: &Path) -> Option<Self> {
        let times = fs::read_to_string(task.join("schedstat")).ok()?;
        let status = fs::read_to_string(task.join("status")).ok()?;
        let switches = status.lines().filter(|line| line.contains("ctxt_switches:"));
        let switches = switches.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        Some(Self {
            cpu: Duration::from_nanos(times.split_whitespace().next()?.parse().ok()?),
            context_switches: switches.sum(),
        })
    }

    pub fn since(self, before: Self) -> Self {
        Self {
            cpu: self.cpu.saturating_sub(before.cpu),
            context_switches: self.context_switches.saturating_sub(before.context_switches),
        }
    }
}

/// Resident memory of the processes in bytes; `None` when there are none, or one cannot be read.
pub fn resident_bytes(pids: &[u32]) -> Option<u64> {
    if pids.is_empty() { None } else { pids.iter().map(|pid| resident_bytes_of(*pid)).sum() }
}

fn resident_bytes_of(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    Some(text.split_whitespace().nth(1)?.parse::<u64>().ok()? * PAGE_BYTES)
}

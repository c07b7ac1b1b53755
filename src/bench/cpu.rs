//! What processes have used, from the kernel.

use std::fs;

const PAGE_BYTES: u64 = 4096;

/// CPU time of all threads of the processes so far, in nanoseconds; `None` when there are none, or one cannot be read.
pub fn nanoseconds(pids: &[u32]) -> Option<u64> {
    sum(pids, nanoseconds_of)
}

/// Resident memory of the processes in bytes; `None` when there are none, or one cannot be read.
pub fn resident_bytes(pids: &[u32]) -> Option<u64> {
    sum(pids, resident_bytes_of)
}

fn sum(pids: &[u32], used: fn(u32) -> Option<u64>) -> Option<u64> {
    if pids.is_empty() { None } else { pids.iter().map(|pid| used(*pid)).sum() }
}

fn nanoseconds_of(pid: u32) -> Option<u64> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        // A thread that ends between the listing and here has nothing to add.
        if let Ok(text) = fs::read_to_string(task.ok()?.path().join("schedstat")) {
            total += text.split_whitespace().next()?.parse::<u64>().ok()?;
        }
    }
    Some(total)
}

fn resident_bytes_of(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    Some(text.split_whitespace().nth(1)?.parse::<u64>().ok()? * PAGE_BYTES)
}

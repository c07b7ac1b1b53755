//! What a process has used, from the kernel.

use std::fs;

const PAGE_BYTES: u64 = 4096;

/// CPU time of all threads of a process so far, in nanoseconds; `None` when it cannot be read.
pub fn nanoseconds(pid: u32) -> Option<u64> {
    let mut total = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        // A thread that ends between the listing and here has nothing to add.
        if let Ok(text) = fs::read_to_string(task.ok()?.path().join("schedstat")) {
            total += text.split_whitespace().next()?.parse::<u64>().ok()?;
        }
    }
    Some(total)
}

/// Resident memory in bytes.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    Some(text.split_whitespace().nth(1)?.parse::<u64>().ok()? * PAGE_BYTES)
}

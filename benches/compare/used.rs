//! What a server's process and its folder take, from the kernel; and the machine that all run on.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

pub const MIB: f64 = (1 << 20) as f64;
/// Of the times in /proc, on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;
const SETTLE_LOOK: Duration = Duration::from_millis(500);
/// Of one CPU, in two looks one after the other.
const SETTLED_SHARE: f64 = 0.05;
const SETTLE_LIMIT: Duration = Duration::from_secs(120);

fn read(path: &str) -> Result<String, String> {
    std::fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))
}

/// The day, the machine, and how busy it was in the last minute.
pub fn circumstances() -> Result<String, String> {
    let day = std::process::Command::new("date").args(["--utc", "+%F"]).output();
    let day = day.map_err(|error| format!("date: {error}"))?.stdout;
    let cpus = read("/proc/cpuinfo")?;
    let models = cpus.lines().filter_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let models: Vec<&str> = models.map(|(_, model)| model).collect();
    let load = read("/proc/loadavg")?;
    Ok(format!(
        "{}, {} x {}; load average before it {}",
        String::from_utf8_lossy(&day).trim(),
        models.len(),
        models.first().unwrap_or(&"?"),
        load.split_whitespace().next().unwrap_or("?"),
    ))
}

/// CPU time since the process began, also of threads that have ended.
pub fn cpu_seconds(pid: u32) -> Result<f64, String> {
    let text = read(&format!("/proc/{pid}/stat"))?;
    // Behind the name, which may hold anything: user and system time are the 14th and 15th field.
    let (_, fields) = text.rsplit_once(')').ok_or("a process without a name")?;
    let times = fields.split_whitespace().skip(11).take(2).map(str::parse::<f64>);
    let ticks = times.sum::<Result<f64, _>>().map_err(|error| error.to_string())?;
    Ok(ticks / TICKS_PER_SECOND)
}

/// Resident memory, and the highest it was.
pub fn memory_mib(pid: u32) -> Result<(f64, f64), String> {
    let text = read(&format!("/proc/{pid}/status"))?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
        kib.map(|kib| kib / 1024.0).ok_or_else(|| format!("process {pid} has no {name}"))
    };
    Ok((field("VmRSS:")?, field("VmHWM:")?))
}

/// What the files below a folder take on the disk.
pub fn folder_mib(folder: &Path) -> Result<f64, String> {
    let told = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut total = 0.0;
    for entry in std::fs::read_dir(folder).map_err(told)? {
        let entry = entry.map_err(told)?;
        let metadata = entry.metadata().map_err(told)?;
        total += match metadata.is_dir() {
            true => folder_mib(&entry.path())?,
            false => metadata.blocks() as f64 * 512.0 / MIB,
        };
    }
    Ok(total)
}

/// Waits until the process does next to nothing.
pub async fn settle(pid: u32) -> Result<(), String> {
    let began = std::time::Instant::now();
    let mut quiet = 0;
    while quiet < 2 && began.elapsed() < SETTLE_LIMIT {
        let before = cpu_seconds(pid)?;
        tokio::time::sleep(SETTLE_LOOK).await;
        let share = (cpu_seconds(pid)? - before) / SETTLE_LOOK.as_secs_f64();
        quiet = if share <= SETTLED_SHARE { quiet + 1 } else { 0 };
    }
    Ok(())
}

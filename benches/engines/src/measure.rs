//! What a child process measures about itself: filling, reading after a start, compacting and defragmenting. Prints one
//! JSON object.

use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::candidate::{Candidate, Failure, Name, Pace};
use crate::process;
use crate::workload::{self, Change, KEY_BYTES, Round};

/// How often a thread of its own flushes.
const FLUSH_INTERVAL: Duration = Duration::from_millis(100);
/// Random reads of each kind.
const READS: u64 = 50_000;
/// Revisions between two looks at memory and time.
const LOOK_EVERY: u64 = 20_000;
/// One in so many rows of a scan is compared with what was written.
const COMPARE_EVERY: u64 = 100;

#[derive(Clone, Copy, ValueEnum)]
pub enum Part {
    Fill,
    Read,
    Compact,
}

#[derive(clap::Args)]
pub struct Arguments {
    #[arg(long)]
    pub part: Part,
    #[arg(long)]
    pub candidate: Name,
    #[arg(long)]
    pub directory: PathBuf,
    #[arg(long)]
    pub seed: u64,
    #[arg(long)]
    pub revisions: u64,
    /// Bytes of a value.
    #[arg(long)]
    pub bytes: usize,
    /// A fill that takes longer ends early.
    #[arg(long)]
    pub max_seconds: u64,
    /// A fill that takes more memory ends early, in MiB.
    #[arg(long)]
    pub max_resident: u64,
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let found = match arguments.part {
        Part::Fill => fill(arguments),
        Part::Read => read(arguments),
        Part::Compact => compact(arguments),
    }?;
    println!("{found}");
    Ok(())
}

/// CPU and time since it was made.
struct Watch {
    cpu: Duration,
    began: Instant,
}

impl Watch {
    fn start() -> Self {
        Self { cpu: process::cpu(), began: Instant::now() }
    }

    fn cpu_us(&self) -> f64 {
        process::cpu().saturating_sub(self.cpu).as_secs_f64() * 1e6
    }

    fn cpu_us_per(&self, count: u64) -> f64 {
        self.cpu_us() / count.max(1) as f64
    }

    fn seconds(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }
}

/// What making a value costs, to be taken off what is measured.
fn value_cpu_us(arguments: &Arguments) -> f64 {
    let count = arguments.revisions.min(50_000);
    let watch = Watch::start();
    let bytes: usize = (1..=count).map(|revision| arguments.value(revision).len()).sum();
    assert_eq!(bytes as u64, count * arguments.bytes as u64, "values have their size");
    watch.cpu_us_per(count)
}

impl Arguments {
    fn value(&self, revision: u64) -> bytes::Bytes {
        workload::value(self.seed, revision, self.bytes)
    }

    fn round(&self, applied: u64, revisions: RangeInclusive<u64>) -> Round {
        let changes = revisions.map(|revision| Change { revision, value: self.value(revision) });
        Round { applied, changes: changes.collect(), slot: None }
    }
}

/// Runs `work` while another thread flushes again and again.
fn with_flushes<T>(
    candidate: &dyn Candidate,
    work: impl FnOnce() -> Result<T, Failure>,
) -> Result<T, Failure> {
    let (stop, stopped) = sync_channel::<()>(0);
    thread::scope(|scope| {
        let flusher = scope.spawn(move || {
            while stopped.recv_timeout(FLUSH_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                candidate.flush()?;
            }
            Ok::<_, Failure>(())
        });
        let done = work();
        drop(stop);
        flusher.join().expect("flushing does not panic")?;
        done
    })
}

fn fill(arguments: &Arguments) -> Result<Value, Failure> {
    let value_cpu_us = value_cpu_us(arguments);
    let candidate = arguments.candidate.open(&arguments.directory)?;
    let (watch, written) = (Watch::start(), process::bytes_written()?);
    let (reached, stopped) = match arguments.candidate.pace() {
        Pace::Server { round_bytes } => {
            let changes = (round_bytes / arguments.bytes) as u64;
            write_rounds(arguments, &watch, changes, &|round| {
                candidate.write(round)?;
                candidate.flush().map(drop)
            })?
        }
        Pace::Small { changes } => with_flushes(&*candidate, || {
            write_rounds(arguments, &watch, changes as u64, &|round| candidate.write(round))
        })?,
    };
    candidate.flush()?;
    let memory = process::memory()?;
    Ok(json!({
        "revisions": reached,
        "stopped": stopped,
        "cpu_us": watch.cpu_us_per(reached) - value_cpu_us,
        "seconds": watch.seconds(),
        "written": process::bytes_written()? - written,
        "resident": memory.now,
        "peak": memory.peak,
        "disk": process::disk_bytes(&arguments.directory)?,
        "live": reached * (KEY_BYTES + arguments.bytes as u64),
    }))
}

/// Returns how far it came, and why not further.
fn write_rounds(
    arguments: &Arguments,
    watch: &Watch,
    changes: u64,
    write: &dyn Fn(&Round) -> Result<(), Failure>,
) -> Result<(u64, Option<String>), Failure> {
    let (mut reached, mut applied, mut next_look) = (0, 0, LOOK_EVERY);
    while reached < arguments.revisions {
        let last = (reached + changes).min(arguments.revisions);
        applied += 1;
        write(&arguments.round(applied, reached + 1..=last))?;
        reached = last;
        if reached < next_look {
            continue;
        }
        next_look += LOOK_EVERY;
        let resident = process::memory()?.now >> 20;
        if resident > arguments.max_resident {
            return Ok((reached, Some(format!("at {resident} MiB of memory"))));
        }
        if watch.seconds() > arguments.max_seconds as f64 {
            return Ok((reached, Some(format!("after {} s", arguments.max_seconds))));
        }
    }
    Ok((reached, None))
}

fn read(arguments: &Arguments) -> Result<Value, Failure> {
    let value_cpu_us = value_cpu_us(arguments);
    let watch = Watch::start();
    let candidate = arguments.candidate.open(&arguments.directory)?;
    let opened = json!({
        "cpu_s": watch.cpu_us() / 1e6,
        "seconds": watch.seconds(),
        "resident": process::memory()?.now,
    });
    let mut random = SmallRng::seed_from_u64(arguments.seed);
    let mut reads = |among: RangeInclusive<u64>| {
        let watch = Watch::start();
        for _ in 0..READS {
            let revision = random.random_range(among.clone());
            if candidate.read(revision)? != Some(arguments.value(revision)) {
                return Err(Failure::from(format!("revision {revision} is not what was written")));
            }
        }
        Ok(watch.cpu_us_per(READS) - value_cpu_us)
    };
    let uniform = reads(1..=arguments.revisions)?;
    // A hundredth of the revisions: it fits into every cache. The first time warms it up.
    let hot = arguments.revisions - arguments.revisions / 100..=arguments.revisions;
    reads(hot.clone())?;
    let hot = reads(hot)?;
    let watch = Watch::start();
    let rows = check(arguments, &*candidate, |_| true)?;
    let scan_cpu_us = watch.cpu_us_per(rows) - value_cpu_us / COMPARE_EVERY as f64;
    let memory = process::memory()?;
    Ok(json!({
        "open": opened,
        "uniform_cpu_us": uniform,
        "hot_cpu_us": hot,
        "scan_cpu_us": scan_cpu_us,
        "resident": memory.now,
        "peak": memory.peak,
    }))
}

/// Scans everything: the revisions that `expected` accepts are there, and no others. Returns their number.
fn check(
    arguments: &Arguments,
    candidate: &dyn Candidate,
    expected: impl Fn(u64) -> bool,
) -> Result<u64, Failure> {
    let (mut rows, mut bad) = (0, None);
    let mut revisions = (1..=arguments.revisions).filter(|revision| expected(*revision));
    candidate.scan(&mut |revision, value| {
        rows += 1;
        let is_right = revisions.next() == Some(revision)
            && value.len() == arguments.bytes
            && (rows % COMPARE_EVERY != 0 || arguments.value(revision) == value);
        if !is_right {
            bad.get_or_insert(revision);
        }
    })?;
    match bad.or(revisions.next()) {
        Some(revision) => Err(format!("revision {revision} is not what was written").into()),
        None => Ok(rows),
    }
}

fn compact(arguments: &Arguments) -> Result<Value, Failure> {
    let candidate = arguments.candidate.open(&arguments.directory)?;
    let watch = Watch::start();
    with_flushes(&*candidate, || {
        let mut from = Some(1);
        while let Some(start) = from {
            from = candidate.compact(start, arguments.revisions)?;
        }
        Ok(())
    })?;
    candidate.flush()?;
    let compacted = json!({
        "cpu_us": watch.cpu_us_per(arguments.revisions),
        "seconds": watch.seconds(),
        "peak": process::memory()?.peak,
        "disk": process::disk_bytes(&arguments.directory)?,
    });
    process::forget_peak()?;
    let watch = Watch::start();
    candidate.defragment()?;
    let memory = process::memory()?;
    let defragmented = json!({
        "cpu_s": watch.cpu_us() / 1e6,
        "seconds": watch.seconds(),
        "peak": memory.peak,
        "resident": memory.now,
        "disk": process::disk_bytes(&arguments.directory)?,
    });
    let rows = check(arguments, &*candidate, workload::is_kept)?;
    Ok(json!({
        "compact": compacted,
        "defragment": defragmented,
        "live": rows * (KEY_BYTES + arguments.bytes as u64),
    }))
}

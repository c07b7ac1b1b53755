//! A life of the crash runs: checks what the life before left, then writes, flushes and compacts until it is ended from outside.
//! Says on stdout what it does before it does it, and what is durable after it is.

use std::path::PathBuf;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

use crate::candidate::{Candidate, Failure, Name, Pace};
use crate::workload::{self, SLOTS};

/// Shorter than in the measurements: more flushes are hit.
const FLUSH_INTERVAL: Duration = Duration::from_millis(10);
/// Rounds between two compactions.
const COMPACT_EVERY: u64 = 20;

#[derive(clap::Args)]
pub struct Arguments {
    #[arg(long)]
    pub candidate: Name,
    #[arg(long)]
    pub directory: PathBuf,
    #[arg(long)]
    pub seed: u64,
    #[command(flatten)]
    pub known: Known,
}

/// What the lives before have said.
#[derive(Clone, Copy, Default, clap::Args)]
pub struct Known {
    /// The last round whose flush ended.
    #[arg(long, default_value_t)]
    pub flushed: u64,
    /// The last round that was begun.
    #[arg(long, default_value_t)]
    pub begun: u64,
    /// Compactions reach up to here.
    #[arg(long, default_value_t)]
    pub compacting: u64,
    /// Compactions up to here have ended and were flushed.
    #[arg(long, default_value_t)]
    pub compacted: u64,
}

impl Known {
    pub fn hear(&mut self, line: &str) -> Result<(), Failure> {
        let (what, number) = line.split_once(' ').ok_or_else(|| format!("a strange line: {line}"))?;
        let number: u64 = number.parse()?;
        match what {
            // What was lost is written again, and is not promised any more.
            "checked" => (self.begun, self.flushed) = (number, number),
            "begin" => self.begun = number,
            "flushed" => self.flushed = self.flushed.max(number),
            "compacting" => self.compacting = self.compacting.max(number),
            "compacted" => self.compacted = self.compacted.max(number),
            _ => return Err(format!("a strange line: {line}").into()),
        }
        Ok(())
    }
}

pub fn run(arguments: &Arguments) -> Result<(), Failure> {
    let candidate = arguments.candidate.open(&arguments.directory)?;
    let next_revision = check(&*candidate, arguments)?;
    // From here on, what was found must stay.
    candidate.flush()?;
    println!("checked {}", candidate.applied());
    if matches!(arguments.candidate.pace(), Pace::Server { .. }) {
        return write(&*candidate, arguments.seed, next_revision, true);
    }
    let (stop, stopped) = sync_channel::<()>(0);
    let candidate = &*candidate;
    thread::scope(|scope| {
        scope.spawn(move || {
            while stopped.recv_timeout(FLUSH_INTERVAL) == Err(RecvTimeoutError::Timeout) {
                let flushed = candidate.flush().expect("a life ends from outside alone");
                println!("flushed {flushed}");
            }
        });
        let written = write(candidate, arguments.seed, next_revision, false);
        drop(stop);
        written
    })
}

/// Goes on for ever.
fn write(
    candidate: &dyn Candidate,
    seed: u64,
    mut next_revision: u64,
    flush_each: bool,
) -> Result<(), Failure> {
    loop {
        let applied = candidate.applied() + 1;
        let round = workload::crash_round(seed, applied, next_revision);
        next_revision += round.changes.len() as u64;
        println!("begin {applied}");
        candidate.write(&round)?;
        if flush_each {
            println!("flushed {}", candidate.flush()?);
        }
        if applied.is_multiple_of(COMPACT_EVERY) {
            // What is newest stays whole.
            compact(candidate, next_revision * 3 / 4)?;
        }
    }
}

fn compact(candidate: &dyn Candidate, through: u64) -> Result<(), Failure> {
    println!("compacting {through}");
    let mut from = Some(1);
    while let Some(start) = from {
        from = candidate.compact(start, through)?;
    }
    candidate.flush()?;
    println!("compacted {through}");
    Ok(())
}

/// Makes sure that the state is the one after an exact prefix of the rounds, and returns the next revision.
fn check(candidate: &dyn Candidate, arguments: &Arguments) -> Result<u64, Failure> {
    let (known, seed) = (arguments.known, arguments.seed);
    let applied = candidate.applied();
    if !(known.flushed..=known.begun).contains(&applied) {
        let Known { flushed, begun, .. } = known;
        return Err(format!("it stands after round {applied}, not between {flushed} and {begun}").into());
    }
    let sizes: Vec<usize> = (1..=applied).flat_map(|applied| workload::sizes(seed, applied)).collect();
    let mut expected = sizes.iter().zip(1_u64..);
    let may_be_gone = |revision| revision <= known.compacting && !workload::is_kept(revision);
    let mut bad = None;
    candidate.scan(&mut |found, value| {
        let is_right = match expected.find(|(_, revision)| *revision == found || !may_be_gone(*revision)) {
            Some((bytes, revision)) => revision == found && value == workload::value(seed, revision, *bytes),
            None => false,
        };
        let came_back = found <= known.compacted && !workload::is_kept(found);
        if !is_right || came_back {
            bad.get_or_insert(found);
        }
    })?;
    let missing = expected.map(|(_, revision)| revision).find(|revision| !may_be_gone(*revision));
    if let Some(revision) = bad.or(missing) {
        return Err(format!("after round {applied}, revision {revision} is not what was written").into());
    }
    check_slots(candidate, applied)?;
    Ok(sizes.len() as u64 + 1)
}

fn check_slots(candidate: &dyn Candidate, applied: u64) -> Result<(), Failure> {
    let slots = u64::from(SLOTS);
    let mut expected: Vec<(u8, u64)> = (applied.saturating_sub(slots - 1).max(1)..=applied)
        .map(|round| (u8::try_from(round % slots).expect("below the number of slots"), round))
        .collect();
    expected.sort_unstable();
    let found = candidate.slots()?;
    if found != expected {
        return Err(format!("after round {applied}, the small rows are {found:?}").into());
    }
    Ok(())
}

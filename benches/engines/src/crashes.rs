//! The crash runs: lives that are killed, and lives whose power is cut in a sync. Each begins on what the one before left, and
//! finds the state after an exact prefix of the rounds, or is counted as failed.
//!
//! A power cut is made by a library that is loaded before the others (`power_cut.c`) and keeps what was synced.

use std::env;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};

use crate::candidate::{Failure, Name};
use crate::life::Known;

/// After so many lives the directory is a new one: checking grows with the content.
const LIVES_OF_A_DIRECTORY: u64 = 5;
/// How long a life lasts, in milliseconds from its first word.
const LIFE: std::ops::Range<u64> = 20..300;
/// The sync that is cut. A life without so many is killed after its time, on what was synced till then.
const SYNCS: std::ops::Range<u32> = 1..60;
/// How long a life may take to begin.
const START_PATIENCE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Kill,
    PowerCut,
}

/// A directory through its lives.
struct Run<'a> {
    candidate: Name,
    seed: u64,
    random: SmallRng,
    directory: PathBuf,
    /// For power cuts.
    library: Option<&'a Path>,
    known: Known,
    rounds_lost: Vec<u64>,
    failures: Vec<String>,
}

pub fn run(
    candidate: Name,
    ending: Ending,
    lives: u64,
    seed: u64,
    directory: &Path,
) -> Result<Value, Failure> {
    let library = match ending {
        Ending::Kill => None,
        Ending::PowerCut => Some(compile(directory)?),
    };
    let mut run = Run {
        candidate,
        seed,
        random: SmallRng::seed_from_u64(seed),
        directory: directory.join("crashes"),
        library: library.as_deref(),
        known: Known::default(),
        rounds_lost: Vec::new(),
        failures: Vec::new(),
    };
    let mut left = 0;
    for _ in 0..lives {
        if left == 0 {
            run.begin_directory()?;
            left = LIVES_OF_A_DIRECTORY;
        }
        left -= 1;
        if let Err(failure) = run.crash_and_check() {
            run.failures.push(failure.to_string());
            left = 0;
        }
    }
    fs::remove_dir_all(&run.directory)?;
    run.rounds_lost.sort_unstable();
    let lost = &run.rounds_lost;
    Ok(json!({
        "crashes": lives,
        "failed": run.failures.len(),
        "failures": run.failures,
        "rounds_lost_median": lost.get(lost.len() / 2),
        "rounds_lost_max": lost.last(),
    }))
}

fn compile(directory: &Path) -> Result<PathBuf, Failure> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("power_cut.c");
    let library = directory.join("power_cut.so");
    let mut compiler = Command::new("cc");
    compiler.args(["-O2", "-shared", "-fPIC", "-o"]).args([&library, &source]).args(["-ldl", "-lpthread"]);
    let output = compiler.output().map_err(|error| format!("cc: {error}"))?;
    if !output.status.success() {
        return Err(format!("cc: {}", String::from_utf8_lossy(&output.stderr)).into());
    }
    Ok(library)
}

impl Run<'_> {
    /// A new directory with a first life that is not cut: how a database comes to be is not what is asked here.
    fn begin_directory(&mut self) -> Result<(), Failure> {
        if self.directory.exists() {
            fs::remove_dir_all(&self.directory)?;
        }
        fs::create_dir(&self.directory)?;
        self.known = Known::default();
        self.seed = self.random.random();
        let life = self.life_time();
        let mut child = self.spawn(None)?;
        self.live(&mut child, life)
    }

    fn life_time(&mut self) -> Duration {
        Duration::from_millis(self.random.random_range(LIFE))
    }

    /// One crash, and the start after it.
    fn crash_and_check(&mut self) -> Result<(), Failure> {
        let life = self.life_time();
        match self.library {
            None => {
                let mut child = self.spawn(None)?;
                self.live(&mut child, life)?;
            }
            Some(_) => {
                let shadow = self.directory.with_file_name("shadow");
                fs::create_dir(&shadow)?;
                let mut child = self.spawn(Some(&shadow))?;
                // Long enough for the cut to come.
                let lived = self.live(&mut child, 10 * life);
                fs::remove_dir_all(&self.directory)?;
                fs::rename(shadow.join("tree"), &self.directory)?;
                fs::remove_dir_all(&shadow)?;
                lived?;
            }
        }
        let begun = self.known.begun;
        let mut child = self.spawn(None)?;
        let mut checked = false;
        let lines = listen(&mut child)?;
        let deadline = Instant::now() + START_PATIENCE;
        while let Ok(line) = lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            self.known.hear(&line)?;
            if let Some(applied) = line.strip_prefix("checked ") {
                self.rounds_lost.push(begun - applied.parse::<u64>()?);
                checked = true;
                break;
            }
        }
        child.kill()?;
        for line in lines {
            self.known.hear(&line)?;
        }
        let ended = child.wait_with_output()?;
        if checked {
            return Ok(());
        }
        Err(reason(&ended.stderr).into())
    }

    fn spawn(&mut self, shadow: Option<&Path>) -> Result<Child, Failure> {
        let Known { flushed, begun, compacting, compacted } = self.known;
        let mut command = Command::new(env::current_exe()?);
        command.args(["life", "--candidate", &self.candidate.argument(), "--seed", &self.seed.to_string()]);
        command.arg("--directory").arg(&self.directory);
        command.args(["--flushed", &flushed.to_string(), "--begun", &begun.to_string()]);
        command.args(["--compacting", &compacting.to_string(), "--compacted", &compacted.to_string()]);
        if let (Some(shadow), Some(library)) = (shadow, self.library) {
            command.env("LD_PRELOAD", library);
            command.env("ENGINES_SHADOW_FROM", fs::canonicalize(&self.directory)?);
            command.env("ENGINES_SHADOW_TO", fs::canonicalize(shadow)?);
            command.env("ENGINES_SHADOW_CUT", self.random.random_range(SYNCS).to_string());
            command.env("ENGINES_SHADOW_SEED", self.random.random::<u32>().to_string());
        }
        Ok(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)
    }

    /// Lets a child live for a while after its first word, kills it, and hears all it has said.
    fn live(&mut self, child: &mut Child, life: Duration) -> Result<(), Failure> {
        let lines = listen(child)?;
        let (mut deadline, mut spoke) = (Instant::now() + START_PATIENCE, false);
        loop {
            match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.known.hear(&line)?;
                    if !spoke {
                        (spoke, deadline) = (true, Instant::now() + life);
                    }
                }
                Err(RecvTimeoutError::Disconnected) => break,
                Err(RecvTimeoutError::Timeout) => {
                    child.kill()?;
                    for line in lines {
                        self.known.hear(&line)?;
                    }
                    break;
                }
            }
        }
        let status = child.wait()?;
        if status.signal() == Some(9) {
            return Ok(());
        }
        let mut text = Vec::new();
        if let Some(mut stderr) = child.stderr.take() {
            std::io::Read::read_to_end(&mut stderr, &mut text)?;
        }
        Err(format!("{status}: {}", reason(&text)).into())
    }
}

/// Lines of a child as they come; the channel closes with its output.
fn listen(child: &mut Child) -> Result<Receiver<String>, Failure> {
    let stdout = child.stdout.take().ok_or("a child without output")?;
    let (line_sender, lines) = sync_channel(1000);
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines() {
            let Ok(line) = line else { return };
            if line_sender.send(line).is_err() {
                return;
            }
        }
    });
    Ok(lines)
}

fn reason(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    // Behind the line that names a panic stands its message, then the stack.
    let panic = lines.iter().position(|line| line.contains("panicked at"));
    let told = panic.and_then(|place| lines.get(place + 1)).or(lines.last());
    told.map_or("it did not begin in time".to_owned(), |line| (*line).to_owned())
}

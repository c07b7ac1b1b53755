//! A recorded workload: several lives of a server under load with every change of its files written down, and all
//! that its clients know of it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::crowd::{Crowd, Life};
use crate::disk_model::DiskModel;
use crate::journal::Clock;
use crate::process::{Member, Process};
use crate::trace::{self, Action, FileId, Record};

const WRITERS: usize = 3;
const MIN_USED_AGAIN: usize = 8;
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
const LIFE_DEADLINE: Duration = Duration::from_secs(60);

/// How a recorded life goes.
#[derive(Clone, Copy, Debug)]
pub enum Course {
    /// Stopped in order when the trace has so many bytes more.
    Stopped { load: Load, bytes: u64 },
    /// Killed behind so many records.
    Killed { records: u64 },
}

/// What the clients do.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Load {
    Mixed,
    /// Huge values only, so that the log's segments fill, are cut and are used again.
    Heavy,
    /// Large values, many compactions and no defragmentation, so that the store uses parts of its file again.
    Churn,
}

/// See the module.
pub struct Recording {
    root: PathBuf,
    pub crowd: Crowd,
    pub records: Vec<Record>,
    /// The files before the first record.
    pub before: DiskModel,
    /// What goes on from which moment.
    phases: BTreeMap<u64, &'static str>,
}

/// Variables that make a process write down what it does below `root`.
pub fn recorded(member: &Member, library: &Path, root: &Path, trace: &Path) -> Member {
    member
        .with_variable("LD_PRELOAD", library)
        .with_variable("DECKLOG_TRACE_OF", root)
        .with_variable("DECKLOG_TRACE_TO", trace)
}

/// Lives one life after the other on an empty directory in `folder`.
pub async fn record(folder: &Path, library: &Path, seed: u64, courses: &[Course]) -> Recording {
    let (root, trace) = (folder.join("recorded"), folder.join("trace"));
    fs::create_dir(&root).expect("a folder can be made");
    let before = DiskModel::new(&root);
    let clock = Clock::of(&trace);
    let sound = Member::new(&root.join("data"));
    let member = recorded(&sound, library, &root, &trace);
    let mut crowd = Crowd::with_clock(WRITERS, seed, &clock);
    let mut phases = BTreeMap::new();
    for (number, course) in courses.iter().enumerate() {
        let member = match course {
            Course::Killed { records } => member.with_variable("DECKLOG_TRACE_KILL_AT", records.to_string()),
            Course::Stopped { .. } => member.clone(),
        };
        phases.insert(clock.now(), if number == 0 { "first start" } else { "start" });
        let process = member.start().await;
        crowd.check(&process).await;
        phases.insert(clock.now(), "load");
        crowd.set_load(match course {
            Course::Stopped { load, .. } => *load,
            Course::Killed { .. } => Load::Mixed,
        });
        let life = crowd.begin(&process);
        crowd = live(life, process, *course, &clock, &mut phases).await;
    }
    let records = trace::read(&trace);
    check_trace(&root, &records, &before);
    // What was in doubt is settled.
    let process = sound.start().await;
    crowd.check(&process).await;
    process.kill();
    Recording { root, crowd, records, before, phases }
}

async fn live(
    life: Life,
    mut process: Process,
    course: Course,
    clock: &Clock,
    phases: &mut BTreeMap<u64, &'static str>,
) -> Crowd {
    match course {
        Course::Stopped { bytes, .. } => {
            let end = clock.now() + bytes;
            let lives = async {
                let mut looks = tokio::time::interval(LOOK_INTERVAL);
                while clock.now() < end {
                    looks.tick().await;
                }
            };
            tokio::time::timeout(LIFE_DEADLINE, lives).await.expect("the load goes on");
            phases.insert(clock.now(), "stop");
            life.end(async || {
                let ended = process.stop().await;
                assert!(ended.status.success(), "{}\n{}", ended.status, ended.log);
            })
            .await
        }
        Course::Killed { .. } => {
            life.end(async || {
                let ended = process.wait_for_end().await;
                assert_eq!(ended.status.code(), None, "it was killed:\n{}", ended.log);
            })
            .await
        }
    }
}

/// The trace has missed nothing: what it makes of the files before is what stands there now.
pub fn check_trace(root: &Path, records: &[Record], before: &DiskModel) {
    let mut model = before.clone();
    for record in records {
        model.apply(&record.action);
    }
    model.check_against_files(root);
}

impl Recording {
    /// What goes on at a moment, by the lives and by what the keeper had asked for.
    pub fn phase_at(&self, moment: u64) -> String {
        let (_, phase) = self.phases.range(..=moment).next_back().expect("something goes on");
        let keeper = &self.crowd.keeper;
        let defragments = keeper.defragmentation_times.iter().any(|times| times.contains(&moment));
        let compacts = keeper
            .journal
            .iter()
            .any(|note| note.sent <= moment && note.answered.is_some_and(|at| moment < at));
        let more = match (compacts, defragments) {
            (true, true) => ", compacting and defragmenting",
            (true, false) => ", compacting",
            (false, true) => ", defragmenting",
            (false, false) => "",
        };
        format!("{phase}{more}")
    }

    /// The workload makes the store's engine use parts of its file again: where a cut could take the old and the new.
    pub fn check_engine(&self) {
        let (mut model, mut names, mut used_again, mut early) = (self.before.clone(), HashMap::new(), 0, 0);
        for record in &self.records {
            match &record.action {
                Action::Create { path, file } => {
                    names.insert(*file, path);
                }
                Action::Write { file, .. } => {
                    let is_engine = names.get(file).is_some_and(|path| path.ends_with("db"));
                    if let Some(overwritten) = model.overwrites(&record.action).filter(|_| is_engine) {
                        // The engine writes with several threads: another write under way need not be what
                        // replaces these bytes. Told, not judged: the starts on cut states judge.
                        early += u64::from(overwritten.early);
                        used_again += 1;
                    }
                }
                _ => {}
            }
            model.apply(&record.action);
        }
        println!(
            "{used_again} times the engine used a part of its file again, {early} of them beside a write under way"
        );
        assert!(used_again >= MIN_USED_AGAIN, "too seldom to show anything");
    }

    /// Every write to a file of a database that counts was durable when it returned, and every name that the engine gave: files
    /// and directory were synchronous. A database counts from when it is named as the live one; until then its own file may
    /// be written at leisure, and then it is durable as a whole. A cut in the right moment would show it, too, but hardly one in
    /// a hundred of those that could.
    pub fn check_synchronous(&self) {
        let (mut model, mut named) = (self.before.clone(), Named::default());
        let (mut engine, mut writes, mut names) = (HashMap::new(), 0, 0);
        for (number, Record { position, action }) in self.records.iter().enumerate() {
            let is_killed_before =
                |next: &Record| self.phases.range(position + 1..=next.position).next().is_some();
            named.see(action, &model);
            model.apply(action);
            match action {
                Action::Create { path, file } if is_of_engine(path) => {
                    engine.insert(*file, path);
                }
                Action::Rename { to, .. } if is_of_engine(to) => {
                    let Some([begin, end]) = self.records.get(number + 1..number + 3) else {
                        continue;
                    };
                    let is_synced = matches!(&end.action, Action::SyncEnd { path, .. } if Some(path.as_path()) == to.parent());
                    let is_killed = is_killed_before(begin) || is_killed_before(end);
                    assert!(is_synced || is_killed, "the name {} is not synchronous", to.display());
                    names += u64::from(is_synced);
                }
                Action::Write { file, .. } if engine.get(file).is_some_and(|path| named.counts(path)) => {
                    let Some(next) = self.records.get(number + 1) else {
                        continue;
                    };
                    let is_synced =
                        matches!(next.action, Action::SyncBegin { file: synced, .. } if synced == *file);
                    assert!(
                        is_synced || is_killed_before(next),
                        "a write to {} is not synchronous",
                        engine[file].display()
                    );
                    writes += u64::from(is_synced);
                }
                _ => {}
            }
        }
        assert!(writes > 0 && names > 0, "the engine wrote nothing");
    }

    /// The syncs, by their records, before which a write replaced durable bytes of the engine's file.
    pub fn syncs_of_used_again(&self) -> HashSet<usize> {
        let (mut model, mut engine) = (self.before.clone(), HashSet::new());
        let (mut used_again, mut syncs) = (HashSet::new(), HashSet::new());
        for (number, record) in self.records.iter().enumerate() {
            match &record.action {
                Action::Create { path, file } if path.ends_with("db") => {
                    engine.insert(*file);
                }
                Action::Write { file, .. }
                    if engine.contains(file) && model.overwrites(&record.action).is_some() =>
                {
                    used_again.insert(*file);
                }
                Action::SyncEnd { file, .. } if used_again.remove(file) => {
                    syncs.insert(number);
                }
                _ => {}
            }
            model.apply(&record.action);
        }
        syncs
    }

    /// Where the recorded files stand: on a file system that counts, unlike where the cuts are put together.
    pub fn folder(&self) -> &Path {
        self.root.parent().expect("the root stands in a folder")
    }

    /// What the trace is of.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// A path below `root` as a kind of file: relative, with its numbers left out.
pub fn kind_of(root: &Path, path: &Path) -> String {
    let inner = path.strip_prefix(root).expect("the trace is of the root alone");
    let is_number = |letter: char| letter.is_ascii_digit() || ('A'..='F').contains(&letter);
    let text = inner.to_string_lossy().replace(is_number, "");
    if text.is_empty() { ".".to_owned() } else { text }
}

/// A file in one of the store's databases.
pub fn is_of_engine(path: &Path) -> bool {
    let above = path.parent().and_then(Path::file_name);
    above.is_some_and(|name| name.to_string_lossy().starts_with("db-"))
}

/// Which databases have been named as the live one.
#[derive(Default)]
struct Named {
    /// The file that takes the place of `CURRENT` next, the directory that both stand in, and the database that is named there.
    next: Option<(FileId, PathBuf, PathBuf)>,
    databases: HashSet<PathBuf>,
}

impl Named {
    /// What is done next to the files of the model.
    fn see(&mut self, action: &Action, model: &DiskModel) {
        match action {
            Action::Create { path, file } if path.ends_with("CURRENT.new") => {
                let directory = path.parent().expect("it stands in a directory").to_owned();
                self.next = Some((*file, directory, PathBuf::new()));
            }
            Action::Write { file, bytes, .. } => {
                if let Some((_, directory, database)) = self.next.as_mut().filter(|next| next.0 == *file) {
                    let mut text = vec![0; bytes.len()];
                    bytes.copy(0, &mut text);
                    let text = String::from_utf8(text).expect("it is text");
                    let number = text.trim_end().rsplit(' ').next().expect("it ends with a number");
                    *database = directory.join(format!("db-{number}"));
                }
            }
            Action::Rename { to, .. } if to.ends_with("CURRENT") => {
                let (_, _, database) = self.next.take().expect("it was written");
                assert!(model.is_durable(&database.join("db")), "{} is named too early", database.display());
                self.databases.insert(database);
            }
            _ => {}
        }
    }

    /// Whether a write to a file of the engine must be synchronous: of one that is not named, but for the database's own file.
    fn counts(&self, path: &Path) -> bool {
        !path.ends_with("db") || path.parent().is_some_and(|database| self.databases.contains(database))
    }
}

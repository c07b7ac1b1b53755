//! Power cuts at every sync point: a workload is recorded once; then the power is cut in each of its syncs, the files
//! are put together as the cut left them, a server is started on them and judged.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::disk_model::{DiskModel, Kept};
use crate::judge::judge;
use crate::libraries::{library_or_skip, skip};
use crate::process::Member;
use crate::recording::{Course, Load, Recording, kind_of, record, recorded};
use crate::trace::{self, Action, Record};
use crate::{seed, variable};

/// Servers that are judged at the same time.
const JUDGED_AT_ONCE: usize = 3;
/// Cuts in the gate; `DECKLOG_CUTS` says another number, or `all`.
const CUTS: usize = 200;
/// Every so many cuts, the recovery behind it is cut, too: in each of its syncs, some 20. `DECKLOG_RECOVERY_EVERY` says
/// another number.
const RECOVERY_CUT_EVERY: u64 = 20;
/// After so many starts it says how far it is: all cuts take a quarter of an hour and more.
const SAID_EVERY: usize = 500;
/// After so many cuts that were not survived, the rest is spared.
const MAX_WRONG: usize = 5;
const COURSES: [Course; 5] = [
    Course::Killed { records: 400 },
    Course::Stopped { load: Load::Mixed, bytes: 3 << 20 },
    Course::Stopped { load: Load::Heavy, bytes: 130 << 20 },
    Course::Stopped { load: Load::Churn, bytes: 130 << 20 },
    Course::Killed { records: 150 },
];
pub const WAYS: [Kept; 6] = [
    Kept::Nothing,
    Kept::Everything,
    Kept::Some { piece: 512, chance: 0.5 },
    Kept::Some { piece: 4096, chance: 0.5 },
    Kept::Some { piece: 512, chance: 0.95 },
    Kept::Some { piece: 4096, chance: 0.05 },
];

/// The power goes before a record comes about.
#[derive(Clone, Debug)]
pub struct Cut {
    pub record: usize,
    pub moment: u64,
    pub kind: String,
    pub kept: Kept,
    pub seed: u64,
}

impl Cut {
    /// The same moment in several ways.
    pub fn in_ways(
        ways: &[Kept],
        (record, moment): (usize, u64),
        kind: &str,
        random: &mut StdRng,
    ) -> Vec<Self> {
        let cut =
            |kept: &Kept| Self { record, moment, kind: kind.to_owned(), kept: *kept, seed: random.random() };
        ways.iter().map(cut).collect()
    }
}

/// Files as a cut left them.
struct Left {
    place: PathBuf,
    cut: Cut,
    cuts_recovery: bool,
}

/// Every cut in every way; with `DECKLOG_CUT_KIND` those whose kind holds it.
fn all_cuts(recording: &Recording, random: &mut StdRng) -> Vec<Cut> {
    let wanted = std::env::var("DECKLOG_CUT_KIND").unwrap_or_default();
    let mut cuts = Vec::new();
    let used_again = recording.syncs_of_used_again();
    for (record, Record { position, action }) in recording.records.iter().enumerate() {
        let phase = recording.phase_at(*position);
        let (kind, ways) = match action {
            Action::SyncEnd { .. } if used_again.contains(&record) => {
                (format!("{phase}: a part of the store's file used again"), &WAYS[..])
            }
            Action::SyncEnd { path, .. } => {
                (format!("{phase}: {}", kind_of(recording.root(), path)), &WAYS[..])
            }
            // Between syncs of a start, only what a kill leaves is new.
            _ if phase.ends_with("start") => (format!("{phase}: killed"), &WAYS[1..2]),
            _ => (String::new(), &WAYS[..0]),
        };
        if kind.contains(&wanted) {
            cuts.extend(Cut::in_ways(ways, (record, *position), &kind, random));
        }
    }
    cuts
}

/// Some of the cuts, of each kind some.
pub fn sample(mut cuts: Vec<Cut>, count: usize, random: &mut StdRng) -> Vec<Cut> {
    cuts.shuffle(random);
    let mut per_kind = BTreeMap::<String, usize>::new();
    for cut in &cuts {
        *per_kind.entry(cut.kind.clone()).or_default() += 1;
    }
    let share = count / per_kind.len().max(1);
    let mut taken = BTreeMap::<String, usize>::new();
    let (mut first, mut rest): (Vec<Cut>, Vec<Cut>) = cuts.into_iter().partition(|cut| {
        let taken = taken.entry(cut.kind.clone()).or_default();
        *taken += 1;
        *taken <= share.max(1)
    });
    rest.truncate(count.saturating_sub(first.len()));
    first.extend(rest);
    first.sort_by_key(|cut| cut.record);
    first
}

/// Puts the files of each cut together, a few ahead of the judges.
fn leave_all(recording: &Recording, cuts: Vec<Cut>, folder: &Path, out: &mpsc::Sender<Left>) {
    let mut model = recording.before.clone();
    let recovery_cut_every = variable("DECKLOG_RECOVERY_EVERY").unwrap_or(RECOVERY_CUT_EVERY);
    let mut done = 0;
    for (number, cut) in (0..).zip(cuts) {
        for record in &recording.records[done..cut.record] {
            model.apply(&record.action);
        }
        done = cut.record;
        let place = folder.join(format!("cut-{number}"));
        model.leave(&place, cut.kept, &mut StdRng::seed_from_u64(cut.seed));
        let cuts_recovery = number % recovery_cut_every == 0;
        if out.blocking_send(Left { place, cut, cuts_recovery }).is_err() {
            return; // a judge has found something
        }
    }
}

/// Where the files of the cuts are put together: in memory where there is enough of it.
pub fn folder_for_cuts() -> TempDir {
    const ENOUGH_BYTES: u64 = 2 << 30;
    let memory = Path::new("/dev/shm");
    let free = rustix::fs::statvfs(memory).map_or(0, |found| found.f_bavail * found.f_frsize);
    let keeps_births = fs::metadata(memory).is_ok_and(|found| found.created().is_ok());
    let folder =
        if free > ENOUGH_BYTES && keeps_births { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    folder.expect("a temporary folder")
}

pub fn has_synchronous_files(folder: &Path) -> bool {
    let file = fs::File::create(folder.join("synchronous")).expect("a file can be made");
    rustix::fs::ioctl_setflags(&file, rustix::fs::IFlags::SYNC).is_ok()
}

async fn judge_left(recording: &Recording, library: &Path, left: &Left) -> usize {
    let mut count = 1;
    if left.cuts_recovery {
        count += judge_recovery(recording, library, left).await;
    }
    let started = Member::new(&left.place.join("data")).try_start().await;
    let process = started.unwrap_or_else(|ended| panic!("{}\n{}", ended.status, ended.log));
    judge(&recording.crowd, &process, left.cut.moment).await;
    process.kill();
    count
}

/// Starts on a copy of the files, and cuts the power in every sync of that start. The copy stands where files can be
/// synchronous.
async fn judge_recovery(recording: &Recording, library: &Path, left: &Left) -> usize {
    let copy = recording.folder().join(left.place.file_name().expect("it has a name"));
    let (root, trace) = (copy.with_extension("again"), copy.with_extension("trace"));
    crate::damage::copy_directory(&left.place, &root);
    let mut model = DiskModel::new(&root);
    let member = recorded(&Member::new(&root.join("data")), library, &root, &trace);
    member.start().await.kill();
    let mut random = StdRng::seed_from_u64(left.cut.seed);
    let mut count = 0;
    for record in trace::read(&trace) {
        if let Action::SyncEnd { path, .. } = &record.action {
            let place = left.place.with_extension("twice");
            let kept = WAYS[random.random_range(0..WAYS.len())];
            model.leave(&place, kept, &mut random);
            let started = Member::new(&place.join("data")).try_start().await;
            let process = started.unwrap_or_else(|ended| {
                panic!("cut again in {} ({kept:?}): {}\n{}", path.display(), ended.status, ended.log)
            });
            judge(&recording.crowd, &process, left.cut.moment).await;
            process.kill();
            fs::remove_dir_all(&place).expect("the files can be removed");
            count += 1;
        }
        model.apply(&record.action);
    }
    fs::remove_dir_all(&root).expect("the files can be removed");
    fs::remove_file(&trace).expect("the trace can be removed");
    count
}

/// Always an exact prefix, and every acknowledged write in it.
#[tokio::test]
async fn power_cut_at_every_sync_point() {
    let seed = seed("power_cut_at_every_sync_point");
    let mut random = StdRng::seed_from_u64(seed);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let Some(library) = library_or_skip("power_cut_at_every_sync_point", "trace", folder.path()) else {
        return;
    };
    let began = Instant::now();
    let recording = Arc::new(record(folder.path(), &library, seed, &COURSES).await);
    println!("recorded in {:?}: {}", began.elapsed(), recording.crowd.summary());
    let synchronous = has_synchronous_files(folder.path());
    if synchronous {
        recording.check_engine();
        recording.check_synchronous();
    } else {
        skip("power_cut_at_every_sync_point", "the file system has no synchronous files (chattr +S)");
    }
    let all = all_cuts(&recording, &mut random);
    let possible = all.len();
    let cuts = match std::env::var("DECKLOG_CUTS").as_deref() {
        Ok("all") => all,
        Ok(number) => sample(all, number.parse().expect("DECKLOG_CUTS is `all` or a number"), &mut random),
        Err(_) => sample(all, CUTS, &mut random),
    };
    println!("{} of {possible} cuts of {} records", cuts.len(), recording.records.len());
    let (out, mut left) = mpsc::channel(1);
    let files = folder_for_cuts();
    let makes = {
        let (recording, folder) = (recording.clone(), files.path().to_owned());
        std::thread::spawn(move || leave_all(&recording, cuts, &folder, &out))
    };
    let mut judges = JoinSet::new();
    let (mut judged, mut wrong, mut kinds) = (0, 0, BTreeMap::<String, usize>::new());
    while wrong < MAX_WRONG {
        let next = left.recv().await;
        if judges.len() >= JUDGED_AT_ONCE || next.is_none() {
            match judges.join_next().await {
                Some(Ok(count)) => {
                    if (judged + count) / SAID_EVERY > judged / SAID_EVERY {
                        println!("{} starts judged in {:?}", judged + count, began.elapsed());
                    }
                    judged += count;
                }
                Some(Err(_panicked)) => wrong += 1,
                None => break,
            }
        }
        let Some(mut next) = next else {
            continue;
        };
        next.cuts_recovery &= synchronous;
        *kinds.entry(next.cut.kind.clone()).or_default() += 1;
        let (recording, library) = (recording.clone(), library.clone());
        judges.spawn(async move {
            let described = Described(format!("{:?}, the files are in {}", next.cut, next.place.display()));
            let count = judge_left(&recording, &library, &next).await;
            drop(described);
            fs::remove_dir_all(&next.place).expect("the files can be removed");
            count
        });
    }
    drop(left);
    makes.join().expect("the files can be put together");
    for (kind, count) in kinds {
        println!("{count:4} {kind}");
    }
    println!("{judged} starts judged in {:?}", began.elapsed());
    if wrong > 0 {
        panic!("{wrong} cuts were not survived; what they left stands in {}", files.keep().display());
    }
}

/// Says which cut it was when its judge panics.
struct Described(String);

impl Drop for Described {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("it was {}", self.0);
        }
    }
}

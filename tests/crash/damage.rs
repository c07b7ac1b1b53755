//! Damaged files: rubbish behind the end of the log changes nothing; a flipped bit in what was flushed is named
//! and the start refused, or it changes nothing. Never wrong data.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use decklog::storage::disk::RealDisk;
use decklog::storage::wal::{Inspected, inspect};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;

use crate::crowd::Crowd;
use crate::process::{Ended, Member};
use crate::{seed, variable};

/// How long the load lasts at least whose files are then damaged.
const LOAD: Duration = Duration::from_millis(1500);
const CUT_DEADLINE: Duration = Duration::from_secs(120);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
const WRITERS: usize = 4;
/// Unless `DECKLOG_FLIPS` says otherwise.
const FLIPS: u64 = 24;

/// A data directory after a crash, with all that must be in it.
pub struct Crashed {
    folder: TempDir,
    crowd: Crowd,
    random: StdRng,
}

/// A place in the log's segments.
struct Place {
    segment: String,
    offset: usize,
}

impl Crashed {
    /// `cut`: the log's first segment is gone, so that only the store holds what stood in it.
    pub async fn new(seed: u64, cut: bool) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (crowd, random) = (Crowd::new(WRITERS, seed), StdRng::seed_from_u64(seed));
        let mut crashed = Self { folder, crowd, random };
        crashed.live(cut).await;
        crashed
    }

    /// One life of the server under load, its end by SIGKILL, and one more to settle what was in doubt.
    pub async fn live(&mut self, until_cut: bool) {
        let member = Member::new(&self.base());
        let process = member.start().await;
        let crowd = std::mem::replace(&mut self.crowd, Crowd::new(0, 0));
        let life = crowd.begin(&process);
        tokio::time::sleep(LOAD).await; // the length of a life, not a wait for something
        if until_cut {
            let wait = wait_for_cut(&member.data);
            tokio::time::timeout(CUT_DEADLINE, wait).await.expect("the log is cut under load");
        }
        self.crowd = life.end(async || process.kill()).await;
        // What was in doubt is settled, once for all the copies.
        let process = member.start().await;
        self.crowd.check(&process).await;
        process.kill();
    }

    /// After this, log and store end with the same entry.
    pub async fn stop_in_order(&self) {
        let ended = Member::new(&self.base()).start().await.stop().await;
        assert!(ended.status.success(), "{}\n{}", ended.status, ended.log);
    }

    pub fn base(&self) -> PathBuf {
        self.folder.path().join("base")
    }

    /// Starts on a copy of the directory that `damage` has changed. When the server starts, everything is checked.
    pub async fn start_damaged(&mut self, damage: impl FnOnce(&Path, &mut StdRng)) -> Result<(), Ended> {
        let copy = self.folder.path().join("copy");
        copy_directory(&self.base(), &copy);
        damage(&copy, &mut self.random);
        let started = Member::new(&copy).try_start().await;
        if let Ok(process) = &started {
            self.crowd.check(process).await;
            self.crowd.check_retold(process).await;
        }
        let result = started.map(drop);
        fs::remove_dir_all(&copy).expect("the copy can be removed");
        result
    }

    /// The flushed records of the log, without those of its last flush, and where it ends.
    fn log_places(&self) -> (Vec<Place>, Place) {
        let disk = RealDisk::new(&self.base().join("wal")).expect("the log's directory");
        let (mut records, mut end) = (Vec::new(), None);
        let visited = inspect(&disk, &mut |found| match found {
            Inspected::Head { segment, .. } => records.push(Place { segment, offset: 0 }),
            Inspected::Batch { segment, offset, .. } => records.push(Place { segment, offset }),
            Inspected::Tail { segment, offset } => end = Some(Place { segment, offset }),
            Inspected::End { .. } | Inspected::Closed { .. } => {}
            Inspected::Damaged { segment, offset } => panic!("{segment} is damaged at {offset}"),
        });
        visited.expect("the log can be read");
        (records, end.expect("the log was not closed in order"))
    }
}

async fn wait_for_cut(data: &Path) {
    let first = data.join("wal").join(format!("{:016x}.wal", 1));
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    while first.exists() {
        looks.tick().await;
    }
}

pub fn copy_directory(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder can be made");
    for entry in fs::read_dir(from).expect("a folder") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy_directory(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a file can be copied");
        }
    }
}

fn overwrite(path: &Path, offset: usize, bytes: &[u8]) {
    let file = OpenOptions::new().write(true).open(path).expect("the file is there");
    file.write_all_at(bytes, offset as u64).expect("the file can be written");
}

fn flip_bit(path: &Path, offset: usize, bit: u32) {
    let file = OpenOptions::new().read(true).write(true).open(path).expect("the file is there");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset as u64).expect("the byte is there");
    byte[0] ^= 1 << bit;
    file.write_all_at(&byte, offset as u64).expect("the file can be written");
}

/// Exit code 1 and one line for people that names what is damaged.
pub fn assert_refused_well(ended: &Ended, named: &str) {
    assert_eq!(ended.status.code(), Some(1), "{}\n{}", ended.status, ended.log);
    let lines: Vec<&str> = ended.log.lines().filter(|line| line.starts_with("decklog: ")).collect();
    assert_eq!(lines.len(), 1, "not one line for people:\n{}", ended.log);
    assert!(lines[0].contains(named), "{} does not name {named}", lines[0]);
}

#[tokio::test]
async fn garbage_at_the_end_of_the_log() {
    let mut crashed = Crashed::new(seed("garbage_at_the_end_of_the_log"), false).await;
    let (records, end) = crashed.log_places();
    let segment = Path::new("wal").join(&end.segment);
    let whole = fs::read(crashed.base().join(&segment)).expect("the last segment");
    let in_last = records.iter().rfind(|record| record.segment == end.segment).expect("records");
    let last_record = &whole[in_last.offset..end.offset];
    let room = whole.len() - end.offset;
    let lengths = [1, 7, 16, 100, 4096, 1 << 20, room];
    let mut rubbish: Vec<(usize, Vec<u8>)> = Vec::new();
    for length in lengths.map(|length| length.min(room)) {
        let mut bytes = vec![0; length];
        crashed.random.fill(bytes.as_mut_slice());
        rubbish.push((end.offset, bytes.clone()));
        let behind = crashed.random.random_range(0..=room - length);
        rubbish.push((end.offset + behind, bytes));
    }
    rubbish.push((end.offset, vec![0xff; room]));
    // Records of other places, and half ones.
    rubbish.push((end.offset, last_record.to_vec()));
    rubbish.push((end.offset, last_record[..last_record.len() / 2].to_vec()));
    rubbish.push((end.offset, whole[..end.offset.min(room)].to_vec()));
    // Behind the end of the file.
    rubbish.push((whole.len(), vec![0xa5; 13]));
    for (offset, bytes) in rubbish {
        let started = crashed.start_damaged(|copy, _| overwrite(&copy.join(&segment), offset, &bytes)).await;
        if let Err(ended) = started {
            panic!("{} bytes of rubbish at {offset}: {}\n{}", bytes.len(), ended.status, ended.log);
        }
    }
}

#[tokio::test]
async fn bit_flips_in_the_log() {
    let mut crashed = Crashed::new(seed("bit_flips_in_the_log"), true).await;
    let (mut records, end) = crashed.log_places();
    records.push(end);
    let mut refused = 0;
    let flips = variable("DECKLOG_FLIPS").unwrap_or(FLIPS);
    for _ in 0..flips {
        let number = crashed.random.random_range(0..records.len() - 2);
        let (record, next) = (&records[number], &records[number + 1]);
        // The last record of a segment: its header alone is sure to be looked at.
        let bytes = if record.segment == next.segment { next.offset - record.offset } else { 16 };
        let offset = record.offset + crashed.random.random_range(0..bytes);
        let bit = crashed.random.random_range(0..8);
        let segment = record.segment.clone();
        let damage = |copy: &Path, _: &mut StdRng| flip_bit(&copy.join("wal").join(&segment), offset, bit);
        if let Err(ended) = crashed.start_damaged(damage).await {
            assert_refused_well(&ended, &segment);
            refused += 1;
        }
    }
    println!("{refused} of {flips} refused, the others changed nothing");
}

#[tokio::test]
async fn bit_flips_in_the_store() {
    let mut crashed = Crashed::new(seed("bit_flips_in_the_store"), true).await;
    let mut refused = 0;
    let flips = variable("DECKLOG_FLIPS").unwrap_or(FLIPS);
    for _ in 0..flips {
        let mut what = String::new();
        let damage = |copy: &Path, random: &mut StdRng| {
            let database = live_database(copy);
            let bytes = fs::metadata(&database).expect("the store's file").len();
            let offset = random.random_range(0..usize::try_from(bytes).expect("it fits in memory"));
            let bit = random.random_range(0..8);
            what = format!("bit {bit} of byte {offset} of {bytes}");
            flip_bit(&database, offset, bit);
        };
        let started = crashed.start_damaged(damage).await;
        println!("{what}: {}", if started.is_ok() { "nothing changed" } else { "refused" });
        if let Err(ended) = started {
            assert_refused_well(&ended, "store");
            refused += 1;
        }
    }
    println!("{refused} of {flips} refused, the others changed nothing");
}

/// The file of the live database.
fn live_database(data: &Path) -> PathBuf {
    let current = fs::read_to_string(data.join("store/CURRENT")).expect("the store names its database");
    let number = current.split_whitespace().last().expect("it ends with a number").to_owned();
    data.join("store").join(format!("db-{number}")).join("db")
}

//! A disk that is fed with a trace and knows what a power cut would leave: what was synced for sure, and of the rest
//! nothing, everything, or any part.
//!
//! What is assumed of a disk is only what POSIX promises: a file's bytes are durable by a sync of the file, its name by a
//! sync of the directory it stands in (a directory's own name by a sync of the one above). What was not synced
//! may be there or not, sector by sector and name by name, in any order; a rename is there as a whole or not.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use rand::Rng;
use rand::rngs::StdRng;

use crate::trace::{Action, FileId, Written};

/// Files are written in pieces of so many bytes; those of zeros alone stay holes.
const PAGE: usize = 4096;
const ZEROS: [u8; PAGE] = [0; PAGE];

/// What of the unsynced a power cut keeps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kept {
    Nothing,
    /// As `kill -9` leaves it.
    Everything,
    /// Pieces of so many bytes, each kept with this chance, in any order.
    Some {
        piece: usize,
        chance: f64,
    },
}

/// See the module.
#[derive(Clone)]
pub struct DiskModel {
    root_id: FileId,
    nodes: HashMap<FileId, Node>,
    /// The names as the process sees them.
    paths: HashMap<PathBuf, FileId>,
    /// Where a sync began, by file and number.
    begun: HashMap<(FileId, u64), u64>,
    clock: u64,
}

/// A write that replaces durable bytes.
pub struct Overwritten {
    pub early: bool,
}

#[derive(Clone)]
enum Node {
    File { durable: Vec<u8>, pending: Vec<(u64, Change)> },
    Directory { durable: BTreeMap<String, FileId>, pending: Vec<(u64, NameChange)> },
}

#[derive(Clone)]
enum Change {
    Write(u64, Written),
    Length(u64),
}

/// Names that one call removes and sets.
#[derive(Clone)]
struct NameChange {
    remove: Option<String>,
    set: Option<(String, FileId)>,
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Length(length) => bytes.resize(usize::try_from(*length).expect("it fits"), 0),
            Self::Write(offset, written) => {
                let start = usize::try_from(*offset).expect("it fits");
                let end = start + written.len();
                bytes.resize(bytes.len().max(end), 0);
                written.copy(0, &mut bytes[start..end]);
            }
        }
    }

    /// The length that a file of `length` bytes has afterwards.
    fn length_after(&self, length: usize) -> usize {
        match self {
            Self::Length(new) => usize::try_from(*new).expect("it fits"),
            Self::Write(offset, written) => {
                length.max(usize::try_from(*offset).expect("it fits") + written.len())
            }
        }
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, FileId>) {
        if let Some(name) = &self.remove {
            names.remove(name);
        }
        if let Some((name, file)) = &self.set {
            names.insert(name.clone(), *file);
        }
    }
}

impl DiskModel {
    /// Everything below `root` counts as durable.
    pub fn new(root: &Path) -> Self {
        let mut model = Self {
            root_id: id_of(root),
            nodes: HashMap::new(),
            paths: HashMap::new(),
            begun: HashMap::new(),
            clock: 0,
        };
        model.load(root);
        model
    }

    fn load(&mut self, directory: &Path) {
        let mut durable = BTreeMap::new();
        for entry in fs::read_dir(directory).expect("a directory") {
            let path = entry.expect("an entry").path();
            let id = id_of(&path);
            durable.insert(name_of(&path), id);
            if path.is_dir() {
                self.load(&path);
            } else {
                let bytes = fs::read(&path).expect("a file can be read");
                self.paths.insert(path, id);
                self.nodes.insert(id, Node::File { durable: bytes, pending: Vec::new() });
            }
        }
        let id = id_of(directory);
        self.paths.insert(directory.to_owned(), id);
        self.nodes.insert(id, Node::Directory { durable, pending: Vec::new() });
    }

    /// Does what the process did.
    pub fn apply(&mut self, action: &Action) {
        self.clock += 1;
        match action {
            Action::Create { path, file } => {
                self.nodes.insert(*file, Node::File { durable: Vec::new(), pending: Vec::new() });
                self.set(path, *file, None);
            }
            Action::MakeDirectory { path, file } => {
                self.nodes.insert(*file, Node::Directory { durable: BTreeMap::new(), pending: Vec::new() });
                self.set(path, *file, None);
            }
            Action::Write { file, offset, bytes } => {
                self.change(*file, Change::Write(*offset, bytes.clone()))
            }
            Action::Truncate { file, length } => self.change(*file, Change::Length(*length)),
            Action::Rename { from, to } => {
                assert_eq!(from.parent(), to.parent(), "a rename across directories");
                let file = self.paths.remove(from).expect("a known name");
                self.set(to, file, Some(name_of(from)));
            }
            Action::Remove { path } => {
                self.paths.remove(path).expect("a known name");
                self.rename(path, NameChange { remove: Some(name_of(path)), set: None });
            }
            Action::SyncBegin { file, number } => {
                self.begun.insert((*file, *number), self.clock);
            }
            Action::SyncEnd { file, number, .. } => {
                let begun = self.begun.remove(&(*file, *number)).expect("a sync begins before it ends");
                self.nodes.get_mut(file).expect("a known file").sync(begun);
            }
        }
    }

    /// Whether all that was written to a file is on the disk, with its name.
    pub fn is_durable(&self, path: &Path) -> bool {
        let has_pending = |path: &Path| match &self.nodes[&self.paths[path]] {
            Node::File { pending, .. } => !pending.is_empty(),
            Node::Directory { pending, .. } => !pending.is_empty(),
        };
        !has_pending(path) && path.parent().is_some_and(|above| !has_pending(above))
    }

    /// Whether a write replaces durable bytes of a file, and if so, whether earlier writes of it are not yet
    /// synced: a disk may do it before them, and a cut then leave neither what was there nor what was written instead.
    pub fn overwrites(&self, action: &Action) -> Option<Overwritten> {
        let Action::Write { file, offset, bytes } = action else {
            return None;
        };
        let Node::File { durable, pending } = &self.nodes[file] else {
            return None;
        };
        let start = usize::try_from(*offset).expect("it fits").min(durable.len());
        let end = (start + bytes.len()).min(durable.len());
        let is_used = durable[start..end].iter().any(|byte| *byte != 0);
        is_used.then_some(Overwritten { early: !pending.is_empty() })
    }

    fn change(&mut self, file: FileId, change: Change) {
        let clock = self.clock;
        match self.nodes.get_mut(&file).expect("a known file") {
            Node::File { pending, .. } => pending.push((clock, change)),
            Node::Directory { .. } => panic!("a write to a directory"),
        }
    }

    fn set(&mut self, path: &Path, file: FileId, remove: Option<String>) {
        self.paths.insert(path.to_owned(), file);
        self.rename(path, NameChange { remove, set: Some((name_of(path), file)) });
    }

    fn rename(&mut self, path: &Path, change: NameChange) {
        let clock = self.clock;
        let above = self.paths[path.parent().expect("it lies below the root")];
        match self.nodes.get_mut(&above).expect("a known directory") {
            Node::Directory { pending, .. } => pending.push((clock, change)),
            Node::File { .. } => panic!("{} lies in a file", path.display()),
        }
    }

    /// Makes what a power cut now leaves below `to`, which is made.
    pub fn leave(&self, to: &Path, kept: Kept, random: &mut StdRng) {
        self.leave_node(self.root_id, to, kept, random);
    }

    fn leave_node(&self, id: FileId, to: &Path, kept: Kept, random: &mut StdRng) {
        match &self.nodes[&id] {
            Node::File { durable, pending } => write_file(to, &file_left(durable, pending, kept, random)),
            Node::Directory { durable, pending } => {
                fs::create_dir(to).expect("a directory can be made");
                let mut names = durable.clone();
                for (_, change) in pending {
                    if keeps(kept, random) {
                        change.apply(&mut names);
                    }
                }
                for (name, file) in names {
                    self.leave_node(file, &to.join(name), kept, random);
                }
            }
        }
    }

    /// Compares the state that the process saw with the real files: whether the trace has missed something.
    pub fn check_against_files(&self, root: &Path) {
        let copy = tempfile::tempdir().expect("a temporary folder");
        let to = copy.path().join("copy");
        self.leave(&to, Kept::Everything, &mut rand::SeedableRng::seed_from_u64(0));
        compare(&to, root);
    }
}

impl Node {
    /// What was done before `begun` is durable.
    fn sync(&mut self, begun: u64) {
        match self {
            Self::File { durable, pending } => {
                let later = pending.partition_point(|(at, _)| *at < begun);
                pending.drain(..later).for_each(|(_, change)| change.apply(durable));
            }
            Self::Directory { durable, pending } => {
                let later = pending.partition_point(|(at, _)| *at < begun);
                pending.drain(..later).for_each(|(_, change)| change.apply(durable));
            }
        }
    }
}

fn keeps(kept: Kept, random: &mut StdRng) -> bool {
    match kept {
        Kept::Nothing => false,
        Kept::Everything => true,
        Kept::Some { chance, .. } => random.random_bool(chance),
    }
}

fn file_left<'a>(
    durable: &'a [u8],
    pending: &[(u64, Change)],
    kept: Kept,
    random: &mut StdRng,
) -> Cow<'a, [u8]> {
    if pending.is_empty() || kept == Kept::Nothing {
        return Cow::Borrowed(durable);
    }
    let mut left = durable.to_vec();
    let Kept::Some { piece, chance } = kept else {
        pending.iter().for_each(|(_, change)| change.apply(&mut left));
        return Cow::Owned(left);
    };
    // The length is that after some of the changes; bytes behind it are lost, bytes never written are zero.
    let mut length = left.len();
    let mut longest = length;
    let lengths = pending.iter().map(|(_, change)| {
        length = change.length_after(length);
        longest = longest.max(length);
        length
    });
    let mut lengths: Vec<usize> = lengths.collect();
    lengths.insert(0, durable.len());
    left.resize(longest, 0);
    // Of each piece, the first few of its changes are there: a disk may hold an older state of a page.
    let mut done: HashMap<usize, Option<usize>> = HashMap::new();
    for (number, (_, change)) in pending.iter().enumerate() {
        let Change::Write(offset, written) = change else {
            continue;
        };
        let start = usize::try_from(*offset).expect("it fits");
        let end = start + written.len();
        for at in (start / piece * piece..end).step_by(piece) {
            let (from, to) = (at.max(start), (at + piece).min(end));
            let stopped = done.entry(at).or_default();
            if stopped.is_none() && !random.random_bool(chance) {
                *stopped = Some(number);
            }
            if stopped.is_none() {
                written.copy(from - start, &mut left[from..to]);
            }
        }
    }
    left.truncate(lengths[random.random_range(0..lengths.len())]);
    Cow::Owned(left)
}

/// Writes a file with holes where it is zero.
fn write_file(path: &Path, bytes: &[u8]) {
    let file = File::create(path).expect("a file can be made");
    file.set_len(bytes.len() as u64).expect("a file can be made longer");
    for (number, page) in bytes.chunks(PAGE).enumerate() {
        if page != &ZEROS[..page.len()] {
            file.write_all_at(page, (number * PAGE) as u64).expect("a file can be written");
        }
    }
}

fn compare(left: &Path, right: &Path) {
    let names = |path: &Path| -> Vec<String> {
        let entries = fs::read_dir(path).expect("a directory");
        let mut names: Vec<_> = entries.map(|entry| name_of(&entry.expect("an entry").path())).collect();
        names.sort();
        names
    };
    assert_eq!(names(left), names(right), "the trace missed something in {}", right.display());
    for name in names(left) {
        let (left, right) = (left.join(&name), right.join(&name));
        if left.is_dir() {
            compare(&left, &right);
        } else {
            let [made, real] = [&left, &right].map(|path| fs::read(path).expect("a file"));
            let differs = made.iter().zip(&real).position(|(made, real)| made != real);
            assert!(
                differs.is_none() && made.len() == real.len(),
                "the trace missed something in {} at {differs:?}: {} bytes, it makes {}",
                right.display(),
                real.len(),
                made.len()
            );
        }
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().expect("it has a name").to_str().expect("names of tests are text").to_owned()
}

/// `trace.c` makes the same number.
fn id_of(path: &Path) -> FileId {
    let found = fs::symlink_metadata(path).expect("it is there");
    let born = found.created().expect("the file system keeps times of birth");
    let born = born.duration_since(UNIX_EPOCH).expect("after 1970").as_nanos();
    let born = u64::try_from(born % (1 << 64)).expect("it is below");
    FileId(found.ino().wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ born)
}

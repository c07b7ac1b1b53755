//! A key space as simple as it can be: every change ever made, in a list.

use rand::Rng;
use rand::rngs::SmallRng;

const KEYS: u8 = 6;

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    Put(u8, u8),
    /// Deletes the keys from the first up to the second.
    Delete(u8, u8),
    /// Puts both keys if the first has the version, deletes both otherwise.
    Txn {
        keys: [u8; 2],
        version: i64,
        value: u8,
    },
    Compact(i64),
}

/// Key, value, create revision, mod revision, version.
pub type Pair = (u8, u8, i64, i64, i64);

/// What came of it: how many keys it changed, and the revision then.
pub type Answer = Result<(i64, i64), String>;

#[derive(Clone, Debug)]
pub struct Change {
    pub revision: i64,
    pub key: u8,
    /// Value, create revision, version; nothing for a deletion.
    pub pair: Option<(u8, i64, i64)>,
}

#[derive(Clone, Debug)]
pub struct Model {
    pub revision: i64,
    pub compacted: i64,
    pub changes: Vec<Change>,
}

impl Default for Model {
    fn default() -> Self {
        Self { revision: 1, compacted: -1, changes: Vec::new() }
    }
}

impl Command {
    pub fn random(random: &mut SmallRng, model: &Model) -> Self {
        let mut key = || random.random_range(0..KEYS);
        let (first, second) = (key(), key());
        match random.random_range(0..12) {
            0..=5 => Self::Put(first, random.random()),
            6 | 7 => Self::Delete(first, first + random.random_range(0..3)),
            8..=10 => {
                let keys = [first, (first + 1 + second % (KEYS - 1)) % KEYS];
                Self::Txn { keys, version: random.random_range(0..3), value: random.random() }
            }
            _ => Self::Compact(random.random_range(-1..=model.revision + 1)),
        }
    }
}

impl Model {
    pub fn at(&self, key: u8, revision: i64) -> Option<(u8, i64, i64)> {
        let newest =
            self.changes.iter().rev().find(|change| change.key == key && change.revision <= revision);
        newest.and_then(|change| change.pair)
    }

    /// Keys with their pairs and mod revisions at a revision.
    pub fn all(&self, revision: i64) -> Vec<Pair> {
        let pair = |key: u8| {
            let newest =
                self.changes.iter().rev().find(|change| change.key == key && change.revision <= revision)?;
            let (value, created, version) = newest.pair?;
            Some((key, value, created, newest.revision, version))
        };
        (0..KEYS).filter_map(pair).collect()
    }

    pub fn apply(&mut self, command: &Command) -> Answer {
        let next = self.revision + 1;
        let before = self.changes.len();
        match command {
            Command::Put(key, value) => self.put(*key, *value, next),
            Command::Delete(from, to) => (*from..*to).for_each(|key| self.delete(key, next)),
            Command::Txn { keys, version, value } => {
                let holds = self.at(keys[0], self.revision).map_or(0, |(_, _, version)| version) == *version;
                for key in keys {
                    if holds { self.put(*key, *value, next) } else { self.delete(*key, next) }
                }
            }
            Command::Compact(revision) if *revision <= self.compacted => {
                return Err("required revision has been compacted".to_owned());
            }
            Command::Compact(revision) if *revision > self.revision => {
                return Err("required revision is a future revision".to_owned());
            }
            Command::Compact(revision) => self.compacted = *revision,
        }
        let changed = self.changes.len() - before;
        if changed > 0 {
            self.revision = next;
        }
        Ok((i64::try_from(changed).expect("few"), self.revision))
    }

    fn put(&mut self, key: u8, value: u8, revision: i64) {
        let (created, version) = match self.at(key, revision) {
            Some((_, created, version)) => (created, version + 1),
            None => (revision, 1),
        };
        self.changes.push(Change { revision, key, pair: Some((value, created, version)) });
    }

    fn delete(&mut self, key: u8, revision: i64) {
        if self.at(key, revision).is_some() {
            self.changes.push(Change { revision, key, pair: None });
        }
    }
}

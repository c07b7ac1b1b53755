//! HashKV: etcd's checksum over the logical content, bit for bit.
//! Owns the rule of what is hashed (etcd's `hashByRev`); the bytes are those of etcd's storage form.

use std::ops::ControlFlow;

use super::history::History;
use super::read::{Reader, Snapshot};
use super::{Error, decode};
use crate::ids::{FullRevision, Revision};
use crate::storage::StoredChange;

/// The name of etcd's table of revisions, with which the hash begins.
const BUCKET: &[u8] = b"key";

/// What `Maintenance.HashKV` answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashKv {
    pub hash: u32,
    /// -1 before the first compaction.
    pub compacted: Revision,
    /// The revision that was hashed.
    pub revision: Revision,
}

impl Reader {
    /// The hash of everything at and below `revision` (0: the current one; below a negative one there is nothing).
    ///
    /// # Errors
    /// `Compacted`, `FutureRevision`, a fault of the disk.
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, Error> {
        loop {
            let snapshot = self.snapshot();
            let hashed = snapshot.hash_kv(revision);
            // A compaction that came between: what it takes away is missing from the hash of before.
            if self.compacted() == snapshot.compacted() {
                return hashed;
            }
        }
    }
}

impl Snapshot {
    /// The same for what is pinned.
    ///
    /// # Errors
    /// `Compacted`, also when a compaction came between; `FutureRevision`, a fault of the disk.
    pub fn hash_kv(&self, revision: i64) -> Result<HashKv, Error> {
        let compacted = self.view.compacted;
        if revision < 0 {
            return Ok(HashKv { hash: crc32c::crc32c(BUCKET), compacted, revision: Revision(revision) });
        }
        let at = self.source().resolve(revision)?;
        let rule = Rule { at, compacted, any_live: self.any_live(at) };
        let mut hash = crc32c::crc32c(BUCKET);
        let mut failed = None;
        self.stored_changes(Revision(0), at, &mut |stored| match self.is_hashed(stored, &rule) {
            Ok(hashed) => {
                if hashed {
                    hash = crc32c::crc32c_append(hash, storage_key(stored).as_slice());
                    hash = crc32c::crc32c_append(hash, &stored.pair);
                }
                ControlFlow::Continue(())
            }
            Err(error) => {
                failed = Some(error);
                ControlFlow::Break(())
            }
        })?;
        match failed {
            Some(error) => Err(error),
            // Removal went on below us for a newer compaction: the answer would depend on how far it came.
            None if self.shared.view.load().compacted != compacted => Err(Error::Compacted),
            None => Ok(HashKv { hash, compacted, revision: at }),
        }
    }

    fn any_live(&self, at: Revision) -> bool {
        let exists = |history: &History<'_>| history.at(at).is_some_and(|version| !version.is_tombstone());
        self.view.tree.range(&[], None).any(|(_, history)| exists(&history))
    }

    fn is_hashed(&self, stored: &StoredChange, rule: &Rule) -> Result<bool, Error> {
        if stored.at.main > rule.compacted {
            return Ok(true);
        }
        if stored.tombstone && stored.at.main == rule.compacted {
            return Ok(false);
        }
        let key = decode(stored)?.key;
        let Some(history) = self.view.tree.get(&key) else {
            return Ok(false);
        };
        Ok(if rule.any_live {
            // At and below the compacted revision only what is still visible at the hashed one counts.
            history
                .at(rule.at)
                .is_some_and(|visible| visible.modified == stored.at && !visible.is_tombstone())
        } else {
            history.survives(stored.at, rule.compacted)
        })
    }
}

struct Rule {
    at: Revision,
    compacted: Revision,
    any_live: bool,
}

/// etcd's key of a revision in its backend: 8 bytes main, `_`, 8 bytes sub, and `t` for a deletion.
fn storage_key(stored: &StoredChange) -> Vec<u8> {
    let FullRevision { main, sub } = stored.at;
    let mut key = Vec::with_capacity(18);
    key.extend_from_slice(&main.0.to_be_bytes());
    key.push(b'_');
    key.extend_from_slice(&i64::from(sub).to_be_bytes());
    if stored.tombstone {
        key.push(b't');
    }
    key
}

//! HashKV by its definition: etcd's checksum over the revisions that count at one revision.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use decklog::wire::KeyValue;
use prost::Message;

use super::reads::Refused;
use super::{Event, Naive, Pin, to_pair};

impl Naive {
    pub fn hash(&self, pin: Pin, asked: i64) -> Result<u32, Refused> {
        let at = pin.resolve(asked)?;
        // The change of each key that stands at `at`.
        let kept: BTreeSet<(i64, Bytes)> =
            self.at(at).iter().map(|(key, row)| (row.modified, key.clone())).collect();
        let survivors = self.survivors(pin.compacted);
        let mut hash = crc32c::crc32c(b"key");
        for event in self.events.iter().filter(|event| event.revision <= at) {
            let id = (event.revision, event.key.clone());
            let counts = match event.revision > pin.compacted {
                true => true,
                false if event.row.is_none() && event.revision == pin.compacted => false,
                false if kept.is_empty() => survivors.contains(&id),
                false => kept.contains(&id),
            };
            if counts {
                hash = crc32c::crc32c_append(hash, &stored_key(event));
                hash = crc32c::crc32c_append(hash, &stored_value(event));
            }
        }
        Ok(hash)
    }

    /// The changes at and below a compacted revision that it leaves: the newest of each key, a deletion only if it
    /// happened exactly then.
    pub fn survivors(&self, compacted: i64) -> BTreeSet<(i64, Bytes)> {
        let mut newest = BTreeMap::new();
        for event in self.events.iter().filter(|event| event.revision <= compacted) {
            newest.insert(event.key.clone(), (event.revision, event.row.is_none()));
        }
        let left = newest.into_iter().filter(|(_, (revision, gone))| !gone || *revision == compacted);
        left.map(|(key, (revision, _))| (revision, key)).collect()
    }
}

fn stored_key(event: &Event) -> Vec<u8> {
    let mut key = event.revision.to_be_bytes().to_vec();
    key.push(b'_');
    key.extend(i64::from(event.sub).to_be_bytes());
    key.extend(event.row.is_none().then_some(b't'));
    key
}

fn stored_value(event: &Event) -> Vec<u8> {
    match &event.row {
        Some(row) => to_pair(&event.key, row).as_bytes().to_vec(),
        None => KeyValue { key: event.key.clone(), ..KeyValue::default() }.encode_to_vec(),
    }
}

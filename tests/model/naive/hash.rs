//! HashKV by its definition: etcd's checksum over the revisions that count at one revision.

use std::collections::{BTreeMap, BTreeSet};

use decklog::wire::KeyValue;
use prost::Message;

use super::reads::Refused;
use super::{Event, Naive, Pin, to_pair};

impl Naive {
    pub fn hash(&self, pin: Pin, asked: i64) -> Result<u32, Refused> {
        let begin = crc32c::crc32c(b"key");
        if asked < 0 {
            return Ok(begin);
        }
        let at = pin.resolve(asked)?;
        // The changes that stand at `at`.
        let newest = self.newest(at).into_iter();
        let kept: BTreeSet<_> = newest.filter(|event| event.row.is_some()).map(Event::id).collect();
        let survivors = self.survivors(pin.compacted);
        let counts = |event: &&Event| match event.revision > pin.compacted {
            true => true,
            false if event.row.is_none() && event.revision == pin.compacted => false,
            false if kept.is_empty() => survivors.contains(&event.id()),
            false => kept.contains(&event.id()),
        };
        let counted = self.events.iter().filter(|event| event.revision <= at).filter(counts);
        Ok(counted.fold(begin, |hash, event| {
            crc32c::crc32c_append(crc32c::crc32c_append(hash, &stored_key(event)), &stored_value(event))
        }))
    }

    /// The last change of each key at or below a revision.
    fn newest(&self, revision: i64) -> Vec<&Event> {
        let mut newest = BTreeMap::new();
        for event in self.events.iter().filter(|event| event.revision <= revision) {
            newest.insert(&event.key, event);
        }
        newest.into_values().collect()
    }

    /// The changes at and below a compacted revision that it leaves: the newest of each key, a deletion only if it
    /// happened exactly then.
    pub fn survivors(&self, compacted: i64) -> BTreeSet<(i64, u32)> {
        let newest = self.newest(compacted).into_iter();
        let left = newest.filter(|event| event.row.is_some() || event.revision == compacted);
        left.map(Event::id).collect()
    }
}

impl Event {
    /// Its place among all.
    pub fn id(&self) -> (i64, u32) {
        (self.revision, self.sub)
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

//! Answering a range: which keys, in which order, with which pairs.
//! Index work first (limit, filters, order, count), then only the pairs that go out.

use bytes::Bytes;

use super::Error;
use super::history::Version;
use super::read::{Snapshot, Source};
use crate::ids::Revision;
use crate::wire::etcdserverpb::RangeRequest;
use crate::wire::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::wire::{EncodedKeyValue, KeyValue};

/// The keys that `key` and `range_end` of a request mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyRange {
    One(Bytes),
    /// From the first key up to the second, which is not in it; without it to the end.
    Span(Bytes, Option<Bytes>),
}

impl KeyRange {
    /// etcd's rule: no `range_end` is one key, the byte 0 is no end.
    pub fn new(key: &Bytes, range_end: &Bytes) -> Self {
        match range_end.as_ref() {
            [] => Self::One(key.clone()),
            [0] => Self::Span(key.clone(), None),
            _ => Self::Span(key.clone(), Some(range_end.clone())),
        }
    }

    pub fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => one == key,
            Self::Span(from, to) => from <= key && to.as_ref().is_none_or(|to| key < to),
        }
    }
}

/// What a range found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeAnswer {
    /// The store's revision, not the one asked for.
    pub revision: Revision,
    /// Keys in the range at the revision asked for, whatever limit and filters say.
    pub count: i64,
    pub more: bool,
    pub pairs: Vec<EncodedKeyValue>,
}

type Row<'a> = (&'a [u8], Version);

impl Snapshot {
    /// # Errors
    /// `Compacted`, `FutureRevision`, a fault of the disk.
    pub fn range(&self, request: &RangeRequest) -> Result<RangeAnswer, Error> {
        self.source().range(request)
    }

    /// An upper bound of the keys that a range looks at; cheap, to choose where to run it.
    pub fn estimate(&self, request: &RangeRequest) -> u64 {
        let KeyRange::Span(from, to) = KeyRange::new(&request.key, &request.range_end) else {
            return 1;
        };
        let keys = self.view.tree.count_live(&from, to.as_deref());
        match u64::try_from(request.limit) {
            Ok(limit @ 1..) if limits_early(request) => keys.min(limit),
            _ => keys,
        }
    }

    /// The range in key order, piece by piece, at one pinned revision.
    ///
    /// # Errors
    /// `Compacted`, `FutureRevision`.
    pub fn cursor(&self, request: RangeRequest) -> Result<RangeCursor, Error> {
        let source = self.source();
        let at = source.resolve(request.revision)?;
        let range = KeyRange::new(&request.key, &request.range_end);
        let count = source.count(&range, at);
        let left = match usize::try_from(request.limit) {
            Ok(limit @ 1..) => limit.min(count),
            _ => count,
        };
        let next = request.key.clone();
        Ok(RangeCursor { snapshot: self.clone(), keys_only: request.keys_only, range, at, next, left, count })
    }
}

/// See `Snapshot::cursor`.
pub struct RangeCursor {
    snapshot: Snapshot,
    keys_only: bool,
    range: KeyRange,
    at: Revision,
    next: Bytes,
    left: usize,
    count: usize,
}

impl RangeCursor {
    /// At most `limit` further pairs, and none behind the one with which they have `max_bytes`; none at the end.
    ///
    /// # Errors
    /// `Compacted` when a compaction overtook the revision; a fault of the disk.
    pub fn next(&mut self, limit: usize, max_bytes: usize) -> Result<Vec<EncodedKeyValue>, Error> {
        let source = self.snapshot.source();
        let rest = match &self.range {
            KeyRange::One(key) => KeyRange::One(key.clone()),
            KeyRange::Span(_, to) => KeyRange::Span(self.next.clone(), to.clone()),
        };
        let rows = source.rows(&rest, self.at, limit.min(self.left));
        let (mut pairs, mut bytes) = (Vec::new(), 0);
        for row in &rows {
            if bytes >= max_bytes {
                break;
            }
            let pair = source.pairs(std::slice::from_ref(row), self.keys_only)?;
            bytes += pair.iter().map(|pair| pair.as_bytes().len()).sum::<usize>();
            pairs.extend(pair);
            self.next = [row.0, &[0][..]].concat().into();
        }
        self.left -= pairs.len();
        Ok(pairs)
    }

    pub fn is_done(&self) -> bool {
        self.left == 0
    }

    /// What the closing message says: the whole answer but its pairs.
    pub fn summary(&self, request_limit: i64) -> RangeAnswer {
        let more = usize::try_from(request_limit).is_ok_and(|limit| limit > 0 && limit < self.count);
        let count = i64::try_from(self.count).unwrap_or(i64::MAX);
        RangeAnswer { revision: self.snapshot.revision(), count, more, pairs: Vec::new() }
    }
}

impl Source<'_> {
    pub fn range(&self, request: &RangeRequest) -> Result<RangeAnswer, Error> {
        let at = self.resolve(request.revision)?;
        let range = KeyRange::new(&request.key, &request.range_end);
        let mut answer = RangeAnswer { revision: self.view.revision, ..RangeAnswer::default() };
        if request.count_only {
            answer.count = as_count(self.count(&range, at));
            return Ok(answer);
        }
        let limit = usize::try_from(request.limit).unwrap_or(0);
        let fetch = if limit > 0 && limits_early(request) { limit + 1 } else { usize::MAX };
        let mut rows = self.rows(&range, at, fetch);
        answer.count = as_count(if rows.len() < fetch { rows.len() } else { self.count(&range, at) });
        filter(&mut rows, request);
        self.sort(&mut rows, request)?;
        if limit > 0 && rows.len() > limit {
            rows.truncate(limit);
            answer.more = true;
        }
        answer.pairs = match (request.keys_only, request.sort_target()) {
            // The pairs were read for their order, and as in etcd they keep their lease.
            (true, SortTarget::Value) => self.without_values(&rows)?,
            (keys_only, _) => self.pairs(&rows, keys_only)?,
        };
        Ok(answer)
    }

    /// Keys in the range that exist at `at`.
    pub fn count(&self, range: &KeyRange, at: Revision) -> usize {
        match range {
            KeyRange::One(_) => self.rows(range, at, 1).len(),
            KeyRange::Span(from, to) if at == self.view.revision => {
                usize::try_from(self.view.tree.count_live(from, to.as_deref())).unwrap_or(usize::MAX)
            }
            KeyRange::Span(from, to) => {
                let visible = self.view.tree.range(from, to.as_deref());
                visible
                    .filter(|(_, history)| history.at(at).is_some_and(|version| !version.is_tombstone()))
                    .count()
            }
        }
    }

    /// The first `limit` keys of the range that exist at `at`, in order.
    pub fn rows<'a>(&'a self, range: &'a KeyRange, at: Revision, limit: usize) -> Vec<Row<'a>> {
        match range {
            KeyRange::One(key) => {
                let version = self.view.tree.get(key).and_then(|history| history.at(at));
                let row =
                    version.filter(|version| !version.is_tombstone()).map(|version| (&key[..], version));
                row.into_iter().take(limit).collect()
            }
            KeyRange::Span(from, to) => {
                let all = self.view.tree.range(from, to.as_deref());
                all.filter_map(|(key, history)| Some((key, history.at(at)?)))
                    .filter(|(_, version)| !version.is_tombstone())
                    .take(limit)
                    .collect()
            }
        }
    }

    fn pairs(&self, rows: &[Row<'_>], keys_only: bool) -> Result<Vec<EncodedKeyValue>, Error> {
        if keys_only {
            return Ok(rows.iter().map(|row| (&from_index(row)).into()).collect());
        }
        let wanted: Vec<_> = rows.iter().map(|(_, version)| version.modified).collect();
        self.encoded(&wanted)
    }

    fn without_values(&self, rows: &[Row<'_>]) -> Result<Vec<EncodedKeyValue>, Error> {
        rows.iter()
            .map(|(_, version)| {
                let pair = self.key_value(*version)?;
                Ok((&KeyValue { value: Bytes::new(), ..pair }).into())
            })
            .collect()
    }

    /// Orders by the request's target; keys of equal rank stay in key order.
    fn sort(&self, rows: &mut Vec<Row<'_>>, request: &RangeRequest) -> Result<(), Error> {
        let target = request.sort_target();
        let order = match request.sort_order() {
            SortOrder::None if target == SortTarget::Key => return Ok(()),
            SortOrder::None => SortOrder::Ascend,
            order => order,
        };
        let descend = order == SortOrder::Descend;
        match target {
            SortTarget::Key if descend => rows.reverse(),
            SortTarget::Key => {}
            SortTarget::Version => sort_by(rows, descend, |row| row.1.version),
            SortTarget::Create => sort_by(rows, descend, |row| row.1.created),
            SortTarget::Mod => sort_by(rows, descend, |row| row.1.modified.main),
            SortTarget::Value => {
                let mut with_values = Vec::with_capacity(rows.len());
                for row in rows.drain(..) {
                    with_values.push((self.value(row.1)?, row));
                }
                sort_by(&mut with_values, descend, |(value, _)| value.clone());
                rows.extend(with_values.into_iter().map(|(_, row)| row));
            }
        }
        Ok(())
    }

    /// Every key of the range that exists now, decoded; without `values` only what the index knows.
    pub fn key_values(&self, range: &KeyRange, values: bool) -> Result<Vec<KeyValue>, Error> {
        let rows = self.rows(range, self.view.revision, usize::MAX);
        if !values {
            return Ok(rows.iter().map(from_index).collect());
        }
        rows.iter().map(|(_, version)| self.key_value(*version)).collect()
    }

    fn value(&self, version: Version) -> Result<Bytes, Error> {
        Ok(self.key_value(version)?.value)
    }

    pub fn key_value(&self, version: Version) -> Result<KeyValue, Error> {
        let at = version.modified;
        prost::Message::decode(self.pair(at)?).map_err(|source| Error::DamagedPair { at, source })
    }
}

/// Whether nothing after the index walk can change which keys go out.
fn limits_early(request: &RangeRequest) -> bool {
    request.sort_order() == SortOrder::None && !filters(request)
}

fn filters(request: &RangeRequest) -> bool {
    request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

fn filter(rows: &mut Vec<Row<'_>>, request: &RangeRequest) {
    if !filters(request) {
        return;
    }
    let within = |value: i64, min: i64, max: i64| (min == 0 || value >= min) && (max == 0 || value <= max);
    rows.retain(|(_, version)| {
        within(version.modified.main.0, request.min_mod_revision, request.max_mod_revision)
            && within(version.created.0, request.min_create_revision, request.max_create_revision)
    });
}

fn sort_by<T, K: Ord>(rows: &mut [T], descend: bool, rank: impl Fn(&T) -> K) {
    rows.sort_by(|left, right| {
        let order = rank(left).cmp(&rank(right));
        if descend { order.reverse() } else { order }
    });
}

/// The pair of a key without value and lease: what the index knows.
fn from_index((key, version): &Row<'_>) -> KeyValue {
    KeyValue {
        key: Bytes::copy_from_slice(key),
        create_revision: version.created.0,
        mod_revision: version.modified.main.0,
        version: version.version,
        ..KeyValue::default()
    }
}

fn as_count(keys: usize) -> i64 {
    i64::try_from(keys).unwrap_or(i64::MAX)
}

//! Reading a whole map: filter, sort, limit.

use bytes::Bytes;
use decklog::ids::Revision;
use decklog::mvcc::RangeAnswer;
use decklog::wire::etcdserverpb as pb;
use decklog::wire::etcdserverpb::range_request::{SortOrder, SortTarget};

use super::{Event, Map, Naive, Row, is_in, to_pair};

/// The moment that a reader looks from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pin {
    pub revision: i64,
    pub compacted: i64,
}

/// Why nothing is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Compacted,
    Future,
}

impl Pin {
    /// The revision that a request means.
    pub fn resolve(&self, asked: i64) -> Result<i64, Refused> {
        if asked <= 0 {
            return Ok(self.revision);
        }
        if asked > self.revision {
            return Err(Refused::Future);
        }
        if asked < self.compacted { Err(Refused::Compacted) } else { Ok(asked) }
    }
}

impl Naive {
    pub fn range(&self, pin: Pin, request: &pb::RangeRequest) -> Result<RangeAnswer, Refused> {
        let at = pin.resolve(request.revision)?;
        Ok(RangeAnswer { revision: Revision(pin.revision), ..range_in(self.at(at), request) })
    }

    /// The events of whole revisions in a span, as far as a compaction leaves them.
    pub fn events_in(&self, pin: Pin, from: i64, through: i64) -> Result<Vec<&Event>, Refused> {
        if from < pin.compacted {
            return Err(Refused::Compacted);
        }
        let through = through.min(pin.revision);
        Ok(self.events.iter().filter(|event| event.revision >= from && event.revision <= through).collect())
    }
}

/// What a range finds in one map.
pub fn range_in(map: &Map, request: &pb::RangeRequest) -> RangeAnswer {
    let mut rows: Vec<(&Bytes, &Row)> =
        map.iter().filter(|(key, _)| is_in(key, &request.key, &request.range_end)).collect();
    let count = i64::try_from(rows.len()).expect("few");
    let mut answer = RangeAnswer { count, ..RangeAnswer::default() };
    if request.count_only {
        return answer;
    }
    let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
    let filters = [
        request.min_mod_revision,
        request.max_mod_revision,
        request.min_create_revision,
        request.max_create_revision,
    ];
    if request.sort_order() == SortOrder::None && filters == [0; 4] {
        // The sort of a target without an order sees only this much.
        rows.truncate(limit.map_or(usize::MAX, |limit| limit + 1));
    }
    rows.retain(|(_, row)| {
        let within =
            |found: i64, min: i64, max: i64| (min == 0 || found >= min) && (max == 0 || found <= max);
        within(row.modified, filters[0], filters[1]) && within(row.created, filters[2], filters[3])
    });
    let target = request.sort_target();
    rows.sort_by(|(left_key, left), (right_key, right)| {
        let order = match target {
            SortTarget::Key => left_key.cmp(right_key),
            SortTarget::Version => left.version.cmp(&right.version),
            SortTarget::Create => left.created.cmp(&right.created),
            SortTarget::Mod => left.modified.cmp(&right.modified),
            SortTarget::Value => left.value.cmp(&right.value),
        };
        if request.sort_order() == SortOrder::Descend { order.reverse() } else { order }
    });
    if let Some(limit) = limit.filter(|limit| rows.len() > *limit) {
        rows.truncate(limit);
        answer.more = true;
    }
    let shown = rows.into_iter().map(|(key, row)| {
        if !request.keys_only {
            return to_pair(key, row);
        }
        // Read for its value, a pair keeps its lease; otherwise the index alone is asked.
        let lease = if target == SortTarget::Value { row.lease } else { 0 };
        to_pair(key, &Row { value: Bytes::new(), lease, ..row.clone() })
    });
    answer.pairs = shown.collect();
    answer
}

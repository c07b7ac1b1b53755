//! Which watchers a key concerns: exact keys by hash, ranges by an interval tree over the distinct ranges.
//! Owns the mapping from keys to watchers; never visits all of them.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use super::watcher::WatcherId;
use crate::mvcc::KeyRange;

type Span = (Bytes, Option<Bytes>);

#[derive(Default)]
pub(super) struct Index {
    keys: HashMap<Bytes, Vec<WatcherId>>,
    spans: BTreeMap<Span, Vec<WatcherId>>,
    /// Built when next needed after the set of distinct ranges has changed.
    tree: Option<IntervalTree>,
}

impl Index {
    pub fn insert(&mut self, range: &KeyRange, watcher: WatcherId) {
        match range {
            KeyRange::One(key) => self.keys.entry(key.clone()).or_default().push(watcher),
            KeyRange::Span(from, to) => {
                let watchers = self.spans.entry((from.clone(), to.clone())).or_default();
                if watchers.is_empty() {
                    self.tree = None;
                }
                watchers.push(watcher);
            }
        }
    }

    pub fn remove(&mut self, range: &KeyRange, watcher: WatcherId) {
        match range {
            KeyRange::One(key) => {
                if let Some(watchers) = self.keys.get_mut(key) {
                    watchers.retain(|other| *other != watcher);
                    if watchers.is_empty() {
                        self.keys.remove(key);
                    }
                }
            }
            KeyRange::Span(from, to) => {
                let span = (from.clone(), to.clone());
                if let Some(watchers) = self.spans.get_mut(&span) {
                    watchers.retain(|other| *other != watcher);
                    if watchers.is_empty() {
                        self.spans.remove(&span);
                        self.tree = None;
                    }
                }
            }
        }
    }

    /// Visits every watcher whose range holds `key`.
    pub fn matching(&mut self, key: &[u8], mut visit: impl FnMut(WatcherId)) {
        for watcher in self.keys.get(key).into_iter().flatten() {
            visit(*watcher);
        }
        if self.spans.is_empty() {
            return;
        }
        let tree = self.tree.get_or_insert_with(|| IntervalTree::new(self.spans.keys().cloned().collect()));
        let spans = &self.spans;
        tree.containing(key, &mut |span| {
            for watcher in spans.get(span).into_iter().flatten() {
                visit(*watcher);
            }
        });
    }
}

/// Sorted spans as an implicit balanced tree: the middle of a run is its root. Each root knows the largest end
/// of its run.
struct IntervalTree {
    spans: Vec<Span>,
    max_ends: Vec<Option<Bytes>>,
}

impl IntervalTree {
    fn new(spans: Vec<Span>) -> Self {
        let mut tree = Self { max_ends: vec![Some(Bytes::new()); spans.len()], spans };
        tree.fill(0, tree.spans.len());
        tree
    }

    /// Sets the largest end of each run in `low..high` and returns that of the whole run.
    fn fill(&mut self, low: usize, high: usize) -> Option<Bytes> {
        if low == high {
            return Some(Bytes::new());
        }
        let middle = low.midpoint(high);
        let left = self.fill(low, middle);
        let right = self.fill(middle + 1, high);
        let max = larger(larger(left, right), self.spans[middle].1.clone());
        self.max_ends[middle].clone_from(&max);
        max
    }

    fn containing(&self, key: &[u8], visit: &mut dyn FnMut(&Span)) {
        self.search(0, self.spans.len(), key, visit);
    }

    fn search(&self, low: usize, high: usize, key: &[u8], visit: &mut dyn FnMut(&Span)) {
        if low == high {
            return;
        }
        let middle = low.midpoint(high);
        if !is_before(key, self.max_ends[middle].as_ref()) {
            return;
        }
        self.search(low, middle, key, visit);
        let span = &self.spans[middle];
        if span.0.as_ref() <= key {
            if is_before(key, span.1.as_ref()) {
                visit(span);
            }
            self.search(middle + 1, high, key, visit);
        }
    }
}

/// The larger of two ends; no end is the largest.
fn larger(left: Option<Bytes>, right: Option<Bytes>) -> Option<Bytes> {
    match (left, right) {
        (Some(left), Some(right)) => Some(left.max(right)),
        _ => None,
    }
}

fn is_before(key: &[u8], end: Option<&Bytes>) -> bool {
    end.is_none_or(|end| key < end.as_ref())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn contains(range: &KeyRange, key: &[u8]) -> bool {
        match range {
            KeyRange::One(one) => one == key,
            KeyRange::Span(from, to) => from.as_ref() <= key && is_before(key, to.as_ref()),
        }
    }

    fn ranges() -> impl Strategy<Value = Vec<(Vec<u8>, Vec<u8>)>> {
        let bytes = || proptest::collection::vec(0u8..4, 0..3);
        proptest::collection::vec((bytes(), bytes()), 0..40)
    }

    proptest! {
        #[test]
        fn finds_what_a_scan_of_all_finds(ranges in ranges(), removed in 0usize..40, key in proptest::collection::vec(0u8..4, 0..3)) {
            let mut index = Index::default();
            let all: Vec<_> = ranges
                .iter()
                .map(|(from, to)| KeyRange::new(&from.clone().into(), &to.clone().into()))
                .enumerate()
                .map(|(number, range)| (WatcherId(number), range))
                .collect();
            for (watcher, range) in &all {
                index.insert(range, *watcher);
            }
            index.matching(&key, |_| {});
            for (watcher, range) in all.iter().take(removed) {
                index.remove(range, *watcher);
            }
            let mut found = Vec::new();
            index.matching(&key, |watcher| found.push(watcher));
            found.sort();
            let expected: Vec<_> = all.iter().skip(removed).filter(|(_, range)| contains(range, &key)).map(|(watcher, _)| *watcher).collect();
            prop_assert_eq!(found, expected);
        }
    }
}

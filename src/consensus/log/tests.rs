//! The log as raft's storage, against raft's own storage in memory, which is plain: appends that replace what conflicts,
//! cuts, and every question that raft asks (raft-rs #428 was a storage that appended behind a conflict).

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;
use raft::Storage;
use raft::storage::MemStorage;

use super::*;
use crate::ids::{ClusterId, MemberId};
use crate::metrics::Metrics;
use crate::storage::disk::{Disk, MemoryDisk};
use crate::storage::wal::{Owner, WalOptions};

#[derive(Clone, Debug)]
enum Step {
    /// Entries from so far back, of a term so much newer.
    Append {
        back: u64,
        count: u64,
        newer: u64,
    },
    Cut(u8),
    Ask {
        low: u8,
        high: u8,
        bytes: u64,
    },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0u64..4, 1u64..5, 0u64..3).prop_map(|(back, count, newer)| Step::Append { back, count, newer }),
        1 => any::<u8>().prop_map(Step::Cut),
        3 => (any::<u8>(), any::<u8>(), 0u64..300).prop_map(|(low, high, bytes)| Step::Ask { low, high, bytes }),
        1 => Just(Step::Restart),
    ]
}

fn open(disk: &MemoryDisk, applied: LogPosition) -> RaftLog {
    let metrics = Metrics::new(false);
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let owner = Owner { member: MemberId(1), cluster: ClusterId(2) };
    let (mut wal, mut content) = Wal::open(disk, owner, WalOptions { segment_bytes: 512 }).expect("opened");
    if content.hard_state.term == 0 {
        RaftLog::bootstrap(&mut wal).expect("begun");
        content.hard_state.term = BEGINNING.term.0;
    }
    RaftLog::new(wal, content, applied, &Membership::default(), metrics.log_timers()).expect("it fits")
}

fn place(part: u8, first: u64, last: u64) -> u64 {
    first + (last - first) * u64::from(part) / 255
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]
    #[test]
    fn it_answers_as_the_plain_one(steps in proptest::collection::vec(step(), 1..60)) {
        let disk = MemoryDisk::default();
        let (mut log, plain) = (open(&disk, BEGINNING), MemStorage::new());
        plain.wl().apply_snapshot(snapshot_of(BEGINNING, &Membership::default())).expect("taken");
        let mut term = 1;
        let mut terms = BTreeMap::from([(BEGINNING.index.0, BEGINNING.term.0)]);
        // A start brings back what was cut from memory and still stands on the disk, until the next cut.
        let mut brings_back = false;
        for step in steps {
            let (first, last) = (plain.first_index().expect("known"), plain.last_index().expect("known"));
            match step {
                Step::Append { back, count, newer } => {
                    term += newer;
                    // What is committed is never replaced; the first in memory stands for that here.
                    let from = (last + 1).saturating_sub(back).max(if first <= last { first + 1 } else { first });
                    let entry = |index| Entry { index, term, data: vec![7; 30].into(), ..Entry::default() };
                    let entries: Vec<_> = (from..from + count).map(entry).collect();
                    terms.retain(|index, _| *index < from);
                    terms.extend(entries.iter().map(|entry| (entry.index, entry.term)));
                    plain.wl().append(&entries).expect("taken");
                    let hard_state = HardState { term, vote: 1, commit: 0, ..HardState::default() };
                    log.append(Some(&hard_state), &entries).expect("written");
                    log.flush().expect("flushed");
                }
                Step::Cut(part) if first < last => {
                    let through = place(part, first, last - 1);
                    plain.wl().compact(through + 1).expect("taken");
                    log.cut(LogIndex(through)).expect("cut");
                    brings_back = false;
                }
                Step::Ask { low, high, bytes } if first <= last => {
                    let low = place(low, first, last);
                    let high = place(high, low, last + 1).max(low);
                    let context = || GetEntriesContext::empty(false);
                    let expected = plain.entries(low, high, bytes, context());
                    prop_assert_eq!(log.entries(low, high, bytes, context()), expected);
                }
                Step::Restart => {
                    let applied = log.base;
                    drop(log);
                    log = open(&disk, applied);
                    brings_back = true;
                }
                Step::Cut(_) | Step::Ask { .. } => {}
            }
            prop_assert_eq!(log.last_index(), plain.last_index());
            let own_first = log.first_index().expect("known");
            if !brings_back {
                prop_assert_eq!(Ok(own_first), plain.first_index());
            }
            for (index, term) in terms.range(own_first - 1..) {
                prop_assert_eq!(log.term(*index), Ok(*term));
            }
            let (first, last) = (plain.first_index().expect("known"), plain.last_index().expect("known"));
            for index in first..=last + 1 {
                prop_assert_eq!(log.term(index), plain.term(index));
            }
        }
    }
}

#[test]
fn a_log_with_another_entry_where_the_store_ends_does_not_fit() {
    let applied = |index, term| LogPosition { index: LogIndex(index), term: Term(term) };
    let entry = |(index, term)| WalEntry { index, term, kind: 0, data: Vec::new().into() };
    let entries = [(4, 2), (5, 2), (6, 3), (7, 3)].map(entry).to_vec();
    let hard_state = wal::HardState { term: 3, vote: 1, commit: 7 };
    let content = WalContent { hard_state, entries, ..WalContent::default() };
    for (index, right) in [(4, 2), (5, 2), (6, 3), (7, 3)] {
        for term in 1..=4 {
            let fits = check_fit(&content, applied(index, term));
            assert_eq!(fits.is_ok(), term == right, "entry {index} of term {term}: {fits:?}");
        }
    }
    // The entry itself is cut away: nothing is known of its term.
    assert!(check_fit(&content, applied(3, 1)).is_ok());
}

/// A state that was in its place before the log durably counted on it: found by a crash, by users of raft and by us.
#[test]
fn the_mark_of_a_received_state_is_durable_at_once() {
    let position = LogPosition { index: LogIndex(50), term: Term(3) };
    for seed in 0..20 {
        let disk = MemoryDisk::default();
        open(&disk, BEGINNING).begin_after(position, &Membership::default()).expect("written");
        disk.crash(seed);
        let owner = Owner { member: MemberId(1), cluster: ClusterId(2) };
        let opened = Wal::open(Arc::new(disk), owner, WalOptions { segment_bytes: 512 });
        assert_eq!(opened.expect("opened").1.begins_after, Some(position), "seed {seed}");
    }
}

//! Which state a log needs below it, and how it goes on behind the one that came.

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::ids::ClusterId;
use crate::storage::disk::MemoryDisk;
use crate::storage::wal::{Owner, WalOptions};
use crate::wire::etcdserverpb::Member;

fn open(disk: &MemoryDisk) -> (Wal, WalContent) {
    let owner = Owner { member: MemberId(1), cluster: ClusterId(2) };
    Wal::open(Arc::new(disk.clone()), owner, WalOptions { segment_bytes: 4096 }).expect("it opens")
}

fn at(index: u64, term: u64) -> LogPosition {
    LogPosition { index: LogIndex(index), term: Term(term) }
}

/// Entries 10 to 14 of term 3 behind entry 9, of which 12 are known to be committed; it has voted in term 5.
fn log(begin: Option<LogPosition>) -> (MemoryDisk, Wal, WalContent) {
    let disk = MemoryDisk::default();
    let (mut wal, _) = open(&disk);
    let hard_state = HardState { term: 5, vote: 7, commit: 12 };
    if let Some(begin) = begin {
        wal.begin_after(hard_state, begin).expect("written");
    }
    let entry = |index| WalEntry { index, term: 3, kind: 0, data: Bytes::from_static(b"data") };
    wal.append(Some(hard_state), &(10..15).map(entry).collect::<Vec<_>>()).expect("written");
    wal.close().expect("closed");
    let (wal, content) = open(&disk);
    (disk, wal, content)
}

#[test]
fn a_log_needs_the_state_before_its_first_entry() {
    let needed =
        |content: &WalContent| needed_state(content).map(|needed| (needed.at_least.0, needed.confirmed));
    assert_eq!(needed(&log(None).2), Some((9, false)));
    let mut content = WalContent::default();
    assert_eq!(needed(&content), None, "it has not begun");
    content.hard_state = HardState { term: 4, vote: 2, commit: 1 };
    assert_eq!(needed(&content), None, "it has voted and taken nothing");
    content.begins_after = Some(at(20, 3));
    assert_eq!(needed(&content), Some((20, false)));
    // Segments were cut, and the last has nothing but its head.
    (content.begins_after, content.hard_state.commit) = (None, 30);
    assert_eq!(needed(&content), Some((30, true)));
    assert!(!content.begins_at_the_beginning());
}

/// What it has acknowledged behind the state stays, and so does its vote.
#[test]
fn entries_behind_the_state_stay() {
    for state in [at(9, 2), at(10, 3), at(12, 3), at(14, 3)] {
        let (disk, mut wal, mut content) = log(None);
        let before = content.clone();
        go_on_after(&mut wal, &mut content, state, || panic!("the log decides nothing")).expect("it fits");
        assert_eq!(content, before);
        drop(wal);
        assert_eq!(open(&disk).1.entries, before.entries);
    }
}

#[test]
fn a_log_that_does_not_reach_the_state_begins_after_it() {
    // Beyond its end, and in the place of entries that were never committed.
    for (state, vote) in [(at(15, 4), 7), (at(40, 6), 0), (at(13, 4), 7)] {
        let (disk, mut wal, mut content) = log(None);
        let mut decided = false;
        go_on_after(&mut wal, &mut content, state, || decided = true).expect("it fits");
        assert!(decided);
        let kept = HardState { term: state.term.0.max(5), vote, commit: state.index.0 };
        let expected = (kept, Some(state), Vec::new());
        assert_eq!((content.hard_state, content.begins_after, content.entries), expected);
        drop(wal);
        let again = open(&disk).1;
        assert_eq!(needed_state(&again).map(|needed| needed.at_least), Some(state.index));
        assert_eq!((again.hard_state, again.begins_after, again.entries), expected);
    }
}

/// Of the same ids, but of another course: a copy that went on by itself.
#[test]
fn a_state_against_what_is_committed_is_refused() {
    for (begin, state) in [(None, at(11, 4)), (Some(at(9, 3)), at(9, 2))] {
        let (disk, mut wal, mut content) = log(begin);
        let before = content.clone();
        let refused = go_on_after(&mut wal, &mut content, state, || panic!("the log decides nothing"));
        assert!(matches!(refused, Err(Error::Damaged { .. })), "{refused:?}");
        drop(wal);
        assert_eq!(open(&disk).1.entries, before.entries);
    }
}

fn member(id: u64, is_learner: bool) -> Member {
    let peer_ur_ls = vec![format!("http://127.0.0.1:{id}")];
    Member { id, peer_ur_ls, is_learner, ..Member::default() }
}

/// Everything in the log counts, the changes in it too; what drops the others is one record, of a term of its own.
#[test]
fn a_member_that_stands_alone_keeps_its_log() {
    for (is_learner, expected) in [(false, 2), (true, 3)] {
        let (disk, mut wal, mut content) = log(None);
        let added = MemberChange { kind: Some(Change::Add(member(4, true))), ..MemberChange::default() };
        let data = batch_of(MemberId(2), added);
        content.entries[4] = WalEntry { kind: CHANGE, data, ..content.entries[4].clone() };
        let members = Membership::new(vec![member(1, is_learner), member(2, false)]);
        let before = content.clone();
        stand_alone(&mut wal, &mut content, at(11, 3), members.clone(), MemberId(1)).expect("written");
        let last = 14 + expected;
        assert_eq!(content.hard_state, HardState { term: 6, vote: 1, commit: last });
        drop(wal);
        let (mut wal, again) = open(&disk);
        assert_eq!((again.hard_state, again.entries.len()), (content.hard_state, content.entries.len()));
        assert_eq!(again.entries[..4], before.entries[..4]);
        assert!(again.entries[5..].iter().all(|entry| (entry.term, entry.kind) == (6, CHANGE)));
        // Every start finds them dropped, as long as the store does not say so.
        let removed =
            |applied, members| removed_in(&content, LogIndex(applied), members).expect("they are ours");
        assert_eq!(removed(11, &members), BTreeSet::from([MemberId(2), MemberId(4)]));
        assert_eq!(removed_in(&before, LogIndex(11), &members).expect("it is ours"), BTreeSet::new());
        let mut after = members.clone();
        for change in changes_in(&content, LogIndex(11)).expect("they are ours") {
            after.apply(&change).expect("allowed");
        }
        assert_eq!((after.voters(), after.learners()), (vec![1], vec![]));
        assert!(after.is_removed(MemberId(2)) && after.is_removed(MemberId(4)));
        assert_eq!(removed(last, &after), BTreeSet::new());
        // Once more changes nothing.
        let written = content.clone();
        stand_alone(&mut wal, &mut content, at(last, 6), after, MemberId(1)).expect("nothing to do");
        assert_eq!(content, written);
    }
}

#[test]
fn nobody_stands_alone_who_is_no_member() {
    let (_disk, mut wal, mut content) = log(None);
    let members = Membership::new(vec![member(2, false)]);
    let refused = stand_alone(&mut wal, &mut content, at(11, 3), members, MemberId(1));
    assert!(matches!(refused, Err(super::super::Error::NotAMember(MemberId(1)))));
}

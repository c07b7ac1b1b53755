//! Mistakes that were made elsewhere, each as a short script, by the name of what was wrong. The numbers are etcd's
//! issues and releases. What the models or the simulation cover in full stands there; these are for the reader.

use bytes::Bytes;
use decklog::command::{Command, Kind, Outcome, Rejection};
use decklog::ids::{LeaseId, Revision};
use decklog::storage::{Round, Store, StoredChange, Table};
use decklog::wire::etcdserverpb as pb;
use decklog::wire::etcdserverpb::request_op::Request;

use crate::rig::{Place, Rig};

pub fn put(key: &'static str) -> Kind {
    Kind::Put(pb::PutRequest { key: key.into(), value: "v".into(), ..Default::default() })
}

pub fn delete(key: &'static str) -> Kind {
    Kind::DeleteRange(pb::DeleteRangeRequest { key: key.into(), ..Default::default() })
}

pub fn compact(revision: i64) -> Kind {
    Kind::Compact(pb::CompactionRequest { revision, physical: false })
}

fn applied(rig: &mut Rig, command: Kind) -> Outcome {
    rig.apply(vec![command]).remove(0).expect("it is not refused")
}

/// Key and whether it was put, for each change from a revision on.
fn changes(rig: &Rig, from: i64) -> Vec<(i64, Bytes, bool)> {
    let mut changes = Vec::new();
    let visit = &mut |change: decklog::mvcc::Change| {
        changes.push((change.at.main.0, change.key, change.kind == decklog::mvcc::ChangeKind::Put));
        std::ops::ControlFlow::Continue(())
    };
    let reader = rig.reader();
    reader.snapshot().changes(Revision(from), reader.revision(), visit).expect("read");
    changes
}

/// 13766: the applied index was stored apart from the data, and a crash between them applied half an entry again.
#[test]
fn the_applied_index_is_stored_with_its_data() {
    let store = decklog::storage::MemoryStore::new();
    let revision = |store: &decklog::storage::MemoryStore| {
        let rows = store.table(Table::Meta).expect("read");
        rows.first().map_or(0, |(_, value)| value[0])
    };
    for crash in 0..6 {
        for index in 1..4_u8 {
            let round = Round {
                applied: decklog::ids::LogPosition {
                    index: decklog::ids::LogIndex(index.into()),
                    term: decklog::ids::Term(1),
                },
                changes: vec![StoredChange {
                    at: decklog::ids::FullRevision::new(i64::from(index) + 1, 0),
                    tombstone: false,
                    pair: Bytes::new(),
                }],
                tables: vec![decklog::storage::TableWrite {
                    table: Table::Meta,
                    key: "revision".into(),
                    value: Some(vec![index].into()),
                }],
            };
            store.write(&round).expect("written");
        }
        store.crash(crash);
        assert_eq!(u64::from(revision(&store)), store.applied().index.0);
    }
}

/// After a restart the log is read again from where the state stands; an entry before that does nothing.
#[test]
fn an_entry_that_the_state_contains_is_not_applied_again() {
    let mut rig = Rig::new(Place::memory());
    applied(&mut rig, put("a"));
    applied(&mut rig, put("a"));
    rig.publish();
    rig.persist(usize::MAX);
    assert_eq!(rig.restart(), 2);
    rig.replay(0);
    assert_eq!(rig.reader().revision(), Revision(3));
}

/// 14685: what ended a defragmentation committed data without the index. Stopped halfway, and again when through.
#[test]
fn a_defragmentation_that_is_cut_off_leaves_data_and_index_together() {
    let mut rig = Rig::new(Place::sled());
    for _ in 0..400 {
        applied(&mut rig, put("a"));
        rig.publish();
    }
    rig.persist(usize::MAX);
    rig.defragment();
    applied(&mut rig, put("b"));
    rig.publish();
    rig.persist(usize::MAX);
    let applied_before = rig.restart();
    assert_eq!((applied_before, rig.reader().revision()), (401, Revision(402)));
    for _ in 0..20 {
        rig.defragment();
    }
    assert_eq!((rig.restart(), rig.reader().revision()), (401, Revision(402)));
}

/// 17780: everything was compacted away, the process stopped in the middle, and the revision began lower.
#[test]
fn a_compaction_cut_off_anywhere_never_lowers_the_revision() {
    for slices in 0..8 {
        let mut rig = Rig::new(Place::memory());
        for key in ["a", "b", "c"] {
            applied(&mut rig, put(key));
        }
        for key in ["a", "b", "c"] {
            applied(&mut rig, delete(key));
        }
        applied(&mut rig, compact(7));
        rig.publish();
        rig.persist(usize::MAX);
        for _ in 0..slices {
            rig.compact(1);
        }
        let known = rig.restart();
        assert_eq!((rig.reader().revision(), rig.reader().compacted()), (Revision(7), Revision(7)));
        rig.replay(known);
        let Outcome::Put(answer) = applied(&mut rig, put("d")) else { panic!("a put") };
        assert_eq!(answer.header.expect("each has one").revision, 8, "after {slices} slices");
    }
}

/// 18089 and 19179: the deletion that happened exactly at the compacted revision was lost to a watch opened there.
#[test]
fn a_deletion_at_the_compacted_revision_is_still_told() {
    let mut rig = Rig::new(Place::memory());
    for command in [put("a"), put("b"), delete("a"), put("c"), compact(4)] {
        applied(&mut rig, command);
    }
    rig.publish();
    let expected = [(4, Bytes::from_static(b"a"), false), (5, Bytes::from_static(b"c"), true)];
    assert_eq!(changes(&rig, 4), expected);
    rig.settle();
    assert_eq!(changes(&rig, 4), expected);
    rig.restart();
    assert_eq!(changes(&rig, 4), expected);
    assert!(rig.reader().snapshot().hash_kv(3).is_err());
}

/// 18667: a transaction that read a compacted revision failed on one member and not on another, by how far the
/// compaction had come there.
#[test]
fn a_transaction_on_a_compacted_revision_fails_however_far_the_compaction_is() {
    let read_old = || {
        let range = pb::RangeRequest { key: "a".into(), revision: 3, ..Default::default() };
        let op = |request| pb::RequestOp { request: Some(request) };
        let put = pb::PutRequest { key: "x".into(), ..Default::default() };
        let success = vec![op(Request::RequestPut(put)), op(Request::RequestRange(range))];
        Kind::Txn(pb::TxnRequest { success, ..Default::default() })
    };
    let mut rig = Rig::new(Place::memory());
    for command in [put("a"), put("a"), put("a"), compact(4)] {
        applied(&mut rig, command);
    }
    let refused = vec![Err(Rejection::Compacted)];
    assert_eq!(rig.apply(vec![read_old()]), refused, "before it is published");
    rig.publish();
    assert_eq!(rig.apply(vec![read_old()]), refused, "before anything is removed");
    rig.settle();
    assert_eq!(rig.apply(vec![read_old()]), refused, "after everything is removed");
    let known = rig.restart();
    assert_eq!(rig.reader().compacted(), Revision(4));
    rig.replay(known);
    assert_eq!(rig.apply(vec![read_old()]), refused, "after a restart");
    assert_eq!(rig.reader().revision(), Revision(4), "nothing of them was written");
}

/// 3.5.23: a lease was renewed after it was revoked.
#[test]
fn a_revoked_lease_is_not_renewed() {
    let mut rig = Rig::new(Place::memory());
    let now = std::time::Instant::now();
    applied(&mut rig, Kind::LeaseGrant(pb::LeaseGrantRequest { id: 7, ttl: 60 }));
    assert!(rig.leases().renew(LeaseId(7), now).is_some());
    applied(&mut rig, Kind::LeaseRevoke(pb::LeaseRevokeRequest { id: 7 }));
    assert!(rig.leases().renew(LeaseId(7), now).is_none());
    assert!(rig.leases().list(now).is_empty());
}

/// 15247: a leader that was, and did not know it, revoked leases that the next one had renewed.
#[test]
fn what_the_leader_of_another_term_ordered_does_nothing() {
    let mut rig = Rig::new(Place::memory());
    applied(&mut rig, Kind::LeaseGrant(pb::LeaseGrantRequest { id: 7, ttl: 60 }));
    let revoke = Kind::LeaseRevoke(pb::LeaseRevokeRequest { id: 7 });
    let in_term = |term| vec![Command { kind: Some(revoke.clone()), only_in_term: term }];
    assert_eq!(rig.apply_commands(in_term(2)), [Err(Rejection::OtherTerm)]);
    assert!(rig.leases().exists(LeaseId(7)));
    assert!(rig.apply_commands(in_term(1))[0].is_ok());
    assert!(!rig.leases().exists(LeaseId(7)));
}

/// 9496: with each change of the leader, and each restart, a lease got all its time again.
#[test]
fn a_checkpoint_survives_the_restart() {
    let mut rig = Rig::new(Place::sled());
    applied(&mut rig, Kind::LeaseGrant(pb::LeaseGrantRequest { id: 7, ttl: 1000 }));
    let checkpoints = vec![pb::LeaseCheckpoint { id: 7, remaining_ttl: 30 }];
    applied(&mut rig, Kind::LeaseCheckpoint(pb::LeaseCheckpointRequest { checkpoints }));
    rig.publish();
    rig.persist(usize::MAX);
    rig.restart();
    let found = rig.leases().time_to_live(LeaseId(7), false, std::time::Instant::now());
    assert_eq!(found.map(|found| (found.remaining, found.granted)), Some((30, 1000)));
}

/// One of ours: a range of one key, read in pieces, gave the key again after its end.
#[test]
fn a_stream_of_one_key_ends() {
    let mut rig = Rig::new(Place::memory());
    applied(&mut rig, put("a"));
    rig.publish();
    let request = pb::RangeRequest { key: "a".into(), ..Default::default() };
    let mut cursor = rig.reader().snapshot().cursor(request).expect("it can be read");
    assert_eq!(cursor.next(0, usize::MAX).expect("read").len(), 0);
    assert_eq!(cursor.next(9, usize::MAX).expect("read").len(), 1);
    assert_eq!(cursor.next(9, usize::MAX).expect("read").len(), 0);
}

/// One of ours: a compaction that came while a checksum was made gave one that no content has.
#[test]
fn a_checksum_is_not_torn_by_a_compaction() {
    let mut rig = Rig::new(Place::memory());
    for command in [put("a"), put("a"), put("a")] {
        applied(&mut rig, command);
    }
    rig.publish();
    let pinned = rig.reader().snapshot();
    applied(&mut rig, compact(4));
    rig.publish();
    rig.settle();
    assert!(pinned.hash_kv(0).is_err(), "what it would count is gone");
    assert_eq!(rig.reader().hash_kv(0).expect("hashed").compacted, Revision(4));
}

//! Mistakes that were made elsewhere, by the name of what was wrong. The numbers are issues of etcd and TiKV.

use decklog::command::Kind;
use decklog::consensus::ConsensusError;
use decklog::ids::Revision;
use decklog::storage::disk::Fault;
use decklog::wire::etcdserverpb as pb;

use crate::cluster::machine::ELECTION_TICKS;
use crate::cluster::script::Script;
use crate::member::{Disks, Member};

fn put() -> Kind {
    Kind::Put(pb::PutRequest { key: "a".into(), ..Default::default() })
}

/// etcd 14370, TiKV 994: a write was answered, and could be read, before the log was flushed.
#[test]
fn nothing_is_answered_or_seen_before_its_flush() {
    let (mut failed, mut done) = (0, 0);
    for call in 0..6 {
        for fault in [Fault::Io, Fault::Stop] {
            let disks = Disks::default();
            let mut member = Member::start(&disks).expect("a new member");
            disks.log.fail_at(call, fault);
            member.propose(&[put()]);
            let settled = member.settle();
            match disks.log.failed_call() {
                None => {
                    assert_eq!(settled.expect("nothing failed").len(), 1);
                    done += 1;
                }
                Some(_) => {
                    assert!(settled.is_err());
                    assert!(member.take_answers().is_empty(), "answered at call {call}");
                    assert_eq!(member.reader.revision(), Revision(1), "seen at call {call}");
                    failed += 1;
                }
            }
        }
    }
    // One write and one flush, and then nothing more.
    assert_eq!((failed, done), (4, 8));
}

/// The log is cut below what the store has flushed: never below what it only meant to flush.
#[test]
fn a_store_whose_flush_failed_does_not_say_that_it_has_it() {
    for fault in [Fault::Io, Fault::Full] {
        let disks = Disks::default();
        let mut member = Member::start(&disks).expect("a new member");
        member.propose(&[put()]);
        member.settle().expect("it works");
        let before = member.flushed();
        // The write, then the flush.
        disks.store.fail_at(1, fault);
        drop(member.persist(9));
        assert_eq!(disks.store.failed_call(), Some("flush"));
        assert_eq!(member.flushed(), before, "{fault:?}");
    }
}

/// etcd 16596: what was torn while the files were first made could not be opened any more.
#[test]
fn a_first_start_that_is_cut_off_anywhere_is_made_good_by_the_next() {
    let mut cut_off = 0;
    for call in 0..40 {
        for seed in 0..4 {
            let disks = Disks::default();
            disks.log.fail_at(call, Fault::Stop);
            cut_off += u32::from(Member::start(&disks).is_err());
            disks.log.crash(seed);
            disks.store.crash(seed);
            let mut member = Member::start(&disks).unwrap_or_else(|error| panic!("call {call}: {error}"));
            member.propose(&[put()]);
            assert_eq!(member.settle().expect("it works").len(), 1);
        }
    }
    assert!(cut_off > 20, "only {cut_off} starts were cut off");
}

/// Simulated clusters, seed 1: raft looked in vain for the leader among the members, and panicked.
#[test]
fn a_leader_that_is_to_be_removed_hands_over() {
    let mut script = Script::new(3);
    script.lead(1);
    let mut answer = script.remove(1, 1);
    script.settle(|_| true);
    assert_eq!(answer.try_recv(), Ok(Err(ConsensusError::NotLeader)));
    let leader = if script.life(2).node.is_leader() { 2 } else { 3 };
    let mut answer = script.remove(leader, 1);
    script.settle(|_| true);
    assert!(matches!(answer.try_recv(), Ok(Ok(_))), "whoever leads then removes it");
}

/// Simulated clusters, seed 15: the one that stayed had heard that the removal is committed, and forgot it in a crash;
/// the removed one, whose vote it needed then, had left for good.
#[test]
fn who_has_told_a_member_that_it_is_removed_needs_it_no_more_after_a_crash() {
    for crash_store in [false, true] {
        let mut script = Script::new(2);
        script.lead(1);
        let mut answer = script.remove(1, 2);
        script.settle(|_| true);
        assert!(matches!(answer.try_recv(), Ok(Ok(_))));
        if !crash_store {
            script.life(1).persist(usize::MAX);
        }
        script.crash(2);
        script.crash(1);
        script.start(1);
        script.lead(1);
    }
}

/// Simulated clusters, seed 1330: a leader committed its own removal, which the one before had proposed, and left before
/// the other had heard so.
#[test]
fn a_leader_takes_its_removal_into_effect_when_those_who_stay_know_of_it() {
    let mut script = Script::new(2);
    script.lead(1);
    let index = script.life(1).applied().index.0 + 1;
    drop(script.remove(1, 2));
    // It takes the entry, and is not heard.
    script.settle(|message| message.from == 1);
    for _ in 0..4 * ELECTION_TICKS {
        script.life(1).node.tick();
        script.settle(|_| false);
    }
    script.lead_while(2, |message| message.from == 1 || message.commit < index);
    assert!(!script.knows_removed(2, 2), "the other does not know it");
    for _ in 0..2 {
        script.life(2).node.tick();
        script.settle(|_| true);
    }
    assert!(script.knows_removed(1, 2) && script.knows_removed(2, 2));
    script.crash(2);
    script.lead(1);
}

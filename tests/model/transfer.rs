//! The state of one member on its way to another: read out while writes, compactions and rounds go on at both ends, and
//! installed in every way; and pieces that are not what was sent.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use decklog::command::Kind;
use decklog::members::Membership;
use decklog::snapshot::{Error, Importer, Incoming, MAX_PIECE_BYTES, Pieces, Received};
use decklog::storage::{MemoryStore, Store, TableWrite};
use decklog::wire::etcdserverpb::alarm_request::AlarmAction;
use decklog::wire::etcdserverpb::{AlarmRequest, PutRequest};
use rand::Rng;

use crate::checks::Held;
use crate::naive::{Naive, Pin};
use crate::programs::Programs;
use crate::rig::{Place, Rig};

/// What stands beside the key space.
#[derive(Debug, PartialEq)]
struct Beside {
    leases: Vec<TableWrite>,
    alarms: Vec<TableWrite>,
    members: Membership,
}

/// See the module.
pub struct Transfer {
    /// How many entries the state stands for.
    pub entries: usize,
    pieces: Pieces,
    beside: Beside,
    follower: Rig,
    had: usize,
    incoming: Incoming,
    store: Option<Arc<MemoryStore>>,
}

impl Transfer {
    /// Everything is published.
    pub fn begin(rig: &mut Rig, programs: &mut Programs) -> Option<Self> {
        let entries = rig.entries();
        let had = programs.random.random_range(0..entries.max(1));
        let place = if programs.random.random_ratio(1, 8) { Place::sled() } else { Place::memory() };
        if entries == 0 {
            return None;
        }
        let capture = rig.capture(Instant::now() + Duration::from_secs(3600));
        let (leases, alarms, members) = rig.beside();
        let follower = rig.follower(place, had);
        let (importer, store) = follower.importer();
        let incoming = importer.begin().expect("nothing else is received");
        assert!(matches!(importer.begin(), Err(Error::Busy)));
        let beside = Beside { leases, alarms, members };
        Some(Self { entries, pieces: capture.pieces(), beside, follower, had, incoming, store })
    }

    /// Some pieces arrive, and both members go on; `true` when that was all.
    pub fn some_pieces(&mut self, programs: &mut Programs) -> bool {
        match programs.random.random_range(0..4) {
            0 => self.follower.persist(programs.random.random_range(1..4)),
            1 => self.follower.compact(programs.random.random_range(1..20)),
            2 => self.follower.defragment(),
            _ => {}
        }
        for _ in 0..programs.random.random_range(0..3) {
            let Some(piece) = self.pieces.next() else {
                return true;
            };
            let piece = piece.expect("read");
            assert!(piece.len() <= MAX_PIECE_BYTES);
            self.incoming.write(&piece).expect("it is what was sent");
        }
        false
    }

    /// The state takes the place of the other member's, in one way or another. `sees` says what that one pins before.
    pub fn arrive(self, from: &Rig, programs: &mut Programs, after: &[Pin]) -> (Rig, Option<(Held, Pin)>) {
        let Self { mut follower, beside, store, .. } = self;
        let received = self.incoming.finish().expect("it is whole");
        let found = Beside {
            leases: received.leases.rows(),
            alarms: received.alarms.rows(),
            members: received.members.clone(),
        };
        assert_eq!(found, beside, "after entry {}", self.entries);
        follower.hear(from);
        match programs.random.random_range(0..3) {
            0 => follower.restart_after(received, store),
            1 => {
                let begin = received.position();
                drop(follower.install(received, store));
                follower.replay(self.entries);
                follower.restart_at(begin);
            }
            _ => {
                let held = Held::at(follower.reader(), after[self.had]);
                follower.persist(programs.random.random_range(0..3));
                // A compaction holds one, and ends with the store that it was in.
                let open = follower.reader().open_snapshots() - usize::from(follower.is_compacting());
                let replacement = follower.install(received, store);
                follower.persist_installed(&replacement);
                assert_eq!(
                    follower.reader().open_snapshots(),
                    open,
                    "a pinned view is counted over an install"
                );
                return (follower, Some((held, after[self.had])));
            }
        }
        (follower, None)
    }
}

/// A member that has lived a little, with values that need several pieces and chunks.
fn lived(seed: u64) -> (Rig, Programs) {
    let mut programs = Programs::new(seed, true);
    let (mut rig, mut naive) = (Rig::new(Place::memory()), Naive::default());
    for number in 0..120 {
        let command = programs.command(&naive);
        drop(naive.apply(&command));
        rig.apply(vec![command]);
        if number % 12 == 0 {
            lift_alarms(&mut rig);
            rig.apply(vec![large_put(number)]);
        }
        if programs.random.random_ratio(1, 3) {
            rig.publish();
            rig.persist(2);
            rig.compact(5);
        }
    }
    rig.publish();
    (rig, programs)
}

fn large_put(number: usize) -> Kind {
    let value = vec![b'v'; 250_000 + number].into();
    Kind::Put(PutRequest {
        key: format!("large{}", number % 60).into_bytes().into(),
        value,
        ..PutRequest::default()
    })
}

/// An alarm would forbid what a test is about.
fn lift_alarms(rig: &mut Rig) {
    for (member_id, alarm) in rig.alarms() {
        let action = AlarmAction::Deactivate.into();
        rig.apply(vec![Kind::Alarm(AlarmRequest { action, member_id, alarm })]);
    }
}

/// Something that the next compaction removes.
fn put_for_compaction(rig: &mut Rig) {
    lift_alarms(rig);
    rig.apply(vec![large_put(0), large_put(0)]);
    rig.publish();
    rig.settle();
}

fn pieces(rig: &mut Rig) -> Vec<Bytes> {
    let capture = rig.capture(Instant::now() + Duration::from_secs(3600));
    capture.pieces().map(|piece| piece.expect("read")).collect()
}

fn importer() -> (Importer, Arc<MemoryStore>) {
    let (importer, store) = Rig::new(Place::memory()).importer();
    (importer, store.expect("in memory"))
}

fn receive(importer: &Importer, pieces: &[Bytes]) -> Result<Received, Error> {
    let mut incoming = importer.begin()?;
    for piece in pieces {
        incoming.write(piece)?;
    }
    incoming.finish()
}

/// Everything in some pieces but the size that the header announces, and with it the checksum of all.
fn content(pieces: &[Bytes]) -> Vec<u8> {
    let mut content: Vec<u8> = pieces.iter().flat_map(|piece| piece.slice(16..)).collect();
    content[54..62].fill(0);
    content.truncate(content.len() - 4);
    content
}

/// How far a member has come with writing and removing makes no difference.
#[test]
fn members_at_the_same_entry_send_the_same_bytes() {
    for seed in crate::runs(20) {
        let (mut rig, mut programs) = lived(seed);
        let mut other = rig.follower(Place::memory(), rig.entries());
        other.publish();
        let sent = content(&pieces(&mut rig));
        assert!(sent == content(&pieces(&mut other)));
        for _ in 0..20 {
            other.persist(programs.random.random_range(1..9));
            other.compact(programs.random.random_range(1..9));
        }
        assert!(sent == content(&pieces(&mut other)));
        rig.settle();
        assert!(sent == content(&pieces(&mut rig)));
    }
}

#[test]
fn pieces_that_are_not_what_was_sent_are_refused_and_nothing_is_left() {
    for seed in crate::runs(10) {
        let (mut rig, mut programs) = lived(seed);
        // More than one piece, whatever was compacted.
        lift_alarms(&mut rig);
        rig.apply((0..5).map(large_put).collect());
        rig.publish();
        let sent = pieces(&mut rig);
        assert!(sent.len() > 1);
        let (mut others, _) = lived(seed.wrapping_add(1));
        let others = pieces(&mut others);
        let random = &mut programs.random;
        for kind in 0..60 {
            let mut wrong = sent.clone();
            let place = random.random_range(0..wrong.len());
            match kind % 6 {
                0 => wrong.truncate(place),
                1 => drop(wrong.remove(place)),
                2 => wrong.insert(place, wrong[place].clone()),
                3 => wrong[place] = wrong[place].slice(..random.random_range(0..wrong[place].len())),
                4 => wrong[place] = others[place.min(others.len() - 1)].clone(),
                _ => {
                    let mut piece = wrong[place].to_vec();
                    let byte = random.random_range(0..piece.len());
                    piece[byte] ^= 1 << random.random_range(0..8);
                    wrong[place] = piece.into();
                }
            }
            if wrong == sent {
                continue;
            }
            let (importer, store) = importer();
            let refused = receive(&importer, &wrong);
            assert!(matches!(refused, Err(Error::Damaged(_))), "kind {kind} at {place} of {}", sent.len());
            assert_eq!(store.applied().index.0, 0, "half a state stands for nothing");
            drop(importer.begin().expect("the next may come"));
        }
        let (importer, store) = importer();
        let received = receive(&importer, &sent).expect("what was sent is taken");
        assert_eq!(store.applied(), received.position());
        assert!(matches!(importer.begin(), Err(Error::Busy)), "one after the other");
        drop(received);
        drop(importer.begin().expect("the next may come"));
    }
}

/// Who receives a state may be gone when it is whole: that must not keep the next one away. One that the log counts on must.
#[test]
fn a_received_state_that_is_dropped_makes_room_for_the_next_unless_the_log_counts_on_it() {
    let (mut rig, _) = lived(1);
    let sent = pieces(&mut rig);
    let (importer, _) = importer();
    drop(receive(&importer, &sent).expect("taken"));
    let counted_on = receive(&importer, &sent).expect("taken");
    counted_on.decide();
    drop(counted_on);
    assert!(matches!(importer.begin(), Err(Error::Busy)));
}

#[test]
fn a_newer_compaction_removes_nothing_while_a_state_is_read_out() {
    for seed in crate::runs(20) {
        let (mut rig, _) = lived(seed);
        rig.settle();
        put_for_compaction(&mut rig);
        let expected = pieces(&mut rig);
        let before = rig.stored();
        let capture = rig.capture(Instant::now() + Duration::from_secs(3600));
        let revision = rig.reader().revision().0;
        rig.order_compaction(revision);
        rig.persist(usize::MAX);
        for _ in 0..50 {
            rig.compact(10);
        }
        assert_eq!(rig.stored(), before, "it waits");
        let found: Vec<_> = capture.pieces().map(|piece| piece.expect("read")).collect();
        assert!(found == expected);
        rig.settle();
        assert!(rig.stored().len() < before.len(), "it goes on");
    }
}

#[test]
fn a_state_that_is_not_taken_in_time_errs_and_holds_nothing_up() {
    let (mut rig, _) = lived(2);
    put_for_compaction(&mut rig);
    let before = rig.stored().len();
    let mut late = rig.capture(Instant::now()).pieces();
    let revision = rig.reader().revision().0;
    rig.order_compaction(revision);
    rig.settle();
    assert!(rig.stored().len() < before, "the compaction did not wait");
    let errs = late.find_map(Result::err).expect("it is not whole any more");
    assert!(matches!(errs, Error::Expired), "{errs}");
    assert!(late.next().is_none(), "it ends with that");
}

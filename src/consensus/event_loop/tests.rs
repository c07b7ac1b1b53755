//! What comes from other members finds the same limits as what comes from here.

use raft::eraftpb::Entry;

use super::*;
use crate::consensus::{BEGINNING, NodeOptions, RaftLog};
use crate::courier::Courier;
use crate::ids::ClusterId;
use crate::metrics::Metrics;
use crate::storage::disk::{Disk, MemoryDisk};
use crate::storage::wal::{Owner, Wal, WalOptions};
use crate::wire::etcdserverpb as pb;

/// Nobody is there.
struct Nobody;

impl Network for Nobody {
    fn send(&mut self, _message: Message) {}
}

impl Outside for Nobody {
    fn set_members(&mut self, _members: &Membership) {}

    fn stopped_leading(&mut self) {}
}

/// A loop of member 1 among so many voters that does not run.
fn loop_of(voters: u64) -> (Loop, LoopParts) {
    loop_on(Arc::default(), WalOptions { segment_bytes: 4096 }, voters)
}

fn loop_on(disk: Arc<MemoryDisk>, options: WalOptions, voters: u64) -> (Loop, LoopParts) {
    let members = (1..=voters).map(|id| pb::Member { id, ..pb::Member::default() });
    idle_loop(disk, options, &Membership::new(members.collect()), &Metrics::new(false))
}

/// A loop of member 1 among these that does not run: also for tests of those who hold its parts.
pub(crate) fn idle_loop(
    disk: Arc<MemoryDisk>,
    options: WalOptions,
    members: &Membership,
    metrics: &Metrics,
) -> (Loop, LoopParts) {
    let owner = Owner { member: MemberId(1), cluster: ClusterId(2) };
    let (mut wal, _) = Wal::open(disk.clone(), owner, options).expect("opened");
    RaftLog::bootstrap(&mut wal).expect("begun");
    drop(wal);
    let (wal, content) = Wal::open(disk, owner, options).expect("opened");
    let log = RaftLog::new(wal, content, BEGINNING, members, metrics.log_timers()).expect("it fits");
    let options = NodeOptions {
        id: MemberId(1),
        election_ticks: 10,
        heartbeat_ticks: 1,
        pre_vote: true,
        applied: BEGINNING.index,
        members: members.clone(),
        seed: 1,
    };
    let node = Node::new(log, &options).expect("raft takes it");
    let options = LoopOptions {
        tick: Duration::from_millis(100),
        election_timeout: Duration::from_secs(1),
        catch_up_entries: 10,
        max_request_bytes: 2 << 20,
        request_timeout: Duration::from_secs(1),
        skip_first_timeout: false,
    };
    Loop::new(node, options, metrics.request_seconds.clone(), |_| Box::new(Nobody))
}

fn proposal_of_another() -> Message {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgPropose);
    (message.from, message.to) = (2, 1);
    message.set_entries(vec![Entry { data: vec![0; 10].into(), ..Entry::default() }].into());
    message
}

#[test]
fn a_full_disk_takes_no_proposal_of_another_member() {
    let (mut consensus, _parts) = loop_of(1);
    consensus.node.campaign_if_alone().expect("it stands");
    consensus.settle().expect("it leads");
    let mut appended = |full| {
        consensus.progress.set_disk_full(full);
        consensus.take_messages(vec![proposal_of_another()]).expect("looked at");
        consensus.settle().expect("stepped");
        consensus.progress.status().committed.index.0
    };
    let before = appended(false);
    assert_eq!(appended(true), before);
    assert_eq!(appended(false), before + 1);
}

#[test]
fn messages_that_wait_are_bounded_by_their_bytes() {
    let (mut consensus, parts) = loop_of(3);
    for _ in 0..10 {
        parts.handle.receive(vec![proposal_of_another()], 32 << 20);
    }
    consensus.events.take_now(&mut consensus.taken);
    assert_eq!(consensus.taken.len(), 4);
    while !consensus.taken.is_empty() {
        consensus.take_events().expect("looked at");
    }
    assert_eq!(consensus.progress.queued_bytes.load(Ordering::Relaxed), 0);
}

#[test]
fn what_waits_goes_into_segments_of_the_usual_size() {
    let (disk, options) = (Arc::<MemoryDisk>::default(), WalOptions::default());
    let (mut consensus, _parts) = loop_on(disk.clone(), options, 1);
    consensus.node.campaign_if_alone().expect("it stands");
    consensus.settle().expect("it leads");
    let before = consensus.progress.status().committed.index.0;
    for _ in 0..50 {
        let (reply, _) = oneshot::channel();
        let command = vec![0; 1 << 20].into();
        let proposal = Proposal { command, makes_room: false, reply, courier: Courier::here() };
        consensus.taken.push_back(Event::Proposal(proposal));
    }
    while !consensus.taken.is_empty() {
        consensus.take_events().expect("looked at");
        consensus.settle().expect("stepped");
    }
    assert_eq!(consensus.progress.status().committed.index.0, before + 50);
    let files = disk.list().expect("listed").into_iter();
    let lengths: Vec<u64> = files.map(|name| disk.length(&name).expect("it is there")).collect();
    assert!(lengths.iter().all(|length| *length == options.segment_bytes), "{lengths:?}");
    assert!(lengths.len() <= 8, "{} files for 50 MiB", lengths.len());
}

#[test]
fn proposals_that_wait_for_a_leader_are_bounded_by_their_bytes() {
    let (mut consensus, _parts) = loop_of(3);
    let (mut proposals, mut answers) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        let (reply, answer) = oneshot::channel();
        proposals.push(Proposal {
            command: vec![0; 1 << 20].into(),
            makes_room: false,
            reply,
            courier: Courier::here(),
        });
        answers.push(answer);
    }
    consensus.node.propose(proposals);
    let refused = answers.iter_mut().filter_map(|answer| answer.try_recv().ok());
    assert_eq!(refused.filter(|answer| *answer == Err(ConsensusError::TooManyRequests)).count(), 100 - 64);
}

fn heartbeat_of(leader: u64) -> Message {
    let mut message = Message::default();
    message.set_msg_type(MessageType::MsgHeartbeat);
    (message.from, message.to, message.term) = (leader, 1, 2);
    message
}

#[test]
fn a_leader_that_is_gone_is_not_waited_for() {
    let (mut consensus, _parts) = loop_of(3);
    let node = &mut consensus.node;
    let is_standing = |node: &Node| node.leader() == MemberId(0);
    node.receive(heartbeat_of(2)).expect("taken");
    assert_eq!(node.leader(), MemberId(2));
    // Another member's link, and a leader that is still heard although its link broke.
    node.unreachable(MemberId(3));
    node.tick();
    node.tick();
    for _ in 0..20 {
        node.unreachable(MemberId(2));
        node.tick();
        assert!(!is_standing(node));
        node.receive(heartbeat_of(2)).expect("taken");
    }
    node.unreachable(MemberId(2));
    node.tick();
    assert!(!is_standing(node));
    node.tick();
    assert!(is_standing(node), "its link broke, and nothing came for two ticks");
    assert_eq!(node.term().0, 2, "no vote before the vote before the vote");
}

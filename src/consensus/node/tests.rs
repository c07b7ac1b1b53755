//! One node, told by hand what others say: what it says itself, and what of that has survived by then.

use std::sync::Arc;

use prost::Message as _;
use raft::Storage;
use raft::eraftpb::EntryType;

use super::*;
use crate::command::{Batch, Command, Kind, MemberChange};
use crate::consensus::BEGINNING;
use crate::ids::ClusterId;
use crate::metrics::Metrics;
use crate::storage::disk::{Fault, MemoryDisk};
use crate::storage::wal::{HardState, Owner, Wal, WalContent, WalOptions};
use crate::wire::etcdserverpb as pb;
use crate::wire::log::member_change::Kind as Change;

const ELECTION_TICKS: usize = 10;

fn open(disk: &MemoryDisk, options: WalOptions) -> (Wal, WalContent) {
    let owner = Owner { member: MemberId(1), cluster: ClusterId(2) };
    Wal::open(Arc::new(disk.clone()), owner, options).expect("it opens")
}

/// Member 1 of these.
fn node_of(disk: &MemoryDisk, members: Membership, options: WalOptions) -> Node {
    let (mut wal, mut content) = open(disk, options);
    RaftLog::bootstrap(&mut wal).expect("begun");
    content.hard_state = HardState { term: BEGINNING.term.0, vote: 0, commit: BEGINNING.index.0 };
    let timers = Metrics::new(false).log_timers();
    let log = RaftLog::new(wal, content, BEGINNING, &members, timers).expect("it fits");
    let options = NodeOptions {
        id: MemberId(1),
        election_ticks: ELECTION_TICKS,
        heartbeat_ticks: 1,
        pre_vote: true,
        applied: BEGINNING.index,
        members,
        seed: 1,
    };
    Node::new(log, &options).expect("raft takes it")
}

fn voters(count: u64) -> Vec<pb::Member> {
    (1..=count).map(|id| pb::Member { id, ..pb::Member::default() }).collect()
}

fn removal(id: u64) -> MemberChange {
    MemberChange { kind: Some(Change::Remove(id)), ..MemberChange::default() }
}

/// Of member 2 at term 2.
fn message(kind: MessageType) -> Message {
    let mut message = Message::default();
    message.set_msg_type(kind);
    (message.from, message.to, message.term) = (2, 1, 2);
    message
}

fn entry(index: u64, bytes: usize) -> Entry {
    Entry { index, term: 2, data: vec![b'd'; bytes].into(), ..Entry::default() }
}

/// These entries behind what everybody begins with.
fn append(entries: Vec<Entry>) -> Message {
    let mut message = message(MessageType::MsgAppend);
    (message.index, message.log_term, message.commit) = (BEGINNING.index.0, BEGINNING.term.0, 1);
    message.set_entries(entries.into());
    message
}

/// What is said, with what a crash in that moment leaves.
struct Listener<'a> {
    disk: &'a MemoryDisk,
    heard: Vec<(Message, HardState)>,
}

impl Network for Listener<'_> {
    fn send(&mut self, message: Message) {
        let after_crash = self.disk.copy();
        after_crash.crash(1);
        self.heard.push((message, open(&after_crash, WalOptions::default()).1.hard_state));
    }
}

/// Steps until nothing is left.
fn run(node: &mut Node, disk: &MemoryDisk) -> Vec<(Message, HardState)> {
    let mut listener = Listener { disk, heard: Vec::new() };
    while node.has_ready() {
        node.step(&mut listener).expect("no fault is armed");
    }
    listener.heard
}

fn lead(node: &mut Node, disk: &MemoryDisk) {
    for _ in 0..3 * ELECTION_TICKS {
        node.tick();
    }
    for kind in [MessageType::MsgRequestPreVoteResponse, MessageType::MsgRequestVoteResponse] {
        run(node, disk);
        node.receive(message(kind)).expect("taken");
    }
    assert!(node.is_leader());
    run(node, disk);
}

fn proposal(command: Vec<u8>) -> Proposal {
    let courier = crate::courier::Courier::here();
    Proposal { command: command.into(), makes_room: false, reply: tokio::sync::oneshot::channel().0, courier }
}

/// Raft hands out 16 MiB of committed entries at once, and a change of members stands behind them.
#[test]
fn a_change_in_a_later_page_is_durable_before_anybody_hears_that_it_is_committed() {
    const BEFORE: u64 = 18;
    const VALUE_BYTES: usize = 1 << 20;
    let (disk, change) = (MemoryDisk::default(), BEFORE + 2);
    let mut follower = node_of(&disk, Membership::new(voters(3)), WalOptions::default());
    let mut entries: Vec<_> = (2..change).map(|index| entry(index, VALUE_BYTES)).collect();
    let commands = vec![Kind::MemberChange(removal(3)).into()];
    let batch = Batch { proposer: 2, sequence: 1, commands }.encode_to_vec();
    entries.push(Entry { index: change, term: 2, context: batch.into(), ..Entry::default() });
    entries[usize::try_from(BEFORE).expect("few")].entry_type = EntryType::EntryConfChangeV2;
    follower.receive(append(entries)).expect("taken");
    run(&mut follower, &disk);
    let mut heartbeat = message(MessageType::MsgHeartbeat);
    heartbeat.commit = change;
    follower.receive(heartbeat).expect("taken");
    let said = run(&mut follower, &disk);
    let of_change = |(message, _): &&(Message, HardState)| message.commit >= change;
    assert!(said.iter().any(|said| of_change(&said)), "it says that it knows");
    assert!(said.iter().filter(of_change).all(|(_, durable)| durable.commit >= change), "{said:?}");
    assert!(follower.members().is_removed(MemberId(3)));

    let (disk, change) = (MemoryDisk::default(), BEFORE + 3);
    let mut leader = node_of(&disk, Membership::new(voters(3)), WalOptions::default());
    lead(&mut leader, &disk);
    leader.propose((0..BEFORE).map(|_| proposal(vec![b'c'; VALUE_BYTES])));
    leader.propose_change(proposal(Command::from(Kind::MemberChange(removal(3))).encode_to_vec()));
    leader.move_on();
    run(&mut leader, &disk);
    let mut has_all = message(MessageType::MsgAppendResponse);
    has_all.index = change;
    leader.receive(has_all).expect("taken");
    let said = run(&mut leader, &disk);
    assert!(said.iter().any(|said| of_change(&said)), "it says so");
    assert!(said.iter().filter(of_change).all(|(_, durable)| durable.commit >= change), "{said:?}");
    assert!(leader.members().is_removed(MemberId(3)));
}

/// The only voter elects itself without asking anybody, and has learners that hear it.
#[test]
fn a_new_term_is_durable_before_anybody_hears_of_it() {
    let disk = MemoryDisk::default();
    let mut members = voters(2);
    members[1].is_learner = true;
    let mut node = node_of(&disk, Membership::new(members), WalOptions::default());
    node.campaign_if_alone().expect("it stands");
    let said = run(&mut node, &disk);
    assert!(node.is_leader() && said.iter().any(|(message, _)| message.term == 2), "{said:?}");
    assert!(said.iter().all(|(message, durable)| durable.term >= message.term), "{said:?}");
}

/// Otherwise it might give another after a restart, to somebody else.
#[test]
fn a_vote_is_durable_before_anybody_hears_of_it() {
    let disk = MemoryDisk::default();
    let mut node = node_of(&disk, Membership::new(voters(3)), WalOptions::default());
    let mut request = message(MessageType::MsgRequestVote);
    (request.index, request.log_term) = (BEGINNING.index.0, BEGINNING.term.0);
    node.receive(request).expect("taken");
    let said = run(&mut node, &disk);
    let [(answer, durable)] = said.as_slice() else {
        panic!("one answer: {said:?}");
    };
    assert_eq!((answer.get_msg_type(), answer.reject), (MessageType::MsgRequestVoteResponse, false));
    assert_eq!((durable.term, durable.vote), (2, 2));
}

#[test]
fn a_removed_member_is_not_heard() {
    let disk = MemoryDisk::default();
    let mut members = Membership::new(voters(3));
    members.apply(&removal(3)).expect("allowed");
    let mut node = node_of(&disk, members, WalOptions::default());
    let mut heartbeat = message(MessageType::MsgHeartbeat);
    node.receive(heartbeat.clone()).expect("taken");
    (heartbeat.from, heartbeat.term) = (3, 9);
    node.receive(heartbeat).expect("dropped");
    assert_eq!((node.leader(), node.term()), (MemberId(2), Term(2)));
}

/// They are answered on a full disk, too: the leader goes on then with what the others have.
#[test]
fn entries_that_raft_does_not_append_need_no_room() {
    let disk = MemoryDisk::default();
    let mut node = node_of(&disk, Membership::new(voters(3)), WalOptions { segment_bytes: 4096 });
    let entries: Vec<_> = (2..6).map(|index| entry(index, 3000)).collect();
    node.receive(append(entries.clone())).expect("taken");
    run(&mut node, &disk);
    let known = append(entries.clone());
    let mut stale = append(vec![entry(6, 30_000)]);
    (stale.term, stale.index, stale.log_term) = (1, 5, 2);
    let mut without_those_before = append(vec![entry(9, 30_000)]);
    (without_those_before.index, without_those_before.log_term) = (8, 2);
    disk.fail_at(0, Fault::Full);
    for needless in [known, stale, without_those_before] {
        node.receive(needless).expect("looked at");
        assert_eq!(disk.failed_call(), None);
    }
    let mut new = append(vec![entry(6, 30_000)]);
    (new.index, new.log_term) = (5, 2);
    node.receive(new).expect("it finds no room");
    assert!(disk.failed_call().is_some());
    disk.restart();
    let said = run(&mut node, &disk);
    let answers: Vec<_> = said.iter().map(|(message, _)| (message.index, message.reject)).collect();
    assert!(answers.contains(&(5, false)), "{answers:?}");
    assert_eq!(node.log().last_index().expect("it has one"), 5);
}

fn question(from: u64, term: u64) -> Message {
    let mut question = Message::default();
    question.set_msg_type(MessageType::MsgReadIndex);
    (question.from, question.to, question.log_term) = (from, 1, term);
    question.set_entries(vec![Entry { data: Bytes::from_static(b"whose"), ..Entry::default() }].into());
    question
}

/// What a node says besides heartbeats, and how many of those.
fn said(node: &mut Node, disk: &MemoryDisk) -> (Vec<Message>, usize) {
    let said = run(node, disk).into_iter().map(|(message, _)| message);
    let is_heartbeat = |message: &Message| message.get_msg_type() == MessageType::MsgHeartbeat;
    let (heartbeats, others): (Vec<_>, Vec<_>) = said.partition(is_heartbeat);
    (others, heartbeats.len())
}

/// A leader of so many voters that has committed the first entry of its term.
fn leader_of(disk: &MemoryDisk, count: u64) -> Node {
    let mut node = node_of(disk, Membership::new(voters(count)), WalOptions::default());
    for _ in 0..3 * ELECTION_TICKS {
        node.tick();
    }
    for kind in [
        MessageType::MsgRequestPreVoteResponse,
        MessageType::MsgRequestVoteResponse,
        MessageType::MsgAppendResponse,
    ] {
        run(&mut node, disk);
        for from in 2..=count {
            let mut answer = message(kind);
            (answer.from, answer.index) = (from, if kind == MessageType::MsgAppendResponse { 2 } else { 0 });
            node.receive(answer).expect("taken");
        }
    }
    run(&mut node, disk);
    assert!(node.is_leader() && node.raw.raft.commit_to_current_term());
    node
}

#[test]
fn who_asks_and_the_leader_are_enough_where_they_are_a_quorum() {
    let disk = MemoryDisk::default();
    let mut leader = leader_of(&disk, 3);
    leader.receive(question(3, 2)).expect("taken");
    let (said, heartbeats) = said(&mut leader, &disk);
    let [answer] = said.as_slice() else { panic!("one answer: {said:?}") };
    assert_eq!((answer.get_msg_type(), answer.to), (MessageType::MsgReadIndexResp, 3));
    assert_eq!((answer.index, answer.term, heartbeats), (2, 2, 0));
    assert_eq!(answer.entries[0].data, b"whose".as_slice());
}

/// It may have been asked under a leader whom nobody followed any more.
#[test]
fn what_was_asked_in_another_term_needs_a_round() {
    let disk = MemoryDisk::default();
    let mut leader = leader_of(&disk, 3);
    for term in [0, 1, 3] {
        leader.receive(question(3, term)).expect("taken");
    }
    leader.move_on();
    assert_eq!(said(&mut leader, &disk), (Vec::new(), 2));
}

#[test]
fn a_round_of_the_leader_answers_all_that_asked_before_it() {
    let disk = MemoryDisk::default();
    let mut leader = leader_of(&disk, 5);
    leader.receive(question(3, 2)).expect("taken");
    leader.receive(question(4, 2)).expect("taken");
    leader.move_on();
    let context = leader.raw.raft.msgs.last().map(|heartbeat| heartbeat.context.clone());
    assert_eq!(said(&mut leader, &disk), (Vec::new(), 4));
    leader.receive(question(5, 2)).expect("taken");
    for from in [2, 3] {
        let mut answer = message(MessageType::MsgHeartbeatResponse);
        (answer.from, answer.context) = (from, context.clone().expect("it has asked"));
        leader.receive(answer).expect("taken");
    }
    let (said, _) = said(&mut leader, &disk);
    let answered: Vec<_> = said.iter().map(|answer| (answer.get_msg_type(), answer.to)).collect();
    assert_eq!(answered, [3, 4].map(|to| (MessageType::MsgReadIndexResp, to)));
}

#[test]
fn a_question_says_in_which_term_it_is_asked() {
    let disk = MemoryDisk::default();
    let mut follower = node_of(&disk, Membership::new(voters(3)), WalOptions::default());
    follower.receive(message(MessageType::MsgHeartbeat)).expect("taken");
    run(&mut follower, &disk);
    let (reply, _answer) = tokio::sync::oneshot::channel();
    follower.read(crate::consensus::ReadReply { reply, courier: crate::courier::Courier::here() });
    follower.move_on();
    let (said, _) = said(&mut follower, &disk);
    let [asked] = said.as_slice() else { panic!("one question: {said:?}") };
    assert_eq!((asked.get_msg_type(), asked.to), (MessageType::MsgReadIndex, 2));
    assert_eq!((asked.log_term, asked.term), (2, 0));
}

/// Not with the next heartbeat.
#[test]
fn a_state_that_is_ready_is_sent_at_once() {
    let disk = MemoryDisk::default();
    let mut leader = leader_of(&disk, 3);
    let mut answer = message(MessageType::MsgAppendResponse);
    for index in 3..9 {
        leader.propose([proposal(vec![b'c'; 100])]);
        run(&mut leader, &disk);
        answer.index = index;
        leader.receive(answer.clone()).expect("taken");
        run(&mut leader, &disk);
    }
    leader.progressed(LogIndex(8), LogIndex(8), 0).expect("cut");
    (answer.from, answer.index, answer.reject, answer.reject_hint) = (3, 8, true, 1);
    leader.receive(answer).expect("taken");
    run(&mut leader, &disk);
    assert_eq!(leader.take_wanted_state(), Some(MemberId(3)));
    let position = LogPosition { index: LogIndex(8), term: Term(2) };
    leader.offer_state(MemberId(3), position, &Membership::new(voters(3)));
    let (said, _) = said(&mut leader, &disk);
    let [state] = said.as_slice() else { panic!("one message: {said:?}") };
    assert_eq!((state.get_msg_type(), state.to), (MessageType::MsgSnapshot, 3));
}

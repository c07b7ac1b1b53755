//! A member that leads alone: from commands that wait to committed entries, and its service for clients over the rest.

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use decklog::alarm::Alarms;
use decklog::command::{Command, Kind};
use decklog::consensus::{
    BEGINNING, Handle, Loop, LoopOptions, LoopParts, Message, Network, Node, NodeOptions, Outside, Proposal,
    RaftLog,
};
use decklog::courier::Courier;
use decklog::ids::{ClusterId, MemberId, Revision};
use decklog::members::Membership;
use decklog::metrics::Metrics;
use decklog::rpc::{Headers, KvService, Quota};
use decklog::server::{Reply, Unary, plain_call};
use decklog::storage::disk::RealDisk;
use decklog::storage::wal::{Owner, Wal, WalOptions};
use decklog::wire::etcdserverpb::kv_server::KvServer;
use decklog::wire::etcdserverpb::{Member, RangeRequest};
use http_body::Body;
use http_body_util::Full;
use prost::Message as _;
use tokio::sync::{oneshot, watch};
use tower_service::Service;

use super::machine::Machine;
use super::{VALUE_BYTES, at_once, context, key, put, scattered};
use crate::counter::Counter;

const ID: MemberId = MemberId(1);
const CLUSTER: ClusterId = ClusterId(2);
/// Commands that wait when an entry is made, and entries.
const COMMANDS: usize = 100;
const ENTRIES: usize = 10;
/// Calls of the service, one after the other.
const CALLS: usize = 1000;
const MAX_REQUEST_BYTES: usize = 2 << 20;

/// Commands that wait become entries, of raft and of the log on disk, and are committed.
pub fn proposals(counter: &Counter, directory: &Path) {
    let mut node = leader(directory, &Metrics::new(false));
    let mut callers = Vec::new();
    let mut batch = || {
        let proposals = (0..COMMANDS).map(|number| {
            let (reply, caller) = oneshot::channel();
            callers.push(caller);
            let command = Command::from(Kind::Put(put(number))).encode_to_vec().into();
            Proposal { command, makes_room: false, reply, courier: Courier::here() }
        });
        proposals.collect::<Vec<_>>()
    };
    let inputs = [(); 2].map(|()| (0..ENTRIES).map(|_| batch()).collect::<Vec<_>>());
    counter.count("consensus-propose", ENTRIES * COMMANDS, inputs, |batches| {
        let committed: usize = batches.into_iter().map(|batch| commit(&mut node, batch)).sum();
        assert_eq!(committed, ENTRIES);
    });
}

/// How many entries are committed.
fn commit(node: &mut Node, batch: Vec<Proposal>) -> usize {
    node.propose(batch);
    let mut committed = 0;
    while node.has_ready() {
        let step = node.step(&mut Nobody).expect("the disk works");
        committed += step.committed.len();
        if let Some(last) = step.committed.last() {
            node.applied(last.position.index);
        }
    }
    committed
}

/// One key for a client: from the bytes of the request's body to those of the answer's.
pub fn calls(counter: &Counter, machine: &Machine, directory: &Path) {
    let metrics = Metrics::new(false);
    let node = leader(directory, &metrics);
    let options = LoopOptions {
        tick: Duration::from_millis(100),
        election_timeout: Duration::from_secs(1),
        catch_up_entries: 5000,
        max_request_bytes: MAX_REQUEST_BYTES,
        request_timeout: Duration::from_secs(5),
        skip_first_timeout: false,
    };
    let (_consensus, LoopParts { handle, .. }) =
        Loop::new(node, options, metrics.request_seconds.clone(), |_| Box::new(Nobody));
    let service = Arc::new(service(machine, handle, metrics));
    let inputs = || [0, CALLS].map(|from| scattered(CALLS, from).map(of_one_key).collect::<Vec<_>>());
    counter.count("call-range-one-key", CALLS, inputs(), |requests| {
        let calls = requests.into_iter().map(|request| at_once(plain_call(&service, request)));
        calls.map(message).collect::<Vec<_>>()
    });
    let server = KvServer::from_arc(service);
    counter.count("call-range-by-tonic", CALLS, inputs(), |requests| {
        let calls = requests.into_iter().map(|request| {
            let request = request.map(tonic::body::Body::new);
            at_once(server.clone().call(request)).expect("never")
        });
        calls.map(|response| received(response.into_body())).collect::<Vec<_>>()
    });
}

fn service(machine: &Machine, consensus: Handle, metrics: Metrics) -> KvService {
    let reader = machine.reader.clone();
    let headers =
        Headers { cluster: CLUSTER, member: ID, consensus: consensus.clone(), reader: reader.clone() };
    let quota = Quota {
        reader: reader.clone(),
        consensus: consensus.clone(),
        alarms: Alarms::default(),
        member: ID,
        limit: None,
    };
    KvService {
        consensus,
        reader,
        headers,
        quota,
        removed_through: watch::channel(Revision(0)).1,
        max_txn_ops: 128,
        max_request_bytes: MAX_REQUEST_BYTES,
        metrics,
    }
}

/// Serializable: nobody is asked whether this member leads.
fn of_one_key(number: usize) -> http::Request<Full<Bytes>> {
    let message = RangeRequest { key: key(number), serializable: true, ..Default::default() };
    let mut body = BytesMut::new();
    // Not compressed, and so long.
    body.put_u8(0);
    body.put_u32(u32::try_from(message.encoded_len()).expect("it is small"));
    message.encode(&mut body).expect("it grows");
    let request = http::Request::post("/etcdserverpb.KV/Range").header("content-type", "application/grpc");
    request.body(Full::new(body.freeze())).expect("a request")
}

/// The framed answer, which has the pair.
fn message(answered: Unary<Full<Bytes>>) -> Bytes {
    let Unary::Answered(Ok(Reply::Whole(message))) = answered else {
        panic!("a plain request is answered");
    };
    assert!(message.len() > VALUE_BYTES, "with the pair in it");
    message
}

/// The first frame of an answer, which has the pair.
fn received(body: tonic::body::Body) -> Bytes {
    let mut body = pin!(body);
    let Poll::Ready(Some(Ok(frame))) = body.as_mut().poll_frame(&mut context()) else {
        panic!("an answer has a message");
    };
    let data = frame.into_data().expect("data comes first");
    assert!(data.len() > VALUE_BYTES, "with the pair in it");
    data
}

fn leader(directory: &Path, metrics: &Metrics) -> Node {
    let owner = Owner { member: ID, cluster: CLUSTER };
    let open = || {
        let disk = RealDisk::new(directory).expect("a directory");
        Wal::open(Arc::new(disk), owner, WalOptions::default()).expect("a log or nothing")
    };
    RaftLog::bootstrap(&mut open().0).expect("the disk works");
    let (wal, content) = open();
    let members = Membership::new(vec![Member { id: ID.0, ..Member::default() }]);
    let log = RaftLog::new(wal, content, BEGINNING, &members, metrics.log_timers()).expect("it fits");
    let options = NodeOptions {
        id: ID,
        election_ticks: 10,
        heartbeat_ticks: 1,
        pre_vote: true,
        applied: BEGINNING.index,
        members,
        seed: 1,
    };
    let mut node = Node::new(log, &options).expect("raft takes it");
    node.campaign_if_alone().expect("it stands");
    assert_eq!(commit(&mut node, Vec::new()), 1, "it leads");
    node
}

/// There is nobody to send to.
struct Nobody;

impl Network for Nobody {
    fn send(&mut self, message: Message) {
        panic!("a member alone sends {message:?}");
    }
}

impl Outside for Nobody {
    fn set_members(&mut self, _members: &Membership) {}

    fn stopped_leading(&mut self) {}
}

//! A member among others, without its threads: who has a link, and what is said and counted of whom.

use std::collections::BTreeSet;
use std::ffi::OsString;

use raft::eraftpb::MessageType;
use tokio_stream::Stream;
use tonic::Code;

use super::service::PeerService;
use super::states::PIECE_TIMEOUT;
use super::*;
use crate::command::MemberChange;
use crate::config::{self, Invocation};
use crate::consensus::{Loop, LoopParts, Message, Network, Outside, idle_loop};
use crate::datadir::FirstStart;
use crate::ids::LeaseId;
use crate::members::Members;
use crate::snapshot::Importer;
use crate::storage::wal::WalOptions;
use crate::storage::{MemoryStore, Store};
use crate::wire::etcdserverpb::{LeaseTimeToLiveResponse, Member};
use crate::wire::peer as pb;
use crate::wire::peer::peer_client::PeerClient;

const OWN: MemberId = MemberId(1);
const OTHER: MemberId = MemberId(2);
const STRANGER: MemberId = MemberId(0xabc);
const CLUSTER: ClusterId = ClusterId(9);
const MAX_REQUEST_BYTES: usize = 1 << 20;
/// Nothing listens there.
const NOWHERE: &str = "http://127.0.0.1:9";

/// Nobody is there.
struct Nobody;

#[tonic::async_trait]
impl Leader for Nobody {
    async fn renew_lease(&self, _id: LeaseId) -> Result<i64, Status> {
        Err(Status::unavailable("nobody leads"))
    }

    async fn time_to_live(&self, _id: LeaseId, _keys: bool) -> Result<LeaseTimeToLiveResponse, Status> {
        Err(Status::unavailable("nobody leads"))
    }

    async fn change_members(&self, _change: MemberChange) -> Result<Vec<Member>, Status> {
        Err(Status::unavailable("nobody leads"))
    }
}

/// Member 1 of the members 1 and 2.
struct Rig {
    service: PeerService,
    outbound: Outbound,
    _consensus: (Loop, LoopParts),
    _folder: tempfile::TempDir,
}

impl Rig {
    fn new() -> Self {
        Self::with_removed(&[])
    }

    /// Its log has removed these, which its store does not know.
    fn with_removed(ids: &[MemberId]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (metrics, members) = (Metrics::new(false), membership(&[OWN, OTHER]));
        let peers = Peers::new(
            &data_dir(folder.path()),
            ids.iter().copied().collect::<BTreeSet<_>>(),
            tokio::runtime::Handle::current(),
            metrics.clone(),
        );
        let options = WalOptions { segment_bytes: 4096 };
        let (consensus, parts) = idle_loop(Arc::default(), options, &members, &metrics);
        let mut outbound = peers.outbound(&parts.handle, Membership::default());
        outbound.set_members(&members);
        let service = PeerService {
            peers,
            consensus: parts.handle.clone(),
            members: Members::new(members),
            importer: Importer::new(|| Ok(Arc::new(MemoryStore::new()) as Arc<dyn Store>)),
            leader: Arc::new(Nobody),
        };
        Self { service, outbound, _consensus: (consensus, parts), _folder: folder }
    }

    fn meet(&self, guest: MemberId) -> Option<guests::Stay> {
        self.service.peers.meet(&self.service.consensus, guest, &[NOWHERE.to_owned()])
    }

    fn is_guest(&self, member: MemberId) -> Option<bool> {
        self.service.peers.0.links.lock().get(&member).map(Link::is_guest)
    }

    /// Sends what a member may send as a state.
    async fn send_state(&self, from: MemberId, pieces: Vec<pb::SnapshotPiece>) -> Status {
        self.stream_state(from, tokio_stream::iter(pieces)).await
    }

    async fn stream_state(
        &self,
        from: MemberId,
        pieces: impl Stream<Item = pb::SnapshotPiece> + Send + 'static,
    ) -> Status {
        let mut request = tonic::Request::new(pieces);
        *request.metadata_mut() = metadata(CLUSTER, (from, Birth(7)), OWN);
        let mut client = PeerClient::new(self.service.clone().server(MAX_REQUEST_BYTES));
        client.snapshot(request).await.expect_err("it is no state")
    }

    /// Whether anything is counted under its id.
    fn is_counted(&self, member: MemberId) -> bool {
        let text = self.service.peers.0.metrics.text().expect("text");
        String::from_utf8(text).expect("text").contains(&format!("\"{:x}\"", member.0))
    }
}

fn membership(ids: &[MemberId]) -> Membership {
    let member =
        |id: &MemberId| Member { id: id.0, peer_ur_ls: vec![NOWHERE.to_owned()], ..Member::default() };
    Membership::new(ids.iter().map(member).collect())
}

fn data_dir(folder: &std::path::Path) -> DataDir {
    let args: Vec<OsString> = vec!["--data-dir".into(), folder.join("data").into()];
    let Ok(Invocation::Serve(config)) = config::load(args, &[], &|_| false) else {
        panic!("the arguments are a configuration");
    };
    let (joins, has_log, birth) = (false, false, Birth(5));
    let first = FirstStart { member: OWN, cluster: CLUSTER, members: Vec::new(), joins, has_log, birth };
    DataDir::open(&config, Some(first)).expect("opened")
}

#[tokio::test]
async fn a_guests_link_ends_with_its_stream() {
    let rig = Rig::new();
    let first = rig.meet(STRANGER).expect("there is room");
    assert_eq!(rig.is_guest(STRANGER), Some(true));
    let second = rig.meet(STRANGER).expect("it came again");
    drop(first);
    assert_eq!(rig.is_guest(STRANGER), Some(true), "another stream has the link");
    drop(second);
    assert_eq!(rig.is_guest(STRANGER), None);
    // All places, over and over.
    for number in 0..100 {
        assert!(rig.meet(MemberId(0x1000 + number)).is_some());
    }
    assert!(rig.meet(MemberId(0)).is_none(), "no member has this id");
    assert!(rig.meet(OWN).is_none(), "nobody is a guest of itself");
    assert!(rig.meet(OTHER).is_none(), "it is a member");
}

#[tokio::test]
async fn a_guest_that_becomes_a_member_has_its_link_made_anew() {
    let mut rig = Rig::new();
    let stay = rig.meet(STRANGER).expect("there is room");
    let its = Message { to: STRANGER.0, ..Message::default() };
    rig.outbound.send(its.clone());
    rig.outbound.depart();
    rig.outbound.set_members(&membership(&[OWN, OTHER, STRANGER]));
    assert_eq!(rig.is_guest(STRANGER), Some(false));
    drop(stay);
    assert_eq!(rig.is_guest(STRANGER), Some(false), "a member's link is no stream's");
    rig.outbound.set_members(&membership(&[OWN, OTHER]));
    assert_eq!(rig.is_guest(STRANGER), None);
}

/// A queue that was looked up once was used on after its link had ended.
#[tokio::test]
async fn a_guest_that_comes_again_is_sent_to_by_its_new_link() {
    let mut rig = Rig::new();
    let stay = rig.meet(STRANGER).expect("there is room");
    rig.outbound.set_members(&membership(&[OWN, OTHER]));
    drop(stay);
    let _stay = rig.meet(STRANGER).expect("there is room");
    rig.outbound.send(Message { to: STRANGER.0, ..Message::default() });
    rig.outbound.depart();
    assert!(!rig.is_counted(STRANGER), "nothing was lost");
}

#[tokio::test]
async fn only_members_can_say_that_this_one_was_removed_or_reborn() {
    let rig = Rig::new();
    let verdicts = |is_guest| {
        let peers = &rig.service.peers;
        for told in [REMOVED, REBORN] {
            peers.heed(is_guest, &Status::permission_denied(told));
        }
        (*peers.removed().borrow(), *peers.is_reborn().borrow())
    };
    assert_eq!(verdicts(true), (false, false));
    assert_eq!(verdicts(false), (true, true));
}

#[tokio::test]
async fn nothing_is_counted_under_an_id_that_somebody_made_up() {
    let mut rig = Rig::new();
    let heartbeat = |from: MemberId| pb::RaftMessage {
        kind: MessageType::MsgHeartbeat as u32,
        from: from.0,
        to: OWN.0,
        ..Default::default()
    };
    let batch =
        |from| pb::MessageBatch { messages: vec![heartbeat(from), heartbeat(MemberId(77))], sent_at: 0 };
    rig.service.take(STRANGER, batch(STRANGER));
    // As raft answers it.
    rig.outbound.send(Message { to: STRANGER.0, ..Message::default() });
    rig.outbound.depart();
    assert!(!rig.is_counted(STRANGER));
    assert!(!rig.is_counted(MemberId(77)));
    let stay = rig.meet(STRANGER);
    rig.service.take(STRANGER, batch(STRANGER));
    assert!(rig.is_counted(STRANGER));
    drop(stay);
    assert!(!rig.is_counted(STRANGER), "it has gone");
    rig.service.take(OTHER, batch(OTHER));
    let metrics = &rig.service.peers.0.metrics;
    assert_eq!(metrics.peer_received_failures.with_label_values(&["2"]).get(), 1);
}

#[tokio::test(start_paused = true)]
async fn only_members_are_lent_a_state() {
    let rig = Rig::new();
    let wanted = pb::StateRequest { at_least: 1, confirmed: false };
    // A member's is asked of a stage that does not run here.
    let asked = rig.service.lend_state(OTHER, wanted);
    let waits = tokio::time::timeout(Duration::from_secs(1), asked).await;
    assert!(waits.is_err(), "it waits");
    let asked = tokio::time::timeout(Duration::from_secs(1), rig.service.lend_state(STRANGER, wanted)).await;
    let refused = asked.expect("it is answered at once").map_err(|status| status.code());
    assert_eq!(refused.err(), Some(Code::PermissionDenied));
}

#[tokio::test]
async fn the_state_of_somebody_unknown_is_refused() {
    let rig = Rig::new();
    let refused = rig.send_state(STRANGER, vec![first_piece(STRANGER)]).await;
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::PermissionDenied, "the state of somebody who is not known here")
    );
    assert!(!rig.is_counted(STRANGER));
    // A leader that is not known as a member yet has come by a stream before.
    let _stay = rig.meet(STRANGER).expect("there is room");
    let heard = rig.send_state(STRANGER, Vec::new()).await;
    assert_eq!((heard.code(), heard.message()), (Code::InvalidArgument, "it has no pieces"));
}

/// As the state of a member begins.
fn first_piece(from: MemberId) -> pb::SnapshotPiece {
    let message = pb::RaftMessage { from: from.0, to: OWN.0, term: 2, ..Default::default() };
    pb::SnapshotPiece { message: Some(message), ..Default::default() }
}

#[tokio::test]
async fn a_state_whose_first_piece_is_none_is_refused() {
    let rig = Rig::new();
    let with = |change: fn(&mut pb::RaftMessage)| {
        let mut piece = first_piece(OTHER);
        piece.message.as_mut().map(change).expect("it has one");
        vec![piece]
    };
    let wrong = [
        (Vec::new(), "it has no pieces"),
        (vec![pb::SnapshotPiece::default()], "it has no message"),
        (with(|message| message.from = STRANGER.0), "its message is not for this member"),
        (with(|message| message.to = OTHER.0), "its message is not for this member"),
        (with(|message| message.term = 1 << 63), "its message is not for this member"),
    ];
    let count = wrong.len() as u64;
    for (pieces, why) in wrong {
        let refused = rig.send_state(OTHER, pieces).await;
        assert_eq!((refused.code(), refused.message()), (Code::InvalidArgument, why));
    }
    let mut large = first_piece(OTHER);
    large.data = vec![0; max_message_bytes(MAX_REQUEST_BYTES)].into();
    let refused = rig.send_state(OTHER, vec![large]).await;
    assert_eq!(refused.code(), Code::OutOfRange, "{refused}");
    let failures = &rig.service.peers.0.metrics.state_receive_failures;
    assert_eq!(failures.with_label_values(&["2"]).get(), count + 1);
    assert!(rig.service.importer.begin().is_ok(), "none was begun");
}

#[tokio::test(start_paused = true)]
async fn a_state_whose_first_piece_does_not_come_is_given_up() {
    let rig = Rig::new();
    let began = tokio::time::Instant::now();
    let given_up = rig.stream_state(OTHER, tokio_stream::pending()).await;
    assert_eq!(given_up.code(), Code::DeadlineExceeded, "{given_up}");
    assert_eq!(began.elapsed().as_secs(), PIECE_TIMEOUT.as_secs());
}

#[tokio::test]
async fn whom_the_log_has_removed_is_neither_heard_nor_spoken_to() {
    let rig = Rig::with_removed(&[OTHER]);
    assert!(rig.service.members.now().contains(OTHER), "the store does not know it yet");
    let refused = rig.send_state(OTHER, vec![first_piece(OTHER)]).await;
    assert!(says_removed(&refused), "{refused}");
    assert!(!rig.service.peers.has_link(OTHER));
}

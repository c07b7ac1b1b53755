//! A member among others, without its threads: who has a link, and what is said and counted of whom.

use std::collections::BTreeSet;
use std::ffi::OsString;

use raft::eraftpb::MessageType;

use super::service::PeerService;
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

const OWN: MemberId = MemberId(1);
const OTHER: MemberId = MemberId(2);
const STRANGER: MemberId = MemberId(0xabc);
const CLUSTER: ClusterId = ClusterId(9);
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
        let folder = tempfile::tempdir().expect("a folder");
        let (metrics, members) = (Metrics::new(false), membership(&[OWN, OTHER]));
        let peers = Peers::new(
            &data_dir(folder.path()),
            BTreeSet::new(),
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
    assert_eq!(refused.err(), Some(tonic::Code::PermissionDenied));
}

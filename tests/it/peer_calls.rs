//! What somebody on the peer URL may order.

use decklog::wire::etcdserverpb::cluster_client::ClusterClient;
use decklog::wire::etcdserverpb::{Member, MemberListRequest};
use decklog::wire::log::MemberChange;
use decklog::wire::log::member_change::Kind as Change;
use decklog::wire::peer::peer_client::PeerClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::server::decklog_program;
use crate::servers::Server;

async fn members(server: &Server) -> (u64, Vec<Member>) {
    let mut client = ClusterClient::new(server.channel.clone());
    let list = client.member_list(MemberListRequest::default()).await.expect("listed").into_inner();
    (list.header.expect("a header").cluster_id, list.members)
}

async fn order(peer: &mut PeerClient<Channel>, cluster: u64, member: u64, change: Change) -> Status {
    let mut request = Request::new(MemberChange { kind: Some(change), ..MemberChange::default() });
    for (key, id) in [("decklog-cluster", cluster), ("decklog-from", 0), ("decklog-to", member)] {
        request.metadata_mut().insert(key, format!("{id:x}").parse().expect("digits"));
    }
    peer.change_members(request).await.expect_err("it is refused")
}

/// It was committed, and no member could start any more.
#[tokio::test]
async fn no_member_is_added_by_a_peer_that_a_client_could_not_add() {
    let server = Server::start(decklog_program(), &[]).await;
    let (cluster, before) = members(&server).await;
    let url = format!("http://127.0.0.1:{}", server.launch.peer_port);
    let mut peer = PeerClient::new(Endpoint::from_shared(url).expect("an address").connect_lazy());
    let member = |id, url: &str| Member { id, peer_ur_ls: vec![url.to_owned()], ..Member::default() };
    let bad = [
        (Change::Add(member(0, "http://127.0.0.1:9")), "etcdserver: member not found"),
        (Change::Add(member(7, "127.0.0.1:9")), "etcdserver: given member URLs are invalid"),
        (Change::Update(member(before[0].id, "unix://a:1")), "etcdserver: given member URLs are invalid"),
    ];
    for (change, why) in bad {
        let refused = order(&mut peer, cluster, before[0].id, change.clone()).await;
        assert_eq!(refused.message(), why, "{change:?}");
    }
    assert_eq!(members(&server).await, (cluster, before));
}

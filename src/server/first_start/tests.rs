//! `--rejoin` against members that answer as they are told to.

use std::pin::Pin;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio_stream::Stream;
use tonic::{Request, Response, Status, Streaming};
use tower_service::Service;

use super::*;
use crate::config::Invocation;
use crate::wire::peer as wire;
use crate::wire::peer::peer_server::{Peer, PeerServer};

/// Nobody listens here.
const OWN_URL: &str = "http://127.0.0.1:1";
const OWN_ID: u64 = 1;
const LEADER: u64 = 2;
const FOLLOWER: u64 = 3;

#[derive(Default)]
struct Cluster {
    members: Vec<pb::Member>,
    changes: Vec<Change>,
}

/// A member; as the leader it makes every change, and its answers are lost.
#[derive(Clone)]
struct Fake {
    id: u64,
    cluster: Arc<Mutex<Cluster>>,
}

type Nothing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn unasked<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("nobody asks this"))
}

#[tonic::async_trait]
impl Peer for Fake {
    type MessagesStream = Nothing<wire::Echo>;
    type StateStream = Nothing<wire::SnapshotPiece>;

    async fn messages(
        &self,
        _request: Request<Streaming<wire::MessageBatch>>,
    ) -> Result<Response<Self::MessagesStream>, Status> {
        unasked()
    }

    async fn snapshot(
        &self,
        _request: Request<Streaming<wire::SnapshotPiece>>,
    ) -> Result<Response<wire::SnapshotReply>, Status> {
        unasked()
    }

    async fn state(
        &self,
        _request: Request<wire::StateRequest>,
    ) -> Result<Response<Self::StateStream>, Status> {
        unasked()
    }

    async fn members(
        &self,
        _request: Request<wire::MembersRequest>,
    ) -> Result<Response<wire::MembersReply>, Status> {
        let members = self.cluster.lock().members.clone();
        let (removed, begun) = (Vec::new(), vec![OWN_ID, LEADER, FOLLOWER]);
        Ok(Response::new(wire::MembersReply { cluster_id: 9, members, removed, begun }))
    }

    async fn change_members(
        &self,
        request: Request<MemberChange>,
    ) -> Result<Response<wire::ChangeMembersReply>, Status> {
        if self.id != LEADER {
            return Err(Status::unavailable("not leader"));
        }
        let mut cluster = self.cluster.lock();
        let change = request.into_inner().kind.expect("a change");
        match &change {
            Change::Remove(id) => cluster.members.retain(|member| member.id != *id),
            Change::Add(member) => cluster.members.push(member.clone()),
            other => panic!("nobody asks for {other:?}"),
        }
        cluster.changes.push(change);
        Err(Status::unavailable("the answer is lost"))
    }

    async fn renew_lease(
        &self,
        _request: Request<pb::LeaseKeepAliveRequest>,
    ) -> Result<Response<pb::LeaseKeepAliveResponse>, Status> {
        unasked()
    }

    async fn lease_time_to_live(
        &self,
        _request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        unasked()
    }
}

/// Serves as this member until the test ends: its URL.
async fn serve(id: u64, cluster: &Arc<Mutex<Cluster>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
    let url = format!("http://{}", listener.local_addr().expect("it has one"));
    let fake = PeerServer::new(Fake { id, cluster: cluster.clone() });
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("somebody comes");
            let fake = fake.clone();
            let service = service_fn(move |request: http::Request<Incoming>| {
                fake.clone().call(request.map(tonic::body::Body::new))
            });
            let connection =
                Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service);
            tokio::spawn(connection);
        }
    });
    url
}

fn member(id: u64, url: &str) -> pb::Member {
    pb::Member { id, name: format!("m{id}"), peer_ur_ls: vec![url.to_owned()], ..pb::Member::default() }
}

fn config(data_dir: &std::path::Path, initial: &str) -> Config {
    let args = [
        "--name=own",
        "--rejoin",
        &format!("--data-dir={}", data_dir.display()),
        &format!("--initial-cluster={initial}"),
        &format!("--initial-advertise-peer-urls={OWN_URL}"),
    ];
    match config::load(args.iter().map(Into::into).collect(), &[], &|_| false).expect("a configuration") {
        Invocation::Serve(config) => *config,
        Invocation::Print(text) => panic!("{text}"),
    }
}

/// The one that leads is not in `--initial-cluster`, and no answer of it arrives: each change is made, and made once.
#[tokio::test]
async fn a_member_rejoins_by_a_leader_that_it_hears_of_and_that_it_hardly_hears() {
    let cluster = Arc::new(Mutex::new(Cluster::default()));
    let (leader, follower) = (serve(LEADER, &cluster).await, serve(FOLLOWER, &cluster).await);
    let members = vec![member(OWN_ID, OWN_URL), member(FOLLOWER, &follower), member(LEADER, &leader)];
    cluster.lock().members = members;
    let folder = tempfile::tempdir().expect("a folder");
    let config = config(&folder.path().join("data"), &format!("own={OWN_URL},other={follower}"));
    let first = first_start(&config).await.expect("it rejoins").expect("its directory is empty");
    assert!(first.joins && first.member != MemberId(OWN_ID));
    let ids: Vec<_> = first.members.iter().map(|member| member.id.0).collect();
    assert_eq!(ids, [FOLLOWER, LEADER, first.member.0]);
    let cluster = cluster.lock();
    assert_eq!(cluster.changes.len(), 2, "{:?}", cluster.changes);
    assert_eq!(cluster.changes[0], Change::Remove(OWN_ID));
}

#[tokio::test]
async fn who_makes_no_change_is_told_as_such() {
    let cluster = Arc::new(Mutex::new(Cluster::default()));
    let follower = serve(FOLLOWER, &cluster).await;
    cluster.lock().members = vec![member(FOLLOWER, &follower)];
    let known = peers::ask_members(&[follower]).await.expect("it answers");
    let change = MemberChange { kind: Some(Change::Remove(OWN_ID)), ..MemberChange::default() };
    let refused = peers::ask_change(&known, &BTreeSet::from([OWN_URL]), &change).await;
    let told = refused.expect_err("it does not lead").to_string();
    assert!(told.starts_with("no member has changed who belongs to the cluster: http://"), "{told}");
    assert!(told.ends_with("not leader"), "{told}");
}

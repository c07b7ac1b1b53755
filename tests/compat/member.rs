//! One member of a side, and starting all of them.

use std::path::Path;

use decklog::wire::etcdserverpb::cluster_client::ClusterClient;
use decklog::wire::etcdserverpb::kv_client::KvClient;
use decklog::wire::etcdserverpb::lease_client::LeaseClient;
use decklog::wire::etcdserverpb::maintenance_client::MaintenanceClient;
use decklog::wire::etcdserverpb::{LeaseKeepAliveRequest, RangeRequest};
use futures_util::future::join_all;
use tonic::transport::Channel;
use tonic::{Response, Status};

use crate::answer::Answer;
use crate::servers::{Launch, Server};

pub struct Member {
    pub server: Server,
    pub kv: KvClient<Channel>,
    pub lease: LeaseClient<Channel>,
    pub maintenance: MaintenanceClient<Channel>,
    pub cluster: ClusterClient<Channel>,
}

/// Starts so many members of one new cluster.
pub async fn start(program: &Path, flags: &[&str], count: usize) -> Vec<Member> {
    let mut launches: Vec<Launch> = (0..count).map(|_| Launch::new(program, flags)).collect();
    let name = |(place, launch): (usize, &Launch)| format!("m{place}=http://127.0.0.1:{}", launch.peer_port);
    let all: Vec<String> = launches.iter().enumerate().map(name).collect();
    for (place, launch) in launches.iter_mut().enumerate() {
        let names = [format!("--name=m{place}"), format!("--initial-cluster={}", all.join(","))];
        launch.more_flags.extend(names);
    }
    join_all(launches.into_iter().map(|launch| async { Member::new(Server::launch(launch).await) })).await
}

impl Member {
    fn new(server: Server) -> Self {
        let channel = &server.channel;
        Self {
            kv: KvClient::new(channel.clone()),
            lease: LeaseClient::new(channel.clone()),
            maintenance: MaintenanceClient::new(channel.clone()),
            cluster: ClusterClient::new(channel.clone()),
            server,
        }
    }

    /// Everything acknowledged anywhere before this is visible at this member after it.
    pub async fn catch_up(&mut self) -> Result<(), Status> {
        let request = RangeRequest { key: "x".into(), count_only: true, ..Default::default() };
        self.kv.range(request).await.map(drop)
    }

    pub async fn keep_alive_once(&mut self, request: LeaseKeepAliveRequest) -> Answer {
        let answers = self.lease.lease_keep_alive(tokio_stream::once(request)).await;
        let first = match answers {
            Ok(mut answers) => answers.get_mut().message().await,
            Err(status) => Err(status),
        };
        let missing = || Status::internal("the stream ended without an answer");
        Answer::of(
            first.and_then(|answer| answer.ok_or_else(missing)).map(Response::new),
            Answer::LeaseKeepAlive,
        )
    }
}

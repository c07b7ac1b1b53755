//! What members ask each other beside raft's messages: who belongs to the cluster, and what only the leader does.

use std::collections::BTreeSet;
use std::time::Duration;

use tonic::Status;
use tonic::transport::Channel;

use super::{MAX_MESSAGE_BYTES, Peers, endpoint, metadata};
use crate::command::MemberChange;
use crate::datadir::Birth;
use crate::ids::{ClusterId, LeaseId, MemberId};
use crate::wire::etcdserverpb::{
    LeaseKeepAliveRequest, LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, Member,
};
use crate::wire::peer as pb;
use crate::wire::peer::peer_client::PeerClient;

/// How long a member that starts waits for one answer.
const MEMBERS_TIMEOUT: Duration = Duration::from_secs(2);
/// Longer than a leader waits for an outcome.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// A cluster as one of its members knows it.
#[derive(Clone, Debug, PartialEq)]
pub struct KnownCluster {
    pub id: ClusterId,
    pub members: Vec<Member>,
    pub removed: Vec<MemberId>,
    /// Those whom the asked member has met.
    pub begun: Vec<MemberId>,
}

/// Why nobody has done what was asked, with what each of them said.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    #[error("could not retrieve cluster information from the given URLs{0}")]
    Members(String),
    #[error("no member has changed who belongs to the cluster{0}")]
    Change(String),
}

/// Asks the URLs in turn who belongs to their cluster. Any member may ask, also one that has no data yet.
///
/// # Errors
/// When none answers.
pub async fn ask_members(urls: &[String]) -> Result<KnownCluster, AskError> {
    let mut failed = Vec::new();
    for url in urls {
        let asked = async {
            let endpoint = endpoint(url).map_err(|error| error.to_string())?.timeout(MEMBERS_TIMEOUT);
            let channel = endpoint.connect().await.map_err(|error| format!("{url}: {error}"))?;
            let answer = PeerClient::new(channel).members(pb::MembersRequest {}).await;
            answer.map_err(|status| format!("{url}: {}", status.message()))
        };
        match asked.await {
            Ok(answer) => {
                let pb::MembersReply { cluster_id, members, removed, begun } = answer.into_inner();
                let ids = |ids: Vec<u64>| ids.into_iter().map(MemberId).collect();
                let (removed, begun) = (ids(removed), ids(begun));
                return Ok(KnownCluster { id: ClusterId(cluster_id), members, removed, begun });
            }
            Err(why) => failed.push(why),
        }
    }
    Err(AskError::Members(list(&failed)))
}

/// Asks the members of a cluster in turn to change who belongs to it, until one leads and does; nobody at `own`, where the
/// one that asks is reached. For a member that has no id yet.
///
/// # Errors
/// What each of them said.
pub async fn ask_change(
    known: &KnownCluster,
    own: &BTreeSet<&str>,
    change: &MemberChange,
) -> Result<(), AskError> {
    let mut failed = Vec::new();
    let is_other = |member: &&Member| member.peer_ur_ls.iter().all(|url| !own.contains(url.as_str()));
    for member in known.members.iter().filter(is_other) {
        for url in &member.peer_ur_ls {
            let asked = async {
                let endpoint = endpoint(url).map_err(|error| error.to_string())?.timeout(CHANGE_TIMEOUT);
                let channel = endpoint.connect().await.map_err(|error| format!("{url}: {error}"))?;
                let mut request = tonic::Request::new(change.clone());
                let nobody = (MemberId(0), Birth::default());
                *request.metadata_mut() = metadata(known.id, nobody, MemberId(member.id));
                let answer = PeerClient::new(channel).change_members(request).await;
                answer.map_err(|status| format!("{url}: {}", status.message()))
            };
            match asked.await {
                Ok(_) => return Ok(()),
                Err(why) => failed.push(why),
            }
        }
    }
    Err(AskError::Change(list(&failed)))
}

fn list(failed: &[String]) -> String {
    if failed.is_empty() { String::new() } else { format!(": {}", failed.join("; ")) }
}

impl Peers {
    fn client(&self, member: MemberId) -> Result<PeerClient<Channel>, Status> {
        let channel = self.channel(member).ok_or_else(|| Status::unavailable("the member is not known"))?;
        Ok(PeerClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES))
    }

    /// Has the leader renew a lease: its seconds, 0 when there is none.
    ///
    /// # Errors
    /// What a client is to be told.
    pub async fn renew_lease(&self, leader: MemberId, id: LeaseId) -> Result<i64, Status> {
        let request = self.request(leader, LeaseKeepAliveRequest { id: id.0 });
        Ok(self.client(leader)?.renew_lease(request).await?.into_inner().ttl)
    }

    /// Asks the leader what time a lease has left.
    ///
    /// # Errors
    /// What a client is to be told.
    pub async fn time_to_live(
        &self,
        leader: MemberId,
        id: LeaseId,
        keys: bool,
    ) -> Result<LeaseTimeToLiveResponse, Status> {
        let request = self.request(leader, LeaseTimeToLiveRequest { id: id.0, keys });
        Ok(self.client(leader)?.lease_time_to_live(request).await?.into_inner())
    }

    /// Has the leader change who belongs to the cluster: who does then.
    ///
    /// # Errors
    /// What a client is to be told.
    pub async fn change_members(
        &self,
        leader: MemberId,
        change: &MemberChange,
    ) -> Result<Vec<Member>, Status> {
        let request = self.request(leader, change.clone());
        Ok(self.client(leader)?.change_members(request).await?.into_inner().members)
    }
}

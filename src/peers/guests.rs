//! Those who have come and are not known as members here: each has a link for as long as its own stream lasts. Whoever
//! knows the cluster's id can come, so that nothing of them outlives their stream and nothing they say of this member counts.

use std::sync::atomic::Ordering;

use super::Peers;
use super::link::Link;
use crate::consensus::Handle;
use crate::ids::MemberId;

/// Links to guests, at most.
const MAX_GUESTS: usize = 16;

/// A guest's stream. Dropped, it takes the link with it, unless another stream or a member has that by now.
pub(super) struct Stay {
    peers: Peers,
    consensus: Handle,
    guest: MemberId,
    stream: u64,
}

impl Peers {
    /// Somebody has come that this member may not know yet: it was added behind the newest entry that is known here, and may
    /// be the leader by now, who must be answered.
    pub(super) fn meet(&self, consensus: &Handle, from: MemberId, urls: &[String]) -> Option<Stay> {
        if from == MemberId(0) || from == self.0.member {
            return None;
        }
        let stream = self.0.streams.fetch_add(1, Ordering::Relaxed);
        let mut links = self.0.links.lock();
        let guests = links.values().filter(|link| link.is_guest()).count();
        match links.get_mut(&from) {
            Some(link) if !link.is_guest() => return None,
            // It came again before it was known here that its older stream broke.
            Some(link) if link.urls() == urls => link.go_with(stream),
            None if guests >= MAX_GUESTS => return None,
            Some(_) | None => {
                let link = Link::begin_to_guest(self, consensus, (from, stream), urls)?;
                tracing::info!(member = %format!("{:x}", from.0), "met a member that is not known here yet");
                links.insert(from, link);
            }
        }
        drop(links);
        Some(Stay { peers: self.clone(), consensus: consensus.clone(), guest: from, stream })
    }
}

impl Drop for Stay {
    fn drop(&mut self) {
        let mut links = self.peers.0.links.lock();
        if links.get(&self.guest).is_some_and(|link| link.guest_stream() != Some(self.stream)) {
            return;
        }
        drop(links.remove(&self.guest));
        drop(links);
        self.consensus.unreachable(self.guest);
        // Ids are free to choose: they leave no series behind.
        let (own, guest) = (format!("{:x}", self.peers.0.member.0), format!("{:x}", self.guest.0));
        self.peers.0.metrics.forget_peer(&own, &guest);
    }
}

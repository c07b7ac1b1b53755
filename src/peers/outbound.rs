//! Consensus' way out: messages gathered until the turn ends, then one batch per member. Never waits.

use std::collections::HashMap;
use std::time::Duration;

use super::Peers;
use super::link::Link;
use super::queue::Queue;
use crate::consensus::{Handle, Message, MessageType, Network, Outside, to_wire};
use crate::ids::MemberId;
use crate::members::Membership;
use crate::wire::peer as pb;

/// A member that has been removed goes on so long: those who stay may still need what it has sent.
const FAREWELL: Duration = Duration::from_secs(1);

/// See the module.
pub struct Outbound {
    peers: Peers,
    consensus: Handle,
    /// Whom a member that joins can reach until it knows members.
    found: Membership,
    /// Of the links to members; those to guests come and go.
    queues: HashMap<u64, Queue>,
    members: Membership,
    gathered: Vec<(u64, Vec<pb::RaftMessage>)>,
}

impl Outbound {
    pub(super) fn new(peers: Peers, consensus: Handle, found: Membership) -> Self {
        Self {
            peers,
            consensus,
            found,
            queues: HashMap::new(),
            members: Membership::default(),
            gathered: Vec::new(),
        }
    }
}

impl Network for Outbound {
    fn send(&mut self, message: Message) {
        if message.get_msg_type() == MessageType::MsgSnapshot {
            return self.peers.send_state(&self.consensus, message);
        }
        let to = message.to;
        let message = to_wire(message);
        match self.gathered.iter_mut().find(|(known, _)| *known == to) {
            Some((_, messages)) => messages.push(message),
            None => self.gathered.push((to, vec![message])),
        }
    }

    fn depart(&mut self) {
        for (to, messages) in self.gathered.drain(..) {
            let heartbeats = messages.iter().any(|message| message.kind == MessageType::MsgHeartbeat as u32);
            let queue = self.queues.get(&to).cloned().or_else(|| self.peers.queue(MemberId(to)));
            let is_known = queue.is_some() || self.members.contains(MemberId(to));
            if queue.is_some_and(|queue| queue.push(messages)) {
                continue;
            }
            // Raft answers whoever has sent something.
            if is_known {
                let metrics = &self.peers.0.metrics;
                metrics.peer_sent_failures.with_label_values(&[&format!("{to:x}")]).inc();
            }
            if heartbeats {
                self.consensus.progress().heartbeats_failed(1);
            }
            self.consensus.unreachable(MemberId(to));
        }
    }
}

impl Outside for Outbound {
    fn set_members(&mut self, members: &Membership) {
        self.members.clone_from(members);
        let own = self.peers.0.member;
        let is_joining = members.voters().is_empty();
        let members = if is_joining { &self.found } else { members };
        if members.is_removed(own) {
            let removed = self.peers.0.removed.clone();
            self.peers.0.runtime.spawn(async move {
                tokio::time::sleep(FAREWELL).await;
                removed.send_replace(true);
            });
        }
        self.peers.0.offered.lock().retain(|member, _| members.contains(*member));
        let mut links = self.peers.0.links.lock();
        // A guest that is a member now has its link made anew: what it says of this member counts from here on.
        links.retain(|id, link| match members.get(*id) {
            Some(member) => !link.is_guest() && member.peer_ur_ls == link.urls(),
            None => link.is_guest() && !members.is_removed(*id),
        });
        if let Some(member) = members.get(own) {
            self.peers.0.own_urls.lock().clone_from(&member.peer_ur_ls);
        }
        for member in members.list() {
            let id = MemberId(member.id);
            if id != own && !links.contains_key(&id) && !self.peers.0.removed_in_log.contains(&id) {
                match Link::begin(&self.peers, &self.consensus, id, &member.peer_ur_ls) {
                    Some(link) => drop(links.insert(id, link)),
                    None => {
                        tracing::warn!(member = %format!("{:x}", id.0), "a member has no URL to reach it by")
                    }
                }
            }
        }
        let to_members = || links.iter().filter(|(_, link)| !link.is_guest());
        self.queues = to_members().map(|(id, link)| (id.0, link.queue())).collect();
        let (local, metrics) = (format!("{:x}", own.0), &self.peers.0.metrics);
        metrics.known_peers.reset();
        for (id, _) in to_members() {
            metrics.known_peers.with_label_values(&[&local, &format!("{:x}", id.0)]).set(1);
        }
    }

    fn stopped_leading(&mut self) {
        self.peers.0.offered.lock().clear();
    }
}

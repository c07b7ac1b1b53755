//! The thread round the node: gathers what waits, steps, hands on. Time enters here.
//! While one flush runs, the next batch gathers in the channel: that is the group commit.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use prometheus::HistogramVec;
use tokio::sync::oneshot;

use super::lobby::{Lobby, lobby};
use super::node::{CommittedEntry, Error, Network, Node};
use super::{ConsensusError, Handle, Install, Message, MessageType, Progress, Proposal, ReceivedState};
use crate::command;
use crate::courier::Outbox;
use crate::ids::{LogPosition, MemberId};
use crate::inbox::{Receiver, Sender, Taken, bounded};
use crate::members::Membership;
use crate::snapshot::Capture;

/// Requests that wait for the loop; more are refused with "too many requests".
pub(super) const MAX_QUEUED_REQUESTS: usize = 16 * 1024;
/// Batches of peers' messages that find room beside them.
const MAX_QUEUED_MESSAGES: usize = 4096;
/// Batches of committed entries on their way to apply; more wait here, in order.
const MAX_QUEUED_BATCHES: usize = 256;
/// Bytes of entries in memory above which a follower takes no more while its store has no room.
const MAX_BYTES_WHEN_FULL: usize = 64 << 20;
/// Bytes of proposals and messages after which a turn takes no more before they are flushed: they make one record of the log,
/// which fits into a segment.
const MAX_TURN_BYTES: usize = 8 << 20;
/// How soon the loop looks again when apply has no room.
const RETRY: Duration = Duration::from_millis(1);

/// What the loop can be told.
#[derive(Debug)]
pub enum Event {
    Proposal(Proposal),
    Change(Proposal),
    /// Readers wait in the lobby.
    Readers,
    /// Of one peer, in order; with the bytes that they count for in the queue.
    Messages(Vec<Message>, usize),
    State(Box<ReceivedState>),
    /// A state to be sent is ready.
    Offer(MemberId, LogPosition, Membership),
    /// It has been sent, or could not be.
    Sent(MemberId, bool),
    Unreachable(MemberId),
    Transfer(Option<MemberId>),
    PercentOfLog(MemberId, oneshot::Sender<Option<u64>>),
    /// The state is asked for, whoever leads.
    Lend(oneshot::Sender<Capture>),
    /// Stop after what is queued before this.
    Stop,
}

/// What goes to apply, in order.
#[derive(Debug)]
pub enum Committed {
    Entries(Vec<CommittedEntry>),
    /// A received state takes the place of everything applied so far.
    Install(Install),
    /// The state as of here is asked for, for this member.
    Capture(MemberId),
    /// The same, for whoever asked.
    Lend(oneshot::Sender<Capture>),
}

/// What the loop needs of the world beside time.
pub trait Outside: Network + Send {
    /// Who belongs to the cluster.
    fn set_members(&mut self, members: &Membership);

    /// This member leads no more: states that it has offered are of no use.
    fn stopped_leading(&mut self);
}

/// How the loop behaves.
#[derive(Clone, Copy, Debug)]
pub struct LoopOptions {
    /// One raft tick: the heartbeat interval.
    pub tick: Duration,
    pub election_timeout: Duration,
    /// Entries kept in the log for followers behind what the store has flushed.
    pub catch_up_entries: u64,
    pub max_request_bytes: usize,
    pub request_timeout: Duration,
    /// The first election timeout is cut short.
    pub skip_first_timeout: bool,
}

/// See the module.
pub struct Loop {
    node: Node,
    outside: Box<dyn Outside>,
    options: LoopOptions,
    events: Receiver<Event>,
    /// Taken out of the inbox, not handled yet.
    taken: VecDeque<Event>,
    lobby: Lobby,
    committed: Sender<Committed>,
    /// What apply has no room for yet.
    backlog: VecDeque<Committed>,
    /// Answers to readers, until the turn ends.
    outbox: Outbox,
    progress: Arc<Progress>,
    next_tick: Instant,
    /// How long the last turn took, when it was a stall.
    stalled: Option<Duration>,
}

/// Stops the loop. Proposals queued before are still carried out.
#[derive(Clone)]
pub struct Stopper(Sender<Event>);

impl Stopper {
    pub fn stop(&self) {
        self.0.send_end(Event::Stop);
    }
}

/// A loop's other ends.
pub struct LoopParts {
    pub handle: Handle,
    pub stopper: Stopper,
    pub committed: Receiver<Committed>,
}

impl Loop {
    /// `request_seconds` is told how long each proposal took, by its command's name and whether it had an outcome.
    /// `outside` is made of the handle: peers answer to it.
    pub fn new(
        node: Node,
        options: LoopOptions,
        request_seconds: HistogramVec,
        outside: impl FnOnce(&Handle) -> Box<dyn Outside>,
    ) -> (Self, LoopParts) {
        let (event_sender, events) = bounded(MAX_QUEUED_REQUESTS + MAX_QUEUED_MESSAGES);
        let (committed, committed_receiver) = bounded(MAX_QUEUED_BATCHES);
        let progress = Arc::new(Progress::default());
        let (door, lobby) = lobby();
        let handle = Handle {
            events: event_sender.clone(),
            door,
            progress: progress.clone(),
            max_request_bytes: options.max_request_bytes,
            request_timeout: options.request_timeout,
            leader_loss: 2 * options.election_timeout,
            seconds: request_seconds,
        };
        let outside = outside(&handle);
        let mut this = Self {
            node,
            outside,
            options,
            events,
            taken: VecDeque::new(),
            lobby,
            committed,
            backlog: VecDeque::new(),
            outbox: Outbox::default(),
            progress,
            next_tick: Instant::now() + options.tick,
            stalled: None,
        };
        this.members_changed();
        (this, LoopParts { handle, stopper: Stopper(event_sender), committed: committed_receiver })
    }

    /// Runs until told to stop.
    ///
    /// # Errors
    /// A fault after which nothing may be acknowledged: the process must stop.
    pub fn run(&mut self) -> Result<(), Error> {
        let result = self.turns().and_then(|()| self.node.close());
        let told = if result.is_ok() { ConsensusError::Stopped } else { ConsensusError::Timeout };
        self.node.fail_waiting(&told);
        result
    }

    fn turns(&mut self) -> Result<(), Error> {
        self.node.campaign_if_alone()?;
        if self.options.skip_first_timeout {
            self.node.skip_first_timeout();
        }
        loop {
            self.settle()?;
            self.stalled = self.progress.turns.end();
            let wake_at = self.wake_at();
            let taken = match self.taken.is_empty() {
                true => self.events.take(&mut self.taken, Some(wake_at)),
                false => Taken::Items,
            };
            self.progress.turns.begin();
            match taken {
                Taken::Items => {
                    if !self.take_events()? {
                        return self.settle();
                    }
                }
                Taken::TimedOut => {}
                Taken::Closed => return Ok(()),
            }
            self.give_up_after_stall();
            self.tick_when_due()?;
        }
    }

    /// After a turn that took longer than an election timeout, and after what the others have said meanwhile: whoever
    /// still leads then hands over, since the next flush may stall, too.
    fn give_up_after_stall(&mut self) {
        let Some(took) = self.stalled.take() else { return };
        let milliseconds = took.as_millis();
        if !self.node.is_leader() {
            tracing::warn!(
                milliseconds,
                "consensus stalled for longer than an election timeout: is the disk slow?"
            );
        } else if let Some(to) = self.node.best_successor() {
            let to_id = format!("{:x}", to.0);
            tracing::warn!(
                milliseconds,
                to = to_id,
                "the leader stalled for longer than an election timeout: is the disk slow? It hands over"
            );
            self.node.transfer_leadership(to);
        }
    }

    /// Who belongs to the cluster has changed, or is said for the first time.
    fn members_changed(&mut self) {
        self.outside.set_members(self.node.members());
        self.progress.connections.set_voters(self.node.members().voters());
        let patience = (!self.node.is_only_voter()).then_some(self.options.election_timeout);
        self.progress.turns.set_patience(patience);
    }

    /// Steps until nothing is left to flush or to hand on.
    fn settle(&mut self) -> Result<(), Error> {
        self.node.applied(self.progress.applied().index);
        self.let_readers_in();
        self.node.move_on();
        while self.node.has_ready() {
            let step = self.node.step(&mut *self.outside)?;
            self.publish_status(step.committed.last().map(|entry| entry.position));
            if step.members_changed {
                self.members_changed();
            }
            self.backlog.extend(step.install.map(Committed::Install));
            if !step.committed.is_empty() {
                self.backlog.push_back(Committed::Entries(step.committed));
            }
            self.hand_on();
            for granted in step.granted {
                self.progress.grant(granted, &mut self.outbox);
            }
            self.let_readers_in();
            self.node.move_on();
        }
        if let Some(member) = self.node.take_wanted_state() {
            self.backlog.push_back(Committed::Capture(member));
        }
        self.hand_on();
        self.check_reads();
        self.outbox.send();
        Ok(())
    }

    /// Those who have come wait for the next round, which begins when none is under way.
    fn let_readers_in(&mut self) {
        if self.node.has_round() {
            self.lobby.keep();
        } else {
            self.lobby.let_in().into_iter().for_each(|reader| self.node.read(reader));
        }
    }

    fn hand_on(&mut self) {
        while self.committed.has_room()
            && let Some(batch) = self.backlog.pop_front()
        {
            // Refused when apply has ended: it has said why, and the process is stopping.
            if self.committed.try_send(batch).is_err() {
                break;
            }
        }
    }

    fn wake_at(&self) -> Instant {
        let is_settling = self.node.is_only_voter() && !self.progress.reads_need_no_round();
        let unsettled = !self.backlog.is_empty() || is_settling;
        if unsettled { self.next_tick.min(Instant::now() + RETRY) } else { self.next_tick }
    }

    /// Does what was taken, as far as one turn may; `false` when a stop was among it: requests that came behind that are
    /// dropped.
    fn take_events(&mut self) -> Result<bool, Error> {
        let mut proposals = Vec::with_capacity(self.taken.len());
        let (mut go_on, mut turn_bytes) = (true, 0);
        while turn_bytes < MAX_TURN_BYTES
            && let Some(event) = self.taken.pop_front()
        {
            match event {
                Event::Proposal(proposal) if go_on => {
                    turn_bytes += proposal.command.len();
                    proposals.push(proposal);
                }
                Event::Change(proposal) if go_on => self.node.propose_change(proposal),
                // The lobby is looked at in every turn.
                Event::Proposal(_) | Event::Change(_) | Event::Readers => {}
                Event::Messages(messages, bytes) => {
                    turn_bytes += bytes;
                    self.progress.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
                    self.take_messages(messages)?;
                }
                Event::State(received) => self.node.receive_state(*received),
                Event::Offer(to, position, members) => self.node.offer_state(to, position, &members),
                Event::Sent(to, arrived) => self.node.state_sent(to, arrived),
                Event::Unreachable(peer) => self.node.unreachable(peer),
                Event::Transfer(to) => {
                    if let Some(to) = to.or_else(|| self.node.best_successor()) {
                        self.node.transfer_leadership(to);
                    }
                }
                // Who asked may have gone.
                Event::PercentOfLog(member, reply) => drop(reply.send(self.node.percent_of_log(member))),
                Event::Lend(asker) => self.backlog.push_back(Committed::Lend(asker)),
                Event::Stop => go_on = false,
            }
        }
        if self.progress.disk_full() {
            let refused = proposals.extract_if(.., |proposal| !proposal.makes_room);
            refused.for_each(|proposal| proposal.fail(&ConsensusError::NoSpace));
        }
        self.node.propose(proposals);
        Ok(go_on)
    }

    fn take_messages(&mut self, messages: Vec<Message>) -> Result<(), Error> {
        for message in messages {
            if self.progress.disk_full() && !self.is_taken_when_full(&message) {
                tracing::debug!(from = message.from, "entries of another member find the disk full");
                continue;
            }
            self.node.receive(message)?;
        }
        Ok(())
    }

    /// As of its own clients, so of other members: the log must not take more than what makes room. As a follower it takes
    /// what others have while it can be kept in memory.
    fn is_taken_when_full(&self, message: &Message) -> bool {
        match message.get_msg_type() {
            MessageType::MsgPropose => {
                message.entries.iter().all(|entry| command::batch_makes_room(&entry.data))
            }
            MessageType::MsgAppend => {
                message.entries.is_empty() || self.node.log().bytes() < MAX_BYTES_WHEN_FULL
            }
            _ => true,
        }
    }

    fn tick_when_due(&mut self) -> Result<(), Error> {
        let now = Instant::now();
        if now < self.next_tick {
            return Ok(());
        }
        if now > self.next_tick + self.options.tick && self.node.is_leader() && !self.node.is_only_voter() {
            let milliseconds = (now - self.next_tick).as_millis();
            tracing::warn!(milliseconds, "heartbeats leave late: the disk is slow, or the machine is busy");
            self.progress.heartbeats_failed(self.node.members().list().len() as u64 - 1);
        }
        self.next_tick = now + self.options.tick;
        self.node.tick();
        let (applied, flushed) = (self.progress.applied().index, self.progress.flushed());
        self.node.progressed(applied, flushed, self.options.catch_up_entries)
    }

    /// A lone leader that has applied an entry of its term has applied everything of older terms.
    fn check_reads(&self) {
        let alone = self.node.is_only_voter() && self.node.is_leader();
        let none = alone && self.progress.applied().term == self.node.term();
        if none != self.progress.reads_need_no_round() {
            self.progress.set_reads_need_no_round(none);
        }
    }

    fn publish_status(&mut self, committed: Option<LogPosition>) {
        self.progress.term.store(self.node.term().0, Ordering::Release);
        self.progress.set_leader(self.node.leader());
        self.progress.log_bytes.store(self.node.log().bytes_written(), Ordering::Relaxed);
        let led = self.progress.is_leader.swap(self.node.is_leader(), Ordering::AcqRel);
        if led && !self.node.is_leader() {
            self.outside.stopped_leading();
        }
        self.progress.is_learner.store(self.node.is_learner(), Ordering::Release);
        if let Some(committed) = committed {
            self.progress.committed_term.store(committed.term.0, Ordering::Release);
            self.progress.committed_index.store(committed.index.0, Ordering::Release);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;

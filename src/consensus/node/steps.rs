//! The node's turn: flushes what raft wants kept, sends, and hands out what is committed.

use raft::eraftpb::Entry;

use super::super::log::is_change;
use super::{CommittedEntry, Error, Network, Node, Step};
use crate::ids::{LogIndex, LogPosition, Term};

impl Node {
    /// Whether `step` has something to do.
    pub fn has_ready(&self) -> bool {
        self.raw.has_ready()
            || !self.answers.is_empty()
            || self.withheld.front().is_some_and(|entry| self.may_take(entry))
    }

    /// Flushes what raft wants kept, then hands out what is committed by it. A leader's messages leave before its own
    /// flush, unless its term or vote is new; all others' after it. That a change of members is committed is durable before
    /// anybody hears of it: who is removed by it is not asked any more. Raft hands out what is committed in pages, and
    /// its messages tell of all of it at once.
    ///
    /// # Errors
    /// See `Error`: nothing may be answered any more.
    pub fn step(&mut self, network: &mut dyn Network) -> Result<Step, Error> {
        let mut step = Step::default();
        let mut ready = self.raw.ready();
        let commit = LogIndex(self.raw.raft.raft_log.committed);
        let changes_members = self.raw.store().commits_change(commit, ready.entries());
        let promises = ready.hs().is_some_and(|new| self.raw.store().is_promise(new));
        let mut messages = ready.take_messages();
        messages.extend(self.take_reads(ready.take_read_states(), &mut step));
        if !changes_members && !promises {
            messages.drain(..).for_each(|message| network.send(message));
            network.depart();
        }
        let snapshot = ready.snapshot().get_metadata();
        if snapshot.index > 0 {
            let position = LogPosition { index: LogIndex(snapshot.index), term: Term(snapshot.term) };
            step.install = Some(self.take_state(position)?);
            step.members_changed = true;
        }
        let mut committed = ready.take_committed_entries();
        self.raw.mut_store().append(ready.hs(), ready.entries())?;
        if changes_members {
            self.raw.mut_store().keep_commit()?;
        } else if ready.must_sync() {
            self.raw.mut_store().flush()?;
        }
        messages.into_iter().for_each(|message| network.send(message));
        ready.take_persisted_messages().into_iter().for_each(|message| network.send(message));
        let mut light = self.raw.advance_append(ready);
        if let Some(commit) = light.commit_index().map(LogIndex) {
            let changes_members = self.raw.store().commits_change(commit, &[]);
            self.raw.mut_store().note_commit(commit);
            if changes_members {
                self.raw.mut_store().keep_commit()?;
            }
        }
        light.take_messages().into_iter().for_each(|message| network.send(message));
        network.depart();
        committed.append(&mut light.take_committed_entries());
        // Only now: raft looks for the leader that wrote what has been flushed among its members.
        self.take_committed(committed, &mut step)?;
        self.step_down_if_removed();
        self.notice();
        Ok(step)
    }

    fn take_committed(&mut self, entries: Vec<Entry>, step: &mut Step) -> Result<(), Error> {
        if step.install.is_some() {
            self.withheld.clear();
        }
        self.withheld.extend(entries);
        while let Some(mut entry) = self.withheld.pop_front() {
            if !self.may_take(&entry) {
                self.withheld.push_front(entry);
                break;
            }
            let position = LogPosition { index: LogIndex(entry.index), term: Term(entry.term) };
            let data = match is_change(&entry) {
                false => entry.take_data(),
                true => {
                    let data = entry.take_context();
                    step.members_changed |= self.change_members(position, &data)?;
                    data
                }
            };
            let replies = self.waiting.committed(position, &data);
            step.committed.push(CommittedEntry { position, data, replies });
        }
        Ok(())
    }

    /// A member does not leave before somebody who stays knows for good that it need not be asked: the leader has said so, or
    /// this member leads and has heard it of a majority of those who stay. When the leader is all that knows it and is lost,
    /// the others may still ask the one that left: they go on when the leader is back.
    fn may_take(&self, entry: &Entry) -> bool {
        let knows = |id: &u64| {
            self.raw.raft.prs().get(*id).is_some_and(|progress| progress.committed_index >= entry.index)
        };
        if !is_change(entry) || self.told_commit >= entry.index || !self.removes_itself(&entry.context) {
            return true;
        }
        let mut stay = self.members.voters();
        stay.retain(|id| *id != self.id.0);
        self.is_leader() && stay.iter().filter(|id| knows(id)).count() > stay.len() / 2
    }
}

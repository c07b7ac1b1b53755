//! The store's twin in memory: for tests and simulation. It forgets what was not flushed, or fails, on demand.

use std::collections::BTreeMap;
use std::ops::{Bound, ControlFlow};

use bytes::Bytes;
use parking_lot::Mutex;

use super::disk::Fault;
use super::{Error, Round, Sizes, Store, StoredChange, Table, change_size, row_size};
use crate::ids::{FullRevision, LogPosition, Revision};

#[derive(Clone, Default)]
struct Contents {
    applied: LogPosition,
    changes: BTreeMap<FullRevision, StoredChange>,
    tables: BTreeMap<(Table, Bytes), Bytes>,
}

#[derive(Default)]
struct State {
    now: Contents,
    /// The state after each round since the last flush, what that left first; empty when nothing was written since.
    since_flush: Vec<Contents>,
    calls: u64,
    fail_at: Option<(u64, Fault)>,
    stopped: bool,
    /// What the call that met the last fault would have done.
    failed_call: Option<&'static str>,
}

/// See the module.
#[derive(Default)]
pub struct MemoryStore(Mutex<State>);

impl MemoryStore {
    pub fn new() -> Self {
        Self::default()
    }

    /// The writing call with this number from now on, counted from 0, meets a fault.
    pub fn fail_at(&self, call: u64, fault: Fault) {
        let mut state = self.0.lock();
        state.fail_at = Some((state.calls + call, fault));
    }

    /// What the call that met a fault since the last crash would have done.
    pub fn failed_call(&self) -> Option<&'static str> {
        self.0.lock().failed_call
    }

    /// Calls that may fail, so far.
    pub fn calls(&self) -> u64 {
        self.0.lock().calls
    }

    /// Back to the state after the last flush or, as `pick` has it, after one of the rounds since.
    pub fn crash(&self, pick: u64) {
        let mut state = self.0.lock();
        if !state.since_flush.is_empty() {
            let place = usize::try_from(pick % state.since_flush.len() as u64).unwrap_or(0);
            state.now = state.since_flush.swap_remove(place);
            state.since_flush.clear();
        }
        (state.stopped, state.fail_at, state.failed_call) = (false, None, None);
    }

    fn call(&self, what: &'static str) -> Result<parking_lot::MutexGuard<'_, State>, Error> {
        let mut state = self.0.lock();
        let number = state.calls;
        state.calls += 1;
        let fault = state.fail_at.filter(|(at, _)| *at == number).map(|(_, fault)| fault);
        state.stopped |= fault == Some(Fault::Stop);
        if fault.is_some() {
            state.failed_call = Some(what);
        }
        let path = "memory".to_owned();
        if state.stopped || fault == Some(Fault::Io) {
            return Err(Error::Io { path, source: std::io::Error::other("made to fail") });
        }
        if fault == Some(Fault::Full) {
            // As a store that is opened anew after a write that found no room.
            state.forget();
            return Err(Error::Full { path });
        }
        Ok(state)
    }
}

impl State {
    fn forget(&mut self) {
        if let Some(flushed) = self.since_flush.first() {
            self.now = flushed.clone();
            self.since_flush.clear();
        }
    }

    fn wrote(&mut self) {
        let now = self.now.clone();
        self.since_flush.push(now);
    }
}

impl Store for MemoryStore {
    fn applied(&self) -> LogPosition {
        self.0.lock().now.applied
    }

    fn write(&self, round: &Round) -> Result<(), Error> {
        let mut state = self.call("write")?;
        if state.since_flush.is_empty() {
            state.wrote();
        }
        state.now.applied = round.applied;
        for change in &round.changes {
            state.now.changes.insert(change.at, change.clone());
        }
        for write in &round.tables {
            let key = (write.table, write.key.clone());
            match &write.value {
                Some(value) => state.now.tables.insert(key, value.clone()),
                None => state.now.tables.remove(&key),
            };
        }
        state.wrote();
        Ok(())
    }

    fn flush(&self) -> Result<LogPosition, Error> {
        let mut state = self.call("flush")?;
        state.since_flush.clear();
        Ok(state.now.applied)
    }

    fn read(&self, at: FullRevision) -> Result<Option<StoredChange>, Error> {
        Ok(self.0.lock().now.changes.get(&at).cloned())
    }

    fn scan(
        &self,
        from: FullRevision,
        to: FullRevision,
        visit: &mut dyn FnMut(&StoredChange) -> ControlFlow<()>,
    ) -> Result<(), Error> {
        if from >= to {
            return Ok(());
        }
        let changes: Vec<_> =
            self.0.lock().now.changes.range(from..to).map(|(_, change)| change.clone()).collect();
        for change in &changes {
            if visit(change).is_break() {
                break;
            }
        }
        Ok(())
    }

    fn table(&self, table: Table) -> Result<Vec<(Bytes, Bytes)>, Error> {
        let state = self.0.lock();
        let rows = state.now.tables.iter().filter(|((owner, _), _)| *owner == table);
        Ok(rows.map(|((_, key), value)| (key.clone(), value.clone())).collect())
    }

    fn retain(
        &self,
        from: FullRevision,
        through: Revision,
        limit: usize,
        keep: &mut dyn FnMut(&StoredChange) -> bool,
    ) -> Result<Option<FullRevision>, Error> {
        let mut state = self.call("retain")?;
        if state.since_flush.is_empty() {
            state.wrote();
        }
        let end = FullRevision::start_of(Revision(through.0 + 1));
        let range = (Bound::Included(from), Bound::Excluded(end.max(from)));
        let looked_at: Vec<_> =
            state.now.changes.range(range).take(limit).map(|(_, change)| change.clone()).collect();
        for change in &looked_at {
            if !keep(change) {
                state.now.changes.remove(&change.at);
            }
        }
        state.since_flush.clear();
        let last = looked_at.last().filter(|_| looked_at.len() == limit);
        Ok(last.map(|change| change.at.successor()))
    }

    fn sizes(&self) -> Sizes {
        let state = self.0.lock();
        let changes: u64 = state.now.changes.values().map(change_size).sum();
        let rows: u64 = state.now.tables.iter().map(|((_, key), value)| row_size(key, value)).sum();
        Sizes { on_disk: changes + rows, in_use: changes + rows }
    }

    fn check_space(&self, _bytes: u64) -> Result<(), Error> {
        Ok(())
    }

    /// Which store a start opens is up to who holds them.
    fn take_place(&self) -> Result<(), Error> {
        self.call("take_place").map(drop)
    }

    fn discard(&self) {}

    fn defragment(&self, _rows: usize) -> Result<bool, Error> {
        self.call("defragment").map(|_| false)
    }
}

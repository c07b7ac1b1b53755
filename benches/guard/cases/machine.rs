//! The state machine over a store on disk, as the stages of the server put them together, in one thread.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use decklog::alarm::Alarms;
use decklog::apply::{Applier, Published};
use decklog::command::{Batch, Kind};
use decklog::consensus::Progress;
use decklog::ids::{LogIndex, LogPosition, Term};
use decklog::lease::Leases;
use decklog::members::{Members, Membership};
use decklog::metrics::Metrics;
use decklog::mvcc::{Keyspace, Reader};
use decklog::persist::{Persist, PersistParts};
use decklog::storage::{SledOptions, SledStore, Store};
use prost::Message;

use crate::store_metrics::persist_metrics;

/// Puts in one entry while the store is filled.
const FILLED_AT_ONCE: usize = 5000;

pub struct Machine {
    pub reader: Reader,
    applier: Applier,
    persist: Persist,
    applied: u64,
}

impl Machine {
    /// Over an empty directory, filled with so many keys, all of them in the store.
    pub fn of_keys(directory: &Path, keys: usize) -> Self {
        let store: Arc<dyn Store> =
            Arc::new(SledStore::open(directory, &SledOptions::default()).expect("an empty directory"));
        let keyspace = Keyspace::recover(store.clone()).expect("an empty store").keyspace;
        let parts = PersistParts {
            store: store.clone(),
            reader: keyspace.reader(),
            tail: keyspace.tail(),
            progress: Arc::new(Progress::default()),
            metrics: persist_metrics(&Metrics::new(false)),
        };
        let reader = keyspace.reader();
        let members = Members::new(Membership::of_store(&*store).expect("an empty store"));
        let alarms = Alarms::recover(&*store).expect("an empty store");
        let applier = Applier::new(keyspace, Leases::default(), alarms, members, store.applied());
        let (persist, _) = Persist::new(parts, false);
        let mut machine = Self { reader, applier, persist, applied: 0 };
        for from in (0..keys).step_by(FILLED_AT_ONCE) {
            let puts = super::scattered(FILLED_AT_ONCE, from).map(super::put).map(Kind::Put).collect();
            let published = machine.apply(&entry(puts));
            machine.store(&published);
        }
        machine
    }

    /// One entry, and what it did made visible.
    pub fn apply(&mut self, entry: &Bytes) -> Published {
        self.applied += 1;
        let position = LogPosition { index: LogIndex(self.applied), term: Term(1) };
        let outcomes = self.applier.apply(position, entry, &mut |_, _| {}).expect("applied");
        assert!(outcomes.iter().all(Result::is_ok), "what is counted is what succeeds");
        self.applier.publish()
    }

    /// What was published goes into the store.
    pub fn store(&mut self, published: &Published) {
        self.persist.write(&published.round).expect("written");
    }
}

/// The data of an entry, as consensus makes it of what waits.
pub fn entry(commands: Vec<Kind>) -> Bytes {
    let commands = commands.into_iter().map(Into::into).collect();
    Batch { proposer: 1, sequence: 1, commands }.encode_to_vec().into()
}

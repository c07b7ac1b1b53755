//! What survives a crash of a machine: the log's disk, the store, and a store that a received state comes into.

use std::sync::Arc;

use decklog::ids::LogPosition;
use decklog::snapshot::Importer;
use decklog::storage::disk::MemoryDisk;
use decklog::storage::{MemoryStore, Store};
use parking_lot::Mutex;

/// See the module. Cheap to clone; all clones are the same disks.
#[derive(Clone, Default)]
pub struct Disks {
    pub log: MemoryDisk,
    stores: Arc<Mutex<Stores>>,
}

#[derive(Default)]
struct Stores {
    live: Arc<MemoryStore>,
    beside: Option<Arc<MemoryStore>>,
}

impl Disks {
    /// The power goes and comes back.
    pub fn crash(&self, pick: u64) {
        self.log.crash(pick);
        let stores = self.stores.lock();
        for store in [Some(&stores.live), stores.beside.as_ref()].into_iter().flatten() {
            store.crash(pick);
        }
    }

    /// What a start opens: the state that the log counts on, if it is not in its place yet.
    pub fn open(&self, begins_after: Option<LogPosition>) -> Arc<MemoryStore> {
        let mut stores = self.stores.lock();
        let beside = stores.beside.take();
        if let Some(begin) = begins_after
            && stores.live.applied().index < begin.index
        {
            let received = beside.expect("the state that the log counts on is there");
            assert_eq!(received.applied(), begin);
            stores.live = received;
        }
        stores.live.clone()
    }

    pub fn importer(&self) -> Importer {
        let stores = self.stores.clone();
        Importer::new(move || {
            let store = Arc::new(MemoryStore::new());
            stores.lock().beside = Some(store.clone());
            Ok(store)
        })
    }

    /// The received state is the one that a start opens.
    pub fn exchange(&self) {
        let mut stores = self.stores.lock();
        stores.live = stores.beside.take().expect("it has come whole");
    }
}

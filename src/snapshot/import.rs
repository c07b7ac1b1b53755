//! Receiving: pieces go into a store of their own as they come, and the index comes about beside it; when it is whole, the state is
//! recovered as at a start, but without reading the changes back. Until then it stands for no entry, and nothing takes it for a state.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bytes::Bytes;

use super::format::{Decoder, Header, Record, Row, Trailer, decode_piece};
use super::{Draft, Error, Replacement};
use crate::alarm::Alarms;
use crate::ids::{FullRevision, LogPosition, Revision};
use crate::lease::Leases;
use crate::members::Membership;
use crate::mvcc::{Keyspace, Recovered, Recovery};
use crate::storage::{self, Round, Store, StoredChange, Table, TableWrite};

/// Bytes that are written to the store at once.
const ROUND_BYTES: usize = 512 << 10;

/// What a row or a change takes beside its bytes.
const ITEM_BYTES: usize = 64;

type Begin = dyn Fn() -> Result<Arc<dyn Store>, storage::Error> + Send + Sync;

/// Where states come in, one at a time. Cheap to clone; all clones share the turn.
#[derive(Clone)]
pub struct Importer {
    begin: Arc<Begin>,
    is_taken: Arc<AtomicBool>,
}

impl Importer {
    /// `begin` makes an empty store for a state.
    pub fn new(begin: impl Fn() -> Result<Arc<dyn Store>, storage::Error> + Send + Sync + 'static) -> Self {
        Self { begin: Arc::new(begin), is_taken: Arc::default() }
    }

    /// # Errors
    /// `Busy`; faults of the disk.
    pub fn begin(&self) -> Result<Incoming, Error> {
        Ok(Incoming {
            draft: Draft::begin(&self.is_taken, || (self.begin)())?,
            decoder: Decoder::default(),
            pieces: 0,
            header: None,
            last: Last::Nothing,
            round: Round::default(),
            round_bytes: 0,
            recovery: Recovery::default(),
            counted: Trailer::default(),
            is_whole: false,
            has_failed: false,
        })
    }
}

/// A state while it comes in. Dropped before its end nothing of it is kept.
pub struct Incoming {
    draft: Draft,
    decoder: Decoder,
    pieces: u64,
    header: Option<Header>,
    last: Last,
    round: Round,
    round_bytes: usize,
    recovery: Recovery,
    counted: Trailer,
    is_whole: bool,
    has_failed: bool,
}

/// What came last: all rows rise, then all changes do.
#[derive(Clone, PartialEq, Eq)]
enum Last {
    Nothing,
    Row(Table, Bytes),
    Change(FullRevision),
}

impl Incoming {
    /// Takes in the next piece. After an error the state is of no use.
    ///
    /// # Errors
    /// `Damaged`; `Full` and other faults of the disk.
    pub fn write(&mut self, piece: &Bytes) -> Result<(), Error> {
        if self.has_failed || self.is_whole {
            return Err(Error::Damaged("a piece came behind its end".to_owned()));
        }
        self.has_failed = true;
        let payload = decode_piece(self.pieces, piece)?;
        self.pieces += 1;
        self.decoder.push(&payload);
        while let Some(record) = self.decoder.next()? {
            self.record(record)?;
            if self.round_bytes >= ROUND_BYTES {
                self.write_round()?;
            }
        }
        self.has_failed = false;
        Ok(())
    }

    /// Makes the state durable and recovers it, once its last piece has come. What it holds has been looked at as
    /// thoroughly as at a start.
    ///
    /// # Errors
    /// `Damaged` when something is missing or cannot be; faults of the disk.
    pub fn finish(mut self) -> Result<Received, Error> {
        let Some(header) = self.header.filter(|_| self.is_whole && !self.has_failed) else {
            return Err(Error::Damaged("it ends before its end".to_owned()));
        };
        self.round.applied = header.position;
        self.write_round()?;
        let flushed = self.draft.store.flush()?;
        assert_eq!(flushed, header.position, "the last round was written");
        recover(self.draft, self.recovery, header)
    }

    fn write_round(&mut self) -> Result<(), Error> {
        let round = std::mem::take(&mut self.round);
        self.round_bytes = 0;
        Ok(self.draft.store.write(&round)?)
    }

    fn record(&mut self, record: Record) -> Result<(), Error> {
        let out_of_place = |what: &str| Error::Damaged(format!("{what} is out of its place"));
        if self.is_whole {
            return Err(out_of_place("what comes behind the trailer"));
        }
        match (record, self.header) {
            (Record::Header(header), None) => {
                self.draft.store.check_space(header.bytes)?;
                self.header = Some(header);
                Ok(())
            }
            (Record::Row(row), Some(_)) => self.row(row).ok_or_else(|| out_of_place("a row")),
            (Record::Change(change), Some(header)) => {
                self.change(change, header.revision).ok_or_else(|| out_of_place("a change"))
            }
            (Record::Trailer(trailer), Some(_)) => self.trailer(trailer),
            (Record::Header(_), Some(_)) => Err(out_of_place("a header")),
            (_, None) => Err(out_of_place("what comes before the header")),
        }
    }

    fn row(&mut self, row: Row) -> Option<()> {
        let Row { table, key, value } = row;
        let here = Last::Row(table, key.clone());
        match &self.last {
            Last::Nothing => {}
            Last::Row(last, last_key) if (*last, last_key) < (table, &key) => {}
            _ => return None,
        }
        self.last = here;
        self.round_bytes += key.len() + value.len() + ITEM_BYTES;
        self.counted.rows += 1;
        self.round.tables.push(TableWrite { table, key, value: Some(value) });
        Some(())
    }

    fn change(&mut self, change: StoredChange, newest: Revision) -> Option<()> {
        let at = change.at;
        let rises = !matches!(self.last, Last::Change(last) if at <= last);
        if !rises || !(1..=newest.0).contains(&at.main.0) {
            return None;
        }
        self.last = Last::Change(at);
        self.round_bytes += change.pair.len() + ITEM_BYTES;
        self.counted.changes += 1;
        self.recovery.add(&change);
        self.round.changes.push(change);
        Some(())
    }

    fn trailer(&mut self, trailer: Trailer) -> Result<(), Error> {
        let (bytes, checksum) = (self.decoder.bytes, self.decoder.checksum);
        if trailer != (Trailer { bytes, checksum, ..self.counted }) || !self.decoder.is_empty() {
            return Err(Error::Damaged("its trailer does not fit".to_owned()));
        }
        self.is_whole = true;
        Ok(())
    }
}

/// As a start would, which adds the changes to the recovery as it reads them.
fn recover(draft: Draft, recovery: Recovery, header: Header) -> Result<Received, Error> {
    let store = &draft.store;
    let Recovered { keyspace, attachments, compaction_is_open } = recovery.finish(store.clone())?;
    if (keyspace.revision(), keyspace.compacted()) != (header.revision, header.compacted) {
        return Err(Error::Damaged("its rows are of another revision than its header".to_owned()));
    }
    let leases = Leases::recover(&**store, &attachments)?;
    let alarms = Alarms::recover(&**store)?;
    let members = Membership::of_store(&**store)?;
    let (tail, position) = (keyspace.tail(), header.position);
    let replacement = Replacement { tail, position, compacted: header.compacted, compaction_is_open, draft };
    Ok(Received { keyspace, leases, alarms, members, replacement })
}

/// A state that has come whole and is durable, but in nobody's place yet. Dropped, it is given up and nothing of it is kept,
/// unless the log has decided for it.
pub struct Received {
    pub keyspace: Keyspace,
    pub leases: Leases,
    pub alarms: Alarms,
    pub members: Membership,
    pub replacement: Replacement,
}

impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Received").field("position", &self.position()).finish_non_exhaustive()
    }
}

impl Received {
    /// The entry that it stands for.
    pub fn position(&self) -> LogPosition {
        self.replacement.position
    }

    /// To be called before the log says that it counts on this state: from here on it is not given up.
    pub fn decide(&self) {
        self.replacement.draft.decide();
    }
}

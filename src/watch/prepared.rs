//! A change on its way to watchers: encoded at most once, and once more with the previous pair.

use crate::mvcc::{self, Change, ChangeKind, Snapshot};
use crate::wire::{EncodedEvent, Event, EventType};

pub(super) struct Prepared<'a> {
    pub change: &'a Change,
    plain: Option<EncodedEvent>,
    with_previous: Option<EncodedEvent>,
}

impl<'a> Prepared<'a> {
    pub fn new(change: &'a Change) -> Self {
        Self { change, plain: None, with_previous: None }
    }

    /// The event; its bytes are shared by everybody who asks.
    ///
    /// # Errors
    /// A fault of the disk when the previous pair is read.
    pub fn event(&mut self, previous: bool, snapshot: &Snapshot) -> Result<EncodedEvent, mvcc::Error> {
        let change = self.change;
        if !previous || change.created {
            return Ok(self.plain.get_or_insert_with(|| encode(change, None)).clone());
        }
        if self.with_previous.is_none() {
            let previous = snapshot.previous(&change.key, change.at.main)?;
            self.with_previous = Some(encode(change, previous));
        }
        Ok(self.with_previous.clone().unwrap_or_default())
    }
}

fn encode(change: &Change, prev_kv: Option<crate::wire::EncodedKeyValue>) -> EncodedEvent {
    let kind = match change.kind {
        ChangeKind::Put => EventType::Put,
        ChangeKind::Delete => EventType::Delete,
    };
    (&Event { r#type: kind.into(), kv: Some(change.pair.clone()), prev_kv }).into()
}

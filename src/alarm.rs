//! Alarms: replicated state that narrows what the cluster accepts.
//! `apply` alone changes them; everybody else asks a cheap handle. Who raises them is not decided here.

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;

use crate::ids::MemberId;
use crate::storage::{Error, Store, Table, TableWrite};
use crate::wire::etcdserverpb::{AlarmMember, AlarmType};

/// An alarm of one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Alarm {
    member: MemberId,
    kind: i32,
}

/// The active alarms. Cheap to clone; all clones see the same.
#[derive(Clone, Default)]
pub struct Alarms {
    active: Arc<ArcSwap<BTreeSet<Alarm>>>,
}

impl Alarms {
    /// # Errors
    /// A fault of the disk, or a row that is none of ours.
    pub fn recover(store: &dyn Store) -> Result<Self, Error> {
        let rows = store.table(Table::Alarm)?;
        let alarms: Option<BTreeSet<_>> = rows.iter().map(|(key, _)| Alarm::from_row(key)).collect();
        let Some(alarms) = alarms else {
            let detail = "a row is not 12 bytes long".to_owned();
            return Err(Error::Damaged { place: "the alarm table".to_owned(), detail });
        };
        Ok(Self { active: Arc::new(ArcSwap::from_pointee(alarms)) })
    }

    /// The active alarms of a type; of every type for `None`.
    pub fn list(&self, kind: AlarmType) -> Vec<AlarmMember> {
        let active = self.active.load();
        let wanted = active.iter().filter(|alarm| kind == AlarmType::None || alarm.kind == kind as i32);
        wanted.map(|alarm| alarm.to_wire()).collect()
    }

    /// Every alarm as a row of the alarm table, in order.
    pub fn rows(&self) -> Vec<TableWrite> {
        let mut rows: Vec<_> = self.active.load().iter().map(|alarm| alarm.row(Some(Bytes::new()))).collect();
        rows.sort_unstable_by(|left, right| left.key.cmp(&right.key));
        rows
    }

    /// Takes over a whole other state, which the store has already.
    pub fn replace(&self, other: &Self) {
        self.active.store(other.active.load_full());
    }

    pub fn is_active(&self, kind: AlarmType) -> bool {
        self.active.load().iter().any(|alarm| alarm.kind == kind as i32)
    }

    /// Raises an alarm and returns it with the row to store; raising it again changes nothing.
    pub fn activate(&self, member: MemberId, kind: AlarmType) -> (AlarmMember, Option<TableWrite>) {
        let alarm = Alarm { member, kind: kind as i32 };
        let mut active = BTreeSet::clone(&self.active.load());
        let row = active.insert(alarm).then(|| alarm.row(Some(Bytes::new())));
        self.active.store(Arc::new(active));
        (alarm.to_wire(), row)
    }

    /// Lowers an alarm; `None` when it is not active.
    pub fn deactivate(&self, member: MemberId, kind: AlarmType) -> Option<(AlarmMember, TableWrite)> {
        let alarm = Alarm { member, kind: kind as i32 };
        let mut active = BTreeSet::clone(&self.active.load());
        if !active.remove(&alarm) {
            return None;
        }
        self.active.store(Arc::new(active));
        Some((alarm.to_wire(), alarm.row(None)))
    }
}

impl Alarm {
    fn to_wire(self) -> AlarmMember {
        AlarmMember { member_id: self.member.0, alarm: self.kind }
    }

    /// Its row: member and type, big endian.
    fn row(self, value: Option<Bytes>) -> TableWrite {
        let mut key = self.member.0.to_be_bytes().to_vec();
        key.extend_from_slice(&self.kind.to_be_bytes());
        TableWrite { table: Table::Alarm, key: key.into(), value }
    }

    fn from_row(key: &[u8]) -> Option<Self> {
        let (member, kind) = key.split_first_chunk::<8>()?;
        let kind: [u8; 4] = kind.try_into().ok()?;
        Some(Self { member: MemberId(u64::from_be_bytes(*member)), kind: i32::from_be_bytes(kind) })
    }
}

//! Who belongs to the cluster: replicated state, written by `apply`, read by everybody.
//! Owns ids, names and URLs; knows nothing of who is reachable.

use std::collections::BTreeMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use bytes::Bytes;
use parking_lot::Mutex;
use prost::Message;

use crate::ids::MemberId;
use crate::storage::{Error, Store, Table, TableWrite};
use crate::wire::etcdserverpb::Member;
use crate::wire::membershippb::ClusterMemberAttrSetRequest;

/// The members. Cheap to clone; all clones see the same.
#[derive(Clone)]
pub struct Members {
    members: Arc<ArcSwap<BTreeMap<MemberId, Member>>>,
    /// Rows that the store has not been given yet: only `apply` comes here.
    rows: Arc<Mutex<Vec<TableWrite>>>,
}

impl Members {
    /// What the store holds; on the first start the `initial` members.
    ///
    /// # Errors
    /// A fault of the disk, or a row that is none of ours.
    pub fn recover(store: &dyn Store, initial: Vec<Member>) -> Result<Self, Error> {
        let mut members: BTreeMap<_, _> =
            initial.into_iter().map(|member| (MemberId(member.id), member)).collect();
        for (key, value) in store.table(Table::Member)? {
            let damaged = |detail: String| {
                let place = format!("the member table, row {key:02x?}");
                Error::Damaged { place, detail }
            };
            let member = Member::decode(value).map_err(|source| damaged(source.to_string()))?;
            if key != member.id.to_be_bytes().as_slice() {
                return Err(damaged("it is of another member".to_owned()));
            }
            members.insert(MemberId(member.id), member);
        }
        Ok(Self { members: Arc::new(ArcSwap::from_pointee(members)), rows: Arc::default() })
    }

    /// Every member, by id.
    pub fn list(&self) -> Vec<Member> {
        self.members.load().values().cloned().collect()
    }

    pub fn get(&self, id: MemberId) -> Option<Member> {
        self.members.load().get(&id).cloned()
    }

    /// Name and client URLs that a member announces of itself; an unknown member changes nothing.
    pub fn set_attributes(&self, request: &ClusterMemberAttrSetRequest) {
        let mut members = BTreeMap::clone(&self.members.load());
        let id = MemberId(request.member_id);
        let (Some(member), Some(attributes)) = (members.get_mut(&id), &request.member_attributes) else {
            return;
        };
        member.name.clone_from(&attributes.name);
        member.client_ur_ls.clone_from(&attributes.client_urls);
        let key = Bytes::copy_from_slice(&id.0.to_be_bytes());
        let value = Some(member.encode_to_vec().into());
        self.rows.lock().push(TableWrite { table: Table::Member, key, value });
        self.members.store(Arc::new(members));
    }

    /// The rows changed since the last call.
    pub fn take_rows(&self) -> Vec<TableWrite> {
        std::mem::take(&mut self.rows.lock())
    }
}

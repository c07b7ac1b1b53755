//! Random Range, Put, DeleteRange and Compact requests. Unknown sort enums are left to the bad requests: etcd 3.5
//! answers an unknown order and crashes on an unknown target.

use decklog::wire::etcdserverpb::{CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest};

use super::Chooser;

impl Chooser {
    pub fn range(&mut self) -> RangeRequest {
        let key = self.key();
        let range_end = if self.one_in(3) { self.whole_prefix_end() } else { self.range_end(&key) };
        let mut request = RangeRequest { key, range_end, ..Default::default() };
        request.serializable = self.one_in(4);
        request.keys_only = self.one_in(6);
        request.count_only = self.one_in(8);
        if self.one_in(3) {
            request.limit = self.pick(&[1, 1, 2, 3, 100, -1, i64::MAX]);
        }
        if self.one_in(3) {
            request.revision = self.revision();
        }
        if self.one_in(3) {
            request.sort_order = self.pick(&[0, 1, 2]);
            request.sort_target = self.pick(&[0, 1, 2, 3, 4]);
        }
        if self.one_in(5) {
            let filters = [
                &mut request.min_mod_revision,
                &mut request.max_mod_revision,
                &mut request.min_create_revision,
                &mut request.max_create_revision,
            ];
            for filter in filters {
                if self.one_in(2) {
                    *filter = self.revision();
                }
            }
        }
        request
    }

    pub fn put(&mut self) -> PutRequest {
        let mut request = PutRequest { key: self.key(), ..Default::default() };
        request.value = self.pick(&["", "1", "2", "3", "one\0two"]).into();
        if self.one_in(3) {
            request.lease = self.lease_id();
        }
        request.prev_kv = self.one_in(3);
        if self.one_in(6) {
            request.ignore_value = self.one_in(2);
            request.ignore_lease = self.one_in(2);
            if request.ignore_value && !self.one_in(4) {
                request.value.clear();
            }
            if request.ignore_lease && !self.one_in(4) {
                request.lease = 0;
            }
        }
        request
    }

    pub fn delete_range(&mut self) -> DeleteRangeRequest {
        let key = self.key();
        let range_end = self.range_end(&key);
        DeleteRangeRequest { key, range_end, prev_kv: self.one_in(2) }
    }

    pub fn compaction(&mut self) -> CompactionRequest {
        CompactionRequest { revision: self.revision(), physical: self.one_in(2) }
    }

    /// The end of all keys with this program's prefix (which ends in a slash).
    pub fn whole_prefix_end(&self) -> bytes::Bytes {
        [&self.prefix.as_bytes()[..self.prefix.len() - 1], b"0"].concat().into()
    }
}

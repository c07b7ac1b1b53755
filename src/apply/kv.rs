//! Put and DeleteRange, alone and inside a transaction.

use super::{Applier, Failure, header};
use crate::command::Rejection;
use crate::ids::LeaseId;
use crate::lease::Leases;
use crate::mvcc::{KeyRange, Write};
use crate::wire::etcdserverpb as pb;

impl Applier {
    pub(super) fn put(&mut self, request: pb::PutRequest) -> Result<pb::PutResponse, Failure> {
        let mut write = self.keyspace.write();
        check_put(&write, &self.leases, &request)?;
        put(&mut write, &mut self.leases, request)
    }

    pub(super) fn delete_range(
        &mut self,
        request: &pb::DeleteRangeRequest,
    ) -> Result<pb::DeleteRangeResponse, Failure> {
        delete_range(&mut self.keyspace.write(), &mut self.leases, request)
    }
}

/// What a put needs of the state before it, in etcd's order.
pub(super) fn check_put(write: &Write<'_>, leases: &Leases, put: &pb::PutRequest) -> Result<(), Failure> {
    if put.lease != 0 && !leases.exists(LeaseId(put.lease)) {
        return Err(Rejection::LeaseNotFound.into());
    }
    if (put.ignore_value || put.ignore_lease) && !write.exists(&put.key) {
        return Err(Rejection::KeyNotFound.into());
    }
    Ok(())
}

/// A put whose checks have passed.
pub(super) fn put(
    write: &mut Write<'_>,
    leases: &mut Leases,
    put: pb::PutRequest,
) -> Result<pb::PutResponse, Failure> {
    let before = match put.prev_kv || put.ignore_value || put.ignore_lease {
        true => write.get(&put.key)?,
        false => None,
    };
    let (mut value, mut lease) = (put.value, LeaseId(put.lease));
    if let (Some(before), true) = (&before, put.ignore_value || put.ignore_lease) {
        let before = write.decode(before)?;
        if put.ignore_value {
            value = before.value;
        }
        if put.ignore_lease {
            lease = LeaseId(before.lease);
        }
    }
    leases.attach(&put.key, lease);
    write.put(put.key, value, lease);
    let prev_kv = before.filter(|_| put.prev_kv);
    Ok(pb::PutResponse { header: Some(header(write.revision())), prev_kv })
}

pub(super) fn delete_range(
    write: &mut Write<'_>,
    leases: &mut Leases,
    request: &pb::DeleteRangeRequest,
) -> Result<pb::DeleteRangeResponse, Failure> {
    let range = KeyRange::new(&request.key, &request.range_end);
    let prev_kvs = match request.prev_kv {
        true => {
            let (key, range_end) = (request.key.clone(), request.range_end.clone());
            write.range(&pb::RangeRequest { key, range_end, ..pb::RangeRequest::default() })?.pairs
        }
        false => Vec::new(),
    };
    let keys = write.delete_range(&range);
    for key in &keys {
        leases.detach(key);
    }
    let deleted = i64::try_from(keys.len()).unwrap_or(i64::MAX);
    Ok(pb::DeleteRangeResponse { header: Some(header(write.revision())), deleted, prev_kvs })
}

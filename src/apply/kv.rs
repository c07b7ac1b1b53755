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
        check_lease(&self.leases, &request)?;
        check_key(&write, &request)?;
        put(&mut write, &mut self.leases, request)
    }

    pub(super) fn delete_range(
        &mut self,
        request: &pb::DeleteRangeRequest,
    ) -> Result<pb::DeleteRangeResponse, Failure> {
        delete_range(&mut self.keyspace.write(), &mut self.leases, request)
    }
}

/// The lease of a put must exist. etcd asks for it before the key in a put alone, and after it in a transaction.
pub(super) fn check_lease(leases: &Leases, put: &pb::PutRequest) -> Result<(), Rejection> {
    if put.lease != 0 && !leases.exists(LeaseId(put.lease)) {
        return Err(Rejection::LeaseNotFound);
    }
    Ok(())
}

/// What is to be kept of a key must be there.
pub(super) fn check_key(write: &Write<'_>, put: &pb::PutRequest) -> Result<(), Rejection> {
    if (put.ignore_value || put.ignore_lease) && !write.exists(&put.key) {
        return Err(Rejection::KeyNotFound);
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

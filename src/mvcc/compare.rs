//! The compares of a transaction, against the state before it.
//! Owns etcd's rules for missing keys, ranges and unset targets; changes nothing.

use std::cmp::Ordering;

use bytes::Bytes;

use super::range::KeyRange;
use super::{Error, RangeAnswer, Snapshot, Write};
use crate::ids::Revision;
use crate::wire::KeyValue;
use crate::wire::etcdserverpb::compare::{CompareResult, CompareTarget, TargetUnion};
use crate::wire::etcdserverpb::{Compare, RangeRequest};

/// A state that a transaction can look at: a reader's snapshot, or the command being applied.
pub trait Readable {
    /// # Errors
    /// `Compacted`, `FutureRevision`, a fault of the disk.
    fn range(&self, request: &RangeRequest) -> Result<RangeAnswer, Error>;

    /// Every existing key of the range, in order; without `values` only what the index knows.
    ///
    /// # Errors
    /// A fault of the disk.
    fn pairs(&self, range: &KeyRange, values: bool) -> Result<Vec<KeyValue>, Error>;

    fn revision(&self) -> Revision;

    fn compacted(&self) -> Revision;
}

impl Readable for Snapshot {
    fn range(&self, request: &RangeRequest) -> Result<RangeAnswer, Error> {
        self.range(request)
    }

    fn pairs(&self, range: &KeyRange, values: bool) -> Result<Vec<KeyValue>, Error> {
        self.source().key_values(range, values)
    }

    fn revision(&self) -> Revision {
        self.revision()
    }

    fn compacted(&self) -> Revision {
        self.compacted()
    }
}

impl Readable for Write<'_> {
    fn range(&self, request: &RangeRequest) -> Result<RangeAnswer, Error> {
        self.range(request)
    }

    fn pairs(&self, range: &KeyRange, values: bool) -> Result<Vec<KeyValue>, Error> {
        self.pairs(range, values)
    }

    fn revision(&self) -> Revision {
        self.revision()
    }

    fn compacted(&self) -> Revision {
        self.compacted()
    }
}

/// Whether every compare holds.
///
/// # Errors
/// A fault of the disk.
pub fn all_hold(state: &impl Readable, compares: &[Compare]) -> Result<bool, Error> {
    for compare in compares {
        if !holds(state, compare)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn holds(state: &impl Readable, compare: &Compare) -> Result<bool, Error> {
    let range = KeyRange::new(&compare.key, &compare.range_end);
    let target = compare.target();
    let values = matches!(target, CompareTarget::Value | CompareTarget::Lease);
    let pairs = state.pairs(&range, values)?;
    if pairs.is_empty() {
        // A missing key has no value to compare; everything else of it is 0.
        return Ok(target != CompareTarget::Value && pair_holds(compare, &KeyValue::default()));
    }
    Ok(pairs.iter().all(|pair| pair_holds(compare, pair)))
}

fn pair_holds(compare: &Compare, pair: &KeyValue) -> bool {
    let expected = compare.target_union.as_ref();
    let order = match CompareTarget::try_from(compare.target) {
        Ok(CompareTarget::Value) => pair.value.cmp(&expected_value(expected)),
        Ok(CompareTarget::Version) => pair.version.cmp(&expected_number(expected, CompareTarget::Version)),
        Ok(CompareTarget::Create) => {
            pair.create_revision.cmp(&expected_number(expected, CompareTarget::Create))
        }
        Ok(CompareTarget::Mod) => pair.mod_revision.cmp(&expected_number(expected, CompareTarget::Mod)),
        Ok(CompareTarget::Lease) => pair.lease.cmp(&expected_number(expected, CompareTarget::Lease)),
        Err(_) => Ordering::Equal,
    };
    match CompareResult::try_from(compare.result) {
        Ok(CompareResult::Equal) => order.is_eq(),
        Ok(CompareResult::NotEqual) => order.is_ne(),
        Ok(CompareResult::Greater) => order.is_gt(),
        Ok(CompareResult::Less) => order.is_lt(),
        Err(_) => true,
    }
}

fn expected_value(expected: Option<&TargetUnion>) -> Bytes {
    match expected {
        Some(TargetUnion::Value(value)) => value.clone(),
        _ => Bytes::new(),
    }
}

/// The number to compare with; one given for another target counts as unset.
fn expected_number(expected: Option<&TargetUnion>, target: CompareTarget) -> i64 {
    match (expected, target) {
        (Some(TargetUnion::Version(number)), CompareTarget::Version)
        | (Some(TargetUnion::CreateRevision(number)), CompareTarget::Create)
        | (Some(TargetUnion::ModRevision(number)), CompareTarget::Mod)
        | (Some(TargetUnion::Lease(number)), CompareTarget::Lease) => *number,
        _ => 0,
    }
}

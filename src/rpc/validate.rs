//! Checks that need no state, in etcd's order, and what a request costs of the quota.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::ClientError;
use crate::config::Url;
use crate::wire::etcdserverpb as pb;
use crate::wire::etcdserverpb::range_request::{SortOrder, SortTarget};
use crate::wire::etcdserverpb::request_op::Request as Operation;
use crate::wire::log::member_change::Kind as Change;

/// What a put costs beside its key and value.
const PUT_COST: u64 = 256;
/// What granting a lease costs.
pub const GRANT_COST: u64 = 64;
/// Transactions inside one another. protobuf's own limit holds for what a client sends and for the log's entry round
/// it, which is two messages deeper: what the one takes and the other does not would end every start.
const MAX_NESTED_TXNS: usize = 40;

/// URLs that the others reach a member by, without the space around them.
///
/// # Errors
/// `MemberBadURLs`.
pub fn peer_urls(urls: Vec<String>) -> Result<Vec<String>, ClientError> {
    let parsed = urls.iter().map(|url| Url::parse(url)).collect::<Result<Vec<_>, _>>();
    let urls = parsed.map_err(|error| {
        tracing::debug!(%error, "a member has a URL that is none");
        ClientError::MemberBadURLs
    })?;
    if urls.is_empty() || !urls.iter().all(|url| matches!(url.scheme(), "http" | "https")) {
        return Err(ClientError::MemberBadURLs);
    }
    Ok(urls.iter().map(ToString::to_string).collect())
}

/// A change of members, whoever orders it: what the log may take of it. A member says its name itself when it has started.
///
/// # Errors
/// `MemberBadURLs`; `MemberNotFound` for an id that no member has.
pub fn member_change(change: Change) -> Result<Change, ClientError> {
    Ok(match change {
        Change::Add(member) if member.id == 0 => return Err(ClientError::MemberNotFound),
        Change::Add(pb::Member { id, peer_ur_ls, is_learner, .. }) => {
            let peer_ur_ls = peer_urls(peer_ur_ls)?;
            Change::Add(pb::Member { id, peer_ur_ls, is_learner, ..pb::Member::default() })
        }
        Change::Update(pb::Member { id, peer_ur_ls, .. }) => {
            let peer_ur_ls = peer_urls(peer_ur_ls)?;
            Change::Update(pb::Member { id, peer_ur_ls, ..pb::Member::default() })
        }
        Change::Remove(_) | Change::Promote(_) => change,
    })
}

/// # Errors
/// `EmptyKey`, `InvalidSortOption`.
pub fn range(request: &pb::RangeRequest) -> Result<(), ClientError> {
    if request.key.is_empty() {
        return Err(ClientError::EmptyKey);
    }
    if SortOrder::try_from(request.sort_order).is_err() || SortTarget::try_from(request.sort_target).is_err()
    {
        return Err(ClientError::InvalidSortOption);
    }
    Ok(())
}

/// # Errors
/// `EmptyKey`, `ValueProvided`, `LeaseProvided`.
pub fn put(request: &pb::PutRequest) -> Result<(), ClientError> {
    if request.key.is_empty() {
        return Err(ClientError::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(ClientError::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(ClientError::LeaseProvided);
    }
    Ok(())
}

/// # Errors
/// `EmptyKey`.
pub fn delete_range(request: &pb::DeleteRangeRequest) -> Result<(), ClientError> {
    if request.key.is_empty() { Err(ClientError::EmptyKey) } else { Ok(()) }
}

/// # Errors
/// `TooManyOps`, what a compare or an operation is refused for, `DuplicateKey`.
pub fn txn(request: &pb::TxnRequest, max_ops: usize) -> Result<(), ClientError> {
    operations(request, max_ops, MAX_NESTED_TXNS)?;
    changed_keys(&request.success)?;
    changed_keys(&request.failure)?;
    Ok(())
}

fn operations(request: &pb::TxnRequest, max_ops: usize, max_nested: usize) -> Result<(), ClientError> {
    let used = request.compare.len().max(request.success.len()).max(request.failure.len());
    if used > max_ops {
        return Err(ClientError::TooManyOps);
    }
    if request.compare.iter().any(|compare| compare.key.is_empty()) {
        return Err(ClientError::EmptyKey);
    }
    for operation in request.success.iter().chain(&request.failure) {
        match &operation.request {
            Some(Operation::RequestRange(request)) => range(request)?,
            Some(Operation::RequestPut(request)) => put(request)?,
            Some(Operation::RequestDeleteRange(request)) => delete_range(request)?,
            Some(Operation::RequestTxn(_)) if max_nested == 0 => return Err(ClientError::TooManyOps),
            Some(Operation::RequestTxn(nested)) => operations(nested, max_ops - used, max_nested - 1)?,
            None => return Err(ClientError::KeyNotFound),
        }
    }
    Ok(())
}

/// What the operations of a branch change.
#[derive(Default)]
struct Changed {
    puts: BTreeSet<Bytes>,
    /// Key and range end as they stand in the request: etcd's check takes the end that means "no end" for the
    /// smallest key, so that such a deletion meets no put.
    deleted: Vec<(Bytes, Bytes)>,
}

impl Changed {
    fn is_deleted(&self, key: &Bytes) -> bool {
        self.deleted
            .iter()
            .any(|(from, end)| if end.is_empty() { from == key } else { from <= key && key < end })
    }
}

/// A key may be put once in a branch and not also be deleted in it; the two branches of a nested transaction
/// exclude each other, so they may meet. As in etcd, puts of a nested transaction are held against the deletions
/// of those before it, not of those behind it.
fn changed_keys(branch: &[pb::RequestOp]) -> Result<Changed, ClientError> {
    let mut changed = Changed::default();
    for operation in branch {
        if let Some(Operation::RequestDeleteRange(request)) = &operation.request {
            changed.deleted.push((request.key.clone(), request.range_end.clone()));
        }
    }
    for operation in branch {
        if let Some(Operation::RequestTxn(nested)) = &operation.request {
            merge_nested(&mut changed, nested)?;
        }
    }
    for operation in branch {
        if let Some(Operation::RequestPut(request)) = &operation.request
            && (changed.is_deleted(&request.key) || !changed.puts.insert(request.key.clone()))
        {
            return Err(ClientError::DuplicateKey);
        }
    }
    Ok(changed)
}

fn merge_nested(changed: &mut Changed, nested: &pb::TxnRequest) -> Result<(), ClientError> {
    let (success, failure) = (changed_keys(&nested.success)?, changed_keys(&nested.failure)?);
    let puts: BTreeSet<Bytes> = success.puts.union(&failure.puts).cloned().collect();
    if puts.iter().any(|key| changed.puts.contains(key) || changed.is_deleted(key)) {
        return Err(ClientError::DuplicateKey);
    }
    changed.puts.extend(puts);
    changed.deleted.extend(success.deleted);
    changed.deleted.extend(failure.deleted);
    Ok(())
}

/// Bytes that a put counts for in the quota.
pub fn put_cost(request: &pb::PutRequest) -> u64 {
    PUT_COST + (request.key.len() + request.value.len()) as u64
}

/// Bytes that the dearer branch counts for in the quota.
pub fn txn_cost(request: &pb::TxnRequest) -> u64 {
    let branch = |operations: &[pb::RequestOp]| -> u64 {
        operations
            .iter()
            .map(|operation| match &operation.request {
                Some(Operation::RequestPut(request)) => put_cost(request),
                Some(Operation::RequestTxn(nested)) => txn_cost(nested),
                _ => 0,
            })
            .sum()
    };
    branch(&request.success).max(branch(&request.failure))
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::command::{self, Batch, Kind};

    fn put_op(key: &'static str) -> pb::RequestOp {
        let request = pb::PutRequest { key: key.into(), ..Default::default() };
        pb::RequestOp { request: Some(Operation::RequestPut(request)) }
    }

    fn delete_op(key: &'static str, range_end: &'static str) -> pb::RequestOp {
        let request =
            pb::DeleteRangeRequest { key: key.into(), range_end: range_end.into(), ..Default::default() };
        pb::RequestOp { request: Some(Operation::RequestDeleteRange(request)) }
    }

    fn txn_op(success: Vec<pb::RequestOp>, failure: Vec<pb::RequestOp>) -> pb::RequestOp {
        let nested = pb::TxnRequest { compare: Vec::new(), success, failure };
        pb::RequestOp { request: Some(Operation::RequestTxn(nested)) }
    }

    fn check(success: Vec<pb::RequestOp>) -> Result<(), ClientError> {
        txn(&pb::TxnRequest { success, ..Default::default() }, 4)
    }

    /// Another member could order what no client can, and nobody could start or join any more.
    #[test]
    fn a_change_that_another_member_orders_is_held_to_what_clients_may_order() {
        let member = |id, url: &str| pb::Member {
            id,
            name: "started".to_owned(),
            peer_ur_ls: vec![url.to_owned()],
            ..Default::default()
        };
        let kept = pb::Member { name: String::new(), ..member(7, "http://a:1") };
        assert_eq!(member_change(Change::Add(member(7, " http://a:1"))), Ok(Change::Add(kept.clone())));
        assert_eq!(member_change(Change::Update(member(7, "http://a:1 "))), Ok(Change::Update(kept)));
        let nobody = Change::Add(member(0, "http://a:1"));
        assert_eq!(member_change(nobody), Err(ClientError::MemberNotFound));
        for url in ["", "a:1", "http://a", "http://a:1/path", "unix://a:1"] {
            assert_eq!(member_change(Change::Add(member(7, url))), Err(ClientError::MemberBadURLs), "{url}");
            assert_eq!(
                member_change(Change::Update(member(7, url))),
                Err(ClientError::MemberBadURLs),
                "{url}"
            );
        }
        let none = pb::Member { peer_ur_ls: Vec::new(), ..member(7, "") };
        assert_eq!(member_change(Change::Add(none)), Err(ClientError::MemberBadURLs));
    }

    #[test]
    fn a_key_is_changed_once_on_each_path() {
        let duplicate = Err(ClientError::DuplicateKey);
        assert_eq!(check(vec![put_op("a"), put_op("b")]), Ok(()));
        assert_eq!(check(vec![put_op("a"), put_op("a")]), duplicate);
        assert_eq!(check(vec![put_op("b"), delete_op("a", "c")]), duplicate);
        assert_eq!(check(vec![put_op("c"), delete_op("b", "")]), Ok(()));
        // "No end" is taken for the smallest key.
        assert_eq!(check(vec![put_op("c"), delete_op("a", "c"), delete_op("b", "\0")]), Ok(()));
        assert_eq!(check(vec![delete_op("a", "c"), delete_op("b", "\0")]), Ok(()));
        assert_eq!(check(vec![txn_op(vec![put_op("a")], vec![put_op("a")])]), Ok(()));
        assert_eq!(check(vec![put_op("a"), txn_op(vec![put_op("a")], vec![])]), duplicate);
        assert_eq!(
            check(vec![txn_op(vec![put_op("a")], vec![]), txn_op(vec![], vec![put_op("a")])]),
            duplicate
        );
        assert_eq!(check(vec![delete_op("a", ""), txn_op(vec![], vec![put_op("a")])]), duplicate);
        let (deleting, putting) =
            (txn_op(vec![delete_op("a", "")], vec![]), txn_op(vec![put_op("a")], vec![]));
        assert_eq!(check(vec![deleting.clone(), putting.clone()]), duplicate);
        assert_eq!(check(vec![putting, deleting]), Ok(()));
    }

    #[test]
    fn what_is_taken_can_be_read_back_from_the_log() {
        let put = pb::PutRequest { key: "k".into(), prev_kv: true, ..Default::default() };
        let mut op = pb::RequestOp { request: Some(Operation::RequestPut(put)) };
        for depth in 0..60 {
            let request = pb::TxnRequest { success: vec![op], ..Default::default() };
            let checked = txn(&request, 128);
            let entry = Batch { commands: vec![Kind::Txn(request.clone()).into()], ..Default::default() };
            let readable = command::decode(1, &entry.encode_to_vec().into()).is_ok();
            assert!(readable || checked == Err(ClientError::TooManyOps), "depth {depth}");
            assert_eq!(checked.is_ok(), depth <= MAX_NESTED_TXNS, "depth {depth}");
            op = pb::RequestOp { request: Some(Operation::RequestTxn(request)) };
        }
    }

    #[test]
    fn a_nested_transaction_gets_what_its_parent_left() {
        let nested = |ops: usize| txn_op(vec![delete_op("x", ""); ops], vec![]);
        assert_eq!(check(vec![nested(3)]), Ok(()));
        assert_eq!(check(vec![nested(4)]), Err(ClientError::TooManyOps));
        assert_eq!(check(vec![pb::RequestOp::default()]), Err(ClientError::KeyNotFound));
    }
}

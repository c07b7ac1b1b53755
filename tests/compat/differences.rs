//! The known differences between the etcd that is asked (3.5) and the one that Decklog answers like (3.7), each
//! with its reason. Nothing else is excused.

use decklog::wire::EncodedKeyValue;
use decklog::wire::etcdserverpb::request_op::Request;
use decklog::wire::etcdserverpb::response_op::Response;
use decklog::wire::etcdserverpb::{RangeRequest, RangeResponse, TxnRequest, TxnResponse};

use crate::answer::Answer;
use crate::programs::Step;

/// `SortTarget.VALUE`: only this order needs the stored pairs.
const SORT_BY_VALUE: i32 = 4;

/// 3.5's answer to `step`, whose numbers are those that were sent, as 3.7 gives it.
pub fn applied(step: &Step, mut answer: Answer) -> Answer {
    match (step, &mut answer) {
        (Step::Range(request), Answer::Range(answer)) => keys_only_without_lease(request, answer),
        (Step::Txn(request), Answer::Txn(answer)) => in_txn(request, answer),
        (Step::HashKv(request), Answer::HashKv(answer)) => {
            // 3.5 does not know the field: it says which revision was hashed.
            let current = answer.header.unwrap_or_default().revision;
            answer.hash_revision = if request.revision == 0 { current } else { request.revision };
        }
        _ => {}
    }
    answer
}

fn in_txn(request: &TxnRequest, answer: &mut TxnResponse) {
    let branch = if answer.succeeded { &request.success } else { &request.failure };
    for (op, answer) in branch.iter().zip(&mut answer.responses) {
        match (&op.request, &mut answer.response) {
            (Some(Request::RequestRange(request)), Some(Response::ResponseRange(answer))) => {
                keys_only_without_lease(request, answer);
            }
            (Some(Request::RequestTxn(request)), Some(Response::ResponseTxn(answer))) => {
                in_txn(request, answer)
            }
            _ => {}
        }
    }
}

/// 3.7 answers `keys_only` from its index, which does not hold leases; 3.5 reads the stored pairs.
fn keys_only_without_lease(request: &RangeRequest, answer: &mut RangeResponse) {
    if !request.keys_only || request.sort_target == SORT_BY_VALUE {
        return;
    }
    for pair in &mut answer.kvs {
        let mut decoded = pair.decode().expect("a neutral answer can be decoded");
        decoded.lease = 0;
        *pair = EncodedKeyValue::from(&decoded);
    }
}

//! Turns a program's own revisions and lease ids into real ones before a request is sent, and the lease ids that
//! a server chose, the member's and cluster's ids and the term in its answer back into what both sides share.

use decklog::wire::etcdserverpb::compare::TargetUnion;
use decklog::wire::etcdserverpb::request_op::Request;
use decklog::wire::etcdserverpb::response_op::Response;
use decklog::wire::etcdserverpb::{RangeRequest, ResponseHeader, TxnRequest, TxnResponse};
use decklog::wire::{EncodedKeyValue, Event};

use crate::answer::Answer;
use crate::programs::{FIRST_LITERAL_REVISION, SERVER_CHOSEN, Step};

/// What a program's numbers mean on one server.
#[derive(Clone, Debug, Default)]
pub struct Meaning {
    /// The store's revision when the program started.
    pub base_revision: i64,
    /// The lease ids that the server chose, in order.
    pub chosen_leases: Vec<i64>,
}

impl Meaning {
    /// The step as this server has to be asked.
    pub fn resolve(&self, step: &Step) -> Step {
        let mut step = step.clone();
        match &mut step {
            Step::Range(request) => self.resolve_range(request),
            Step::Put(request) => self.resolve_lease(&mut request.lease),
            Step::Txn(request) => self.resolve_txn(request),
            Step::Compact(request) => self.resolve_revision(&mut request.revision),
            Step::HashKv(request) => self.resolve_revision(&mut request.revision),
            Step::LeaseRevoke(request) => self.resolve_lease(&mut request.id),
            Step::LeaseTimeToLive(request) => self.resolve_lease(&mut request.id),
            Step::LeaseKeepAlive(request) => self.resolve_lease(&mut request.id),
            Step::WatchCreate(request) => self.resolve_revision(&mut request.start_revision),
            Step::DeleteRange(_)
            | Step::LeaseGrant(_)
            | Step::LeaseLeases(_)
            | Step::WatchCancel { .. }
            | Step::WatchProgress { .. } => {}
        }
        step
    }

    /// The answer without what differs between two clusters by nature.
    pub fn neutral(&self, mut answer: Answer) -> Answer {
        if let Some(header) = answer.header() {
            make_neutral(header);
        }
        match &mut answer {
            Answer::Range(answer) => self.neutral_pairs(&mut answer.kvs),
            Answer::Put(answer) => self.neutral_pairs(answer.prev_kv.as_mut_slice()),
            Answer::DeleteRange(answer) => self.neutral_pairs(&mut answer.prev_kvs),
            Answer::Txn(answer) => self.neutral_txn(answer),
            Answer::LeaseGrant(answer) => self.neutral_lease(&mut answer.id),
            Answer::LeaseTimeToLive(answer) => {
                self.neutral_lease(&mut answer.id);
                // etcd names them in the order of a hash map, another one each time.
                answer.keys.sort();
            }
            Answer::LeaseKeepAlive(answer) => self.neutral_lease(&mut answer.id),
            Answer::LeaseLeases(answer) => {
                answer.leases.iter_mut().for_each(|lease| self.neutral_lease(&mut lease.id));
            }
            // The hash is over the stored pairs with their lease ids.
            Answer::HashKv(answer) if !self.chosen_leases.is_empty() => answer.hash = 0,
            Answer::Compact(_) | Answer::HashKv(_) | Answer::LeaseRevoke(_) | Answer::Failed { .. } => {}
        }
        answer
    }

    /// The event with the lease ids that both sides share.
    pub fn neutral_event(&self, mut event: Event) -> Event {
        self.neutral_pairs(event.kv.as_mut_slice());
        self.neutral_pairs(event.prev_kv.as_mut_slice());
        event
    }

    fn resolve_revision(&self, revision: &mut i64) {
        if (1..FIRST_LITERAL_REVISION).contains(revision) {
            *revision += self.base_revision;
        }
    }

    fn resolve_lease(&self, lease: &mut i64) {
        if *lease >= SERVER_CHOSEN
            && let Ok(chosen) = usize::try_from(*lease - SERVER_CHOSEN)
            && let Some(id) = self.chosen_leases.get(chosen)
        {
            *lease = *id;
        }
    }

    fn resolve_range(&self, request: &mut RangeRequest) {
        self.resolve_revision(&mut request.revision);
        self.resolve_revision(&mut request.min_mod_revision);
        self.resolve_revision(&mut request.max_mod_revision);
        self.resolve_revision(&mut request.min_create_revision);
        self.resolve_revision(&mut request.max_create_revision);
    }

    fn resolve_txn(&self, request: &mut TxnRequest) {
        for compare in &mut request.compare {
            match &mut compare.target_union {
                Some(TargetUnion::CreateRevision(revision) | TargetUnion::ModRevision(revision)) => {
                    self.resolve_revision(revision);
                }
                Some(TargetUnion::Lease(lease)) => self.resolve_lease(lease),
                Some(TargetUnion::Version(_) | TargetUnion::Value(_)) | None => {}
            }
        }
        for op in request.success.iter_mut().chain(&mut request.failure) {
            match &mut op.request {
                Some(Request::RequestRange(request)) => self.resolve_range(request),
                Some(Request::RequestPut(request)) => self.resolve_lease(&mut request.lease),
                Some(Request::RequestTxn(request)) => self.resolve_txn(request),
                Some(Request::RequestDeleteRange(_)) | None => {}
            }
        }
    }

    fn neutral_lease(&self, lease: &mut i64) {
        if let Some(chosen) = self.chosen_leases.iter().position(|id| id == lease) {
            *lease = SERVER_CHOSEN + i64::try_from(chosen).expect("few leases");
        }
    }

    /// Also brings the pairs into one encoding, so that equal ones are equal bytes.
    fn neutral_pairs(&self, pairs: &mut [EncodedKeyValue]) {
        for pair in pairs {
            let mut decoded = pair.decode().expect("a server sends pairs that can be decoded");
            self.neutral_lease(&mut decoded.lease);
            *pair = EncodedKeyValue::from(&decoded);
        }
    }

    fn neutral_txn(&self, answer: &mut TxnResponse) {
        for op in &mut answer.responses {
            match &mut op.response {
                Some(Response::ResponseRange(answer)) => self.neutral_pairs(&mut answer.kvs),
                Some(Response::ResponsePut(answer)) => self.neutral_pairs(answer.prev_kv.as_mut_slice()),
                Some(Response::ResponseDeleteRange(answer)) => self.neutral_pairs(&mut answer.prev_kvs),
                Some(Response::ResponseTxn(answer)) => self.neutral_txn(answer),
                None => {}
            }
        }
    }
}

/// Maps away the ids and the term; that they are set at all stays visible.
pub fn make_neutral(header: &mut ResponseHeader) {
    header.cluster_id = header.cluster_id.min(1);
    header.member_id = header.member_id.min(1);
    header.raft_term = header.raft_term.min(1);
}

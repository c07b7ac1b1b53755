//! What all clients asked and were told, with the times of one clock: the history of a run.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use decklog::wire::etcdserverpb as pb;
use parking_lot::Mutex;
use tonic::{Code, Status};

use crate::checker::history::{History, Operation, Outcome, Request, Response, Watcher};

/// How long a client waits for an answer.
pub const TIMEOUT: Duration = Duration::from_secs(3);
/// What says for certain that nothing was done.
const NOT_DONE: [&str; 5] = [
    "tcp connect error",
    "etcdserver: too many requests",
    "etcdserver: mvcc: database space exceeded",
    "etcdserver: requested lease not found",
    "etcdserver: rpc not supported for learner",
];
/// What members say when nobody knows what became of a request.
const NOT_KNOWN: [&str; 5] = [
    "etcdserver: leader changed",
    "etcdserver: server stopped",
    "etcdserver: request timed out",
    "etcdserver: request timed out, possibly due to previous leader failure",
    "etcdserver: request timed out, possibly due to connection lost",
];

/// See the module.
pub struct Recorder {
    began: Instant,
    history: Mutex<History>,
    failures: Mutex<BTreeMap<String, u64>>,
    /// Acknowledged, by member.
    writes: Vec<AtomicU64>,
    /// The highest acknowledged revision.
    acknowledged: AtomicI64,
    is_over: AtomicBool,
}

/// Who asks, and whom.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    pub client: u64,
    pub member: usize,
}

/// An answer that a history can hold.
pub trait Answer {
    fn header(&self) -> Option<&pb::ResponseHeader>;
    fn response(&self) -> Response;
}

macro_rules! answers {
    ($($answer:ident),*) => {
        $(impl Answer for pb::$answer {
            fn header(&self) -> Option<&pb::ResponseHeader> {
                self.header.as_ref()
            }

            fn response(&self) -> Response {
                self.into()
            }
        })*
    };
}

answers!(
    PutResponse,
    DeleteRangeResponse,
    RangeResponse,
    TxnResponse,
    LeaseGrantResponse,
    LeaseKeepAliveResponse
);

impl Answer for pb::LeaseRevokeResponse {
    fn header(&self) -> Option<&pb::ResponseHeader> {
        self.header.as_ref()
    }

    fn response(&self) -> Response {
        Response::LeaseRevoke
    }
}

impl Recorder {
    pub fn new(members: usize) -> Self {
        Self {
            began: Instant::now(),
            history: Mutex::default(),
            failures: Mutex::default(),
            writes: (0..members).map(|_| AtomicU64::new(0)).collect(),
            acknowledged: AtomicI64::new(1),
            is_over: AtomicBool::new(false),
        }
    }

    pub fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).expect("a run of less than centuries")
    }

    /// Clients ask for nothing new.
    pub fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    pub fn end(&self) {
        self.is_over.store(true, Ordering::Relaxed);
    }

    pub fn members(&self) -> usize {
        self.writes.len()
    }

    /// Acknowledged by a member, so far.
    pub fn writes_at(&self, member: usize) -> u64 {
        self.writes[member].load(Ordering::Relaxed)
    }

    /// Acknowledged by any, so far.
    pub fn writes(&self) -> u64 {
        self.writes.iter().map(|writes| writes.load(Ordering::Relaxed)).sum()
    }

    /// The highest acknowledged revision.
    pub fn acknowledged(&self) -> i64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Asks and notes how it went; the answer when there was one. Panics on what no fault explains.
    pub async fn ask<A: Answer>(
        &self,
        ends: Ends,
        request: Request,
        answer: impl Future<Output = Result<tonic::Response<A>, Status>>,
    ) -> Result<A, Status> {
        let start_ns = self.now_ns();
        let result = match tokio::time::timeout(TIMEOUT, answer).await {
            Ok(answer) => answer.map(tonic::Response::into_inner),
            Err(_elapsed) => Err(Status::cancelled("the client's own time was over")),
        };
        let end_ns = self.now_ns();
        let outcome = match &result {
            Ok(answer) => self.acknowledge(ends, &request, answer),
            Err(status) => self.fail(status),
        };
        let Ends { client, member } = ends;
        let operation = Operation { client, member: member as u64, start_ns, end_ns, request, outcome };
        self.history.lock().operations.push(operation);
        result
    }

    fn acknowledge(&self, ends: Ends, request: &Request, answer: &impl Answer) -> Outcome {
        let revision = answer.header().expect("a header").revision;
        if !matches!(request, Request::Range(_)) {
            self.acknowledged.fetch_max(revision, Ordering::Relaxed);
            self.writes[ends.member].fetch_add(1, Ordering::Relaxed);
        }
        Outcome::Ok { revision, response: answer.response() }
    }

    fn fail(&self, status: &Status) -> Outcome {
        let is_not_done = NOT_DONE.contains(&status.message());
        assert!(is_not_done || is_expected(status), "{status}");
        *self.failures.lock().entry(status.message().to_owned()).or_default() += 1;
        if is_not_done { Outcome::Failed } else { Outcome::Unknown }
    }

    pub fn add_watcher(&self, watcher: Watcher) {
        self.history.lock().watchers.push(watcher);
    }

    pub fn take(&self) -> History {
        std::mem::take(&mut *self.history.lock())
    }
}

impl fmt::Display for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let history = self.history.lock();
        let answered = |operation: &&Operation| matches!(operation.outcome, Outcome::Ok { .. });
        let answered = history.operations.iter().filter(answered).count();
        write!(
            f,
            "{} operations, {answered} answered; revision {}; failed: {:?}",
            history.operations.len(),
            self.acknowledged(),
            self.failures.lock()
        )
    }
}

/// What a client may be told while members go and come.
pub fn is_expected(status: &Status) -> bool {
    let text = status.message();
    if text.starts_with("etcdserver: ") {
        return NOT_KNOWN.contains(&text) || text == "etcdserver: rpc not supported for learner";
    }
    // Of the way to the member. Faults of its own begin with its name.
    let is_of_the_way = matches!(status.code(), Code::Unavailable | Code::Cancelled)
        || ["transport error", "h2 protocol error"].iter().any(|fault| text.contains(fault));
    is_of_the_way && !text.starts_with("decklog: ")
}

/// Known bug of this test: whatever had the code of a lost connection was taken for one.
#[test]
fn only_what_a_fault_explains_is_expected() {
    let lost = [
        Status::unavailable("etcdserver: leader changed"),
        Status::unavailable("error trying to connect"),
        Status::unknown("h2 protocol error: error reading a body from connection"),
        Status::cancelled("the client's own time was over"),
    ];
    let wrong = [
        Status::unavailable("etcdserver: unhealthy cluster"),
        Status::unavailable("etcdserver: request timed out, waiting for the applied index took too long"),
        Status::cancelled("etcdserver: watch canceled"),
        Status::deadline_exceeded("etcdserver: context deadline exceeded"),
        Status::unavailable("decklog: a fault of its own"),
        Status::unknown("decklog: a read failed"),
    ];
    assert!(lost.iter().all(is_expected) && !wrong.iter().any(is_expected));
}

//! What clients of one cluster asked and were told, with the times of one clock. Recorders fill it, `check` judges it, and
//! as JSON it goes to other checkers. It must hold every write to the cluster: a revision without a cause is a fault.
//! Keys and values are text; a value that is written once alone makes unknown writes easy to place.

use serde::{Deserialize, Serialize};

/// The history of a cluster that began empty, at revision 1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct History {
    /// In any order.
    pub operations: Vec<Operation>,
    pub watchers: Vec<Watcher>,
}

/// One request of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Operation {
    pub client: u64,
    pub member: u64,
    /// Before the request left, and after the answer came (or the client gave up).
    pub start_ns: u64,
    pub end_ns: u64,
    pub request: Request,
    pub outcome: Outcome,
}

/// What was asked. Operations of a transaction are puts, deletes, ranges (at revision 0) and transactions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    Put { key: String, value: String, lease: i64, prev_kv: bool },
    Delete { keys: Keys, prev_kv: bool },
    Txn { compares: Vec<Compare>, success: Vec<Request>, failure: Vec<Request> },
    Range(RangeRequest),
    LeaseGrant { id: i64, ttl_seconds: i64 },
    LeaseRevoke { id: i64 },
    LeaseKeepAlive { id: i64 },
    Compact { revision: i64 },
}

/// Keys as the API names them: `end` empty for one key, "\0" for all from `key` on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keys {
    pub key: String,
    pub end: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RangeRequest {
    pub keys: Keys,
    /// 0: the newest.
    pub revision: i64,
    pub serializable: bool,
    /// 0: none.
    pub limit: i64,
    pub count_only: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    pub keys: Keys,
    pub target: Target,
    pub result: Relation,
}

/// The side of a comparison that was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Target {
    Value(String),
    Version(i64),
    Create(i64),
    Mod(i64),
    Lease(i64),
}

/// How what is found must stand to what was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Relation {
    Equal,
    NotEqual,
    Greater,
    Less,
}

/// What a client knows afterwards.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Outcome {
    /// `revision` is the header's.
    Ok { revision: i64, response: Response },
    /// It was certainly not done and never will be.
    Failed,
    /// It may have been done, may still be, or never.
    Unknown,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Response {
    Put {
        prev: Option<Pair>,
    },
    Delete {
        deleted: i64,
        prev: Vec<Pair>,
    },
    Txn {
        succeeded: bool,
        responses: Vec<Response>,
    },
    Range {
        pairs: Vec<Pair>,
        more: bool,
        count: i64,
    },
    /// The id that the server chose, or the one asked for.
    LeaseGrant {
        id: i64,
        ttl_seconds: i64,
    },
    LeaseRevoke,
    /// 0 or less: the lease is gone.
    LeaseKeepAlive {
        ttl_seconds: i64,
    },
    Compact,
}

/// A key with its value and numbers. A deletion's event has but key and `modified`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Pair {
    pub key: String,
    pub value: String,
    pub created: i64,
    pub modified: i64,
    pub version: i64,
    pub lease: i64,
}

/// One client's watch, which goes on over lost streams and members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watcher {
    pub client: u64,
    pub sessions: Vec<Session>,
}

/// From a create request to the end of its stream, or to its cancellation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    pub member: u64,
    pub asked_ns: u64,
    pub request: WatchRequest,
    pub told: Vec<Told>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WatchRequest {
    pub keys: Keys,
    /// 0: from now on.
    pub start_revision: i64,
    pub no_put: bool,
    pub no_delete: bool,
    pub prev_kv: bool,
}

/// One response of a watch; `revision` is the header's.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    pub at_ns: u64,
    pub revision: i64,
    pub what: What,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum What {
    Created,
    /// `goes_on`: the next response has more of the same revision (the client asked for fragments).
    Events {
        events: Vec<Event>,
        goes_on: bool,
    },
    /// Everything through the header's revision has been told.
    Progress,
    /// `compacted` is 0 unless the revision to go on from is compacted.
    Canceled {
        compacted: i64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    pub is_delete: bool,
    pub pair: Pair,
    pub prev: Option<Pair>,
}

impl History {
    /// The JSON form, on one line.
    pub fn to_json(&self) -> String {
        serde_json::to_string(self).expect("every history has a JSON form")
    }

    /// # Errors
    /// When the text is not a history.
    pub fn from_json(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }
}

impl Keys {
    pub fn one(key: &str) -> Self {
        Self { key: key.to_owned(), end: String::new() }
    }

    pub fn all() -> Self {
        Self { key: "\0".to_owned(), end: "\0".to_owned() }
    }

    pub fn contains(&self, key: &str) -> bool {
        match self.end.as_str() {
            "" => key == self.key,
            "\0" => key >= self.key.as_str(),
            end => key >= self.key.as_str() && key < end,
        }
    }
}

impl Watcher {
    /// The revision to resume from: behind everything told. 0 before the server has said anything.
    pub fn next_revision(&self) -> i64 {
        self.sessions.iter().rev().find_map(Session::next_revision).unwrap_or(0)
    }
}

impl Session {
    /// The first revision that it is to tell: the one asked for, or the one behind the answer's. `None` when
    /// nobody knows, since there was no answer.
    pub fn first_revision(&self) -> Option<i64> {
        if self.request.start_revision > 0 {
            return Some(self.request.start_revision);
        }
        let created = self.told.iter().find(|told| told.what == What::Created);
        created.map(|told| told.revision + 1)
    }

    /// Everything through this revision has been told, as far as the client knows; 0 when nothing has.
    pub fn through(&self) -> i64 {
        self.told.iter().filter_map(Told::through).max().unwrap_or(0)
    }

    fn next_revision(&self) -> Option<i64> {
        Some(self.first_revision()?.max(self.through() + 1))
    }
}

impl Told {
    /// Everything through this revision has been told with it.
    pub fn through(&self) -> Option<i64> {
        match &self.what {
            What::Events { events, goes_on } => {
                events.last().map(|last| last.pair.modified - i64::from(*goes_on))
            }
            What::Progress => Some(self.revision),
            What::Created | What::Canceled { .. } => None,
        }
    }
}

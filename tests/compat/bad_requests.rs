//! A table of bad requests with the exact code and text that each gets; every row goes to both servers.

mod cluster;
mod kv;
mod lease;
mod maintenance;

use decklog::wire::etcdserverpb::{
    DowngradeRequest, MemberAddRequest, MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest,
    MoveLeaderRequest,
};
use tonic::Code;

use crate::answer::Answer;
use crate::compare::Comparison;
use crate::programs::Step;
use crate::run::Pair;
use crate::side::Side;

/// One request that must be refused.
pub struct Row {
    pub what: &'static str,
    pub ask: Ask,
    pub code: Code,
    pub text: &'static str,
    pub etcd: Etcd35,
}

pub enum Ask {
    Step(Step),
    Downgrade(DowngradeRequest),
    MoveLeader(MoveLeaderRequest),
    MemberAdd(MemberAddRequest),
    MemberPromote(MemberPromoteRequest),
    MemberRemove(MemberRemoveRequest),
    MemberUpdate(MemberUpdateRequest),
    /// A method that no server has, by its path.
    Unknown(&'static str),
}

impl Ask {
    /// The RPC, when Decklog does not have it yet: then it says so, and the row is what it will have to say.
    fn later_work(&self) -> Option<&'static str> {
        match self {
            Self::Downgrade(_) => Some("Maintenance.Downgrade"),
            _ => None,
        }
    }
}

fn not_implemented(rpc: &str) -> Answer {
    let text = format!("decklog: {rpc} is not implemented in this version");
    Answer::Failed { code: Code::Unimplemented, text }
}

/// What etcd 3.5 does with a row's request when 3.7, and so Decklog, refuses it.
pub enum Etcd35 {
    /// Refuses it with the same code and text.
    Same,
    /// It must not be asked, for this reason.
    NotAsked(&'static str),
}

impl Row {
    pub fn new(what: &'static str, ask: Ask, code: Code, text: &'static str) -> Self {
        Self { what, ask, code, text, etcd: Etcd35::Same }
    }

    pub fn in_35(mut self, etcd: Etcd35) -> Self {
        self.etcd = etcd;
        self
    }
}

/// Asks every row on both servers; one line for each that did not get what it must.
pub async fn wrong_answers(pair: &mut Pair) -> Vec<String> {
    prepare(&mut pair.etcd).await;
    prepare(&mut pair.decklog).await;
    let mut wrong = Vec::new();
    for row in kv::rows().into_iter().chain(lease::rows()).chain(maintenance::rows()).chain(cluster::rows()) {
        let asked = match row.etcd {
            Etcd35::Same => true,
            Etcd35::NotAsked(reason) => {
                println!("not asked of etcd 3.5: {} ({reason})", row.what);
                false
            }
        };
        let itself = pair.comparison == Comparison::EtcdWithItself;
        let sides = [("etcd", &mut pair.etcd, asked), ("decklog", &mut pair.decklog, asked || !itself)];
        for (name, side, asked) in sides {
            if !asked {
                continue;
            }
            let answer = ask(side, &row.ask).await;
            let expected = match row.ask.later_work() {
                Some(rpc) if name == "decklog" && !itself => not_implemented(rpc),
                _ => Answer::Failed { code: row.code, text: row.text.to_owned() },
            };
            if answer != expected {
                wrong.push(format!("{name}: {}\n  expected {expected:?}\n  answered {answer:?}", row.what));
            }
        }
    }
    wrong
}

/// Some revisions, of which the first are compacted; key `k` and lease 1 exist.
async fn prepare(side: &mut Side) {
    for step in kv::preparation() {
        let answer = side.ask(&step).await;
        assert!(!matches!(answer, Answer::Failed { .. }), "cannot prepare: {answer:?}");
    }
}

async fn ask(side: &mut Side, ask: &Ask) -> Answer {
    match ask {
        Ask::Step(step) => side.ask(step).await,
        Ask::Downgrade(request) => refusal(side.any().maintenance.downgrade(request.clone()).await),
        Ask::MoveLeader(request) => refusal(side.any().maintenance.move_leader(*request).await),
        Ask::MemberAdd(request) => refusal(side.any().cluster.member_add(request.clone()).await),
        Ask::MemberPromote(request) => refusal(side.any().cluster.member_promote(*request).await),
        Ask::MemberRemove(request) => refusal(side.any().cluster.member_remove(*request).await),
        Ask::MemberUpdate(request) => refusal(side.any().cluster.member_update(request.clone()).await),
        Ask::Unknown(path) => refusal(side.call_unknown(path).await),
    }
}

/// Only refusals are looked at here: an answer of any kind is a wrong one.
fn refusal<T: std::fmt::Debug>(result: Result<tonic::Response<T>, tonic::Status>) -> Answer {
    match result {
        Ok(response) => {
            Answer::Failed { code: Code::Ok, text: format!("answered {:?}", response.into_inner()) }
        }
        Err(status) => Answer::Failed { code: status.code(), text: status.message().to_owned() },
    }
}

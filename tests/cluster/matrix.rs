//! Every RPC at a leader, a follower and a learner: with a leader, after another has taken over, without one, and after
//! it has come back. Each call goes to real etcd and to Decklog, and the answers must be the same.

use std::path::Path;

use decklog::wire::etcdserverpb as pb;
use decklog::wire::etcdserverpb::cluster_client::ClusterClient;
use decklog::wire::etcdserverpb::kv_client::KvClient;
use decklog::wire::etcdserverpb::lease_client::LeaseClient;
use decklog::wire::etcdserverpb::watch_client::WatchClient;
use decklog::wire::etcdserverpb::watch_request::RequestUnion;
use futures_util::StreamExt;
use futures_util::future::join_all;
use tonic::{Status, Streaming};

use crate::calls::{At, CALLS, Call, KEY, LEASE};
use crate::members::{Cluster, Options, channel};
use crate::peers::peer_or_skip;
use crate::until::{LIMIT, until};

const LEARNER_IN_35: &str = "Unavailable: etcdserver: rpc not supported for learner";
const LEARNER: &str = "FailedPrecondition: etcdserver: rpc not supported for learner";
const NOT_ASKED: &str = "not asked";
const NO_TIME_IN_35: &str = "DeadlineExceeded: context deadline exceeded";
const NO_TIME: &str = "DeadlineExceeded: etcdserver: context deadline exceeded";
/// The quorum is not asked for before members are added: nobody waits until connections count as sound.
const FLAGS: [&str; 1] = ["--strict-reconfig-check=false"];

/// Without a leader etcd lets them wait without an end; here they are refused after a time.
const WAIT_IN_ETCD: [Call; 3] =
    [Call::MemberAddExisting, Call::MemberRemoveUnknown, Call::MemberUpdateUnknown];

/// Three voters and a learner.
struct Matrix {
    cluster: Cluster,
    /// What a follower without a leader is not asked.
    not_asked: &'static [Call],
    leader: usize,
    follower: usize,
    learner: usize,
}

impl Matrix {
    async fn start(program: &Path, flags: &[&str], not_asked: &'static [Call]) -> Self {
        let options =
            Options { program: program.to_owned(), ..Options::with_flags(&[&FLAGS, flags].concat()) };
        let mut cluster = Cluster::start_with(3, options).await;
        let (learner, url) = cluster.newcomer().await;
        let request = pb::MemberAddRequest { peer_ur_ls: vec![url], is_learner: true };
        ClusterClient::new(channel(&cluster.urls()[0])).member_add(request).await.expect("it is added");
        cluster.launch(learner).await;
        let leader = cluster.leader_seen_by(0).await;
        let matrix = Self { cluster, not_asked, leader, follower: (leader + 1) % 3, learner };
        matrix.prepare().await;
        matrix
    }

    async fn prepare(&self) {
        let at = channel(&self.cluster.urls()[self.leader]);
        let request = pb::LeaseGrantRequest { id: LEASE, ttl: 6000 };
        LeaseClient::new(at.clone()).lease_grant(request).await.expect("a lease");
        let put = pb::PutRequest { key: KEY.into(), lease: LEASE, ..Default::default() };
        KvClient::new(at.clone()).put(put.clone()).await.expect("a key");
        KvClient::new(at).put(put).await.expect("a key");
        self.even_out().await;
    }

    fn at(&self, place: usize, with_leader: bool) -> At {
        At {
            channel: channel(&self.cluster.urls()[place]),
            member: self.cluster.id(place),
            voter: self.cluster.id(self.leader),
            peer_url: self.cluster.peer_url(self.follower),
            with_leader,
        }
    }

    /// Waits until all three that are asked have applied what the leader has.
    async fn even_out(&self) {
        let newest = pb::RangeRequest { key: KEY.into(), ..Default::default() };
        let mut leader = KvClient::new(channel(&self.cluster.urls()[self.leader]));
        let wanted =
            leader.range(newest).await.expect("it reads").into_inner().header.expect("a header").revision;
        for place in [self.follower, self.learner] {
            until("it has applied all", async || {
                let request = pb::RangeRequest { key: KEY.into(), serializable: true, ..Default::default() };
                let answer = KvClient::new(channel(&self.cluster.urls()[place])).range(request).await;
                answer.is_ok_and(|it| it.into_inner().header.is_some_and(|it| it.revision >= wanted))
            })
            .await;
        }
    }

    /// Each call at each of these, one after the other.
    async fn ask_in_turn(&self, places: [(&'static str, usize); 3]) -> Vec<Told> {
        let mut told = Vec::new();
        for (who, place) in places {
            for call in CALLS {
                self.even_out().await;
                told.push(Told { who: who.to_owned(), call, answer: self.at(place, true).ask(call).await });
            }
        }
        told
    }

    /// Every call at once at each of these, with and without the wish for a leader.
    async fn ask_at_once(&self, places: [(&'static str, usize); 2]) -> Vec<Told> {
        let all = places.iter().flat_map(|(who, place)| {
            CALLS.iter().flat_map(move |call| [false, true].map(|wish| (*who, *place, *call, wish)))
        });
        let ask = async |(who, place, call, wish): (&'static str, usize, Call, bool)| {
            let is_not_asked = place == self.follower && !wish && self.not_asked.contains(&call);
            let who = if wish { format!("{who}, hasleader") } else { who.to_owned() };
            if is_not_asked {
                return Told { who, call, answer: NOT_ASKED.to_owned() };
            }
            Told { who, call, answer: self.at(place, wish).ask(call).await }
        };
        join_all(all.map(ask)).await
    }

    async fn hand_over(&mut self) {
        self.cluster.hand_over_to(self.follower).await;
        std::mem::swap(&mut self.leader, &mut self.follower);
        for place in [self.leader, self.follower, self.learner] {
            let leader = self.cluster.id(self.leader);
            until("it knows the leader", async || self.cluster.status(place).await.leader == leader).await;
        }
    }

    async fn lose_leader(&mut self) {
        let places = [self.leader, 3 - self.leader - self.follower];
        places.into_iter().for_each(|place| self.cluster.kill(place));
        // A learner does not campaign, and so goes on to name the leader that it last heard of, in etcd as here.
        until("nobody leads", async || self.cluster.status(self.follower).await.leader == 0).await;
    }

    async fn come_back(&mut self) {
        self.cluster.launch_all().await;
        for place in [self.follower, self.learner] {
            until("somebody leads", async || self.cluster.status(place).await.leader != 0).await;
        }
        let leader = self.cluster.leader_seen_by(self.follower).await;
        if leader == self.follower {
            self.follower = self.leader;
        }
        self.leader = leader;
    }

    /// The value of the key by RangeStream.
    async fn stream(&self, place: usize, serializable: bool) -> Result<bytes::Bytes, String> {
        self.even_out().await;
        let request = pb::RangeRequest { key: KEY.into(), serializable, ..Default::default() };
        let stream = KvClient::new(channel(&self.cluster.urls()[place])).range_stream(request).await;
        let told = |status: Status| format!("{:?}: {}", status.code(), status.message());
        let message = stream.map_err(told)?.into_inner().message().await.map_err(told)?;
        let answer = message.expect("a message").range_response.expect("an answer");
        Ok(answer.kvs[0].decode().expect("a pair").value)
    }

    /// A watch at the follower.
    async fn watch(&self, with_leader: bool) -> Streaming<pb::WatchResponse> {
        let at = self.at(self.follower, with_leader);
        let create = pb::WatchCreateRequest { key: KEY.into(), ..Default::default() };
        let create = pb::WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        let requests = tokio_stream::once(create).chain(tokio_stream::pending());
        let opened = WatchClient::new(at.channel.clone()).watch(at.request(requests)).await;
        let mut answers = opened.expect("it opens").into_inner();
        let created = answers.message().await.expect("no error").expect("an answer");
        assert!(created.created, "{created:?}");
        answers
    }
}

struct Told {
    who: String,
    call: Call,
    answer: String,
}

/// Lines for what differs.
fn differences(state: &str, etcd: &[Told], decklog: &[Told]) -> Vec<String> {
    let mut lines = Vec::new();
    for (theirs, ours) in etcd.iter().zip(decklog) {
        let later = ours.call.is_later_work();
        // What every server refuses in the same way is refused before anybody looks what it is.
        let refused_first = ["etcdserver: rpc not supported for learner", "etcdserver: no leader"];
        let excused = later && !refused_first.iter().any(|text| theirs.answer.ends_with(text));
        let waits = theirs.answer == NOT_ASKED && ours.answer == "Unavailable: etcdserver: no leader";
        // 3.5 has another code for the one, and the other without its prefix.
        let expected = theirs.answer.replace(LEARNER_IN_35, LEARNER).replace(NO_TIME_IN_35, NO_TIME);
        if expected != ours.answer && !excused && !waits {
            let Told { who, call, answer } = ours;
            lines
                .push(format!("{state}, {who}, {call:?}\n  etcd:    {}\n  decklog: {answer}", theirs.answer));
        }
    }
    lines
}

async fn end_of(mut watch: Streaming<pb::WatchResponse>) -> Status {
    let ended = async {
        loop {
            match watch.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return Status::ok("it ended well"),
                Err(status) => return status,
            }
        }
    };
    tokio::time::timeout(LIMIT, ended).await.expect("it ends")
}

/// The events of the next answer.
async fn next_key(watch: &mut Streaming<pb::WatchResponse>) -> usize {
    let answer = tokio::time::timeout(LIMIT, watch.message()).await.expect("an event comes");
    answer.expect("no error").expect("it is open").events.len()
}

#[tokio::test]
async fn every_rpc_answers_as_in_etcd_on_every_member_with_and_without_a_leader() {
    let test = "every_rpc_answers_as_in_etcd_on_every_member_with_and_without_a_leader";
    let Some(etcd) = peer_or_skip(test, "etcd") else { return };
    let (mut etcd, mut decklog) = tokio::join!(
        Matrix::start(&etcd, &["--unsafe-no-fsync"], &WAIT_IN_ETCD),
        Matrix::start(Path::new(env!("CARGO_BIN_EXE_decklog")), &[], &[])
    );
    let places = |matrix: &Matrix| {
        [("leader", matrix.leader), ("follower", matrix.follower), ("learner", matrix.learner)]
    };
    let mut wrong = Vec::new();
    for state in ["at first", "after MoveLeader"] {
        let told = tokio::join!(etcd.ask_in_turn(places(&etcd)), decklog.ask_in_turn(places(&decklog)));
        wrong.extend(differences(state, &told.0, &told.1));
        if state == "at first" {
            tokio::join!(etcd.hand_over(), decklog.hand_over());
        }
    }
    let mut open = [etcd.watch(false).await, decklog.watch(false).await];
    let wants_leader = [etcd.watch(true).await, decklog.watch(true).await];
    tokio::join!(etcd.lose_leader(), decklog.lose_leader());
    let left = |matrix: &Matrix| [("follower", matrix.follower), ("learner", matrix.learner)];
    let told = tokio::join!(etcd.ask_at_once(left(&etcd)), decklog.ask_at_once(left(&decklog)));
    wrong.extend(differences("without a leader", &told.0, &told.1));
    for (name, watch) in ["etcd", "decklog"].into_iter().zip(wants_leader) {
        let ended = end_of(watch).await;
        assert_eq!(ended.message(), "etcdserver: no leader", "{name}: {ended}");
    }
    tokio::join!(etcd.come_back(), decklog.come_back());
    for (matrix, watch) in [&etcd, &decklog].into_iter().zip(&mut open) {
        let put = pb::PutRequest { key: KEY.into(), value: "again".into(), ..Default::default() };
        KvClient::new(channel(&matrix.cluster.urls()[matrix.leader])).put(put).await.expect("a key");
        assert_eq!(next_key(watch).await, 1);
    }
    // etcd 3.5 has no such call.
    for (place, is_served) in [(decklog.leader, true), (decklog.follower, true), (decklog.learner, false)] {
        for serializable in [false, true] {
            let told = decklog.stream(place, serializable).await;
            let expected = if is_served { Ok("again".into()) } else { Err(LEARNER.to_owned()) };
            assert_eq!(told, expected, "a stream of a range, serializable: {serializable}");
        }
    }
    assert!(wrong.is_empty(), "{} wrong:\n{}", wrong.len(), wrong.join("\n"));
}

//! What members tell of themselves and of each other: the metrics of a cluster, and the peer port over plain HTTP. Real
//! etcd is asked the same, and every expectation holds for both.

use std::collections::BTreeSet;
use std::path::Path;

use decklog::wire::etcdserverpb as pb;
use decklog::wire::etcdserverpb::cluster_client::ClusterClient;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::members::{Cluster, Options, channel};
use crate::peers::peer_or_skip;
use crate::scrape::Scrape;
use crate::until::{found, until};

const FLAGS: [&str; 1] = ["--strict-reconfig-check=false"];
/// etcd measures round trips twice a minute: longer than this test takes.
const ROUND_TRIPS: &str = "etcd_network_peer_round_trip_time_seconds";

/// Three voters and a learner that has taken in a state.
struct Observed {
    name: &'static str,
    cluster: Cluster,
    leader: usize,
    learner: usize,
}

/// A metric that must be shown, with these labels, and what its value must be.
type Expected = (&'static str, Vec<(&'static str, String)>, fn(f64) -> bool);

fn is_0(value: f64) -> bool {
    value == 0.0
}

fn is_1(value: f64) -> bool {
    value == 1.0
}

fn is_some(value: f64) -> bool {
    value >= 1.0
}

impl Observed {
    async fn start(name: &'static str, program: &Path, flags: &[&str]) -> Self {
        let options =
            Options { program: program.to_owned(), ..Options::with_flags(&[&FLAGS, flags].concat()) };
        let mut cluster = Cluster::start_with(3, options).await;
        for _ in 0..30 {
            cluster.put_at(0, "key", "value").await;
        }
        let (learner, url) = cluster.newcomer().await;
        let leader = cluster.leader_seen_by(0).await;
        let mut members = ClusterClient::new(channel(&cluster.urls()[leader]));
        let request = pb::MemberAddRequest { peer_ur_ls: vec![url], is_learner: true };
        let added = members.member_add(request).await.expect("it is added").into_inner();
        let id = added.member.expect("a member").id;
        let early = members.member_promote(pb::MemberPromoteRequest { id }).await;
        early.expect_err("it has nothing of the log");
        cluster.launch(learner).await;
        Self { name, cluster, leader, learner }
    }

    fn id(&self, place: usize) -> String {
        format!("{:x}", self.cluster.id(place))
    }

    /// Of a member, with every other that it knows.
    fn of_peers(&self, place: usize) -> Vec<Expected> {
        let mut all: Vec<Expected> = Vec::new();
        for other in (0..4).filter(|other| *other != place) {
            let pair = || vec![("Local", self.id(place)), ("Remote", self.id(other))];
            // etcd counts a member twice whose streams were made anew before it saw the old ones end.
            let active = if self.name == "etcd" { is_some } else { is_1 };
            all.push(("etcd_network_active_peers", pair(), active));
            let voter = self.leader;
            if place == voter || other == voter {
                all.push(("etcd_network_peer_sent_bytes_total", vec![("To", self.id(other))], is_some));
                all.push(("etcd_network_peer_received_bytes_total", vec![("From", self.id(other))], is_some));
            }
            if self.name == "decklog" {
                all.push((ROUND_TRIPS, vec![("To", self.id(other))], is_some));
                // etcd 3.5 does not set it for the members that it began with.
                all.push(("etcd_network_known_peers", pair(), is_1));
            }
        }
        all
    }

    fn of_itself(&self, place: usize) -> Vec<Expected> {
        let leads = if place == self.leader { is_1 } else { is_0 };
        let learns: fn(f64) -> bool = match place == self.learner {
            // etcd 3.5 goes on to say 0 when it learns from a state that it is one.
            true if self.name == "etcd" => |value| value >= 0.0,
            true => is_1,
            false => is_0,
        };
        vec![
            ("etcd_server_id", vec![("server_id", self.id(place))], is_1),
            ("etcd_server_has_leader", vec![], is_1),
            ("etcd_server_is_leader", vec![], leads),
            ("etcd_server_is_learner", vec![], learns),
            ("etcd_server_leader_changes_seen_total", vec![], is_some),
            ("etcd_server_proposals_committed_total", vec![], is_some),
            ("etcd_server_proposals_applied_total", vec![], is_some),
            ("etcd_server_proposals_failed_total", vec![], |value| value >= 0.0),
            ("etcd_server_proposals_pending", vec![], is_0),
            ("etcd_server_heartbeat_send_failures_total", vec![], |value| value >= 0.0),
            ("etcd_server_snapshot_apply_in_progress_total", vec![], is_0),
        ]
    }

    /// Of a learner that could not be reached by the log alone.
    fn of_states(&self, place: usize) -> Vec<Expected> {
        let to = || vec![("To", self.id(self.learner))];
        let from = || vec![("From", self.id(self.leader))];
        if place == self.leader {
            vec![
                ("etcd_network_snapshot_send_success", to(), is_some),
                ("etcd_network_snapshot_send_inflights_total", to(), is_0),
                ("etcd_network_snapshot_send_total_duration_seconds", to(), is_some),
                ("etcd_server_learner_promote_failures", vec![("Reason", READY.to_owned())], is_some),
            ]
        } else if place == self.learner {
            vec![
                ("etcd_network_snapshot_receive_success", from(), is_some),
                ("etcd_network_snapshot_receive_inflights_total", from(), is_0),
                ("etcd_network_snapshot_receive_total_duration_seconds", from(), is_some),
            ]
        } else {
            vec![]
        }
    }

    /// Waits until a member shows all of this.
    async fn shows(&self, place: usize, expected: &[Expected]) {
        let mut missing = Vec::new();
        let shown = found(async || {
            // On a busy machine the lead may have moved by itself.
            self.cluster.hand_over_to(self.leader).await;
            let scrape = self.scrape(place).await;
            missing.clear();
            for (name, labels, is_right) in expected {
                let labels: Vec<_> = labels.iter().map(|(key, value)| (*key, value.as_str())).collect();
                let value = scrape.find(name, &labels);
                if !value.is_some_and(is_right) {
                    missing.push(format!("{name} {labels:?}: {value:?}"));
                }
            }
            missing.is_empty().then_some(())
        });
        let is_shown = shown.await.is_some();
        assert!(is_shown, "{}, member {place} of {:?}: {missing:#?}", self.name, self.leader);
    }

    async fn scrape(&self, place: usize) -> Scrape {
        let url = &self.cluster.urls()[place];
        let (head, body) = get(url.trim_start_matches("http://"), "GET", "/metrics").await;
        assert!(head.contains("200 OK"), "{head}");
        Scrape::parse(&body)
    }

    async fn check(&mut self) {
        for place in 0..4 {
            self.shows(place, &self.of_itself(place)).await;
            self.shows(place, &self.of_peers(place)).await;
            self.shows(place, &self.of_states(place)).await;
        }
        self.check_promotion().await;
        self.check_hand_over().await;
        self.check_removal().await;
        self.check_loss().await;
    }

    async fn check_promotion(&self) {
        let mut members = ClusterClient::new(channel(&self.cluster.urls()[self.leader]));
        let id = self.cluster.id(self.learner);
        let request = pb::MemberPromoteRequest { id };
        until("it is promoted", async || members.member_promote(request).await.is_ok()).await;
        self.shows(self.leader, &[("etcd_server_learner_promote_successes", vec![], is_1)]).await;
        self.shows(self.learner, &[("etcd_server_is_learner", vec![], is_0)]).await;
    }

    async fn check_hand_over(&mut self) {
        let next = (self.leader + 1) % 3;
        let seen = self.scrape(next).await.value(CHANGES, &[]);
        self.cluster.hand_over_to(next).await;
        self.leader = next;
        self.shows(next, &[("etcd_server_is_leader", vec![], is_1)]).await;
        assert!(self.scrape(next).await.value(CHANGES, &[]) > seen, "{}", self.name);
    }

    /// A removed member's link ends, and it counted as active for ever.
    async fn check_removal(&self) {
        let mut members = ClusterClient::new(channel(&self.cluster.urls()[self.leader]));
        let request = pb::MemberRemoveRequest { id: self.cluster.id(self.learner) };
        members.member_remove(request).await.expect("it is removed");
        for place in 0..3 {
            self.shows(place, &[self.inactive(place, self.learner)]).await;
        }
    }

    fn inactive(&self, place: usize, other: usize) -> Expected {
        // etcd counts some members twice, see above.
        let inactive = if self.name == "etcd" { |value| value <= 1.0 } else { is_0 };
        let pair = vec![("Local", self.id(place)), ("Remote", self.id(other))];
        ("etcd_network_active_peers", pair, inactive)
    }

    async fn check_loss(&mut self) {
        let lost = (self.leader + 1) % 3;
        self.cluster.kill(lost);
        let pair = || vec![("Local", self.id(self.leader)), ("Remote", self.id(lost))];
        let expected: [Expected; 3] = [
            self.inactive(self.leader, lost),
            ("etcd_network_disconnected_peers_total", pair(), is_some),
            ("etcd_network_peer_sent_failures_total", vec![("To", self.id(lost))], is_some),
        ];
        self.shows(self.leader, &expected).await;
    }
}

const CHANGES: &str = "etcd_server_leader_changes_seen_total";
const READY: &str = "etcdserver: can only promote a learner member which is in sync with leader";

/// Whether the answer is as long as it says.
fn is_whole(answer: &[u8]) -> bool {
    let answer = String::from_utf8_lossy(answer).to_ascii_lowercase();
    let Some((head, body)) = answer.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
    length.is_some_and(|length: usize| body.len() >= length)
}

/// Head and body of the answer.
async fn get(address: &str, method: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let request = format!("{method} {path} HTTP/1.0\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("it reads");
    let mut answer = Vec::new();
    // etcd's peer port closes some seconds after it has answered.
    while !is_whole(&answer) && stream.read_buf(&mut answer).await.expect("it answers") > 0 {}
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
    (head.to_ascii_lowercase().replacen("http/1.0 200 ok", "HTTP/1.0 200 OK", 1), body.to_owned())
}

/// The metrics of every role, after a state was sent, a learner promoted, the leadership moved and a member lost.
#[tokio::test]
async fn members_measure_each_other_as_in_etcd() {
    let Some(etcd) = peer_or_skip("members_measure_each_other_as_in_etcd", "etcd") else { return };
    let few = ["--snapshot-count=10", "--experimental-snapshot-catchup-entries=5", "--unsafe-no-fsync"];
    let (mut etcd, mut decklog) = tokio::join!(
        Observed::start("etcd", &etcd, &few),
        Observed::start("decklog", Path::new(env!("CARGO_BIN_EXE_decklog")), &[])
    );
    check_peer_ports(&etcd, &decklog).await;
    tokio::join!(etcd.check(), decklog.check());
}

async fn check_peer_ports(etcd: &Observed, decklog: &Observed) {
    for (method, path) in
        [("GET", "/members"), ("POST", "/members"), ("GET", "/version"), ("GET", "/health"), ("GET", "/none")]
    {
        for place in [etcd.leader, etcd.learner] {
            let theirs = peer_answer(etcd, place, method, path).await;
            let place = if place == etcd.learner { decklog.learner } else { decklog.leader };
            assert_eq!(peer_answer(decklog, place, method, path).await, theirs, "{method} {path}");
        }
    }
}

/// What a peer port says, without ids, ports and versions.
async fn peer_answer(observed: &Observed, place: usize, method: &str, path: &str) -> Vec<String> {
    let address = format!("127.0.0.1:{}", observed.cluster.peer_port(place));
    let (head, body) = get(&address, method, path).await;
    let mut told = vec![head.lines().next().unwrap_or_default().to_owned()];
    let kept = |line: &&str| line.starts_with("content-type") || line.starts_with("allow");
    told.extend(head.lines().filter(kept).map(str::to_owned).collect::<BTreeSet<_>>());
    let status = observed.cluster.status(place).await;
    let cluster = format!("x-etcd-cluster-id: {:x}", status.header.expect("a header").cluster_id);
    told.push(format!("names its cluster: {}", head.lines().any(|line| line == cluster)));
    match serde_json::from_str(&body) {
        Ok(Value::Array(members)) => told.extend(members.iter().map(|member| without_ids(observed, member))),
        Ok(versions) => told
            .extend(["etcdserver", "etcdcluster"].map(|key| format!("{key} {}", versions[key].is_string()))),
        Err(_none) => told.push(body),
    }
    told.sort();
    told
}

/// A member with its place for its id, and the names of its fields.
fn without_ids(observed: &Observed, member: &Value) -> String {
    let place = (0..4).find(|place| member["id"].as_u64() == Some(observed.cluster.id(*place)));
    let fields: Vec<&String> = member.as_object().map(|fields| fields.keys().collect()).unwrap_or_default();
    let learns = &member["isLearner"];
    // Which of the voters leads is chance.
    format!(
        "{:?} {}, known {}, learns {learns}, {fields:?}",
        member["name"],
        member["peerURLs"].is_array(),
        place.is_some()
    )
}

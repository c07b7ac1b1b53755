//! A lease that is gone stays gone: a renewal of one that was revoked or has expired answers TTL 0 and brings nothing
//! back, whatever runs beside it, and after a kill.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use decklog::command::{self, Kind};
use decklog::wire::etcdserverpb::kv_client::KvClient;
use decklog::wire::etcdserverpb::lease_client::LeaseClient;
use decklog::wire::etcdserverpb::watch_create_request::FilterType;
use decklog::wire::etcdserverpb::watch_request::RequestUnion;
use decklog::wire::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseRevokeRequest,
    LeaseTimeToLiveRequest, PutRequest, RangeRequest, WatchCreateRequest, WatchRequest,
};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use crate::log_files::Log;
use crate::process::{Member, Process};
use crate::seed;

const DEADLINE: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(5);
const RACES: i64 = 300;
/// Races that run at once.
const TOGETHER: usize = 8;
/// Between two requests of a race, at most: about as long as a flush of the log.
const MAX_DISTANCE_MICROS: u64 = 1500;
/// Longer than the test.
const LONG_TTL: i64 = 600;
/// The shortest that the server grants.
const SHORT_TTL: i64 = 2;
const SHORT_LEASES: i64 = 400;
/// Renewals sent before the first of them is answered.
const RENEWALS_TOGETHER: usize = 16;
const GRANTS_TOGETHER: usize = 64;
const KEY_PREFIX: &str = "key of ";

/// A stream of renewals.
struct KeepAlive {
    requests: mpsc::Sender<LeaseKeepAliveRequest>,
    answers: Streaming<LeaseKeepAliveResponse>,
}

impl KeepAlive {
    async fn open(channel: &Channel) -> Self {
        let (requests, receiver) = mpsc::channel(16);
        let opened = LeaseClient::new(channel.clone()).lease_keep_alive(ReceiverStream::new(receiver)).await;
        Self { requests, answers: opened.expect("it serves").into_inner() }
    }

    async fn send(&self, id: i64) {
        self.requests.send(LeaseKeepAliveRequest { id }).await.expect("the stream is open");
    }

    async fn answer(&mut self) -> LeaseKeepAliveResponse {
        self.answers.message().await.expect("the stream is open").expect("each request is answered")
    }
}

async fn grant_with_key(channel: Channel, id: i64, ttl: i64) {
    let grant = LeaseGrantRequest { id, ttl };
    LeaseClient::new(channel.clone()).lease_grant(grant).await.expect("granted");
    let put = PutRequest { key: format!("{KEY_PREFIX}{id}").into(), lease: id, ..PutRequest::default() };
    KvClient::new(channel).put(put).await.expect("put");
}

/// Seconds left; -1 for none.
async fn time_to_live(channel: &Channel, id: i64) -> i64 {
    let request = LeaseTimeToLiveRequest { id, keys: false };
    let answer = LeaseClient::new(channel.clone()).lease_time_to_live(request).await;
    answer.expect("it serves").into_inner().ttl
}

async fn wait_for_time_to_live(channel: &Channel, id: i64, is_wanted: impl Fn(i64) -> bool) {
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    let came = tokio::time::timeout(DEADLINE, async {
        while !is_wanted(time_to_live(channel, id).await) {
            looks.tick().await;
        }
    });
    assert!(came.await.is_ok(), "lease {id}: still {} s", time_to_live(channel, id).await);
}

/// Renewals answer 0, nothing comes back by them, and the lease's key is gone.
async fn assert_gone(process: &Process, ids: &[i64]) {
    let mut keep_alive = KeepAlive::open(&process.channel).await;
    for id in ids {
        keep_alive.send(*id).await;
        let answer = keep_alive.answer().await;
        assert_eq!((answer.id, answer.ttl), (*id, 0), "a renewal of a lease that is gone");
        assert_eq!(time_to_live(&process.channel, *id).await, -1, "lease {id} is back");
        let request = RangeRequest { key: format!("{KEY_PREFIX}{id}").into(), ..RangeRequest::default() };
        let found = process.kv().range(request).await.expect("it serves").into_inner().kvs;
        assert!(found.is_empty(), "the key of lease {id} is there");
    }
}

/// What one race told: the lease, and whether its first renewal was granted.
struct Race {
    id: i64,
    was_renewed: bool,
}

/// Renews a lease a few times and revokes it meanwhile, in an order and at distances that the seed gives.
async fn race(channel: Channel, id: i64, seed: u64) -> Race {
    let mut random = StdRng::seed_from_u64(seed);
    let mut keep_alive = KeepAlive::open(&channel).await;
    let count = random.random_range(1..5);
    let revoke_before = random.random_range(0..=count);
    let mut revoke = None;
    for number in 0..=count {
        if number == revoke_before {
            pause(&mut random).await;
            let mut client = LeaseClient::new(channel.clone());
            revoke = Some(tokio::spawn(async move { client.lease_revoke(LeaseRevokeRequest { id }).await }));
        }
        if number < count {
            pause(&mut random).await;
            keep_alive.send(id).await;
        }
    }
    let revoked = revoke.expect("it was begun").await.expect("it does not panic").expect("revoked");
    let revision = revoked.into_inner().header.expect("an answer has a header").revision;
    // Begun after the lease is known to be gone.
    keep_alive.send(id).await;
    let mut answers = Vec::new();
    for _ in 0..=count {
        let answer = keep_alive.answer().await;
        answers.push((answer.ttl, answer.header.expect("an answer has a header").revision));
    }
    let what = || format!("lease {id}, seed {seed}, revoked at {revision}: (TTL, revision) {answers:?}");
    assert!(answers.is_sorted_by_key(|(ttl, _)| *ttl == 0), "renewed after it was gone: {}", what());
    assert_eq!(answers.last().map(|(ttl, _)| *ttl), Some(0), "renewed after the revoke's answer: {}", what());
    let in_time = |(ttl, at): &(i64, i64)| *ttl == 0 || (*ttl == LONG_TTL && *at < revision);
    assert!(answers.iter().all(in_time), "renewed at a revision without the lease: {}", what());
    Race { id, was_renewed: answers[0].0 > 0 }
}

/// Lets the others go on for a moment.
async fn pause(random: &mut StdRng) {
    let length = Duration::from_micros(random.random_range(0..MAX_DISTANCE_MICROS));
    let began = Instant::now();
    while began.elapsed() < length {
        tokio::task::yield_now().await;
    }
}

async fn run_races(process: &Process, seed: u64) -> Vec<Race> {
    let (mut running, mut races) = (JoinSet::new(), Vec::new());
    for id in 1..=RACES {
        if running.len() == TOGETHER {
            races.extend(running.join_next().await.map(|race| race.expect("a race holds")));
        }
        running.spawn(race(process.channel.clone(), id, seed.wrapping_add(id.unsigned_abs())));
    }
    races.extend(running.join_all().await);
    races
}

/// Where a lease's revoke stands among the log's commands, and the first that gives it all its time again.
fn places_in_log(log: &Log, lease: i64) -> (usize, Option<usize>) {
    let (mut revoked, mut lifted) = (None, None);
    let batches = log.entries.iter().filter(|entry| !entry.data.is_empty());
    let commands =
        batches.flat_map(|entry| command::decode(entry.index, &entry.data).expect("a batch").commands);
    for (place, command) in commands.enumerate() {
        match command.kind {
            Some(Kind::LeaseRevoke(request)) if request.id == lease => {
                revoked.get_or_insert(place);
            }
            Some(Kind::LeaseCheckpoint(request)) => {
                let mut lifts = request.checkpoints.iter().filter(|checkpoint| checkpoint.remaining_ttl == 0);
                if lifts.any(|checkpoint| checkpoint.id == lease) {
                    lifted.get_or_insert(place);
                }
            }
            _ => {}
        }
    }
    (revoked.expect("it was revoked"), lifted)
}

/// etcd 3.5.23 mended the same: a renewal waits for its checkpoint, and the lease is revoked meanwhile.
#[tokio::test]
async fn a_renewal_beside_a_revoke_does_not_outlive_it() {
    let seed = seed("a_renewal_beside_a_revoke_does_not_outlive_it");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let member = Member::new(&folder.path().join("data"));
    let mut process = member.start().await;
    for id in 1..=RACES {
        grant_with_key(process.channel.clone(), id, LONG_TTL).await;
    }
    // An orderly stop notes what is left of each, rounded up: the first renewal then has that to lift, and waits.
    wait_for_time_to_live(&process.channel, RACES, |ttl| ttl < LONG_TTL - 1).await;
    process.stop().await;
    let process = member.start().await;
    let races = run_races(&process, seed).await;
    let ids: Vec<i64> = races.iter().map(|race| race.id).collect();
    assert_gone(&process, &ids).await;
    process.kill();
    let log = Log::of(&member.data);
    let (mut before, mut behind) = (0, 0);
    for Race { id, was_renewed } in races {
        let (revoked, lifted) = places_in_log(&log, id);
        match lifted {
            Some(lifted) if lifted < revoked => before += 1,
            Some(_) => {
                assert!(!was_renewed, "lease {id} was renewed behind its revoke; seed {seed}");
                behind += 1;
            }
            None => {
                assert!(!was_renewed, "lease {id} was renewed, and what was noted of it stands; seed {seed}")
            }
        }
    }
    println!("{before} renewals before the revoke, {behind} behind it, of {RACES}");
    assert!(before > 0 && behind > 0, "{before} before, {behind} behind: no race");
    let process = member.start().await;
    assert_gone(&process, &ids).await;
}

/// While the server works off a list of leases whose time is over, all are renewed: one on the list comes too late, one
/// that is not due gets all its time.
#[tokio::test]
async fn a_renewal_beside_the_expiry_is_too_late_or_whole() {
    let seed = seed("a_renewal_beside_the_expiry_is_too_late_or_whole");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let member = Member::new(&folder.path().join("data"));
    let process = member.start().await;
    let mut deletions = follow_deletions(&process).await;
    let mut ids: Vec<i64> = (1..=SHORT_LEASES).collect();
    for some in ids.chunks(GRANTS_TOGETHER) {
        let grants: JoinSet<()> =
            some.iter().map(|id| grant_with_key(process.channel.clone(), *id, ttl_of(*id))).collect();
        grants.join_all().await;
    }
    let mut keep_alive = KeepAlive::open(&process.channel).await;
    ids.shuffle(&mut StdRng::seed_from_u64(seed));
    let mut gone = BTreeMap::from([next_deletion(&mut deletions).await]);
    let mut renewed = BTreeMap::new();
    for some in ids.chunks(RENEWALS_TOGETHER) {
        let sent = Instant::now();
        for id in some {
            keep_alive.send(*id).await;
        }
        for id in some {
            let answer = keep_alive.answer().await;
            assert_eq!(answer.id, *id);
            if answer.ttl > 0 {
                assert_eq!(answer.ttl, ttl_of(*id));
                renewed.insert(*id, sent);
            }
        }
    }
    let late = ids.len() - renewed.len();
    while gone.len() < ids.len() {
        let (id, at) = next_deletion(&mut deletions).await;
        assert!(gone.insert(id, at).is_none(), "lease {id} went twice");
    }
    for (id, sent) in &renewed {
        let lived = gone[id].saturating_duration_since(*sent);
        let promised = Duration::from_secs(ttl_of(*id).unsigned_abs());
        assert!(lived >= promised, "lease {id} was renewed and lived {lived:?} from then; seed {seed}");
    }
    println!("{} renewed in time, {late} too late", renewed.len());
    assert!(late > 0 && !renewed.is_empty(), "{} renewed, {late} too late", renewed.len());
    assert_gone(&process, &ids).await;
    process.kill();
    assert_gone(&member.start().await, &ids).await;
}

/// Every fourth lives longer than the others.
fn ttl_of(id: i64) -> i64 {
    if id % 4 == 0 { SHORT_TTL + 2 } else { SHORT_TTL }
}

/// Tells of which lease the key was deleted, and when that was heard.
async fn follow_deletions(process: &Process) -> mpsc::Receiver<(i64, Instant)> {
    let create = WatchCreateRequest {
        key: KEY_PREFIX.into(),
        range_end: "key of!".into(),
        filters: vec![FilterType::Noput.into()],
        ..WatchCreateRequest::default()
    };
    let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
    let requests = tokio_stream::StreamExt::chain(tokio_stream::once(request), tokio_stream::pending());
    let mut answers = process.watch().watch(requests).await.expect("a watch stream").into_inner();
    let created = answers.message().await.expect("the stream goes on").expect("the stream goes on");
    assert!(created.created);
    let (heard, deletions) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok(Some(answer)) = answers.message().await {
            let now = Instant::now();
            for event in &answer.events {
                let pair = event.decode().expect("an event").kv.expect("a pair").decode().expect("a pair");
                let key = String::from_utf8_lossy(&pair.key).into_owned();
                let id = key.strip_prefix(KEY_PREFIX).and_then(|id| id.parse().ok()).expect("a lease's key");
                if heard.send((id, now)).await.is_err() {
                    return;
                }
            }
        }
    });
    deletions
}

async fn next_deletion(deletions: &mut mpsc::Receiver<(i64, Instant)>) -> (i64, Instant) {
    let next = tokio::time::timeout(DEADLINE, deletions.recv()).await;
    next.expect("leases expire").expect("the server goes on")
}

//! What is done to a cluster of three under load. Each fault ends: afterwards everybody runs and everything passes.

use std::time::Duration;

use decklog::wire::etcdserverpb as pb;
use decklog::wire::etcdserverpb::cluster_client::ClusterClient;
use rand::Rng;
use rand::rngs::SmallRng;
use tonic::Status;

use crate::let_pass;
use crate::members::{Cluster, channel};
use crate::network::Way;
use crate::until::found;

const SIZE: usize = 3;
/// Above every election timeout.
const LONG_PAUSE_MS: std::ops::Range<u64> = 2200..4000;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    Kill,
    KillLeader,
    KillAll,
    Pause,
    /// For longer than it takes to elect another.
    PauseLeader,
    Stop,
    RollingRestart,
    /// Nothing passes to and from the leader.
    CutOffLeader,
    CutOffFollower,
    /// What the leader says does not arrive; it hears the others.
    MuteLeader,
    /// The leader does not hear the others; they hear it.
    DeafLeader,
    MuteFollower,
    DeafFollower,
    /// One link is cut, and both ends still reach the third member.
    CutLink,
    CutOneWay,
    /// Every link is cut: nobody can lead.
    CutAll,
    /// Late everywhere.
    SlowNetwork,
    /// Little passes to and from one member.
    NarrowMember,
    /// Connections break by chance, bytes are held up.
    LossyNetwork,
    /// The connections of one member are dead and nobody is told.
    HalfOpen,
    /// A member is killed while it is cut off: the others keep half a connection.
    KillCutOff,
    DiskFull,
    /// A member loses its data and is replaced as operators do it.
    LoseData,
    /// A member that runs is removed; another takes its place, as a learner first.
    Replace,
}

use Fault as F;

const ALL: [Fault; 24] = [
    F::Kill,
    F::KillLeader,
    F::KillAll,
    F::Pause,
    F::PauseLeader,
    F::Stop,
    F::RollingRestart,
    F::CutOffLeader,
    F::CutOffFollower,
    F::MuteLeader,
    F::DeafLeader,
    F::MuteFollower,
    F::DeafFollower,
    F::CutLink,
    F::CutOneWay,
    F::CutAll,
    F::SlowNetwork,
    F::NarrowMember,
    F::LossyNetwork,
    F::HalfOpen,
    F::KillCutOff,
    F::DiskFull,
    F::LoseData,
    F::Replace,
];

impl Fault {
    pub fn any(random: &mut SmallRng) -> Self {
        ALL[random.random_range(0..ALL.len())]
    }

    /// Parses what `Debug` prints.
    pub fn named(name: &str) -> Option<Self> {
        ALL.into_iter().find(|fault| format!("{fault:?}") == name)
    }
}

/// Does it and waits until it is over. `small_disk` is the place of the member that has one.
pub async fn inject(cluster: &mut Cluster, fault: Fault, small_disk: Option<usize>, random: &mut SmallRng) {
    let leader = cluster.leader().await;
    let any = random.random_range(0..SIZE);
    let follower = (leader + random.random_range(1..SIZE)) % SIZE;
    let third = SIZE - leader - follower;
    let time = Duration::from_millis(random.random_range(200..2000));
    println!("{fault:?}: member {leader} leads, {follower} follows, {any} is any; {time:?}");
    match fault {
        F::Kill => kill(cluster, &[any], time).await,
        F::KillLeader => kill(cluster, &[leader], time).await,
        F::KillAll => kill(cluster, &[0, 1, 2], Duration::ZERO).await,
        F::Pause => pause(cluster, any, time).await,
        F::PauseLeader => {
            let time = Duration::from_millis(random.random_range(LONG_PAUSE_MS));
            pause(cluster, leader, time).await;
        }
        F::Stop => {
            cluster.stop(any).await;
            cluster.launch(any).await;
        }
        F::RollingRestart => {
            for place in 0..SIZE {
                cluster.stop(place).await;
                cluster.launch(place).await;
            }
        }
        F::CutOffLeader => cut(cluster, &[(leader, follower), (leader, third)], Both::Ways, time).await,
        F::CutOffFollower => cut(cluster, &[(follower, leader), (follower, third)], Both::Ways, time).await,
        F::MuteLeader => cut(cluster, &[(leader, follower), (leader, third)], Both::No, time).await,
        F::DeafLeader => cut(cluster, &[(follower, leader), (third, leader)], Both::No, time).await,
        F::MuteFollower => cut(cluster, &[(follower, leader), (follower, third)], Both::No, time).await,
        F::DeafFollower => cut(cluster, &[(leader, follower), (third, follower)], Both::No, time).await,
        F::CutLink => cut(cluster, &[(leader, follower)], Both::Ways, time).await,
        F::CutOneWay => cut(cluster, &[(any, (any + 1) % SIZE)], Both::No, time).await,
        F::CutAll => cut(cluster, &[(0, 1), (1, 2), (2, 0)], Both::Ways, time).await,
        F::SlowNetwork => {
            let delay = Duration::from_millis(random.random_range(5..150));
            everywhere(cluster, Way { delay, ..Way::default() }, time).await;
        }
        F::NarrowMember => {
            let way = Way { bytes_per_second: random.random_range(8 << 10..256 << 10), ..Way::default() };
            for other in [leader, third] {
                cluster.network.set(other, follower, way);
                cluster.network.set(follower, other, way);
            }
            let_pass(time).await;
        }
        F::LossyNetwork => {
            let way = Way { breaks_one_in: 40, stalls_one_in: 30, ..Way::default() };
            everywhere(cluster, way, time).await;
        }
        F::HalfOpen => {
            cluster.network.forget_connections(follower, leader);
            cluster.network.forget_connections(follower, third);
            let_pass(time).await;
        }
        F::KillCutOff => kill_cut_off(cluster, any, time).await,
        F::DiskFull => fill_disk(cluster, small_disk.expect("a place is chosen"), time).await,
        F::LoseData => lose_data(cluster, any).await,
        F::Replace => replace(cluster, any).await,
    }
    cluster.network.heal();
}

enum Both {
    Ways,
    No,
}

async fn kill(cluster: &mut Cluster, places: &[usize], time: Duration) {
    places.iter().for_each(|place| cluster.kill(*place));
    let_pass(time).await;
    cluster.launch_places(places).await;
}

async fn pause(cluster: &Cluster, place: usize, time: Duration) {
    cluster.signal(place, "STOP");
    let_pass(time).await;
    cluster.signal(place, "CONT");
}

/// Nothing passes from the first to the second of each.
async fn cut(cluster: &Cluster, links: &[(usize, usize)], both: Both, time: Duration) {
    let held = Way { is_held: true, ..Way::default() };
    for (from, to) in links {
        cluster.network.set(*from, *to, held);
        if let Both::Ways = both {
            cluster.network.set(*to, *from, held);
        }
    }
    let_pass(time).await;
}

async fn everywhere(cluster: &Cluster, way: Way, time: Duration) {
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        cluster.network.set(from, to, way);
        cluster.network.set(to, from, way);
    }
    let_pass(time).await;
}

async fn kill_cut_off(cluster: &mut Cluster, place: usize, time: Duration) {
    let (one, other) = ((place + 1) % SIZE, (place + 2) % SIZE);
    cut(cluster, &[(place, one), (place, other)], Both::Ways, time).await;
    cluster.kill(place);
    // What was under way when it was killed stays so; it comes back to a sound network.
    cluster.network.forget_connections(place, one);
    cluster.network.forget_connections(place, other);
    cluster.network.heal();
    cluster.launch(place).await;
}

/// A member without room goes on in what it has, refuses when that is used up, and goes on when there is some.
async fn fill_disk(cluster: &mut Cluster, place: usize, time: Duration) {
    let Some(disk) = cluster.disk(place) else { return };
    disk.fill();
    let_pass(time).await;
    assert!(!cluster.has_ended(place), "a full disk ends no member: {}", cluster.log(place));
    cluster.disk(place).expect("it is there").make_room();
}

async fn lose_data(cluster: &mut Cluster, place: usize) {
    let url = cluster.peer_url(place);
    cluster.kill(place);
    remove(cluster, place).await;
    cluster.lose_data(place);
    add(cluster, place, &url, false).await;
    cluster.launch(place).await;
}

/// A member that runs is removed, and one without data joins in its place, as a learner first.
pub async fn replace(cluster: &mut Cluster, place: usize) {
    let url = cluster.peer_url(place);
    remove(cluster, place).await;
    cluster.ends(place).await;
    cluster.lose_data(place);
    add(cluster, place, &url, true).await;
    cluster.launch(place).await;
    let id = cluster.id(place);
    through_others(cluster, place, async |mut client| {
        match client.member_promote(pb::MemberPromoteRequest { id }).await {
            // It was promoted, and the answer was lost.
            Err(status) if status.message().contains("can only promote a learner member") => {
                if status.message().contains("in sync") { Err(status) } else { Ok(()) }
            }
            answer => answer.map(drop),
        }
    })
    .await;
}

async fn remove(cluster: &Cluster, place: usize) {
    let id = cluster.id(place);
    through_others(cluster, place, async |mut client| {
        match client.member_remove(pb::MemberRemoveRequest { id }).await {
            Err(status) if status.message() == "etcdserver: member not found" => Ok(()),
            answer => answer.map(drop),
        }
    })
    .await;
}

async fn add(cluster: &Cluster, place: usize, url: &str, is_learner: bool) {
    through_others(cluster, place, async |mut client| {
        let request = pb::MemberAddRequest { peer_ur_ls: vec![url.to_owned()], is_learner };
        match client.member_add(request).await {
            Err(status) if status.message() == "etcdserver: Peer URLs already exists" => Ok(()),
            answer => answer.map(drop),
        }
    })
    .await;
}

/// Asks the other members in turn until one has done it: they may just have lost their leader.
async fn through_others(
    cluster: &Cluster,
    place: usize,
    mut ask: impl AsyncFnMut(ClusterClient<tonic::transport::Channel>) -> Result<(), Status>,
) {
    let (mut turn, mut last) = (0, None);
    let done = found(async || {
        let other = (place + 1 + turn % (SIZE - 1)) % SIZE;
        turn += 1;
        let answer = ask(ClusterClient::new(channel(&cluster.urls()[other]))).await;
        answer.map_err(|status| last = Some(status)).ok()
    });
    let is_done = done.await.is_some();
    assert!(is_done, "the members cannot be changed: {last:?}");
}

//! The network between members, in this process: every member is reached through a port of ours, so that what one
//! member sends another can be held, slowed or broken without the way back. Owns those ports and connections. Whose a
//! connection is stands in the system's table of sockets: the process that holds the other end.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What passes at once; small against what members send, so that connections break in the middle of messages.
const PIECE_BYTES: usize = 8 << 10;
/// How long a piece stays that is held up by chance, at most.
const MAX_STALL_MS: u64 = 1500;

/// How bytes pass from one member to another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// Nothing passes, nothing is lost: it goes on when this ends, as TCP does after a partition.
    pub is_held: bool,
    pub delay: Duration,
    /// 0: as fast as it goes.
    pub bytes_per_second: u64,
    /// Of so many pieces one breaks the connection; 0: none.
    pub breaks_one_in: u32,
    /// Of so many pieces one is held up; 0: none.
    pub stalls_one_in: u32,
}

#[derive(Clone, Copy, Debug, Default)]
struct Direction {
    way: Way,
    /// Connections made before this number rose stay open and pass nothing any more.
    epoch: u64,
}

/// See the module.
pub struct Network {
    shared: Arc<Shared>,
    ports: JoinSet<()>,
}

struct Shared {
    /// From, to.
    ways: Mutex<BTreeMap<(usize, usize), watch::Sender<Direction>>>,
    /// Places of members by their process.
    processes: Mutex<BTreeMap<u32, usize>>,
    random: Mutex<SmallRng>,
}

impl Network {
    pub fn new(seed: u64) -> Self {
        let random = Mutex::new(SmallRng::seed_from_u64(seed));
        let shared = Shared { ways: Mutex::default(), processes: Mutex::default(), random };
        Self { shared: Arc::new(shared), ports: JoinSet::new() }
    }

    /// The port by which others reach the member at a place, which listens on `target`.
    pub async fn add(&mut self, place: usize, target: u16) -> u16 {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let port = listener.local_addr().expect("an address").port();
        self.ports.spawn(serve(self.shared.clone(), listener, place, target));
        port
    }

    /// The member at a place is this process from now on.
    pub fn runs(&self, place: usize, process: u32) {
        let mut processes = self.shared.processes.lock();
        processes.retain(|_, known| *known != place);
        processes.insert(process, place);
    }

    pub fn set(&self, from: usize, to: usize, way: Way) {
        self.shared.change(from, to, |direction| direction.way = way);
    }

    /// Everything passes.
    pub fn heal(&self) {
        for direction in self.shared.ways.lock().values() {
            direction.send_modify(|direction| direction.way = Way::default());
        }
    }

    /// The connections between two members pass nothing any more, and neither hears of it; new ones are sound.
    pub fn forget_connections(&self, one: usize, other: usize) {
        self.shared.change(one, other, |direction| direction.epoch += 1);
        self.shared.change(other, one, |direction| direction.epoch += 1);
    }
}

impl Shared {
    fn change(&self, from: usize, to: usize, change: impl FnOnce(&mut Direction)) {
        self.ways.lock().entry((from, to)).or_default().send_modify(change);
    }

    fn way(&self, from: usize, to: usize) -> Passage {
        let direction = self.ways.lock().entry((from, to)).or_default().subscribe();
        let epoch = direction.borrow().epoch;
        Passage { direction, epoch, random: SmallRng::from_rng(&mut *self.random.lock()) }
    }

    /// The place of the member that has connected from one port to another; `None` when it has gone already.
    fn caller(&self, from: u16, to: u16) -> Option<usize> {
        let table = fs::read_to_string("/proc/net/tcp").expect("the system's table of sockets");
        let port = |address: &str| u16::from_str_radix(address.split(':').nth(1)?, 16).ok();
        let inode = table.lines().skip(1).find_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let ends = (port(fields.get(1)?)?, port(fields.get(2)?)?);
            (ends == (from, to)).then(|| fields.get(9).map(|inode| format!("socket:[{inode}]")))?
        })?;
        let holds = |process: &u32| {
            let files = fs::read_dir(format!("/proc/{process}/fd")).into_iter().flatten().flatten();
            files.flat_map(|file| fs::read_link(file.path())).any(|target| target.as_os_str() == &*inode)
        };
        let processes = self.processes.lock();
        processes.iter().find(|(process, _)| holds(process)).map(|(_, place)| *place)
    }
}

async fn serve(shared: Arc<Shared>, listener: TcpListener, to: usize, target: u16) {
    let port = listener.local_addr().expect("an address").port();
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let (stream, address) = listener.accept().await.expect("connections are accepted");
        if let Some(from) = shared.caller(address.port(), port) {
            connections.spawn(pass(stream, target, shared.way(from, to), shared.way(to, from)));
        }
    }
}

/// Passes what comes and goes until both sides have ended, or until the connection breaks, for both.
async fn pass(mut near: TcpStream, target: u16, mut there: Passage, mut back: Passage) {
    there.opened().await;
    back.opened().await;
    let Ok(mut far) = TcpStream::connect(("127.0.0.1", target)).await else {
        return; // the member is down
    };
    for stream in [&near, &far] {
        stream.set_nodelay(true).expect("an option of every socket");
    }
    let (from_near, to_near) = near.split();
    let (from_far, to_far) = far.split();
    let passed = tokio::try_join!(there.pump(from_near, to_far), back.pump(from_far, to_near));
    if passed.is_err() {
        for stream in [&near, &far] {
            SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("an option of every socket");
        }
    }
}

/// One direction of one connection.
struct Passage {
    direction: watch::Receiver<Direction>,
    epoch: u64,
    random: SmallRng,
}

impl Passage {
    /// Returns when bytes may pass: never for a connection that was forgotten.
    async fn opened(&mut self) -> Way {
        let is_open = |now: &Direction| !now.way.is_held && now.epoch == self.epoch;
        let opened = self.direction.wait_for(is_open).await.map(|now| now.way);
        match opened {
            Ok(way) => way,
            // The network has ended.
            Err(_closed) => std::future::pending().await,
        }
    }

    async fn pump(&mut self, mut from: ReadHalf<'_>, mut to: WriteHalf<'_>) -> io::Result<()> {
        let mut piece = vec![0; PIECE_BYTES];
        loop {
            let count = from.read(&mut piece).await?;
            let way = self.opened().await;
            if self.happens_one_in(way.breaks_one_in) {
                return Err(io::ErrorKind::ConnectionReset.into());
            }
            let mut delay = way.delay;
            if self.happens_one_in(way.stalls_one_in) {
                delay += Duration::from_millis(self.random.random_range(0..MAX_STALL_MS));
            }
            if let Some(millis) = (1000 * count as u64).checked_div(way.bytes_per_second) {
                delay += Duration::from_millis(millis);
            }
            if delay > Duration::ZERO {
                tokio::time::sleep(delay).await;
                // It may have been cut meanwhile.
                self.opened().await;
            }
            if count == 0 {
                return to.shutdown().await;
            }
            to.write_all(&piece[..count]).await?;
        }
    }

    fn happens_one_in(&mut self, count: u32) -> bool {
        count > 0 && self.random.random_range(0..count) == 0
    }
}

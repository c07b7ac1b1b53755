//! Writers, a keeper and a watch on one data directory over many lives of the server.

use std::collections::BTreeSet;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::task::JoinHandle;

use crate::history::{HUGE_EVERY, History, LARGE_EVERY};
use crate::journal::Clock;
use crate::keeper::Keeper;
use crate::process::Process;
use crate::recording::Load;
use crate::writer::{Writer, live_leases};

const CHECK_DEADLINE: Duration = Duration::from_secs(30);

/// See the module.
pub struct Crowd {
    pub writers: Vec<Writer>,
    pub keeper: Keeper,
    pub history: History,
    pub random: StdRng,
}

/// The tasks of one life.
pub struct Life {
    writers: Vec<JoinHandle<Writer>>,
    keeper: JoinHandle<Keeper>,
    watch: JoinHandle<()>,
    random: StdRng,
    history: History,
    /// Told before the server is killed: only from then on may a request fail.
    ending: tokio::sync::watch::Sender<bool>,
}

impl Crowd {
    pub fn new(writers: usize, seed: u64) -> Self {
        Self::with_clock(writers, seed, &Clock::default())
    }

    /// Everybody notes when requests were sent and answered.
    pub fn with_clock(writers: usize, seed: u64, clock: &Clock) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let mut fork = || StdRng::seed_from_u64(random.random());
        let mut writer = |number| Writer::new(format!("w{number}"), fork(), clock.clone());
        Self {
            writers: (0..writers).map(&mut writer).collect(),
            keeper: Keeper::new(fork(), clock.clone()),
            history: History::new(),
            random: fork(),
        }
    }

    /// What everybody does from now on.
    pub fn set_load(&mut self, load: Load) {
        let step = match load {
            Load::Mixed => 1,
            Load::Heavy => HUGE_EVERY,
            Load::Churn => LARGE_EVERY,
        };
        self.writers.iter_mut().for_each(|writer| writer.number_step = step);
        self.keeper.defragments = load != Load::Churn;
    }

    /// Everybody begins. Panics (when the life ends) if a request fails before `Life::end`.
    pub fn begin(self, process: &Process) -> Life {
        let Self { writers, mut keeper, history, random } = self;
        let (ending, is_ending) = tokio::sync::watch::channel(false);
        let watch = tokio::spawn(history.clone().follow(process.watch()));
        let may_fail = move |who: &str, status: tonic::Status| {
            assert!(*is_ending.borrow(), "{who} was refused while the server lived: {status}");
        };
        let writers = writers.into_iter().map(|mut writer| {
            let (channel, may_fail) = (process.channel.clone(), may_fail.clone());
            tokio::spawn(async move {
                may_fail("a writer", writer.run(channel).await);
                writer
            })
        });
        let writers = writers.collect();
        let (channel, known) = (process.channel.clone(), history.clone());
        let keeper = tokio::spawn(async move {
            may_fail("the keeper", keeper.run(channel, &known).await);
            keeper
        });
        Life { writers, keeper, watch, random, history, ending }
    }

    /// Checks everything against a server that was started again.
    pub async fn check(&mut self, process: &Process) {
        let watch = tokio::spawn(self.history.clone().follow(process.watch()));
        let checked = tokio::time::timeout(CHECK_DEADLINE, self.check_all(process)).await;
        watch.abort();
        if let Err(panicked) = watch.await
            && panicked.is_panic()
        {
            std::panic::resume_unwind(panicked.into_panic());
        }
        let told = self.history.last();
        checked.unwrap_or_else(|_| panic!("the check takes too long; the watch has come to {told}"));
    }

    /// Reads all that is left of the history once more and compares it.
    pub async fn check_retold(&self, process: &Process) {
        let oldest = self.keeper.compacted().max(1);
        let retold = History::behind(oldest);
        let watch = tokio::spawn(retold.clone().follow(process.watch()));
        let reached = tokio::time::timeout(CHECK_DEADLINE, retold.reaches(self.history.last())).await;
        watch.abort();
        reached.unwrap_or_else(|_| panic!("a watch from {oldest} on stops at {}", retold.last()));
        let known = self.history.revisions();
        let known: Vec<_> = known.range(oldest + 1..).collect();
        assert!(
            retold.revisions().iter().eq(known),
            "the history from {oldest} on is not the one told before"
        );
    }

    /// What happened, for people.
    pub fn summary(&self) -> String {
        let sum = |of: fn(&Writer) -> u64| self.writers.iter().map(of).sum::<u64>();
        let Keeper { compactions, defragmentations, hashes_compared, .. } = &self.keeper;
        format!(
            "{} writes acknowledged, {} in doubt done and {} not, {} revisions, {compactions} compactions, \
             {defragmentations} defragmentations, {hashes_compared} checksums compared",
            sum(|writer| writer.acknowledged),
            sum(|writer| writer.in_doubt_done),
            sum(|writer| writer.in_doubt_lost),
            self.history.last(),
        )
    }

    async fn check_all(&mut self, process: &Process) {
        let now = self.history.check_state(process, 0).await;
        let highest = self.writers.iter().map(|writer| writer.highest_revision).max().expect("writers");
        assert!(now >= highest, "revision {now}, acknowledged was {highest}");
        assert!(now >= self.history.last(), "revision {now}, a watch told {}", self.history.last());
        let live = live_leases(process).await;
        let mut expected = BTreeSet::new();
        for writer in &mut self.writers {
            expected.extend(writer.check(&self.history, now, &live));
        }
        assert_eq!(live, expected, "leases");
        self.keeper.check(process).await;
        let oldest = self.keeper.compacted().max(1);
        let revision = self.random.random_range(oldest..=now);
        self.history.check_state(process, revision).await;
    }
}

impl Life {
    /// Lets requests fail, ends the server with `end`, and gathers everybody.
    pub async fn end(self, end: impl AsyncFnOnce()) -> Crowd {
        self.ending.send_replace(true);
        end().await;
        let mut writers = Vec::new();
        for writer in self.writers {
            writers.push(writer.await.expect("a writer does not panic"));
        }
        let keeper = self.keeper.await.expect("the keeper does not panic");
        self.watch.await.expect("the watch does not panic");
        Crowd { writers, keeper, history: self.history, random: self.random }
    }
}

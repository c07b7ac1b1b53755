//! Automatic compaction: keeps the last so many revisions, or those of the last so much time.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::command::{Command, Kind, Rejection};
use crate::config::AutoCompaction;
use crate::consensus::{ConsensusError, Handle};
use crate::ids::Revision;
use crate::mvcc::Reader;
use crate::wire::etcdserverpb::CompactionRequest;

/// How often a limit by revisions is looked at.
const REVISION_INTERVAL: Duration = Duration::from_secs(300);
const HOUR: Duration = Duration::from_secs(3600);

/// Decides when to compact and at which revision: revisions seen over time, without a clock of its own.
struct Plan {
    keep: AutoCompaction,
    seen: VecDeque<(Instant, Revision)>,
    compacted: Revision,
    next: Instant,
}

impl Plan {
    fn new(keep: AutoCompaction, now: Instant) -> Self {
        let first = match keep {
            AutoCompaction::Periodic(period) => period,
            AutoCompaction::Revision(_) => REVISION_INTERVAL,
        };
        Self { keep, seen: VecDeque::new(), compacted: Revision(0), next: now + first }
    }

    /// How often to look: a tenth of the time between compactions.
    fn look_interval(&self) -> Duration {
        match self.keep {
            AutoCompaction::Periodic(period) => (period.min(HOUR) / 10).max(Duration::from_millis(10)),
            AutoCompaction::Revision(_) => REVISION_INTERVAL,
        }
    }

    /// Notes the current revision; the one to compact at, when it is time.
    fn look(&mut self, now: Instant, current: Revision) -> Option<Revision> {
        self.seen.push_back((now, current));
        let wanted = match self.keep {
            AutoCompaction::Revision(keep) => Revision(current.0 - keep),
            AutoCompaction::Periodic(period) => {
                let old = |(at, _): &(Instant, Revision)| *at + period <= now;
                while self.seen.get(1).is_some_and(old) {
                    self.seen.pop_front();
                }
                self.seen.front().filter(|seen| old(seen)).map_or(Revision(0), |(_, revision)| *revision)
            }
        };
        if now < self.next || wanted.0 <= 0 || wanted <= self.compacted {
            return None;
        }
        if let AutoCompaction::Periodic(period) = self.keep {
            self.next = now + period.min(HOUR);
        }
        Some(wanted)
    }
}

/// The job. Runs until it is dropped; only a leader compacts.
pub async fn run(keep: AutoCompaction, reader: Reader, consensus: Handle) {
    let mut plan = Plan::new(keep, now());
    let mut looks = tokio::time::interval(plan.look_interval());
    loop {
        looks.tick().await;
        let Some(revision) = plan.look(now(), reader.revision()) else {
            continue;
        };
        if !consensus.status().is_leader {
            continue;
        }
        let request = CompactionRequest { revision: revision.0, physical: false };
        let command: Command = Kind::Compact(request).into();
        match consensus.propose(command).await {
            Ok(_) => tracing::info!(%revision, "automatic compaction"),
            Err(ConsensusError::Rejected(Rejection::Compacted)) => {}
            Err(error) => {
                tracing::warn!(%revision, %error, "automatic compaction failed");
                continue;
            }
        }
        plan.compacted = revision;
    }
}

/// By the clock of the ticks, which a test may turn.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_period_is_kept_whole() {
        let start = Instant::now();
        let mut plan = Plan::new(AutoCompaction::Periodic(Duration::from_secs(600)), start);
        assert_eq!(plan.look_interval(), Duration::from_secs(60));
        let mut compactions = Vec::new();
        for minute in 0..=30u32 {
            let revision = Revision(i64::from(minute) * 10 + 1);
            if let Some(at) = plan.look(start + Duration::from_secs(60) * minute, revision) {
                plan.compacted = at;
                compactions.push((minute, at.0));
            }
        }
        assert_eq!(compactions, [(10, 1), (20, 101), (30, 201)]);
    }

    #[test]
    fn so_many_revisions_are_kept() {
        let start = Instant::now();
        let mut plan = Plan::new(AutoCompaction::Revision(100), start);
        assert_eq!(plan.look(start, Revision(500)), None);
        let later = start + REVISION_INTERVAL;
        assert_eq!(plan.look(later, Revision(50)), None);
        assert_eq!(plan.look(later, Revision(500)), Some(Revision(400)));
        plan.compacted = Revision(400);
        assert_eq!(plan.look(later + REVISION_INTERVAL, Revision(500)), None);
    }
}

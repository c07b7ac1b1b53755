//! How long the loop's present turn takes. A turn that flushes to a disk that stalls blocks raft; others must not go on
//! saying then that this member leads, or knows who does.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What the clock counts from: whenever it is first looked at.
static CLOCK_BEGAN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Written by the loop; read by everybody.
#[derive(Debug, Default)]
pub struct Turns {
    /// In milliseconds of this process, plus one; 0 between turns.
    began: AtomicU64,
    /// What is too long, in milliseconds; 0 for never.
    patience: AtomicU64,
}

fn now() -> u64 {
    u64::try_from(CLOCK_BEGAN.elapsed().as_millis()).unwrap_or(u64::MAX - 1) + 1
}

impl Turns {
    /// A turn longer than this is a stall; `None`: none is, since nobody else could lead.
    pub(super) fn set_patience(&self, patience: Option<Duration>) {
        let patience = patience.map_or(0, |patience| u64::try_from(patience.as_millis()).unwrap_or(u64::MAX));
        self.patience.store(patience, Ordering::Relaxed);
    }

    pub(super) fn begin(&self) {
        self.began.store(now(), Ordering::Release);
    }

    /// Ends the turn; how long it took when that was a stall.
    pub(super) fn end(&self) -> Option<Duration> {
        let stalled = self.stalled_for();
        self.began.store(0, Ordering::Release);
        stalled
    }

    /// How long the present turn has taken, when that is too long.
    pub fn stalled_for(&self) -> Option<Duration> {
        let (began, patience) = (self.began.load(Ordering::Acquire), self.patience.load(Ordering::Relaxed));
        if began == 0 || patience == 0 {
            return None;
        }
        let took = now().saturating_sub(began);
        (took > patience).then(|| Duration::from_millis(took))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_turn_longer_than_the_patience_is_a_stall() {
        let turns = Turns::default();
        assert_eq!(turns.stalled_for(), None);
        turns.begin();
        turns.set_patience(Some(Duration::from_secs(600)));
        assert_eq!(turns.stalled_for(), None);
        turns.set_patience(Some(Duration::from_millis(5)));
        while turns.stalled_for().is_none() {
            std::hint::spin_loop();
        }
        assert!(turns.end() > Some(Duration::from_millis(5)));
        assert_eq!((turns.stalled_for(), turns.end()), (None, None));
    }
}

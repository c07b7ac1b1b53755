//! Whether there is a leader: tells streams that want one when it has been missing for long, and says when this member
//! itself stalls.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::consensus::Handle;
use crate::ids::MemberId;

/// Looks in a row without a leader, an election timeout apart, after which streams that want one end; as in etcd.
const MAX_LOOKS_WITHOUT: u32 = 3;

/// The job. Runs until it is dropped. `leaderless` is true for as long as streams that want a leader are to end.
pub async fn run(consensus: Handle, election_timeout: Duration, leaderless: watch::Sender<bool>) {
    let mut looks = tokio::time::interval(election_timeout);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut without, mut stalls) = (0_u32, false);
    loop {
        looks.tick().await;
        without = if consensus.status().leader == MemberId(0) { without.saturating_add(1) } else { 0 };
        let is_lost = without >= MAX_LOOKS_WITHOUT;
        leaderless.send_if_modified(|before| std::mem::replace(before, is_lost) != is_lost);
        let stalled = consensus.progress().turns.stalled_for();
        if let Some(time) = stalled.filter(|_| !stalls) {
            let milliseconds = time.as_millis();
            tracing::warn!(milliseconds, "consensus waits for the disk of the log: this member cannot lead");
        }
        stalls = stalled.is_some();
    }
}

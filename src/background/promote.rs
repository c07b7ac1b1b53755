//! `--promote-when-ready`: a learner asks to become a voter until it is one. Whether it is in sync is the leader's to judge.

use std::fmt::Display;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use crate::consensus::Handle;
use crate::ids::MemberId;

const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The job; ends when this member votes. `promote` asks the leader.
pub async fn run<F, E>(consensus: Handle, promote: impl Fn() -> F)
where
    F: Future<Output = Result<(), E>>,
    E: Display,
{
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = String::new();
    loop {
        looks.tick().await;
        let status = consensus.status();
        if status.leader == MemberId(0) {
            continue;
        }
        if !status.is_learner {
            return;
        }
        match promote().await {
            Ok(()) => tracing::info!("this member was in sync and is a voter now"),
            Err(error) if error.to_string() != told => {
                told = error.to_string();
                tracing::info!(%error, "this learner is not promoted yet");
            }
            Err(_told_before) => {}
        }
    }
}

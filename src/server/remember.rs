//! Notes who belongs to the cluster beside the log, for a start that has lost its store. A hint: who is asked for a state
//! checks for itself who asks.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::MissedTickBehavior;

use super::first_start::of_member;
use crate::datadir::KnownMembers;
use crate::members::{Members, Membership};

const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The job. Runs until it is dropped.
pub async fn run(members: Members, known: Arc<KnownMembers>) {
    let mut looks = tokio::time::interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut noted: Option<Arc<Membership>> = None;
    loop {
        looks.tick().await;
        let now = members.now();
        if noted.as_ref().is_some_and(|noted| Arc::ptr_eq(noted, &now)) {
            continue;
        }
        let list = now.list();
        let known = known.clone();
        let written = tokio::task::spawn_blocking(move || {
            let members = list.iter().map(of_member).collect::<Result<_, _>>();
            members.and_then(|members| Ok(known.set_members(members)?))
        });
        match written.await {
            Ok(Ok(())) => noted = Some(now),
            Ok(Err(error)) => {
                tracing::warn!(%error, "who belongs to the cluster is not noted beside the log")
            }
            Err(error) => tracing::warn!(%error, "who belongs to the cluster is not noted beside the log"),
        }
    }
}

//! Who a member is whose data directory says nothing yet: as the configuration has it, or as the members of the cluster
//! that it joins know it. Only asks, but for `--rejoin`, which has the others change who belongs to the cluster.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::Error;
use crate::command::MemberChange;
use crate::config::{self, Config, InitialMember, MemberConfig, Url};
use crate::datadir::{self, Birth, FirstStart};
use crate::ids::MemberId;
use crate::peers::{self, KnownCluster};
use crate::wire::etcdserverpb as pb;
use crate::wire::log::member_change::Kind as Change;

/// How long the others are asked for a change; what they wait for is a leader, and connections that have held.
const REJOIN_TIMEOUT: Duration = Duration::from_secs(60);
const REJOIN_PAUSE: Duration = Duration::from_millis(250);

/// `None` when the directory says who it is.
///
/// # Errors
/// `FirstStart`: the cluster does not know it, or knows that it had data before.
pub async fn first_start(config: &Config) -> Result<Option<FirstStart>, Error> {
    if datadir::is_initialised(&config.data_dir) {
        return Ok(None);
    }
    let MemberConfig { id, cluster_id, initial, joins, rejoins, .. } = &config.member;
    let others = initial.iter().filter(|member| member.id != *id).flat_map(|member| &member.peer_urls);
    let others: Vec<_> = others.map(ToString::to_string).collect();
    if *rejoins {
        return rejoin(config, &others).await.map(Some);
    }
    if *joins {
        return join(config, &ask(&others).await?).map(Some);
    }
    // When nobody answers, they have most likely not been started. One that met this member before will not listen to it.
    if let Ok(known) = peers::ask_members(&others).await {
        check_new(config, &known)?;
    }
    Ok(Some(FirstStart {
        member: *id,
        cluster: *cluster_id,
        members: initial.clone(),
        joins: false,
        has_log: false,
        birth: new_birth(),
    }))
}

async fn ask(others: &[String]) -> Result<KnownCluster, Error> {
    peers::ask_members(others).await.map_err(|error| Error::FirstStart(error.to_string()))
}

/// Takes the place of the member with the same peer URLs: that one is removed, for its promises are forgotten, and a
/// learner added, unless an earlier start has come so far. Never begins when nobody answers.
async fn rejoin(config: &Config, others: &[String]) -> Result<FirstStart, Error> {
    let mut known = ask(others).await?;
    let own = own_urls(config);
    let before = find(&known, &own);
    let is_added = |member: &pb::Member| member.is_learner && !has_begun(&known, member);
    if !before.is_some_and(is_added) {
        if let Some(before) = before {
            tracing::warn!(member = %format!("{:x}", before.id), "this member's data is gone: its old id is removed");
            change(others, &own, Change::Remove(before.id)).await?;
        }
        let peer_ur_ls: Vec<String> = own.iter().map(ToString::to_string).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let id = config::new_member_id(&peer_ur_ls, now).0;
        tracing::info!(member = %format!("{id:x}"), "this member joins anew as a learner");
        let learner = pb::Member { id, peer_ur_ls, is_learner: true, ..pb::Member::default() };
        known = change(others, &own, Change::Add(learner)).await?;
    }
    join(config, &known)
}

/// Has the leader make a change: the cluster in which it is made. Those of whom `others` tell are asked in turn until one leads
/// and may. An answer can be lost; what is made is not asked for again.
async fn change(others: &[String], own: &BTreeSet<&str>, change: Change) -> Result<KnownCluster, Error> {
    let change = MemberChange { kind: Some(change), ..MemberChange::default() };
    let deadline = Instant::now() + REJOIN_TIMEOUT;
    loop {
        let failed = match peers::ask_members(others).await {
            Ok(known) if is_made(&known, &change) => return Ok(known),
            Ok(known) => peers::ask_change(&known, own, &change).await.err(),
            Err(error) => Some(error),
        };
        if let Some(error) = &failed {
            tracing::info!(%error, "the change of members is not made yet");
        }
        if Instant::now() > deadline {
            let unknown = || "the members that were asked do not know of the change that was made".to_owned();
            return Err(Error::FirstStart(failed.map_or_else(unknown, |error| error.to_string())));
        }
        tokio::time::sleep(REJOIN_PAUSE).await;
    }
}

/// Of a change that removes or adds.
fn is_made(known: &KnownCluster, change: &MemberChange) -> bool {
    let is_there = |id: u64| known.members.iter().any(|member| member.id == id);
    match &change.kind {
        Some(Change::Remove(id)) => !is_there(*id),
        Some(Change::Add(member)) => is_there(member.id),
        _ => false,
    }
}

/// As `--initial-cluster` gives them, in whatever order.
fn own_urls(config: &Config) -> BTreeSet<&str> {
    let MemberConfig { id, initial, .. } = &config.member;
    let own = initial.iter().filter(|member| member.id == *id).flat_map(|member| &member.peer_urls);
    own.map(Url::as_str).collect()
}

/// As in etcd, a member is known by its URLs.
fn find<'a>(known: &'a KnownCluster, own: &BTreeSet<&str>) -> Option<&'a pb::Member> {
    let is_own = |member: &&pb::Member| *own == member.peer_ur_ls.iter().map(String::as_str).collect();
    known.members.iter().find(is_own)
}

/// It has said its name, or has been met by the member that was asked.
fn has_begun(known: &KnownCluster, member: &pb::Member) -> bool {
    !member.name.is_empty() || known.begun.contains(&MemberId(member.id))
}

fn join(config: &Config, known: &KnownCluster) -> Result<FirstStart, Error> {
    let own = own_urls(config);
    let Some(member) = find(known, &own) else {
        let urls = own.into_iter().collect::<Vec<_>>().join(",");
        return Err(Error::FirstStart(format!(
            "the cluster has no member with the peer URLs {urls}; add it first with etcdctl member add"
        )));
    };
    if has_begun(known, member) {
        return Err(Error::FirstStart(already_there(member.id)));
    }
    let members = known.members.iter().map(of_member).collect::<Result<_, _>>()?;
    let (member, cluster) = (MemberId(member.id), known.id);
    Ok(FirstStart { member, cluster, members, joins: true, has_log: false, birth: new_birth() })
}

/// As the directory keeps it.
///
/// # Errors
/// `FirstStart` when a URL is none.
pub fn of_member(member: &pb::Member) -> Result<InitialMember, Error> {
    let parsed = |url: &String| Url::parse(url).map_err(|error| Error::FirstStart(error.to_string()));
    let peer_urls = member.peer_ur_ls.iter().map(parsed).collect::<Result<_, Error>>()?;
    Ok(InitialMember { id: MemberId(member.id), name: member.name.clone(), peer_urls })
}

/// Never 0.
fn new_birth() -> Birth {
    Birth(rand::random_range(1..=u64::MAX))
}

/// A member that lost its data must not come back under its old id: it may have voted.
fn check_new(config: &Config, known: &KnownCluster) -> Result<(), Error> {
    let MemberConfig { id, cluster_id, .. } = &config.member;
    if known.id != *cluster_id {
        return Err(Error::FirstStart(format!(
            "the members of --initial-cluster belong to cluster {:x}, and this configuration is of cluster {:x}",
            known.id.0, cluster_id.0
        )));
    }
    if known.removed.contains(id) {
        return Err(Error::FirstStart(format!(
            "member {:x} has been permanently removed from the cluster",
            id.0
        )));
    }
    match known.members.iter().find(|member| member.id == id.0) {
        Some(member) if has_begun(known, member) => Err(Error::FirstStart(already_there(id.0))),
        _ => Ok(()),
    }
}

/// What is said of a member that was there before and has forgotten it.
pub fn already_there(id: u64) -> String {
    format!(
        "member {id:x} has already been bootstrapped, but its data directory was empty; if the data is lost, empty the \
         directory and start it with --rejoin, or replace the member: etcdctl member remove {id:x}, etcdctl member add, then \
         start with --initial-cluster-state=existing"
    )
}

#[cfg(test)]
mod tests;

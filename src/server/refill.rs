//! A member of several whose store is lost, while its log, term and vote are there: it takes in the state of another
//! before it takes part in anything, and its log goes on behind that. Stopped anywhere, the next start does it again or
//! finds it done: until the log has decided, what came counts for nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use super::Error;
use super::open::{OpenedLog, store_beside};
use crate::config::InitialMember;
use crate::consensus::{self, NeededState};
use crate::ids::MemberId;
use crate::peers::{self, BorrowError, KnownCluster, WantedState};
use crate::snapshot::{self, Importer, Received};
use crate::storage;

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// Somebody to ask, and where.
type Other = (MemberId, Vec<String>);

/// Puts what is left of the store aside and the state of another member in its place; asks until one gives it.
///
/// # Errors
/// `Removed`; faults of the disk; what the log is damaged by.
pub async fn refill(log: &mut OpenedLog, others: &[InitialMember], lost: &Error) -> Result<(), Error> {
    let aside = if lost.store_is_empty() { None } else { log.data_dir.set_store_aside()? };
    let kept = aside.map_or_else(|| "nothing was left of it".to_owned(), |path| path.display().to_string());
    tracing::error!(%lost, kept, "the store is lost; this member takes the state of another");
    let Some(NeededState { at_least, confirmed }) = consensus::needed_state(&log.content) else {
        return Ok(());
    };
    let importer = store_beside(&log.data_dir)?;
    let (cluster, member) = (log.data_dir.cluster(), log.data_dir.member());
    let wanted = WantedState { cluster, member, birth: log.data_dir.birth(), at_least, confirmed };
    let others: Vec<Other> = others.iter().map(of_initial).collect();
    let (mut told, mut pause) = (String::new(), FIRST_PAUSE);
    loop {
        match ask_all(&wanted, &others, &importer).await? {
            Ok(received) => return put_in_place(log, received),
            Err(why) if why != told => {
                tracing::warn!(%why, "no other member gives its state now; this one asks again");
                told = why;
            }
            Err(_told_before) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

fn of_initial(member: &InitialMember) -> Other {
    (member.id, member.peer_urls.iter().map(ToString::to_string).collect())
}

/// Asks every member by every URL until one gives its state; otherwise why nobody did.
async fn ask_all(
    wanted: &WantedState,
    remembered: &[Other],
    importer: &Importer,
) -> Result<Result<Received, String>, Error> {
    let mut failed = BTreeSet::new();
    for (id, urls) in present(wanted, remembered).await? {
        for url in urls {
            match wanted.borrow(id, &url, importer).await {
                Ok(received) => return Ok(Ok(received)),
                Err(BorrowError::Removed) => return Err(Error::Removed(wanted.member)),
                Err(BorrowError::Store(snapshot::Error::Store(fault))) if is_own(&fault) => {
                    return Err(Error::Store(fault));
                }
                Err(error) => drop(failed.insert(error.to_string())),
            }
        }
    }
    Ok(Err(failed.into_iter().collect::<Vec<_>>().join("; ")))
}

/// Of this member's disk, not of what came.
fn is_own(fault: &storage::Error) -> bool {
    !matches!(fault, storage::Error::Damaged { .. })
}

/// Who belongs to the cluster now, as one of them says; when nobody does, who did.
async fn present(wanted: &WantedState, remembered: &[Other]) -> Result<Vec<Other>, Error> {
    let urls: Vec<String> = remembered.iter().flat_map(|(_, urls)| urls.clone()).collect();
    let known = match peers::ask_members(&urls).await {
        Ok(known) if known.id == wanted.cluster => known,
        _ => return Ok(remembered.to_vec()),
    };
    let KnownCluster { members, removed, .. } = known;
    if removed.contains(&wanted.member) {
        return Err(Error::Removed(wanted.member));
    }
    let others = members.into_iter().filter(|member| member.id != wanted.member.0);
    Ok(others.map(|member| (MemberId(member.id), member.peer_ur_ls)).collect())
}

fn put_in_place(log: &mut OpenedLog, received: Received) -> Result<(), Error> {
    let position = received.position();
    consensus::go_on_after(&mut log.wal, &mut log.content, position, || received.decide())
        .map_err(Error::Log)?;
    received.replacement.draft.take_place()?;
    tracing::info!(index = position.index.0, "the state of another member is in the place of the lost store");
    Ok(())
}

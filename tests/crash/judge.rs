//! The judge of what a power cut left: given all that ever happened, and the moment of the cut, the server must show
//! an exact prefix of it that holds everything acknowledged and nothing that was not yet asked for.

use std::collections::BTreeSet;
use std::ops::Bound::{Excluded, Included};
use std::time::Duration;

use decklog::wire::etcdserverpb::{HashKvRequest, PutRequest};

use crate::crowd::Crowd;
use crate::history::History;
use crate::journal::bounds;
use crate::process::Process;
use crate::writer::{LeaseChange, Writer, live_leases};

const DEADLINE: Duration = Duration::from_secs(30);

/// Checks a server that was started on what a cut at `moment` left of the files of `all`.
pub async fn judge(all: &Crowd, process: &Process, moment: u64) {
    let checked = tokio::time::timeout(DEADLINE, check(all, process, moment)).await;
    checked.unwrap_or_else(|_| panic!("the server does not answer; its log:\n{}", process.log()));
}

async fn check(all: &Crowd, process: &Process, moment: u64) {
    let compacted = check_checksum(all, process, moment).await;
    let now = all.history.check_state(process, 0).await;
    let told = retold(process, compacted, now).await;
    let behind = (Excluded(compacted.max(1)), Included(now));
    let is_same = told.revisions().iter().eq(all.history.revisions().range(behind));
    assert!(is_same, "the history from {compacted} on is not the one told before");
    let live = live_leases(process).await;
    let mut of_writers = BTreeSet::new();
    for writer in &all.writers {
        of_writers.extend(check_writer(writer, moment, now, &live));
    }
    assert!(live.is_subset(&of_writers), "leases of nobody: {live:?}");
    let goes_on = PutRequest { key: "afterwards".into(), ..PutRequest::default() };
    let answer = process.kv().put(goes_on).await.expect("a write").into_inner();
    assert_eq!(answer.header.expect("every answer has a header").revision, now + 1, "the next revision");
}

/// What a watch tells from behind `compacted` through `now`.
async fn retold(process: &Process, compacted: i64, now: i64) -> History {
    let retold = History::behind(compacted.max(1));
    let watch = tokio::spawn(retold.clone().follow(process.watch()));
    retold.reaches(now).await;
    watch.abort();
    retold
}

/// The compaction is one that may be there, and content of the same revisions has the same checksum as before.
async fn check_checksum(all: &Crowd, process: &Process, moment: u64) -> i64 {
    let mut maintenance = process.maintenance();
    let answer = maintenance.hash_kv(HashKvRequest { revision: 0 }).await.expect("a checksum").into_inner();
    let (now, compacted) = (answer.hash_revision, answer.compact_revision);
    assert!(now <= all.history.last(), "revision {now} was never reached");
    let journal = &all.keeper.journal;
    let (least, most) = bounds(journal, moment);
    let may_be = |count: usize| count.checked_sub(1).map_or(0, |last| journal[last].effect);
    assert!(
        (least..=most).any(|count| may_be(count) == compacted.max(0)),
        "compacted at {compacted}, not one of number {least} to {most} of {journal:?}"
    );
    let mut known = all.keeper.hashes.iter().rev();
    let Some((&(revision, _), &before)) = known.find(|((at, under), _)| *at <= now && *under == compacted)
    else {
        return compacted;
    };
    let answer = maintenance.hash_kv(HashKvRequest { revision }).await.expect("a checksum").into_inner();
    let after = (answer.hash, answer.compact_revision);
    assert_eq!(after, (before, compacted), "the checksum of revision {revision} changed");
    compacted
}

/// Some number of the writer's requests have had their effect, the others have not; returns all its leases.
fn check_writer(writer: &Writer, moment: u64, now: i64, live: &BTreeSet<i64>) -> BTreeSet<i64> {
    let journal = &writer.journal;
    let (least, most) = bounds(journal, moment);
    let (mut leases, mut ever) = (BTreeSet::new(), BTreeSet::new());
    let mut states = vec![leases.clone()];
    for note in journal {
        match note.effect.lease {
            Some(LeaseChange::Grant(id)) => ever.extend(leases.insert(id).then_some(id)),
            Some(LeaseChange::Revoke(id)) => assert!(leases.remove(&id), "a lease revoked twice"),
            Some(LeaseChange::Attach(_)) | None => {}
        }
        states.push(leases.clone());
    }
    let live: BTreeSet<i64> = live.intersection(&ever).copied().collect();
    let fits = |count: usize| {
        let (done, open) = journal.split_at(count);
        let through = |revision: Option<i64>| revision.is_none_or(|revision| revision <= now);
        let behind = |revision: Option<i64>| revision.is_none_or(|revision| revision > now);
        done.iter().all(|note| through(note.effect.revision))
            && open.iter().all(|note| behind(note.effect.revision))
            && states[count] == live
    };
    assert!(
        (least..=most).any(fits),
        "revision {now} with the leases {live:?} is no state after {least} to {most} of {journal:?}"
    );
    ever
}

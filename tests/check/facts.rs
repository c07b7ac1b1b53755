//! What a history says by itself, sorted so that it can be replayed, and the rules that need no replay.

use std::collections::HashMap;

use super::history::{Event, History, Operation, Outcome, Pair, Request, Response, What};
use super::report::{Rule, Source, Violation};

/// The first revision of a cluster.
pub const FIRST: i64 = 1;

/// See the module. Operations are named by their places.
pub struct Facts<'a> {
    pub history: &'a History,
    /// The highest revision that anybody saw.
    pub last: i64,
    /// By revision: when it or a later one was first seen for certain, and by what.
    seen: Vec<(u64, Source)>,
    /// Acknowledged writes by the revision that they made.
    pub writes: HashMap<i64, usize>,
    /// Acknowledged revocations by their header; what they made, if anything, nobody said.
    pub revokes: HashMap<i64, Vec<usize>>,
    /// What was acknowledged and changed nothing, by the revision whose state it answers from.
    pub looks: HashMap<i64, Vec<usize>>,
    /// Writes whose outcome is unknown, by the time they began.
    unknown: Vec<usize>,
    /// Those of them that put such a key with such a value.
    putting: HashMap<(&'a str, &'a str), Vec<usize>>,
    /// Those of them that delete something.
    deleting: Vec<usize>,
    /// A change that was seen at a revision: key, and value unless it was deleted.
    evidence: HashMap<i64, (&'a str, Option<&'a str>)>,
    /// What alone can have put a pair that was seen stands at the pair's revision.
    pinned: HashMap<usize, i64>,
    pub leases: HashMap<i64, Lease>,
    /// Below this revision something may be compacted.
    pub compacted: i64,
}

/// What was promised of a lease.
#[derive(Default)]
pub struct Lease {
    /// How often it was granted, perhaps.
    pub grants: usize,
    pub promised_until_ns: u64,
    /// The operation that promised it.
    pub promised_by: usize,
}

impl<'a> Facts<'a> {
    /// # Errors
    /// The history breaks a rule that needs no replay.
    pub fn new(history: &'a History) -> Result<Self, Violation> {
        let mut facts = Self {
            history,
            last: FIRST,
            seen: Vec::new(),
            writes: HashMap::new(),
            revokes: HashMap::new(),
            looks: HashMap::new(),
            unknown: Vec::new(),
            putting: HashMap::new(),
            deleting: Vec::new(),
            evidence: HashMap::new(),
            pinned: HashMap::new(),
            leases: HashMap::new(),
            compacted: 0,
        };
        facts.see()?;
        for (place, operation) in history.operations.iter().enumerate() {
            facts.take(place, operation)?;
        }
        facts.unknown.sort_by_key(|place| history.operations[*place].start_ns);
        facts.collect_evidence();
        facts.check_real_time()?;
        facts.check_compactions()?;
        Ok(facts)
    }

    /// When this revision or a later one was first seen for certain; at once is as good as never for the one after
    /// the last.
    pub fn seen(&self, revision: i64) -> Option<(u64, Source)> {
        self.seen.get(usize::try_from(revision).expect("not negative")).copied()
    }

    /// Writes of unknown outcome that may have made a revision, as far as times and what was seen of it tell.
    pub fn unknown(&self, revision: i64) -> Vec<usize> {
        let (seen_ns, _) = self.seen(revision).expect("every revision up to the last was seen");
        let may = |place: &usize| {
            self.history.operations[*place].start_ns <= seen_ns
                && self.pinned.get(place).is_none_or(|pinned| *pinned == revision)
        };
        let found: &[usize] = match self.evidence.get(&revision) {
            Some((key, Some(value))) => self.putting.get(&(*key, *value)).map_or(&[], Vec::as_slice),
            Some((_, None)) => &self.deleting,
            None => &self.unknown,
        };
        found.iter().copied().filter(may).collect()
    }

    /// Whether something seen of a revision is not a deletion, so that no lease's end can have made it.
    pub fn is_put(&self, revision: i64) -> bool {
        self.evidence.get(&revision).is_some_and(|(_, value)| value.is_some())
    }

    /// Fills `last` and `seen`.
    fn see(&mut self) -> Result<(), Violation> {
        let mut all: Vec<(i64, u64, Source)> = Vec::new();
        for (place, operation) in self.history.operations.iter().enumerate() {
            if let Outcome::Ok { revision, .. } = operation.outcome {
                all.push((revision, operation.end_ns, Source::Operation(place)));
            }
        }
        for (watcher, log) in self.history.watchers.iter().enumerate() {
            for (session, told) in log.sessions.iter().enumerate() {
                let told = told.told.iter().enumerate();
                all.extend(
                    told.map(|(place, told)| {
                        (told.revision, told.at_ns, Source::Told(watcher, session, place))
                    }),
                );
            }
        }
        let writes = self.history.operations.iter().filter(|operation| {
            may_write(&operation.request) || matches!(operation.request, Request::LeaseGrant { .. })
        });
        let most = FIRST + i64::try_from(writes.count()).expect("few");
        for (revision, _, source) in &all {
            if *revision < FIRST || *revision > most {
                let reason = format!("revisions go from {FIRST} to {most} with so many writes");
                return Err(Violation::new(Rule::Count, [source.line(self.history), reason]));
            }
            self.last = self.last.max(*revision);
        }
        let mut first: Vec<Option<(u64, Source)>> =
            vec![None; usize::try_from(self.last).expect("positive") + 1];
        for (revision, at_ns, source) in all {
            let slot = &mut first[usize::try_from(revision).expect("not negative")];
            if slot.is_none_or(|(earliest, _)| at_ns < earliest) {
                *slot = Some((at_ns, source));
            }
        }
        let mut earliest: Option<(u64, Source)> = None;
        for slot in first.iter_mut().rev() {
            earliest = [*slot, earliest].into_iter().flatten().min_by_key(|(at_ns, _)| *at_ns);
            *slot = earliest;
        }
        self.seen = first.into_iter().flatten().collect();
        Ok(())
    }

    /// Puts one operation where it belongs.
    fn take(&mut self, place: usize, operation: &'a Operation) -> Result<(), Violation> {
        if let Request::LeaseGrant { id, .. } = operation.request
            && operation.outcome == Outcome::Unknown
        {
            self.leases.entry(id).or_default().grants += 1;
        }
        if let (Request::Compact { revision }, Outcome::Ok { .. } | Outcome::Unknown) =
            (&operation.request, &operation.outcome)
        {
            self.compacted = self.compacted.max(*revision);
        }
        let (revision, response) = match &operation.outcome {
            Outcome::Failed => return Ok(()),
            Outcome::Unknown => {
                self.take_unknown(place, &operation.request);
                return Ok(());
            }
            Outcome::Ok { revision, response } => (*revision, response),
        };
        match (&operation.request, response) {
            (Request::LeaseRevoke { .. }, _) => self.revokes.entry(revision).or_default().push(place),
            (Request::LeaseGrant { .. }, Response::LeaseGrant { id, ttl_seconds }) => {
                self.leases.entry(*id).or_default().grants += 1;
                self.promise(*id, *ttl_seconds, place);
            }
            (Request::LeaseKeepAlive { id }, Response::LeaseKeepAlive { ttl_seconds }) => {
                self.promise(*id, *ttl_seconds, place);
            }
            (Request::Range(range), _) if range.revision > revision => {
                return Err(Violation::new(
                    Rule::Count,
                    [operation.to_string(), "it answers from the future".to_owned()],
                ));
            }
            (Request::Range(range), _) if range.revision > 0 => {
                self.looks.entry(range.revision).or_default().push(place);
            }
            (_, response) if is_effective(response) => {
                if revision == FIRST {
                    let reason = "the first revision is before every write".to_owned();
                    return Err(Violation::new(Rule::Count, [operation.to_string(), reason]));
                }
                if let Some(other) = self.writes.insert(revision, place) {
                    let lines = [other, place].map(|place| self.history.operations[place].to_string());
                    return Err(Violation::new(Rule::RevisionOnce, lines));
                }
            }
            _ => self.looks.entry(revision).or_default().push(place),
        }
        Ok(())
    }

    fn take_unknown(&mut self, place: usize, request: &'a Request) {
        if !may_write(request) {
            return;
        }
        self.unknown.push(place);
        let (mut puts, mut deletes) = (Vec::new(), false);
        parts(request, &mut |part| match part {
            Request::Put { key, value, .. } => puts.push((key.as_str(), value.as_str())),
            Request::Delete { .. } | Request::LeaseRevoke { .. } => deletes = true,
            _ => {}
        });
        puts.sort_unstable();
        puts.dedup();
        for put in puts {
            self.putting.entry(put).or_default().push(place);
        }
        if deletes {
            self.deleting.push(place);
        }
    }

    fn promise(&mut self, lease: i64, ttl_seconds: i64, place: usize) {
        let Ok(seconds @ 1..) = u64::try_from(ttl_seconds) else { return };
        let until =
            self.history.operations[place].start_ns.saturating_add(seconds.saturating_mul(1_000_000_000));
        let facts = self.leases.entry(lease).or_default();
        if until > facts.promised_until_ns {
            (facts.promised_until_ns, facts.promised_by) = (until, place);
        }
    }

    /// Fills `evidence` and `pinned`.
    fn collect_evidence(&mut self) {
        let mut putters: HashMap<(&str, &str), Vec<usize>> = HashMap::new();
        for (place, operation) in self.history.operations.iter().enumerate() {
            if operation.outcome != Outcome::Failed {
                parts(&operation.request, &mut |part| {
                    if let Request::Put { key, value, .. } = part {
                        putters.entry((key, value)).or_default().push(place);
                    }
                });
            }
        }
        let mut pairs: Vec<&Pair> = Vec::new();
        let mut deleted: Vec<&Pair> = Vec::new();
        for operation in &self.history.operations {
            if let Outcome::Ok { response, .. } = &operation.outcome {
                pairs_of(response, &mut pairs);
            }
        }
        for event in events(self.history) {
            if event.is_delete {
                deleted.push(&event.pair)
            } else {
                pairs.push(&event.pair)
            }
            pairs.extend(&event.prev);
        }
        for pair in pairs {
            self.evidence.insert(pair.modified, (&pair.key, Some(&pair.value)));
            if let Some([only]) = putters.get(&(pair.key.as_str(), pair.value.as_str())).map(Vec::as_slice) {
                self.pinned.insert(*only, pair.modified);
            }
        }
        for pair in deleted {
            self.evidence.entry(pair.modified).or_insert((&pair.key, None));
        }
    }

    /// Nobody's revision was seen by one who had ended before the other began.
    fn check_real_time(&self) -> Result<(), Violation> {
        for (place, operation) in self.history.operations.iter().enumerate() {
            let Outcome::Ok { revision, .. } = operation.outcome else { continue };
            if is_local(&operation.request) {
                continue;
            }
            // A write comes before all that see it, anything else before all that see more than it.
            let is_write = self.writes.get(&revision) == Some(&place);
            let bound = if is_write { revision } else { revision + 1 };
            if let Some((seen_ns, source)) = self.seen(bound)
                && seen_ns < operation.start_ns
            {
                let lines = [source.line(self.history), operation.to_string()];
                return Err(Violation::new(Rule::RealTime, lines));
            }
        }
        Ok(())
    }

    fn check_compactions(&self) -> Result<(), Violation> {
        let mut done: Vec<(&Operation, i64)> = Vec::new();
        for operation in &self.history.operations {
            if let (Request::Compact { revision }, Outcome::Ok { revision: header, .. }) =
                (&operation.request, &operation.outcome)
            {
                if revision > header {
                    return Err(Violation::new(Rule::Compacted, [operation.to_string()]));
                }
                done.push((operation, *revision));
            }
        }
        for operation in &self.history.operations {
            let (Request::Range(range), Outcome::Ok { .. }) = (&operation.request, &operation.outcome) else {
                continue;
            };
            if range.revision == 0 || range.serializable {
                continue;
            }
            let before = |(other, compacted): &&(&Operation, i64)| {
                other.end_ns < operation.start_ns && *compacted > range.revision
            };
            if let Some((other, _)) = done.iter().find(before) {
                return Err(Violation::new(Rule::Compacted, [other.to_string(), operation.to_string()]));
            }
        }
        Ok(())
    }
}

/// Calls `with` for a request and, in a transaction, everything in it.
fn parts<'a>(request: &'a Request, with: &mut impl FnMut(&'a Request)) {
    with(request);
    if let Request::Txn { success, failure, .. } = request {
        success.iter().chain(failure).for_each(|request| parts(request, with));
    }
}

fn may_write(request: &Request) -> bool {
    let mut found = false;
    parts(request, &mut |part| {
        found |= matches!(part, Request::Put { .. } | Request::Delete { .. } | Request::LeaseRevoke { .. });
    });
    found
}

/// Whether the member that is asked may answer from what it has.
fn is_local(request: &Request) -> bool {
    match request {
        Request::LeaseKeepAlive { .. } => true,
        Request::Range(range) => range.serializable,
        Request::Txn { .. } => {
            let mut local = true;
            parts(request, &mut |part| {
                local &= match part {
                    Request::Range(range) => range.serializable,
                    other => matches!(other, Request::Txn { .. }),
                };
            });
            local
        }
        _ => false,
    }
}

/// Whether the answer says that something was changed.
fn is_effective(response: &Response) -> bool {
    match response {
        Response::Put { .. } => true,
        Response::Delete { deleted, .. } => *deleted > 0,
        Response::Txn { responses, .. } => responses.iter().any(is_effective),
        _ => false,
    }
}

fn pairs_of<'a>(response: &'a Response, found: &mut Vec<&'a Pair>) {
    match response {
        Response::Put { prev } => found.extend(prev),
        Response::Delete { prev, .. } => found.extend(prev),
        Response::Range { pairs, .. } => found.extend(pairs),
        Response::Txn { responses, .. } => responses.iter().for_each(|response| pairs_of(response, found)),
        _ => {}
    }
}

fn events(history: &History) -> impl Iterator<Item = &Event> {
    let told = history.watchers.iter().flat_map(|watcher| &watcher.sessions).flat_map(|one| &one.told);
    told.flat_map(|told| match &told.what {
        What::Events { events, .. } => events.as_slice(),
        _ => &[],
    })
}

//! The replay: revision by revision, each is made by the acknowledged write that says so, or by one of unknown outcome or
//! the end of a lease that fits everything seen of it. What fits in more than one way is tried in turn, and taken back
//! when a later revision shows that it was wrong.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};

use super::facts::{FIRST, Facts};
use super::history::{Event, Outcome, Request};
use super::report::{Rule, Violation};
use super::state::State;
use super::watches::View;

/// Steps for each revision before the search is given up.
const STEPS_PER_REVISION: usize = 200;
/// Why-nots in a report.
const REASONS: usize = 6;

/// What made a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    Operation(usize),
    /// The end of a lease whose time was over.
    Expiry(i64),
}

/// One revision with the ways to make it that are left.
struct Level {
    /// The next to try is the last.
    left: Vec<Cause>,
    done: Option<Done>,
    reasons: Vec<Violation>,
}

struct Done {
    cause: Cause,
    events: Vec<Event>,
    /// Leases that it ended or ended behind it, with what was known before.
    ended: Vec<(i64, Option<i64>)>,
}

/// See the module.
pub struct Replay<'a> {
    facts: &'a Facts<'a>,
    views: &'a [View<'a>],
    state: State,
    /// Leases that are no more, with the revision of their end.
    ended: HashMap<i64, i64>,
    placed: HashSet<usize>,
    /// Of all that are placed together.
    placed_hash: u64,
    levels: Vec<Level>,
    /// States that are known to lead nowhere.
    dead_ends: HashSet<(usize, u64, u64)>,
    steps: usize,
    deepest: Option<(usize, Violation)>,
}

impl<'a> Replay<'a> {
    pub fn new(facts: &'a Facts<'a>, views: &'a [View<'a>]) -> Self {
        Self {
            facts,
            views,
            state: State::default(),
            ended: HashMap::new(),
            placed: HashSet::new(),
            placed_hash: 0,
            levels: Vec::new(),
            dead_ends: HashSet::new(),
            steps: 0,
            deepest: None,
        }
    }

    /// The causes of all revisions above the first.
    ///
    /// # Errors
    /// There are none that fit; what is told is of the revision that was reached.
    pub fn run(mut self) -> Result<Vec<Cause>, Violation> {
        self.check_looks(FIRST)?;
        let mut ended = Vec::new();
        self.end_revoked(FIRST, None, &mut ended)?;
        let count = usize::try_from(self.facts.last - FIRST).expect("not negative");
        let limit = STEPS_PER_REVISION * (count + 1000);
        while self.levels.len() < count {
            self.enter();
            while !self.advance() {
                self.leave()?;
            }
            if self.steps > limit {
                let unplaced = self.deepest.map(|(_, violation)| violation.to_string());
                let reached = format!("{} of {count} revisions", self.levels.len());
                return Err(Violation::new(Rule::Undecided, [reached].into_iter().chain(unplaced)));
            }
        }
        Ok(self.levels.iter().filter_map(|level| level.done.as_ref()).map(|done| done.cause).collect())
    }

    fn revision(&self) -> i64 {
        FIRST + i64::try_from(self.levels.len()).expect("few")
    }

    /// The next revision, with everything that may have made it.
    fn enter(&mut self) {
        let revision = self.revision() + 1;
        let mut left = Vec::new();
        if let Some(place) = self.facts.writes.get(&revision) {
            left.push(Cause::Operation(*place));
        } else {
            let revokes = self.facts.revokes.get(&revision).into_iter().flatten().copied();
            let unknown = self.facts.unknown(revision).into_iter();
            let places = revokes.chain(unknown).filter(|place| !self.placed.contains(place));
            left.extend(places.map(Cause::Operation));
            if !self.facts.is_put(revision) {
                left.extend(self.state.leases().into_iter().map(Cause::Expiry));
            }
        }
        left.reverse();
        if left.len() != 1 && self.dead_ends.contains(&self.mark(self.levels.len())) {
            left.clear();
        }
        self.levels.push(Level { left, done: None, reasons: Vec::new() });
    }

    /// Makes the newest revision in the next way that fits.
    fn advance(&mut self) -> bool {
        let revision = self.revision();
        while let Some(cause) = self.levels.last_mut().and_then(|level| level.left.pop()) {
            self.steps += 1;
            let made = self.make(revision, cause);
            let level = self.levels.last_mut().expect("it was entered");
            match made {
                Ok(done) => {
                    level.done = Some(done);
                    return true;
                }
                Err(reason) if level.reasons.len() < REASONS => level.reasons.push(reason),
                Err(_) => {}
            }
        }
        false
    }

    /// Nothing made the newest revision: the one before is made in another way.
    fn leave(&mut self) -> Result<(), Violation> {
        let revision = self.revision();
        let level = self.levels.pop().expect("it was entered");
        let depth = self.levels.len();
        if self.deepest.as_ref().is_none_or(|(deepest, _)| depth > *deepest) {
            self.deepest = Some((depth, self.explain(revision, level.reasons)));
        }
        self.dead_ends.insert(self.mark(depth));
        let Some(before) = self.levels.last_mut().and_then(|level| level.done.take()) else {
            return Err(self.deepest.take().expect("it was explained").1);
        };
        self.take_back(before);
        Ok(())
    }

    fn explain(&self, revision: i64, mut reasons: Vec<Violation>) -> Violation {
        if self.facts.writes.contains_key(&revision) && !reasons.is_empty() {
            return reasons.swap_remove(0);
        }
        let (_, source) = self.facts.seen(revision).expect("every revision up to the last was seen");
        let seen =
            format!("revision {revision} or a later one was seen by {}", source.line(self.facts.history));
        let nothing = format!("and nothing fits what was seen of {revision}");
        let lines =
            reasons.into_iter().map(|reason| format!("{:?}: {}", reason.rule, reason.lines.join("; ")));
        Violation::new(Rule::Cause, [seen, nothing].into_iter().chain(lines))
    }

    /// What is to come depends on nothing else.
    fn mark(&self, depth: usize) -> (usize, u64, u64) {
        (depth, self.placed_hash, self.state.hash())
    }

    fn make(&mut self, revision: i64, cause: Cause) -> Result<Done, Violation> {
        let mut done = Done { cause, events: Vec::new(), ended: Vec::new() };
        let judged = match cause {
            Cause::Operation(place) => self.make_by(revision, place, &mut done),
            Cause::Expiry(lease) => self.make_by_expiry(revision, lease, &mut done),
        };
        if let Cause::Operation(place) = cause {
            self.placed.insert(place);
            self.placed_hash = self.placed_hash.wrapping_add(hash(place));
        }
        let judged = judged.and_then(|()| self.judge(revision, &mut done));
        match judged {
            Ok(()) => Ok(done),
            Err(violation) => {
                self.take_back(done);
                Err(violation)
            }
        }
    }

    fn make_by(&mut self, revision: i64, place: usize, done: &mut Done) -> Result<(), Violation> {
        let operation = &self.facts.history.operations[place];
        let line = || operation.to_string();
        if let Request::LeaseRevoke { id } = operation.request {
            done.events = self.state.end_lease(revision, id);
            self.end(id, revision, &mut done.ended);
            let late = self.facts.seen(revision).filter(|(seen_ns, _)| *seen_ns < operation.start_ns);
            if let Some((_, source)) = late {
                return Err(Violation::new(Rule::RealTime, [source.line(self.facts.history), line()]));
            }
        } else {
            let (response, events) = self.state.run(revision, &operation.request);
            done.events = events;
            if let Outcome::Ok { response: told, .. } = &operation.outcome
                && *told != response
            {
                return Err(Violation::new(Rule::Answer, [line(), format!("it should be {response}")]));
            }
        }
        if done.events.is_empty() {
            return Err(Violation::new(Rule::Answer, [line(), "it changes nothing there".to_owned()]));
        }
        let attached =
            done.events.iter().map(|event| event.pair.lease).find(|id| *id != 0 && !self.lives(*id));
        match attached {
            Some(id) => Err(Violation::new(Rule::Lease, [line(), format!("lease {id} is not there")])),
            None => Ok(()),
        }
    }

    fn make_by_expiry(&mut self, revision: i64, lease: i64, done: &mut Done) -> Result<(), Violation> {
        done.events = self.state.end_lease(revision, lease);
        self.end(lease, revision, &mut done.ended);
        let (seen_ns, source) = self.facts.seen(revision).expect("every revision up to the last was seen");
        match self.facts.leases.get(&lease) {
            Some(promise) if promise.grants == 1 && seen_ns < promise.promised_until_ns => {
                let promised = self.facts.history.operations[promise.promised_by].to_string();
                let ended = format!("lease {lease} had ended before {}", source.line(self.facts.history));
                Err(Violation::new(Rule::Lease, [promised, ended]))
            }
            _ => Ok(()),
        }
    }

    /// Whether a lease can be there: granted perhaps, and not ended. One that was granted twice has any number of lives.
    fn lives(&self, lease: i64) -> bool {
        match self.facts.leases.get(&lease) {
            Some(granted) => granted.grants > 1 || granted.grants == 1 && !self.ended.contains_key(&lease),
            None => false,
        }
    }

    fn end(&mut self, lease: i64, revision: i64, ended: &mut Vec<(i64, Option<i64>)>) {
        ended.push((lease, self.ended.insert(lease, revision)));
    }

    /// Everything that was seen of a revision that has just been made.
    fn judge(&mut self, revision: i64, done: &mut Done) -> Result<(), Violation> {
        for view in self.views {
            view.check(revision, &done.events, self.facts.compacted)?;
        }
        self.check_looks(revision)?;
        self.end_revoked(revision, Some(done.cause), &mut done.ended)
    }

    fn check_looks(&mut self, revision: i64) -> Result<(), Violation> {
        for place in self.facts.looks.get(&revision).into_iter().flatten() {
            let operation = &self.facts.history.operations[*place];
            let Outcome::Ok { response: told, .. } = &operation.outcome else { continue };
            if matches!(operation.request, Request::Compact { .. }) {
                continue;
            }
            let (response, events) = self.state.run(revision + 1, &operation.request);
            self.state.undo(&events);
            if response != *told {
                let should = format!("at revision {revision} it should be {response}");
                return Err(Violation::new(Rule::Answer, [operation.to_string(), should]));
            }
        }
        Ok(())
    }

    /// Leases whose revocation was acknowledged with this revision but did not make it: they had no keys.
    fn end_revoked(
        &mut self,
        revision: i64,
        cause: Option<Cause>,
        ended: &mut Vec<(i64, Option<i64>)>,
    ) -> Result<(), Violation> {
        for place in self.facts.revokes.get(&revision).into_iter().flatten() {
            let operation = &self.facts.history.operations[*place];
            let Request::LeaseRevoke { id } = operation.request else { continue };
            if cause == Some(Cause::Operation(*place)) {
                continue;
            }
            if self.state.leases().contains(&id) {
                let reason = format!("at revision {revision} keys are attached to it");
                return Err(Violation::new(Rule::Lease, [operation.to_string(), reason]));
            }
            self.end(id, revision, ended);
        }
        Ok(())
    }

    fn take_back(&mut self, done: Done) {
        self.state.undo(&done.events);
        if let Cause::Operation(place) = done.cause {
            self.placed.remove(&place);
            self.placed_hash = self.placed_hash.wrapping_sub(hash(place));
        }
        for (lease, before) in done.ended.into_iter().rev() {
            match before {
                Some(revision) => self.ended.insert(lease, revision),
                None => self.ended.remove(&lease),
            };
        }
    }
}

fn hash(place: usize) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(place)
}

//! What watches told: by itself, and against what happened.

use std::collections::HashMap;

use super::facts::Facts;
use super::history::{Event, History, Session, WatchRequest, What};
use super::report::{Rule, Source, Violation};

/// One session of a watcher, sorted by revision.
pub struct View<'a> {
    client: u64,
    session: &'a Session,
    first: i64,
    through: i64,
    /// The highest revision of an event.
    newest: i64,
    events: HashMap<i64, Vec<&'a Event>>,
}

/// All sessions that were told something.
///
/// # Errors
/// One breaks a rule by itself.
pub fn views<'a>(facts: &Facts<'a>) -> Result<Vec<View<'a>>, Violation> {
    let mut views = Vec::new();
    for (watcher, log) in facts.history.watchers.iter().enumerate() {
        for (place, session) in log.sessions.iter().enumerate() {
            check_alone(facts.history, session, (watcher, place))?;
            check_compacted(facts, session, (watcher, place))?;
            views.push(View::new(log.client, session));
        }
    }
    Ok(views)
}

/// Order, uniqueness and atomicity, bookmarks and filters.
fn check_alone(history: &History, session: &Session, at: (usize, usize)) -> Result<(), Violation> {
    let line = |place: usize| Source::Told(at.0, at.1, place).line(history);
    let mut newest: Option<(i64, usize)> = None;
    let (mut goes_on, mut bookmark) = (false, (0, 0));
    for (place, told) in session.told.iter().enumerate() {
        match &told.what {
            What::Created => {}
            What::Canceled { .. } if place + 1 < session.told.len() => {
                let after = format!("and after that: {}", line(place + 1));
                return Err(Violation::new(Rule::Resumable, [line(place), after]));
            }
            What::Canceled { .. } => {}
            What::Progress => {
                if goes_on
                    || newest.is_some_and(|(newest, _)| newest > told.revision)
                    || bookmark.0 > told.revision
                {
                    return Err(Violation::new(Rule::Bookmarkable, [line(place), "it goes back".to_owned()]));
                }
                bookmark = (told.revision, place);
            }
            What::Events { events, goes_on: more } => {
                for (number, event) in events.iter().enumerate() {
                    check_event(&session.request, event, &line(place))?;
                    let revision = event.pair.modified;
                    if session.first_revision().is_some_and(|first| revision < first) {
                        let asked = format!("asked for from {:?} on", session.first_revision());
                        return Err(Violation::new(Rule::Resumable, [asked, line(place)]));
                    }
                    if revision <= bookmark.0 {
                        return Err(Violation::new(Rule::Bookmarkable, [line(bookmark.1), line(place)]));
                    }
                    if let Some((before, told_in)) = newest {
                        if before > revision || revision > told.revision {
                            return Err(Violation::new(Rule::Ordered, [line(told_in), line(place)]));
                        }
                        if before == revision && number == 0 && !goes_on {
                            let rule = match has_event(&session.told[told_in].what, event) {
                                true => Rule::Unique,
                                false => Rule::Atomic,
                            };
                            return Err(Violation::new(rule, [line(told_in), line(place)]));
                        }
                    }
                    newest = Some((revision, place));
                }
                goes_on = *more;
            }
        }
    }
    Ok(())
}

fn has_event(what: &What, event: &Event) -> bool {
    matches!(what, What::Events { events, .. } if events.iter().any(|other| other.pair == event.pair))
}

fn check_event(request: &WatchRequest, event: &Event, line: &str) -> Result<(), Violation> {
    if !wants(request, event) {
        return Err(Violation::new(Rule::Filter, [format!("asked for {request:?}"), line.to_owned()]));
    }
    if event.prev.is_some() && !request.prev_kv {
        return Err(Violation::new(Rule::PrevKv, ["nobody asked for it".to_owned(), line.to_owned()]));
    }
    Ok(())
}

/// Whoever is told that its revision is compacted asked for one that is.
fn check_compacted(facts: &Facts<'_>, session: &Session, at: (usize, usize)) -> Result<(), Violation> {
    let Some(last) = session.told.last() else { return Ok(()) };
    let What::Canceled { compacted } = last.what else { return Ok(()) };
    let next = session.first_revision().unwrap_or(0).max(session.through() + 1);
    if compacted != 0 && (compacted <= next || compacted > facts.compacted) {
        let line = Source::Told(at.0, at.1, session.told.len() - 1).line(facts.history);
        let reason = format!("it was to go on at {next}, and at most {} was compacted", facts.compacted);
        return Err(Violation::new(Rule::Resumable, [line, reason]));
    }
    Ok(())
}

fn wants(request: &WatchRequest, event: &Event) -> bool {
    let unwanted = if event.is_delete { request.no_delete } else { request.no_put };
    !unwanted && request.keys.contains(&event.pair.key)
}

impl<'a> View<'a> {
    fn new(client: u64, session: &'a Session) -> Self {
        let mut events: HashMap<i64, Vec<&Event>> = HashMap::new();
        for told in &session.told {
            if let What::Events { events: some, .. } = &told.what {
                some.iter().for_each(|event| events.entry(event.pair.modified).or_default().push(event));
            }
        }
        let newest = events.keys().copied().max().unwrap_or(0);
        let oldest = events.keys().copied().min().unwrap_or(i64::MAX);
        let first = session.first_revision().unwrap_or(oldest);
        Self { client, session, first, through: session.through(), newest, events }
    }

    /// What it told of a revision is what happened then; below `compacted` the pairs before may be missing.
    ///
    /// # Errors
    /// It is not.
    pub fn check(&self, revision: i64, happened: &[Event], compacted: i64) -> Result<(), Violation> {
        let told = self.events.get(&revision).map_or(&[][..], Vec::as_slice);
        let is_whole = revision <= self.through;
        if told.is_empty() && (!is_whole || revision < self.first) {
            return Ok(());
        }
        let request = &self.session.request;
        let wanted: Vec<&Event> = happened.iter().filter(|event| wants(request, event)).collect();
        for (wanted, told) in wanted.iter().zip(told) {
            if (wanted.is_delete, &wanted.pair) != (told.is_delete, &told.pair) {
                let is_there =
                    wanted.pair.key != told.pair.key && happened.iter().any(|event| event.pair == told.pair);
                let rule = if is_there { Rule::Ordered } else { Rule::Event };
                return Err(self.violation(rule, revision, Some(told), Some(wanted)));
            }
            let may_miss = told.prev.is_none() && revision <= compacted;
            if request.prev_kv && told.prev != wanted.prev && !may_miss {
                return Err(self.violation(Rule::PrevKv, revision, Some(told), Some(wanted)));
            }
        }
        if told.len() > wanted.len() {
            return Err(self.violation(Rule::Event, revision, told.get(wanted.len()).copied(), None));
        }
        if told.len() < wanted.len() && is_whole {
            let rule = if revision > self.newest { Rule::Bookmarkable } else { Rule::Reliable };
            return Err(self.violation(rule, revision, None, wanted.get(told.len()).copied()));
        }
        Ok(())
    }

    fn violation(
        &self,
        rule: Rule,
        revision: i64,
        told: Option<&Event>,
        happened: Option<&Event>,
    ) -> Violation {
        let line = |event: Option<&Event>| event.map_or("nothing more".to_owned(), Event::to_string);
        let (client, member) = (self.client, self.session.member);
        let who = format!("watcher {client} at member {member} from {}, of revision {revision}", self.first);
        Violation::new(rule, [format!("{who}: {}", line(told)), format!("what happened: {}", line(happened))])
    }
}

//! What Decklog is to reach, beside what was measured last.

use crate::report::{Mode, Report};

/// A row: Decklog's part of what etcd takes.
struct Goal {
    row: &'static str,
    mode: Mode,
    /// How the case's name begins.
    case: &'static str,
    /// Where the figure stands in a result.
    measure: &'static str,
    goal: f64,
    not_done_above: f64,
}

const CPU: &str = "/server_cpu_us_per_operation";
const P50: &str = "/latency_us/p50";
const P99: &str = "/latency_us/p99";
const ONCE: &str = "/once";
const THIRD: f64 = 1.0 / 3.0;

const fn goal(
    row: &'static str,
    (mode, case, measure): (Mode, &'static str, &'static str),
    (goal, not_done_above): (f64, f64),
) -> Goal {
    Goal { row, mode, case, measure, goal, not_done_above }
}

const GOALS: &[Goal] = &[
    goal("put, 1000 clients, CPU", (Mode::Alone, "put, 1000 clients", CPU), (THIRD, 0.5)),
    goal("txn-put, 1000 clients, CPU", (Mode::Alone, "txn-put, 1000 clients", CPU), (THIRD, 0.5)),
    goal(
        "linearizable get, 1000 clients, CPU",
        (Mode::Alone, "range, linearizable, 1000 clients", CPU),
        (THIRD, 0.5),
    ),
    goal(
        "serializable get, 1000 clients, CPU",
        (Mode::Alone, "range, serializable, 1000 clients", CPU),
        (THIRD, 0.5),
    ),
    goal("lease keep-alive, 1000 clients, CPU", (Mode::Alone, "lease keep-alive, 1000", CPU), (THIRD, 0.5)),
    goal("range of 10 000 keys, CPU", (Mode::Alone, "range of 10 000 keys", CPU), (0.2, THIRD)),
    goal(
        "watch fan-out, 1000 watchers on 10 streams, CPU per event",
        (Mode::Alone, "watch fan-out, 1000", CPU),
        (0.2, THIRD),
    ),
    goal(
        "10 000 watchers on distinct keys, CPU per put",
        (Mode::Alone, "put to 10 000 watched keys", CPU),
        (THIRD, 0.5),
    ),
    goal("put p99, 1000 clients", (Mode::Alone, "put, 1000 clients", P99), (0.5, 1.0)),
    goal("put p50, one client", (Mode::Alone, "put, 1 client", P50), (0.9, 1.0)),
    goal(
        "three members, put, 1000 clients, CPU of all",
        (Mode::Three, "put, 1000 clients, to all", CPU),
        (THIRD, 0.5),
    ),
    goal(
        "three members, linearizable get, CPU of all",
        (Mode::Three, "range, linearizable", CPU),
        (THIRD, 0.5),
    ),
    goal("leader killed, next accepted write", (Mode::Three, "leader killed", ONCE), (0.5, 1.0)),
    goal("resident memory, full store", (Mode::Store, "resident memory", ONCE), (0.5, 0.7)),
    goal(
        "restart to the first linearizable read, CPU",
        (Mode::Store, "restart to the first linearizable read, CPU", ONCE),
        (0.25, 0.5),
    ),
    goal("data folder on disk, full store", (Mode::Store, "data folder", ONCE), (1.0, 1.2)),
    goal("new member in sync, time", (Mode::Three, "new member", ONCE), (THIRD, 1.0)),
];

/// From the reports there are.
pub fn table(reports: &[Report]) -> String {
    let mut text =
        String::from("| row | Decklog / etcd | goal | not done above | |\n| --- | --- | --- | --- | --- |\n");
    for goal in GOALS {
        let report = reports.iter().find(|report| report.mode == goal.mode);
        let case =
            report.and_then(|report| report.cases.iter().find(|case| case.name.starts_with(goal.case)));
        let ratio = case
            .map(|case| case.ratios(goal.measure, |etcd, decklog| decklog / etcd))
            .filter(|ratio| ratio.median.is_finite());
        let found =
            ratio.map_or("not measured".to_owned(), |ratio| ratio.text(|number| format!("{number:.2}")));
        let verdict = match ratio.map(|ratio| ratio.median) {
            None => "",
            Some(ratio) if ratio <= goal.goal => "reached",
            Some(ratio) if ratio <= goal.not_done_above => "short of the goal",
            Some(_) => "**not done**",
        };
        text += &format!(
            "| {} | {found} | {:.2} | {:.2} | {verdict} |\n",
            goal.row, goal.goal, goal.not_done_above
        );
    }
    text
}

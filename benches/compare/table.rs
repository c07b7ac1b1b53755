//! What was measured, as tables for people.

use crate::report::{Case, MEASURES, Mode, ONCE, Report, Spread};

/// A case in table and chart: for each measure, how much better Decklog was, and both sides.
pub struct Row {
    pub name: String,
    unit: String,
    /// Above 1: Decklog is better. Not finite where it is not measured.
    pub better: Vec<Spread>,
    sides: Vec<(Spread, Spread)>,
}

impl Row {
    pub fn of(case: &Case) -> Self {
        let better = MEASURES.map(|(_, pointer, more_is_better)| {
            let better: fn(f64, f64) -> f64 =
                if more_is_better { |etcd, decklog| decklog / etcd } else { |etcd, decklog| etcd / decklog };
            case.ratios(pointer, better)
        });
        let sides = MEASURES.map(|(_, pointer, _)| case.sides(pointer));
        Self { name: case.name.clone(), unit: case.unit.clone(), better: better.into(), sides: sides.into() }
    }

    fn is_once(&self) -> bool {
        !self.unit.is_empty()
    }
}

pub fn of(report: &Report) -> String {
    let rows: Vec<Row> = report.cases.iter().map(Row::of).collect();
    let tables = match report.mode {
        Mode::Limits => limits(report),
        Mode::Store => {
            format!("Median of {} rounds (smallest to largest); above 1, Decklog is better.\n", report.rounds)
                + &once(&rows)
        }
        Mode::Alone | Mode::Three => loads(report, &rows) + &once(&rows) + &starts(report),
    };
    format!("Measured: {}. {tables}", report.measured)
}

fn loads(report: &Report, rows: &[Row]) -> String {
    let mut text = format!(
        "Median of {} rounds of {} s (smallest to largest); above 1, Decklog is better.\n\n\
         | case | throughput | etcd, Decklog per s | p99 | etcd, Decklog us | CPU per operation | etcd, Decklog us |\n\
         | --- | --- | --- | --- | --- | --- | --- |\n",
        report.rounds, report.seconds
    );
    for row in rows.iter().filter(|row| !row.is_once()) {
        text += &format!("| {} ", row.name);
        for (spread, (etcd, decklog)) in row.better.iter().zip(&row.sides).take(3) {
            // No latency of its own: an event is counted when it comes.
            if spread.median.is_finite() {
                let Spread { median, low, high } = spread;
                let (etcd, decklog) = (figure(etcd.median), figure(decklog.median));
                text += &format!("| **{median:.2}** ({low:.2} to {high:.2}) | {etcd}, {decklog} ");
            } else {
                text += "| | ";
            }
        }
        text += "|\n";
    }
    text
}

/// The table of what happens once.
fn once(rows: &[Row]) -> String {
    let rows: Vec<_> = rows.iter().filter(|row| row.is_once()).collect();
    if rows.is_empty() {
        return String::new();
    }
    let mut text =
        String::from("\n| once | better by | | etcd | Decklog |\n| --- | --- | --- | --- | --- |\n");
    for row in rows {
        if let (Some(better), Some((etcd, decklog))) = (row.better.last(), row.sides.last()) {
            let (etcd, decklog) = (etcd.text(figure), decklog.text(figure));
            text +=
                &format!("| {} | **{:.2}** | {} | {etcd} | {decklog} |\n", row.name, better.median, row.unit);
        }
    }
    text
}

/// The limits that Decklog is held to by itself.
fn limits(report: &Report) -> String {
    let mut text = format!(
        "Median of {} rounds (smallest to largest); an open loop has {} puts per second.\n\n\
         | | | measured | at most | |\n| --- | --- | --- | --- | --- |\n",
        report.rounds, report.rate
    );
    for case in &report.cases {
        let (_, measured) = case.sides(ONCE);
        // No round may take longer; of ratios and sums the median counts.
        let judged = if case.unit == "ms" { measured.high } else { measured.median };
        let (at_most, verdict) = match case.at_most {
            None => (String::new(), ""),
            Some(limit) if judged <= limit => (limit.to_string(), "reached"),
            Some(limit) => (limit.to_string(), "**not done**"),
        };
        let measured =
            measured.text(|number| if number < 10.0 { format!("{number:.3}") } else { figure(number) });
        text += &format!("| {} | {} | {measured} | {at_most} | {verdict} |\n", case.name, case.unit);
    }
    text
}

fn starts(report: &Report) -> String {
    let start = |pick: fn(&Case) -> &Vec<serde_json::Value>| {
        let values = report.cases.iter().flat_map(|case| pick(case).iter());
        Spread::of(values.filter_map(|value| value["start_ms"].as_f64())).median
    };
    let (etcd, decklog) = (start(|case| &case.etcd), start(|case| &case.decklog));
    let what = match report.mode {
        Mode::Three => "Start of 3 members on empty directories until all serve",
        _ => "Start on an empty directory until it serves",
    };
    format!("\n{what}: etcd {etcd:.0} ms, Decklog {decklog:.0} ms (median).\n")
}

fn figure(number: f64) -> String {
    if number >= 100.0 { format!("{number:.0}") } else { format!("{number:.1}") }
}

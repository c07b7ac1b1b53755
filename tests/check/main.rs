//! The checker of histories is itself checked: what a model could have done is accepted, and every kind of lie refused.

#[path = "checker.rs"]
#[expect(dead_code, reason = "recorders use the rest")]
mod checker;

use checker::history::History;

#[test]
fn a_history_survives_json() {
    let history = History::default();
    assert_eq!(History::from_json(&history.to_json()).expect("a history"), history);
}

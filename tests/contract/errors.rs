//! THE table of errors against errors.json, both ways.

use std::collections::BTreeSet;

use decklog::rpc::ClientError;

use crate::tables::{assert_same, table_or_skip, text};

/// These have a code in etcd's table, but its server sends them without it, and they arrive as Unknown.
const SENT_AS_UNKNOWN: [&str; 2] = ["RequestTooManyRequests", "MemberNotEnoughStarted"];

#[test]
fn errors_have_etcds_codes_and_texts() {
    let Some(table) = table_or_skip("errors_have_etcds_codes_and_texts", "errors.json") else { return };
    let rows = table.as_array().expect("a list of errors");
    let theirs: BTreeSet<String> = rows
        .iter()
        .map(|row| {
            let name = text(row, "name");
            let code = match text(row, "grpc_code") {
                _ if SENT_AS_UNKNOWN.contains(&name) => "Unknown",
                "Canceled" => "Cancelled", // tonic's spelling
                code => code,
            };
            format!("{name}: {code} {:?}", text(row, "message"))
        })
        .collect();
    let ours: BTreeSet<String> = ClientError::ALL
        .iter()
        .map(|error| format!("{}: {:?} {:?}", error.name(), error.code(), error.text()))
        .collect();
    assert_eq!(ours.len(), ClientError::ALL.len(), "each error stands once");
    assert_same("errors", &theirs, &ours);
}

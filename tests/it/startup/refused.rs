//! Bad configuration: one line on stderr that says what and how to mend it, exit code 1, nothing touched. Real etcd
//! is given the same mistakes, so that where it has a text for one, that text is ours, too.

mod mistakes;

use std::path::Path;

use mistakes::Says::{More, OnlyHere, Same};
use mistakes::{FORMS, MEANING, Mistake, URLS};

use super::{assert_refused, names_in, run_in};
use crate::peers::peer_or_skip;
use crate::server::decklog_program;

const TLS: &str = "TLS comes in a later version; without it connections would be open";

/// What would change safety is refused as long as it is not there.
const SAFETY: &[(&str, &str)] = &[
    ("--cert-file=c", TLS),
    ("--key-file=k", TLS),
    ("--client-cert-auth=true", TLS),
    ("--trusted-ca-file=ca", TLS),
    ("--auto-tls=true", TLS),
    ("--peer-cert-file=c", TLS),
    ("--peer-client-cert-auth=true", TLS),
    ("--peer-auto-tls=true", TLS),
    ("--auth-token=jwt,pub-key=k,sign-method=RS256", "auth comes in a later version"),
    ("--unsafe-no-fsync=true", "Decklog always flushes before it answers"),
    ("--discovery-token=t", "discovery comes in a later version; name the members with --initial-cluster"),
];

#[test]
fn safety_that_is_not_there_is_refused() {
    for (flag, why) in SAFETY {
        refuses(&[*flag], &[], &format!("{flag} is refused: {why}"));
    }
    refuses(&["--auto-tls"], &[], &format!("--auto-tls=true is refused: {TLS}"));
    refuses(&[], &[("ETCD_CERT_FILE", "c")], &format!("--cert-file=c is refused: {TLS}"));
}

#[test]
fn wrong_forms_are_refused() {
    check("wrong_forms_are_refused", FORMS);
}

#[test]
fn wrong_urls_are_refused() {
    check("wrong_urls_are_refused", URLS);
}

#[test]
fn wrong_meanings_are_refused() {
    check("wrong_meanings_are_refused", MEANING);
}

fn check(test: &str, mistakes: &[Mistake]) {
    let etcd = peer_or_skip(test, "etcd");
    for Mistake { args, variables, says } in mistakes {
        let (theirs, ours) = match says {
            Same(text) => (Some(text), text),
            More(theirs, ours) => (Some(theirs), ours),
            OnlyHere(text) => (None, text),
        };
        refuses(args, variables, ours);
        if let (Some(etcd), Some(theirs)) = (&etcd, theirs) {
            etcd_refuses(etcd, args, variables, theirs);
        }
    }
}

fn refuses(args: &[&str], variables: &[(&str, &str)], line: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    assert_refused(&run_in(folder.path(), decklog_program(), args, variables), line);
    assert_eq!(names_in(folder.path()), Vec::<String>::new(), "{args:?}");
}

fn etcd_refuses(etcd: &Path, args: &[&str], variables: &[(&str, &str)], text: &str) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let output = run_in(folder.path(), etcd, args, variables);
    let said = output.stderr_text();
    assert_ne!(output.code, Some(0), "{said}");
    // Its lines are JSON strings.
    assert!(
        said.contains(text) || said.replace("\\\"", "\"").contains(text),
        "{args:?}: {text:?} is not in\n{said}"
    );
}

#[test]
fn a_member_that_joins_must_be_told_of_others() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let peer = "--listen-peer-urls=http://127.0.0.1:0";
    let client = ["--listen-client-urls=http://127.0.0.1:0", "--advertise-client-urls=http://127.0.0.1:1"];
    let args = [client[0], client[1], peer, "--name=one", "--initial-cluster=one=http://localhost:2380"];
    let args = [&args[..], &["--initial-cluster-state=existing"]].concat();
    let output = run_in(folder.path(), decklog_program(), &args, &[]);
    let line = "cannot join the cluster: could not retrieve cluster information from the given URLs";
    assert_refused(&output, line);
    assert!(names_in(folder.path()).is_empty(), "nothing is touched");
}

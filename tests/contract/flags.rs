//! Flags against flags.json: names, groups, defaults; every form in which they can be given says the same; and
//! each is honoured, warned of or refused, as our table tells.

mod sample;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::process::Command;

use decklog::config::flags::{self, Flag, Kind, Use};
use decklog::config::{self, Invocation};
use serde_json::Value;

use crate::tables::{assert_same, table_or_skip, text};
use sample::Sample;

/// Other defaults than etcd's, on purpose.
const OUR_DEFAULTS: [(&str, &str); 1] = [("data-dir", "${name}.decklog")];

/// Not in etcd.
const OUR_FLAGS: [(&str, &str); 2] = [("promote-when-ready", "false"), ("rejoin", "false")];

/// Defaults that etcd's help does not tell; they are those of its code.
const UNTOLD_DEFAULTS: [(&str, &str); 7] = [
    ("memory-mlock", "false"),
    ("backend-batch-interval", "0s"),
    ("enable-grpc-gateway", "true"),
    ("bootstrap-defrag-threshold-megabytes", "0"),
    ("compaction-sleep-interval", "10ms"),
    ("downgrade-check-time", "5s"),
    ("snapshot-catchup-entries", "5000"),
];

/// Honoured, though nothing in the configuration shows it.
const HONOURED_UNSEEN: [(&str, &str); 2] = [
    ("initial-cluster", "the sample repeats the name and the advertised peer URLs"),
    ("socket-reuse-address", "always on"),
];

#[test]
fn flags_are_etcds_with_their_groups_and_defaults() {
    let Some(table) = table_or_skip("flags_are_etcds_with_their_groups_and_defaults", "flags.json") else {
        return;
    };
    let rows = table.as_array().expect("a list of flags");
    let line = |group: &str, name: &str, default: &str| format!("{group}: --{name} '{default}'");
    let theirs = |row: &Value| {
        let name = text(row, "flag");
        let other = OUR_DEFAULTS.iter().chain(&UNTOLD_DEFAULTS).find(|(flag, _)| *flag == name);
        line(text(row, "group"), name, other.map_or(text(row, "default"), |(_, default)| default))
    };
    let mut ours = BTreeSet::new();
    for group in flags::GROUPS.iter().filter(|group| group.name != flags::HEALING_GROUP) {
        ours.extend(group.flags.iter().map(|flag| line(group.name, flag.name, flag.default)));
    }
    assert_same("flags", &rows.iter().map(theirs).collect(), &ours);
}

/// Flags that etcd does not have stand apart, are off by default, and take no name of etcd's.
#[test]
fn our_flags_are_additions() {
    let group = flags::GROUPS.iter().find(|group| group.name == flags::HEALING_GROUP).expect("it is there");
    let ours: Vec<_> = group.flags.iter().map(|flag| (flag.name, flag.default)).collect();
    assert_eq!(ours, OUR_FLAGS);
    let Some(table) = table_or_skip("our_flags_are_additions", "flags.json") else {
        return;
    };
    let theirs: Vec<_> =
        table.as_array().expect("a list of flags").iter().map(|row| text(row, "flag")).collect();
    assert!(OUR_FLAGS.iter().all(|(name, _)| !theirs.contains(name)));
}

#[test]
fn a_flag_given_its_default_changes_nothing() {
    for flag in flags::all().filter(|flag| flag.name != "data-dir" && !flag.default.is_empty()) {
        let default = |name: &str| flags::find(name).expect("a flag of ours").default;
        let companions = Sample::of(flag).companions.iter();
        let companions: Vec<_> = companions.map(|(name, _)| format!("--{name}={}", default(name))).collect();
        let mut forms = vec![flag.default.to_owned()];
        if flag.kind == Kind::Duration {
            forms.push(format!("0h{}", flag.default)); // the same time in another form
        }
        for form in forms {
            let with = [companions.clone(), vec![format!("--{}={form}", flag.name)]].concat();
            assert_eq!(outcome(&with, &[]), outcome(&companions, &[]), "--{}={form}", flag.name);
        }
    }
}

#[test]
fn every_form_of_a_flag_says_the_same() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for flag in flags::all() {
        let sample = Sample::of(flag);
        let usual = [format!("--{}={}", flag.name, sample.value)];
        let expected = without_value(outcome(&sample.with_companions(&usual), &[]));
        for args in sample.other_arguments() {
            assert_eq!(without_value(outcome(&sample.with_companions(&args), &[])), expected, "{args:?}");
        }
        let variable = variable(flag);
        let by_variable = outcome(&sample.with_companions(&[]), &[(&variable, &sample.value)]);
        assert_eq!(without_value(by_variable), expected, "{variable}={}", sample.value);
        for (number, file) in sample.files().iter().enumerate() {
            let path = folder.path().join(format!("{}-{number}", flag.name));
            std::fs::write(&path, file).expect("a file");
            let by_file = outcome(&[format!("--config-file={}", path.display())], &[]);
            assert_eq!(without_value(by_file), expected, "{file}");
        }
    }
}

#[test]
fn blocks_of_a_file_stand_for_flags() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |text: &str| {
        let path = folder.path().join("config");
        std::fs::write(&path, text).expect("a file");
        outcome(&[format!("--config-file={}", path.display())], &[])
    };
    let sockets = "socket-options:\n  reuse-port: true\n  reuse-address: false\n";
    assert_eq!(file(sockets), outcome(&["--socket-reuse-port".to_owned()], &[]));
    let nothing = "client-transport-security: {client-cert-auth: false, cert-file: ''}\npeer-transport-security:\n\
                   discovery-config: {discovery-client-config: {endpoints: []}, discovery-token: ''}\n";
    assert_eq!(file(nothing), outcome(&[], &[]));
    for (block, flag) in [
        ("client-transport-security: {auto-tls: true}", "--cert-file"),
        ("peer-transport-security: {trusted-ca-file: ca.pem}", "--peer-cert-file"),
        ("discovery-config: {discovery-client-config: {endpoints: [a]}}", "--discovery-endpoints"),
    ] {
        let refused = without_value(file(block));
        assert!(refused.starts_with(&format!("{flag} is refused: ")), "{block}: {refused}");
    }
}

#[test]
fn a_bool_takes_no_word_after_it() {
    for flag in flags::all().filter(|flag| flag.kind == Kind::Bool) {
        let args = [format!("--{}", flag.name), "true".to_owned()];
        assert_eq!(outcome(&args, &[]), "'true' is not a valid flag; flags begin with --", "--{}", flag.name);
    }
}

#[test]
fn every_flag_is_honoured_warned_of_or_refused() {
    for flag in flags::all() {
        let sample = Sample::of(flag);
        let given = outcome(&sample.with_companions(&[format!("--{}={}", flag.name, sample.value)]), &[]);
        let without = outcome(&sample.with_companions(&[]), &[]);
        let unseen = HONOURED_UNSEEN.iter().any(|(name, _)| *name == flag.name);
        let as_told = match flag.action {
            Use::Honoured(_) => given.starts_with("Config") && (given != without) != unseen,
            Use::Ignored(why) => given == warned(&without, flag, why),
            Use::Refused(why) => given == format!("--{}={} is refused: {why}", flag.name, sample.value),
        };
        assert!(as_told, "--{}={} ({:?}) gives {given}", flag.name, sample.value, flag.action);
    }
}

#[test]
fn a_flag_beside_its_variable_is_refused_for_every_flag() {
    for flag in flags::all() {
        let sample = Sample::of(flag);
        let variable = variable(flag);
        let args = sample.with_companions(&[format!("--{}={}", flag.name, sample.value)]);
        let answer = outcome(&args, &[(&variable, &sample.value)]);
        let expected = format!(
            "conflicting environment variable {variable:?} is shadowed by corresponding command-line flag"
        );
        assert!(answer.starts_with(&expected), "--{}: {answer}", flag.name);
    }
}

#[test]
fn etcd_too_refuses_a_flag_beside_its_variable() {
    let decklog = env!("CARGO_BIN_EXE_decklog").into();
    let etcd = crate::peers::peer_or_skip("etcd_too_refuses_a_flag_beside_its_variable", "etcd");
    for program in [Some(decklog), etcd].into_iter().flatten() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut command = Command::new(&program);
        command.current_dir(folder.path()).arg("--name=same").env("ETCD_NAME", "same");
        let output = command.output().expect("the program runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{}: {said}", program.display());
        for part in [
            "conflicting environment variable",
            "is shadowed by corresponding command-line flag",
            "ETCD_NAME",
        ] {
            assert!(said.contains(part), "{} does not say {part:?}: {said}", program.display());
        }
        let left = std::fs::read_dir(folder.path()).expect("the folder is there").count();
        assert_eq!(left, 0, "{} left something behind", program.display());
    }
}

fn variable(flag: &Flag) -> String {
    format!("ETCD_{}", flag.name.replace('-', "_").to_uppercase())
}

/// A refusal names the value as it was written; the forms write it differently.
fn without_value(outcome: String) -> String {
    let refused = outcome.split_once(" is refused: ");
    let refused = refused.and_then(|(given, why)| Some((given.split_once('=')?.0, why)));
    refused.map_or(outcome.clone(), |(flag, why)| format!("{flag} is refused: {why}"))
}

/// The configuration that arguments and variables lead to, or why they are refused.
fn outcome(args: &[String], env: &[(&str, &str)]) -> String {
    let args = args.iter().map(OsString::from).collect();
    let env: Vec<_> = env.iter().map(|(key, value)| (OsString::from(key), OsString::from(value))).collect();
    match config::load(args, &env, &|_| false) {
        Ok(Invocation::Serve(config)) => format!("{config:?}"),
        Ok(Invocation::Print(text)) => panic!("nobody asked to print {text}"),
        Err(refused) => refused.to_string(),
    }
}

/// A configuration with the warning of a flag before its others.
fn warned(config: &str, flag: &Flag, why: &str) -> String {
    let warning = format!("{:?}", format!("--{} has no effect: {why}", flag.name));
    config.replacen("warnings: [", &format!("warnings: [{warning}, "), 1)
}

//! Flags, variables and configuration files of any kind: read or refused, with a text.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;

use decklog::config::{self, flags};
use proptest::prelude::*;

use crate::turn;

fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9]{1,20}(ns|ms|s|m|h)?",
        "-?[0-9]{1,20}",
        "(http|https|unix)://[a-z0-9.:\\[\\]]{0,20}(,http://[0-9.:]{0,12})?",
        "true|false|1|periodic|revision|debug|new|existing",
        "[a-z]{1,6}=http://[0-9.:]{1,12}(,[a-z]=http://a:1)?",
        "\\PC{0,12}",
        Just(String::new()),
    ]
}

fn name() -> impl Strategy<Value = String> {
    let known: Vec<String> = flags::all().map(|flag| flag.name.to_owned()).collect();
    prop_oneof![8 => proptest::sample::select(known), 1 => "[a-z-]{0,20}", 1 => "\\PC{0,10}"]
}

fn arg() -> impl Strategy<Value = Vec<OsString>> {
    (name(), value(), 0..8).prop_map(|(name, value, form)| match form {
        0 => vec![format!("--{name}").into(), value.into()],
        1 => vec![format!("-{name}={value}").into()],
        2 => vec![value.into()],
        3 => vec![OsString::from_vec(vec![b'-', 0xff, b'=', 0xfe])],
        _ => vec![format!("--{name}={value}").into()],
    })
}

/// Whatever comes of it, it is told in words.
fn load(args: Vec<OsString>, env: &[(OsString, OsString)]) {
    if let Err(error) = config::load(args, env, &|_| false) {
        assert!(!error.to_string().is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]
    #[test]
    fn any_command_line_is_read_or_refused(
        args in proptest::collection::vec(arg(), 0..5),
        env in proptest::collection::vec((name(), value()), 0..3),
    ) {
        let _turn = turn();
        let variable = |name: &str| format!("ETCD_{}", name.to_ascii_uppercase().replace('-', "_"));
        let env: Vec<_> =
            env.into_iter().map(|(name, value)| (variable(&name).into(), value.into())).collect();
        load(args.concat(), &env);
    }

    #[test]
    fn any_file_is_read_or_refused(
        pairs in proptest::collection::vec((name(), value(), 0..5), 0..4),
        garbage in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..60)),
    ) {
        let _turn = turn();
        let file = tempfile::NamedTempFile::new().expect("a file");
        let mut text = String::new();
        for (name, value, form) in pairs {
            text += &match form {
                0 => format!("{name}: {value}\n"),
                1 => format!("{name}: {value:?}\n"),
                2 => format!("{name}:\n  - {value:?}\n  - 7\n"),
                3 => format!("socket-options:\n  {name}: {value:?}\n"),
                _ => format!("{name}: &a {value:?}\nx: *a\n"),
            };
        }
        let mut bytes = text.into_bytes();
        bytes.extend(garbage.into_iter().flatten());
        fs::write(file.path(), bytes).expect("written");
        load(vec!["--config-file".into(), file.path().into()], &[]);
    }
}

/// Files made to take the reader down: nesting, and aliases that grow like rabbits.
#[test]
fn hostile_files_are_refused() {
    let _turn = turn();
    let file = tempfile::NamedTempFile::new().expect("a file");
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for number in 1..12 {
        let before = number - 1;
        let aliases = vec![format!("*a{before}"); 10].join(", ");
        laughs += &format!("a{number}: &a{number} [{aliases}]\n");
    }
    let deep = "name: ".to_owned() + &"[".repeat(200_000);
    let steps = (0..3000).map(|depth| " ".repeat(depth) + "a:\n").collect::<String>();
    for text in [laughs, deep, "{".repeat(200_000), steps] {
        fs::write(file.path(), text).expect("written");
        let loaded = config::load(vec!["--config-file".into(), file.path().into()], &[], &|_| false);
        assert!(loaded.is_err());
    }
}

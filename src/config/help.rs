//! What `--help` and `--version` print, and docs/flags.md: all from the table of flags.

use super::flags::{GROUPS, Use};
use crate::version::{DECKLOG_VERSION, ETCD_VERSION};

/// Four lines, as `etcd --version` prints: scripts read the first.
pub fn version() -> String {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let arch = if arch == "x86_64" { "amd64" } else { arch };
    format!(
        "etcd Version: {ETCD_VERSION}\nGit SHA: decklog {DECKLOG_VERSION}\nGo Version: none (Rust)\nGo OS/Arch: {os}/{arch}\n"
    )
}

/// Every flag that does something, by group.
pub fn text() -> String {
    let mut text = String::from(
        "Decklog: a key-value server that speaks the etcd v3 API.\n\n  decklog [flags]         serve\n  decklog bench --help    the load tool\n  decklog health          asks a server whether it is healthy, for probes\n  decklog inspect DIR     what a data directory holds\n\nEvery flag has a variable, ETCD_ and its name in capitals; --config-file takes all of them from a YAML or JSON file.\nFlags that etcd has and Decklog does not use are in docs/flags.md.\n",
    );
    for group in GROUPS {
        let honoured = group.flags.iter().filter_map(|flag| match flag.action {
            Use::Honoured(help) => Some((flag, help)),
            _ => None,
        });
        for (place, (flag, help)) in honoured.enumerate() {
            if place == 0 {
                text += &format!("\n{}:\n", group.name);
            }
            text += &format!("  --{} '{}'\n      {help}.\n", flag.name, flag.default);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::flags::{self, Flag};

    /// docs/flags.md.
    fn markdown() -> String {
        let mut text = String::from(
            "# Flags\n\nMade from `src/config/flags.rs` (`DECKLOG_WRITE_DOCS=1 cargo test --lib flags_document`). Every flag of etcd 3.7 parses, \
             as `--flag=value`, `--flag value`, `-flag`, as a variable `ETCD_FLAG`, or in a file.\n",
        );
        type Note = fn(&Flag) -> Option<&'static str>;
        let sections: [(&str, Note); 3] = [
            ("Honoured", |flag| match flag.action {
                Use::Honoured(help) => Some(help),
                _ => None,
            }),
            (
                "Accepted, without effect, with a warning at start when set to anything but the default",
                |flag| match flag.action {
                    Use::Ignored(why) => Some(why),
                    _ => None,
                },
            ),
            ("Refused when set to anything but the default", |flag| match flag.action {
                Use::Refused(why) => Some(why),
                _ => None,
            }),
        ];
        for (title, note) in sections {
            text += &format!("\n## {title}\n\n| flag | default | |\n| --- | --- | --- |\n");
            for flag in flags::all() {
                if let Some(note) = note(flag) {
                    text +=
                        &format!("| `--{}` | `{}` | {note} |\n", flag.name, flag.default.replace('|', "\\|"));
                }
            }
        }
        text
    }

    #[test]
    fn flags_document_is_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/flags.md");
        if std::env::var_os("DECKLOG_WRITE_DOCS").is_some() {
            std::fs::write(path, markdown()).expect("written");
        }
        let written = std::fs::read_to_string(path).expect("docs/flags.md is there");
        assert!(
            written == markdown(),
            "write it again: DECKLOG_WRITE_DOCS=1 cargo test --lib flags_document"
        );
    }
}

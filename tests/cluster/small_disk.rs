//! A small file system of its own for a member's data, which others can fill.

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

/// The log keeps two segments ready, and the store needs some.
const SIZE: &str = "200m";

/// See the module. Gone with this.
pub struct SmallDisk(TempDir);

impl SmallDisk {
    /// `None` where this process may not mount; panics when it must.
    pub fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={SIZE},mode=700"), "tmpfs"]).arg(folder.path());
        let why = match mount.output() {
            Ok(output) if output.status.success() => return Some(Self(folder)),
            Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
            Err(error) => error.to_string(),
        };
        let is_required = std::env::var("DECKLOG_REQUIRE_PEERS").is_ok_and(|value| value == "1");
        assert!(!is_required, "a full disk needs a mount: {why}");
        println!("SKIPPED the full disk of a cluster's member: mount: {}", why.trim());
        None
    }

    pub fn data_dir(&self) -> PathBuf {
        self.0.path().join("data")
    }

    fn foreign_file(&self) -> PathBuf {
        self.0.path().join("foreign")
    }

    /// Somebody else takes all that is left.
    pub fn fill(&self) {
        let mut file = File::create(self.foreign_file()).expect("a file can be made");
        let piece = vec![0xaa; 64 << 10];
        while file.write_all(&piece).is_ok() {}
    }

    pub fn make_room(&self) {
        fs::remove_file(self.foreign_file()).expect("the foreign file is there");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let ended = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
        if !ended.is_ok_and(|status| status.success()) {
            eprintln!("cannot unmount {}", self.0.path().display());
        }
    }
}

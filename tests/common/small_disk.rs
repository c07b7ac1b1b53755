//! A small file system of its own for the data of a member, which others can fill.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::libraries::skip;

/// See the module. Gone with this.
pub struct SmallDisk {
    pub path: PathBuf,
}

impl SmallDisk {
    /// `None` where this process may not mount: then it says that `test` is skipped, or panics when nothing may be.
    pub fn mount(test: &str, path: &Path, mebibytes: u32) -> Option<Self> {
        fs::create_dir(path).expect("a folder can be made");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m,mode=700"), "tmpfs"])
            .arg(path)
            .output();
        match mounted {
            Ok(output) if output.status.success() => Some(Self { path: path.to_owned() }),
            Ok(output) => {
                skip(test, &format!("mount: {}", String::from_utf8_lossy(&output.stderr).trim()));
                None
            }
            Err(error) => {
                skip(test, &format!("mount: {error}"));
                None
            }
        }
    }

    fn foreign_file(&self) -> PathBuf {
        self.path.join("foreign")
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
        let ended = Command::new("umount").arg("--lazy").arg(&self.path).status();
        if !ended.is_ok_and(|status| status.success()) {
            eprintln!("cannot unmount {}", self.path.display());
        }
    }
}

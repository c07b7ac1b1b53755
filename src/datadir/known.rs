//! What a member remembers of the others beside the log: where they were last reached, for a start that has lost its
//! store, and the birth of each, so that one that comes back with an empty directory is known for it. One small file, written as
//! a whole and rarely. Safe for all threads.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use parking_lot::Mutex;

use super::{Birth, Error, initial_json, initial_members, write_whole};
use crate::config::InitialMember;
use crate::ids::MemberId;

const FILE: &str = "members.json";
const FILE_NEW: &str = "members.json.new";

/// See the module.
#[derive(Debug)]
pub struct KnownMembers {
    root: PathBuf,
    /// As the file has it. Readers never wait for the disk.
    remembered: ArcSwap<Remembered>,
    /// A lock, because peers come at any time; held while the file is written, so that it never goes back.
    writing: Mutex<()>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Remembered {
    /// `None` until they were known once.
    members: Option<Vec<InitialMember>>,
    births: BTreeMap<MemberId, Birth>,
}

impl KnownMembers {
    /// What is remembered in a data directory; nothing when there is no file.
    ///
    /// # Errors
    /// `Io`, `Damaged`.
    pub fn of(root: &Path) -> Result<Self, Error> {
        let path = root.join(FILE);
        let name = || path.display().to_string();
        let remembered = match fs::read(&path) {
            Ok(text) => Remembered::decode(&text)
                .map_err(|detail| Error::Damaged { path: name(), detail: detail.to_owned() })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Remembered::default(),
            Err(source) => return Err(Error::Io { path: name(), source }),
        };
        let remembered = ArcSwap::from_pointee(remembered);
        Ok(Self { root: root.to_owned(), remembered, writing: Mutex::new(()) })
    }

    /// Who belonged to the cluster when it was last noted.
    pub fn members(&self) -> Option<Vec<InitialMember>> {
        self.remembered.load().members.clone()
    }

    /// Notes who belongs to the cluster; durable when this returns.
    ///
    /// # Errors
    /// `Io`.
    pub fn set_members(&self, members: Vec<InitialMember>) -> Result<(), Error> {
        self.change(|remembered| remembered.members = Some(members))
    }

    /// Those of whom a birth is known: they have begun.
    pub fn begun(&self) -> Vec<MemberId> {
        self.remembered.load().births.keys().copied().collect()
    }

    /// Whether a member is the one that it was at the first contact; `None` when there was none.
    pub fn is_same(&self, member: MemberId, birth: Birth) -> Option<bool> {
        self.remembered.load().births.get(&member).map(|known| *known == birth)
    }

    /// As `is_same`; at the first contact its birth is noted, and is durable when this returns.
    ///
    /// # Errors
    /// `Io`: then it must not be listened to.
    pub fn meet(&self, member: MemberId, birth: Birth) -> Result<bool, Error> {
        self.change(|remembered| {
            remembered.births.entry(member).or_insert(birth);
        })?;
        Ok(self.is_same(member, birth) == Some(true))
    }

    fn change(&self, change: impl FnOnce(&mut Remembered)) -> Result<(), Error> {
        let _writing = self.writing.lock();
        let remembered = self.remembered.load();
        let mut changed = Remembered::clone(&remembered);
        change(&mut changed);
        if changed == **remembered {
            return Ok(());
        }
        let path = || self.root.join(FILE).display().to_string();
        write_whole(&self.root, FILE_NEW, FILE, &changed.encode())
            .map_err(|source| Error::Io { path: path(), source })?;
        self.remembered.store(Arc::new(changed));
        Ok(())
    }
}

impl Remembered {
    fn encode(&self) -> String {
        let births: BTreeMap<String, String> = self
            .births
            .iter()
            .map(|(member, birth)| (format!("{:016x}", member.0), format!("{:016x}", birth.0)))
            .collect();
        let (members, births) = (self.members.as_deref().map(initial_json), serde_json::json!(births));
        let members = members.unwrap_or_default();
        let checksum = checksum(&members, &births);
        serde_json::json!({ "members": members, "births": births, "checksum": checksum }).to_string()
    }

    fn decode(text: &[u8]) -> Result<Self, &'static str> {
        let value: serde_json::Value = serde_json::from_slice(text).map_err(|_source| "it is no JSON")?;
        let (members, births) = (&value["members"], &value["births"]);
        if value["checksum"].as_str() != Some(&checksum(members, births)) {
            return Err("its checksum is wrong");
        }
        let members = match members {
            serde_json::Value::Null => None,
            members => Some(initial_members(members).ok_or("its members are none")?),
        };
        let number = |text: &str| u64::from_str_radix(text, 16).ok();
        let births = births.as_object().ok_or("its births are none")?.iter();
        let births = births
            .map(|(member, birth)| Some((MemberId(number(member)?), Birth(number(birth.as_str()?)?))))
            .collect::<Option<_>>()
            .ok_or("its births are none")?;
        Ok(Self { members, births })
    }
}

fn checksum(members: &serde_json::Value, births: &serde_json::Value) -> String {
    format!("{:08x}", crc32c::crc32c(format!("{members}{births}").as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64) -> InitialMember {
        let url = crate::config::Url::parse("http://127.0.0.1:1").expect("a URL");
        InitialMember { id: MemberId(id), name: "m".to_owned(), peer_urls: vec![url] }
    }

    #[test]
    fn what_is_remembered_outlives_the_process() {
        let folder = tempfile::tempdir().expect("a folder");
        let known = KnownMembers::of(folder.path()).expect("nothing is there");
        assert_eq!((known.members(), known.begun()), (None, vec![]));
        assert_eq!(known.is_same(MemberId(7), Birth(1)), None);
        assert!(known.meet(MemberId(7), Birth(1)).expect("noted"), "the first contact");
        known.set_members(vec![member(7), member(8)]).expect("noted");
        let again = KnownMembers::of(folder.path()).expect("it is whole");
        assert_eq!(again.members(), Some(vec![member(7), member(8)]));
        assert!(again.meet(MemberId(7), Birth(1)).expect("known"));
        assert!(!again.meet(MemberId(7), Birth(2)).expect("known"), "it was born anew");
        assert_eq!(again.is_same(MemberId(7), Birth(1)), Some(true), "the first birth stands");
        assert_eq!(again.begun(), [MemberId(7)]);
    }

    #[test]
    fn readers_do_not_wait_for_the_disk() {
        let folder = tempfile::tempdir().expect("a folder");
        let known = Arc::new(KnownMembers::of(folder.path()).expect("nothing is there"));
        known.meet(MemberId(7), Birth(1)).expect("noted");
        known.set_members(vec![member(7)]).expect("noted");
        // As while a file is being written.
        let writing = known.writing.lock();
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        let reader = known.clone();
        let reading = std::thread::spawn(move || {
            let read = (reader.is_same(MemberId(7), Birth(1)), reader.begun(), reader.members());
            tell.send(read).expect("somebody waits");
        });
        let read = told.recv_timeout(std::time::Duration::from_secs(10));
        assert_eq!(read, Ok((Some(true), vec![MemberId(7)], Some(vec![member(7)]))));
        drop(writing);
        reading.join().expect("it has read");
    }

    #[test]
    fn a_changed_byte_is_told() {
        let folder = tempfile::tempdir().expect("a folder");
        let known = KnownMembers::of(folder.path()).expect("nothing is there");
        known.meet(MemberId(7), Birth(0x1234)).expect("noted");
        let path = folder.path().join(FILE);
        let text = fs::read_to_string(&path).expect("it was written");
        fs::write(&path, text.replace("1234", "1235")).expect("written");
        assert!(matches!(KnownMembers::of(folder.path()), Err(Error::Damaged { .. })));
    }
}

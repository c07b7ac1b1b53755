//! The data directory: made for its owner alone, locked against a second process, with its format inside.
//! Owns the layout; the files below belong to `storage`.

mod known;

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::config::{Config, InitialMember, Url};
use crate::ids::{ClusterId, MemberId};
use crate::storage::disk::make_directory;

pub use known::KnownMembers;

const FORMAT: u32 = 3;
const IDENTITY: &str = "decklog.json";
const LOCK: &str = "lock";
/// The identity before it is whole.
const LOCK_NEW: &str = "lock.new";

/// Why the directory cannot be used. Nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot use the data directory {path}: {source}")]
    Io { path: String, source: io::Error },
    #[error(
        "the data directory {path} is in use by another process; stop that process or choose another --data-dir"
    )]
    Locked { path: String },
    #[error(
        "the data directory {path} holds data of etcd, which Decklog cannot read; choose another --data-dir"
    )]
    Etcd { path: String },
    #[error(
        "the data directory {path} holds files but no {IDENTITY}: it is not one of Decklog's; choose an empty --data-dir"
    )]
    Foreign { path: String },
    #[error("{path} is damaged: {detail}")]
    Damaged { path: String, detail: String },
    #[error(
        "{path} has the format {found}, and this version knows {FORMAT}: use the version of Decklog that wrote it"
    )]
    Format { path: String, found: u64 },
    #[error(
        "the raft log in {path} is gone, and with it this member's votes and what it acknowledged; restore it, or, in a \
         cluster, remove the member and add it anew with an empty --data-dir"
    )]
    LogGone { path: String },
    #[error("the data directory {path} was emptied while it was opened; start again")]
    Vanished { path: String },
    #[error("the log directory {path} holds files, but the data directory is new; choose an empty --wal-dir")]
    ForeignLog { path: String },
}

/// Drawn when a member begins with an empty directory, and kept in it: the same id with another birth has forgotten what it
/// promised. 0 in directories that were made before there were births.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Birth(pub u64);

/// Who a member is when it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirstStart {
    pub member: MemberId,
    pub cluster: ClusterId,
    /// The members that the cluster begins with; for one that joins those that it found, whom it can reach until it knows
    /// more.
    pub members: Vec<InitialMember>,
    pub joins: bool,
    /// Its log has been made, and may hold a vote: a directory without it has lost it.
    pub has_log: bool,
    pub birth: Birth,
}

/// A directory that is ours for as long as this is held.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    log: PathBuf,
    first: FirstStart,
    known: Arc<KnownMembers>,
    /// Holds the lock.
    _lock: File,
}

impl DataDir {
    /// Makes or opens the directory of a configuration. Who the member is stands in the directory from its first start on.
    ///
    /// # Errors
    /// See `Error`.
    pub fn open(config: &Config, first: Option<FirstStart>) -> Result<Self, Error> {
        let root = config.data_dir.clone();
        let fault = |source| Error::Io { path: root.display().to_string(), source };
        check_owner(&root)?;
        let identity = root.join(IDENTITY);
        if !identity.exists() {
            make_directory(&root).map_err(fault)?;
        }
        let lock = lock(&root)?;
        let log = config.wal_dir.clone().unwrap_or_else(|| root.join("wal"));
        let first = if identity.exists() {
            read_identity(&identity)?
        } else {
            let path = root.display().to_string();
            let first = first.ok_or(Error::Vanished { path })?;
            if log.read_dir().is_ok_and(|mut entries| entries.next().is_some()) {
                return Err(Error::ForeignLog { path: log.display().to_string() });
            }
            write_identity(&root, &first).map_err(fault)?;
            first
        };
        warn_if_open(&root);
        if first.has_log && !has_segments(&log) {
            return Err(Error::LogGone { path: log.display().to_string() });
        }
        let known = Arc::new(KnownMembers::of(&root)?);
        Ok(Self { root, log, first, known, _lock: lock })
    }

    /// Notes that the log has been made: from here on it must be there.
    ///
    /// # Errors
    /// `Io`.
    pub fn log_made(&mut self) -> Result<(), Error> {
        if self.first.has_log {
            return Ok(());
        }
        self.first.has_log = true;
        let path = self.root.display().to_string();
        write_identity(&self.root, &self.first).map_err(|source| Error::Io { path, source })
    }

    pub fn member(&self) -> MemberId {
        self.first.member
    }

    pub fn cluster(&self) -> ClusterId {
        self.first.cluster
    }

    /// The members that the cluster began with; `None` for a member that joined.
    pub fn initial(&self) -> Option<&[InitialMember]> {
        (!self.first.joins).then_some(&*self.first.members)
    }

    /// Those whom a member that joined found then.
    pub fn found(&self) -> &[InitialMember] {
        if self.first.joins { &self.first.members } else { &[] }
    }

    /// What is remembered of the other members. Cheap to clone.
    pub fn known(&self) -> &Arc<KnownMembers> {
        &self.known
    }

    /// Who belonged to the cluster when it was last noted.
    pub fn remembered(&self) -> Vec<InitialMember> {
        self.known.members().unwrap_or_else(|| self.first.members.clone())
    }

    pub fn birth(&self) -> Birth {
        self.first.birth
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Puts what is left of a store aside, if there is anything: where it is kept.
    ///
    /// # Errors
    /// `Io`.
    pub fn set_store_aside(&self) -> Result<Option<PathBuf>, Error> {
        let store = self.store();
        if !store.exists() {
            return Ok(None);
        }
        let free = (1..u64::MAX).map(|number| self.root.join(format!("store.lost-{number}")));
        let aside = free.into_iter().find(|path| !path.exists()).expect("some number is free");
        let renamed = fs::rename(&store, &aside).and_then(|()| File::open(&self.root)?.sync_all());
        renamed.map_err(|source| Error::Io { path: aside.display().to_string(), source })?;
        Ok(Some(aside))
    }

    /// Where the raft log stands.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Where the store stands.
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }
}

/// Whether a directory holds a member already. Touches nothing.
pub fn is_initialised(root: &Path) -> bool {
    root.join(IDENTITY).exists()
}

/// Whose directory it is, when it is only looked at.
///
/// # Errors
/// `Io`, `Damaged`, `Format`.
pub fn identity(root: &Path) -> Result<FirstStart, Error> {
    read_identity(&root.join(IDENTITY))
}

/// Refuses what is somebody else's before anything is made in it.
fn check_owner(root: &Path) -> Result<(), Error> {
    let path = root.display().to_string();
    let mut entries = match fs::read_dir(root) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(Error::Io { path, source }),
    };
    if root.join("member").is_dir() {
        return Err(Error::Etcd { path });
    }
    let is_new = entries.all(|entry| {
        entry.is_ok_and(|entry| {
            let name = entry.file_name();
            name == LOCK || name == LOCK_NEW || name == "lost+found"
        })
    });
    if !is_new && !root.join(IDENTITY).exists() {
        return Err(Error::Foreign { path });
    }
    Ok(())
}

fn lock(root: &Path) -> Result<File, Error> {
    let path = root.join(LOCK);
    let fault = |source| Error::Io { path: path.display().to_string(), source };
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(fault)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => Err(Error::Locked { path: root.display().to_string() }),
        Err(fs::TryLockError::Error(source)) => Err(fault(source)),
    }
}

fn read_identity(path: &Path) -> Result<FirstStart, Error> {
    let name = path.display().to_string();
    let text = fs::read(path).map_err(|source| Error::Io { path: name.clone(), source })?;
    let damaged = |detail: String| Error::Damaged { path: name.clone(), detail };
    let value: serde_json::Value =
        serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    let found = value["format"].as_u64().ok_or_else(|| damaged("it names no format".to_owned()))?;
    if found != u64::from(FORMAT) {
        return Err(Error::Format { path: name, found });
    }
    let id = |field: &str| {
        let text = value[field].as_str();
        text.and_then(|text| u64::from_str_radix(text, 16).ok())
            .ok_or_else(|| damaged(format!("its {field} is no id")))
    };
    let (member, cluster) = (MemberId(id("member")?), ClusterId(id("cluster")?));
    let (members, joined, log) = (&value["members"], &value["joined"], &value["log"]);
    let birth = if value["birth"].is_null() { Birth::default() } else { Birth(id("birth")?) };
    if id("checksum")? != u64::from(checksum((member, cluster), members, joined, log, birth)) {
        return Err(damaged("its checksum is wrong".to_owned()));
    }
    let fields = (initial_members(members), joined.as_bool(), log.as_bool());
    let (Some(members), Some(joins), Some(has_log)) = fields else {
        return Err(damaged("its members are none".to_owned()));
    };
    Ok(FirstStart { member, cluster, members, joins, has_log, birth })
}

/// Of all of it: another member's id would be as good as ours, and wrong.
fn checksum(
    (member, cluster): (MemberId, ClusterId),
    members: &serde_json::Value,
    joined: &serde_json::Value,
    log: &serde_json::Value,
    birth: Birth,
) -> u32 {
    let ids = crc32c::crc32c_append(crc32c::crc32c(&member.0.to_be_bytes()), &cluster.0.to_be_bytes());
    let all = crc32c::crc32c_append(ids, format!("{members}{joined}{log}").as_bytes());
    if birth == Birth::default() { all } else { crc32c::crc32c_append(all, &birth.0.to_be_bytes()) }
}

fn initial_members(value: &serde_json::Value) -> Option<Vec<InitialMember>> {
    let member = |value: &serde_json::Value| {
        let urls = value["peer_urls"].as_array()?.iter().map(|url| Url::parse(url.as_str()?).ok());
        Some(InitialMember {
            id: MemberId(u64::from_str_radix(value["id"].as_str()?, 16).ok()?),
            name: value["name"].as_str()?.to_owned(),
            peer_urls: urls.collect::<Option<_>>()?,
        })
    };
    value.as_array()?.iter().map(member).collect()
}

fn initial_json(members: &[InitialMember]) -> serde_json::Value {
    let member = |member: &InitialMember| {
        let urls: Vec<_> = member.peer_urls.iter().map(Url::as_str).collect();
        serde_json::json!({ "id": format!("{:016x}", member.id.0), "name": member.name, "peer_urls": urls })
    };
    members.iter().map(member).collect()
}

/// What cannot be looked at is told by who opens it.
fn has_segments(log: &Path) -> bool {
    let is_segment = |entry: fs::DirEntry| entry.path().extension().is_some_and(|kind| kind == "wal");
    log.read_dir().is_ok_and(|entries| entries.flatten().any(is_segment))
}

fn write_identity(root: &Path, first: &FirstStart) -> io::Result<()> {
    let FirstStart { member, cluster, members, joins, has_log, birth } = first;
    let (members, joined, log) = (initial_json(members), (*joins).into(), (*has_log).into());
    let mut text = serde_json::json!({
        "format": FORMAT,
        "member": format!("{:016x}", member.0),
        "cluster": format!("{:016x}", cluster.0),
        "checksum": format!("{:08x}", checksum((*member, *cluster), &members, &joined, &log, *birth)),
        "members": members,
        "joined": joined,
        "log": log,
    });
    if *birth != Birth::default() {
        text["birth"] = format!("{:016x}", birth.0).into();
    }
    write_whole(root, LOCK_NEW, IDENTITY, &text.to_string())
}

/// Puts a file in its place as a whole; durable when this returns.
fn write_whole(root: &Path, new: &str, name: &str, text: &str) -> io::Result<()> {
    let temporary = root.join(new);
    let mut file = File::create(&temporary)?;
    writeln!(file, "{text}")?;
    file.sync_all()?;
    fs::rename(&temporary, root.join(name))?;
    File::open(root)?.sync_all()
}

/// A directory that others can read was made so by somebody: said, not changed.
fn warn_if_open(root: &Path) {
    if let Ok(found) = fs::metadata(root) {
        let mode = found.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            tracing::warn!(path = %root.display(), mode = format!("{mode:o}"), "the data directory is open to others; 0700 is better");
        }
    }
}

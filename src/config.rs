//! Configuration: flags, variables or a file become one validated `Config`, once, before anything is touched.
//! Nothing reads the environment later.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod build;
mod duration;
mod file;
pub mod flags;
mod help;
mod ids;
mod member;
mod url;
mod values;

use crate::ids::{ClusterId, MemberId};
pub use ids::new_member as new_member_id;
pub use url::{Url, UrlError};

/// Everything the server is told.
#[derive(Clone, Debug)]
pub struct Config {
    pub name: String,
    pub data_dir: PathBuf,
    /// Where the raft log stands when not in the data directory.
    pub wal_dir: Option<PathBuf>,
    pub member: MemberConfig,
    pub listen: ListenConfig,
    pub raft: RaftConfig,
    pub limits: LimitConfig,
    pub storage: StorageConfig,
    pub auto_compaction: Option<AutoCompaction>,
    pub progress_notify_interval: Duration,
    pub warn: WarnConfig,
    /// Histograms of how long each RPC took.
    pub extensive_metrics: bool,
    pub log: LogConfig,
    /// Where systemd wants to hear that the server is ready.
    pub notify_socket: Option<String>,
    /// Said at start: flags that do nothing, unknown variables.
    pub warnings: Vec<String>,
}

/// Who this member is and who belongs to its cluster.
#[derive(Clone, Debug)]
pub struct MemberConfig {
    /// Ids as this configuration gives them; a member that joins is told both by the others.
    pub id: MemberId,
    pub cluster_id: ClusterId,
    /// The members that the cluster begins with, or (for one that joins) some that it has.
    pub initial: Vec<InitialMember>,
    /// Joins a cluster that exists.
    pub joins: bool,
    /// With an empty directory: takes the place of the member with the same peer URLs.
    pub rejoins: bool,
    /// A learner asks to be promoted when it is in sync.
    pub promote_when_ready: bool,
    /// Drops the other members from the cluster of a directory that holds a member.
    pub force_new_cluster: bool,
    pub max_learners: usize,
    /// A change of members that could cost the quorum is refused.
    pub strict_reconfig_check: bool,
    pub advertise_peer_urls: Vec<Url>,
    pub advertise_client_urls: Vec<Url>,
}

/// A member that `--initial-cluster` names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InitialMember {
    pub id: MemberId,
    pub name: String,
    pub peer_urls: Vec<Url>,
}

#[derive(Clone, Debug)]
pub struct ListenConfig {
    pub client: Vec<Url>,
    /// For the other members.
    pub peer: Vec<Url>,
    /// When there are any, HTTP is served here and gRPC alone on the client URLs.
    pub client_http: Vec<Url>,
    pub metrics: Vec<Url>,
    pub max_concurrent_streams: u32,
    pub keepalive_interval: Duration,
    pub keepalive_timeout: Duration,
    pub reuse_port: bool,
}

#[derive(Clone, Copy, Debug)]
pub struct RaftConfig {
    pub heartbeat: Duration,
    pub election_timeout: Duration,
    pub pre_vote: bool,
    /// A start does not wait for its whole first election timeout.
    pub skip_first_timeout: bool,
    /// Entries kept in the log for followers.
    pub catch_up_entries: u64,
}

#[derive(Clone, Copy, Debug)]
pub struct LimitConfig {
    pub max_txn_ops: usize,
    pub max_request_bytes: usize,
    /// Bytes that live revisions may take; `None` for no quota.
    pub quota_bytes: Option<u64>,
}

#[derive(Clone, Copy, Debug)]
pub struct StorageConfig {
    /// How long changes are gathered before the store writes them.
    pub round_interval: Duration,
    /// Changes that compaction looks at in one slice, and its pause between slices.
    pub compaction_batch: usize,
    pub compaction_pause: Duration,
}

/// What automatic compaction keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AutoCompaction {
    Periodic(Duration),
    Revision(i64),
}

#[derive(Clone, Copy, Debug)]
pub struct WarnConfig {
    /// Applying a batch for longer is told.
    pub apply: Duration,
}

#[derive(Clone, Debug)]
pub struct LogConfig {
    /// debug, info, warn, error, panic or fatal.
    pub level: String,
    pub json: bool,
    /// `stderr`, `stdout` or paths.
    pub outputs: Vec<String>,
}

impl LogConfig {
    /// Whether lines go anywhere but to stderr.
    pub fn is_kept_elsewhere(&self) -> bool {
        self.outputs.iter().any(|output| !matches!(output.as_str(), "default" | "stderr"))
    }
}

impl RaftConfig {
    /// How long a request waits for its outcome: 5 s and two elections, as in etcd.
    pub fn request_timeout(&self) -> Duration {
        Duration::from_secs(5) + 2 * self.election_timeout
    }

    /// Seconds that a lease gets at least: one and a half elections, rounded up.
    pub fn min_lease_ttl(&self) -> i64 {
        let millis = self.election_timeout.as_millis() * 3 / 2;
        i64::try_from(millis.div_ceil(1000)).unwrap_or(i64::MAX)
    }
}

/// What the command line asks for.
pub enum Invocation {
    Serve(Box<Config>),
    Print(String),
}

/// Why a configuration is refused: what is wrong, and how to mend it. Nothing has been touched.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("'{0}' is not a valid flag; flags begin with --")]
    NotAFlag(String),
    #[error("flag provided but not defined: --{name} ({hint})")]
    UnknownFlag { name: String, hint: String },
    #[error("flag needs an argument: --{0}")]
    NeedsValue(String),
    #[error("invalid value {value:?} for flag --{flag}: {what}")]
    Value { flag: &'static str, value: String, what: String },
    #[error(
        "conflicting environment variable {variable:?} is shadowed by corresponding command-line flag --{flag} \
         (either unset environment variable or disable flag)"
    )]
    Shadowed { variable: String, flag: &'static str },
    #[error("--{flag}={value} is refused: {why}")]
    Refused { flag: &'static str, value: String, why: &'static str },
    #[error("cannot use the configuration file {path}: {what}")]
    File { path: String, what: String },
    #[error("--advertise-client-urls is required when --listen-client-urls is set explicitly")]
    AdvertiseMissing,
    #[error("--{0} must not be empty")]
    Empty(&'static str),
    #[error("--{flag} must be >0 (set to {value})")]
    NotPositive { flag: &'static str, value: String },
    #[error(
        "--election-timeout[{election}ms] should be at least as 5 times as --heartbeat-interval[{heartbeat}ms]"
    )]
    ElectionTooShort { election: u64, heartbeat: u64 },
    #[error("--election-timeout[{0}ms] is too long, and should be set less than 50000ms")]
    ElectionTooLong(u64),
    #[error(
        "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery\" or \"discovery-srv\""
    )]
    SeveralBootstraps,
    #[error(
        "couldn't find local name {0:?} in the initial cluster configuration; add {0}=<its peer URLs> to --initial-cluster"
    )]
    NameMissing(String),
    #[error("--initial-cluster has {missing} but missing from --initial-advertise-peer-urls={advertised}")]
    NotAdvertised { missing: String, advertised: String },
    #[error("--initial-advertise-peer-urls has {missing} but missing from --initial-cluster={cluster}")]
    NotInCluster { missing: String, cluster: String },
    #[error("initial cluster {0} has duplicate url")]
    DuplicateUrl(String),
    #[error("--initial-cluster={0:?} is malformed: it must be name=url, separated by commas")]
    InitialCluster(String),
    #[error("unknown auto-compaction-mode {0:?}: it must be periodic or revision")]
    CompactionMode(String),
    #[error("error parsing CompactionRetention: {0:?} is neither a number nor a time such as 10h")]
    CompactionRetention(String),
    #[error("{0}")]
    Url(#[from] UrlError),
}

/// Arguments (without the program's name) and variables become a configuration, or a text to print.
/// `is_initialised` says whether a data directory holds a member already.
///
/// # Errors
/// See `Error`.
pub fn load(
    args: Vec<OsString>,
    env: &[(OsString, OsString)],
    is_initialised: &dyn Fn(&Path) -> bool,
) -> Result<Invocation, Error> {
    match values::read(args, env)? {
        values::Asked::Version => Ok(Invocation::Print(help::version())),
        values::Asked::Help => Ok(Invocation::Print(help::text())),
        values::Asked::Values(values) => {
            let socket = env.iter().find(|(key, _)| key == "NOTIFY_SOCKET");
            let socket = socket.map(|(_, value)| value.to_string_lossy().into_owned());
            Ok(Invocation::Serve(Box::new(build::build(values, socket, is_initialised)?)))
        }
    }
}

//! Every flag of etcd and ours: its form, its default, and what becomes of it here. docs/flags.md is made from this table.

use Kind::{Bool, Duration, Signed, Text, Unsigned, Urls};
use Use::{Honoured, Ignored, Refused};

/// The form of a flag's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text,
    Bool,
    Unsigned,
    Signed,
    /// In Go's form.
    Duration,
    /// Separated by commas.
    Urls,
}

/// What becomes of a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It does what it says here.
    Honoured(&'static str),
    /// Accepted, with a warning that says why it does nothing.
    Ignored(&'static str),
    /// A value other than the default ends the start: to ignore it would change what is safe.
    Refused(&'static str),
}

#[derive(Clone, Copy, Debug)]
pub struct Flag {
    pub name: &'static str,
    pub kind: Kind,
    pub default: &'static str,
    pub action: Use,
}

/// Flags that belong together in the help.
#[derive(Clone, Copy, Debug)]
pub struct Group {
    pub name: &'static str,
    pub flags: &'static [Flag],
}

/// The flag with this name.
pub fn find(name: &str) -> Option<&'static Flag> {
    all().find(|flag| flag.name == name)
}

/// Every flag, in the order of the help.
pub fn all() -> impl Iterator<Item = &'static Flag> {
    GROUPS.iter().flat_map(|group| group.flags)
}

const fn honoured(name: &'static str, kind: Kind, default: &'static str, help: &'static str) -> Flag {
    Flag { name, kind, default, action: Honoured(help) }
}

const fn ignored(name: &'static str, kind: Kind, default: &'static str, why: &'static str) -> Flag {
    Flag { name, kind, default, action: Ignored(why) }
}

const fn refused(name: &'static str, kind: Kind, default: &'static str, why: &'static str) -> Flag {
    Flag { name, kind, default, action: Refused(why) }
}

const TLS: &str = "TLS comes in a later version; without it connections would be open";
const DISCOVERY: &str = "discovery comes in a later version; name the members with --initial-cluster";
const LINK_TIMEOUT: &str = "a member that does not answer for 5 s counts as lost, whatever this says";
const NO_HASH_CHECK: &str =
    "members compare their hashes in a later version; etcdctl endpoint hashkv --cluster shows them";

/// Flags that etcd does not have.
pub const HEALING_GROUP: &str = "Healing (not in etcd)";

pub const GROUPS: &[Group] = &[
    Group { name: "Member", flags: MEMBER },
    Group { name: "Clustering", flags: CLUSTERING },
    Group { name: "Security", flags: SECURITY },
    Group { name: "Auth", flags: AUTH },
    Group { name: "Profiling and Monitoring", flags: MONITORING },
    Group { name: "Logging", flags: LOGGING },
    Group { name: "Distributed tracing", flags: DISTRIBUTED_TRACING },
    Group { name: "Features", flags: FEATURES },
    Group { name: "Unsafe feature", flags: UNSAFE_FEATURE },
    Group { name: HEALING_GROUP, flags: HEALING },
];

const MEMBER: &[Flag] = &[
    honoured("name", Text, "default", "The name of this member"),
    honoured("data-dir", Text, "${name}.decklog", "Where everything is kept"),
    honoured("wal-dir", Text, "", "Where the raft log is kept, when apart from the data directory"),
    ignored(
        "snapshot-count",
        Unsigned,
        "10000",
        "the store takes no snapshots of the log: it is one all the time",
    ),
    honoured("heartbeat-interval", Unsigned, "100", "Milliseconds between heartbeats"),
    honoured(
        "election-timeout",
        Unsigned,
        "1000",
        "Milliseconds without a leader before an election; at least five heartbeats",
    ),
    honoured(
        "initial-election-tick-advance",
        Bool,
        "true",
        "Begin an election soon after the start when there is no leader",
    ),
    honoured("listen-peer-urls", Urls, "http://localhost:2380", "URLs to serve the other members on"),
    honoured("listen-client-urls", Urls, "http://localhost:2379", "URLs to serve clients on"),
    honoured(
        "listen-client-http-urls",
        Urls,
        "",
        "URLs for HTTP alone; the client URLs then serve gRPC alone",
    ),
    ignored("max-snapshots", Unsigned, "5", "there are no snapshot files"),
    ignored("max-wals", Unsigned, "5", "the log keeps what is needed and no more"),
    ignored("memory-mlock", Bool, "false", "memory is not locked"),
    honoured(
        "quota-backend-bytes",
        Signed,
        "0",
        "Bytes that stored revisions may take; 0 is 2 GiB, negative is no limit",
    ),
    ignored("backend-bbolt-freelist-type", Text, "map", "there is no bbolt here"),
    honoured(
        "backend-batch-interval",
        Duration,
        "0s",
        "How long changes are gathered before the store writes them; 0 is 100ms",
    ),
    ignored("backend-batch-limit", Unsigned, "0", "rounds are limited by bytes"),
    honoured("max-txn-ops", Unsigned, "128", "Operations allowed in a transaction"),
    honoured("max-request-bytes", Unsigned, "1572864", "Bytes allowed in a request"),
    honoured(
        "max-concurrent-streams",
        Unsigned,
        "4294967295",
        "Streams that a client connection may have open",
    ),
    ignored("grpc-keepalive-min-time", Duration, "5s", "pings of clients are not limited"),
    honoured(
        "grpc-keepalive-interval",
        Duration,
        "2h",
        "How often an idle connection is asked whether it lives",
    ),
    honoured("grpc-keepalive-timeout", Duration, "20s", "How long it may take to answer"),
    honoured("socket-reuse-port", Bool, "false", "Several processes may listen on one port"),
    honoured(
        "socket-reuse-address",
        Bool,
        "false",
        "A port may be listened on again at once (always so here)",
    ),
    ignored("enable-grpc-gateway", Bool, "true", "the JSON gateway comes in a later version"),
    ignored("raft-read-timeout", Duration, "5s", LINK_TIMEOUT),
    ignored("raft-write-timeout", Duration, "5s", LINK_TIMEOUT),
    ignored("feature-gates", Text, "", "there are no feature gates here"),
];

const CLUSTERING: &[Flag] = &[
    honoured(
        "initial-advertise-peer-urls",
        Urls,
        "http://localhost:2380",
        "URLs that other members are told",
    ),
    honoured(
        "initial-cluster",
        Text,
        "default=http://localhost:2380",
        "Names and peer URLs of the first members",
    ),
    honoured(
        "initial-cluster-state",
        Text,
        "new",
        "new: begin a cluster; existing: join one that this member was added to",
    ),
    honoured("initial-cluster-token", Text, "etcd-cluster", "Tells clusters with the same URLs apart"),
    honoured("advertise-client-urls", Urls, "http://localhost:2379", "URLs that clients are told"),
    refused("discovery", Text, "", DISCOVERY),
    refused("discovery-token", Text, "", DISCOVERY),
    refused("discovery-endpoints", Text, "", DISCOVERY),
    refused("discovery-dial-timeout", Duration, "2s", DISCOVERY),
    refused("discovery-request-timeout", Duration, "5s", DISCOVERY),
    refused("discovery-keepalive-time", Duration, "2s", DISCOVERY),
    refused("discovery-keepalive-timeout", Duration, "6s", DISCOVERY),
    refused("discovery-insecure-transport", Bool, "true", DISCOVERY),
    refused("discovery-insecure-skip-tls-verify", Bool, "false", DISCOVERY),
    refused("discovery-cert", Text, "", DISCOVERY),
    refused("discovery-key", Text, "", DISCOVERY),
    refused("discovery-cacert", Text, "", DISCOVERY),
    refused("discovery-user", Text, "", DISCOVERY),
    refused("discovery-password", Text, "", DISCOVERY),
    ignored("discovery-fallback", Text, "exit", "v2 discovery is gone"),
    refused("discovery-proxy", Text, "", DISCOVERY),
    refused("discovery-srv", Text, "", DISCOVERY),
    refused("discovery-srv-name", Text, "", DISCOVERY),
    honoured("strict-reconfig-check", Bool, "true", "Refuse a change of members that could cost the quorum"),
    honoured("pre-vote", Bool, "true", "Ask before an election whether it could be won"),
    honoured(
        "auto-compaction-retention",
        Text,
        "0",
        "What automatic compaction keeps: a time (hours when it is a bare number) or revisions; 0 is off",
    ),
    honoured("auto-compaction-mode", Text, "periodic", "periodic or revision"),
    ignored("v2-deprecation", Text, "write-only", "there is no v2 store"),
];

const SECURITY: &[Flag] = &[
    refused("cert-file", Text, "", TLS),
    refused("key-file", Text, "", TLS),
    refused("client-cert-auth", Bool, "false", TLS),
    refused("client-cert-file", Text, "", TLS),
    refused("client-key-file", Text, "", TLS),
    refused("client-crl-file", Text, "", TLS),
    refused("client-cert-allowed-hostname", Text, "", TLS),
    refused("trusted-ca-file", Text, "", TLS),
    refused("auto-tls", Bool, "false", TLS),
    refused("peer-cert-file", Text, "", TLS),
    refused("peer-key-file", Text, "", TLS),
    refused("peer-client-cert-auth", Bool, "false", TLS),
    refused("peer-client-cert-file", Text, "", TLS),
    refused("peer-client-key-file", Text, "", TLS),
    refused("peer-trusted-ca-file", Text, "", TLS),
    refused("peer-cert-allowed-cn", Text, "", TLS),
    refused("peer-cert-allowed-hostname", Text, "", TLS),
    refused("peer-auto-tls", Bool, "false", TLS),
    ignored("self-signed-cert-validity", Unsigned, "1", "TLS comes in a later version"),
    refused("peer-crl-file", Text, "", TLS),
    refused("cipher-suites", Text, "", TLS),
    refused("cors", Text, "*", "CORS rules come in a later version"),
    refused("host-whitelist", Text, "*", "host rules come in a later version"),
    refused("tls-min-version", Text, "TLS1.2", TLS),
    refused("tls-max-version", Text, "", TLS),
];

const AUTH: &[Flag] = &[
    refused("auth-token", Text, "simple", "auth comes in a later version"),
    ignored("bcrypt-cost", Unsigned, "10", "auth comes in a later version"),
    ignored("auth-token-ttl", Unsigned, "300", "auth comes in a later version"),
];

const MONITORING: &[Flag] = &[
    ignored("enable-pprof", Bool, "false", "profiles are taken with perf"),
    honoured("metrics", Text, "basic", "basic, or extensive with the time that RPCs take"),
    honoured("listen-metrics-urls", Urls, "", "Further URLs for metrics and health"),
];

const LOGGING: &[Flag] = &[
    ignored("logger", Text, "zap", "it names a library of Go"),
    honoured("log-outputs", Text, "default", "stderr, stdout or files, separated by commas"),
    honoured("log-level", Text, "info", "debug, info, warn, error, panic or fatal"),
    honoured("log-format", Text, "json", "json or console"),
    ignored("enable-log-rotation", Bool, "false", "log files are rotated from outside"),
    ignored(
        "log-rotation-config-json",
        Text,
        "{\"maxsize\": 100, \"maxage\": 0, \"maxbackups\": 0, \"localtime\": false, \"compress\": false}",
        "log files are rotated from outside",
    ),
    ignored("warning-unary-request-duration", Duration, "300ms", "slow requests show in the metrics"),
];

const DISTRIBUTED_TRACING: &[Flag] = &[
    ignored("enable-distributed-tracing", Bool, "false", "tracing comes in a later version"),
    ignored("distributed-tracing-address", Text, "localhost:4317", "tracing comes in a later version"),
    ignored("distributed-tracing-service-name", Text, "etcd", "tracing comes in a later version"),
    ignored("distributed-tracing-instance-id", Text, "", "tracing comes in a later version"),
    ignored("distributed-tracing-sampling-rate", Unsigned, "0", "tracing comes in a later version"),
];

const FEATURES: &[Flag] = &[
    ignored("corrupt-check-time", Duration, "0s", NO_HASH_CHECK),
    ignored("compact-hash-check-time", Duration, "1m", NO_HASH_CHECK),
    honoured("compaction-batch-limit", Unsigned, "1000", "Revisions that compaction looks at in one slice"),
    refused("peer-skip-client-san-verification", Bool, "false", TLS),
    honoured(
        "watch-progress-notify-interval",
        Duration,
        "10m",
        "How often a quiet watcher hears of progress",
    ),
    honoured("warning-apply-duration", Duration, "100ms", "Applying for longer is logged"),
    ignored("bootstrap-defrag-threshold-megabytes", Unsigned, "0", "defragmentation is cheap and asked for"),
    honoured("max-learners", Unsigned, "1", "Learners that the cluster may have"),
    honoured("compaction-sleep-interval", Duration, "10ms", "Its pause between slices"),
    ignored("downgrade-check-time", Duration, "5s", "there are no downgrades yet"),
    honoured("snapshot-catchup-entries", Unsigned, "5000", "Log entries kept for followers that are behind"),
];

const UNSAFE_FEATURE: &[Flag] = &[
    honoured(
        "force-new-cluster",
        Bool,
        "false",
        "Drop all other members from the cluster and go on alone with what this one has: for a quorum that is lost for good",
    ),
    refused("unsafe-no-fsync", Bool, "false", "Decklog always flushes before it answers"),
];

const HEALING: &[Flag] = &[
    honoured("promote-when-ready", Bool, "false", "A learner becomes a voter by itself when it is in sync"),
    honoured(
        "rejoin",
        Bool,
        "false",
        "With an empty data directory: have the others remove the member with the same peer URLs, and join anew as a learner",
    ),
];

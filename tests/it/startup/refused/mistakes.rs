//! Mistakes in flags and variables, and what etcd and Decklog say to them.

pub struct Mistake {
    pub args: &'static [&'static str],
    pub variables: &'static [(&'static str, &'static str)],
    pub says: Says,
}

/// What the two say to a mistake.
pub enum Says {
    /// The same.
    Same(&'static str),
    /// Etcd's text, and ours with more in it: what to do, the flag with both its dashes.
    More(&'static str, &'static str),
    /// Etcd starts, or fails later: here it is refused on purpose.
    OnlyHere(&'static str),
}
use Says::{More, OnlyHere, Same};

const fn args(args: &'static [&'static str], says: Says) -> Mistake {
    Mistake { args, variables: &[], says }
}

const fn variables(
    variables: &'static [(&'static str, &'static str)],
    args: &'static [&'static str],
    says: Says,
) -> Mistake {
    Mistake { args, variables, says }
}

const CLIENT: &str = "--listen-client-urls=http://127.0.0.1:1";
const ADVERTISE: &str = "--advertise-client-urls=http://127.0.0.1:1";

pub const FORMS: &[Mistake] = &[
    args(
        &["--no-such-flag"],
        More(
            "flag provided but not defined: -no-such-flag",
            "flag provided but not defined: --no-such-flag (--help lists all flags)",
        ),
    ),
    args(
        &["--listen-client-url=http://127.0.0.1:1"],
        More(
            "flag provided but not defined: -listen-client-url",
            "flag provided but not defined: --listen-client-url (did you mean --listen-client-urls?)",
        ),
    ),
    args(
        &["--experimental-max-learners=2"],
        OnlyHere(
            "flag provided but not defined: --experimental-max-learners (etcd 3.7 has no --experimental flags any \
             more; --max-learners took its place)",
        ),
    ),
    args(&["word"], More("'word' is not a valid flag", "'word' is not a valid flag; flags begin with --")),
    args(
        &["--name=one", "word"],
        More("'word' is not a valid flag", "'word' is not a valid flag; flags begin with --"),
    ),
    args(&["--name"], More("flag needs an argument: -name", "flag needs an argument: --name")),
    args(
        &["--grpc-keepalive-interval=abc"],
        More(
            "invalid value \"abc\" for flag -grpc-keepalive-interval: parse error",
            "invalid value \"abc\" for flag --grpc-keepalive-interval: it must be a time such as 10s or 1h30m",
        ),
    ),
    args(
        &["--watch-progress-notify-interval", "5"],
        OnlyHere(
            "invalid value \"5\" for flag --watch-progress-notify-interval: it must be a time such as 10s or 1h30m",
        ),
    ),
    args(
        &["--max-txn-ops=-1"],
        More(
            "invalid value \"-1\" for flag -max-txn-ops: parse error",
            "invalid value \"-1\" for flag --max-txn-ops: it must be a whole number from 0 to 4294967295",
        ),
    ),
    args(
        &["--quota-backend-bytes=2GB"],
        More(
            "invalid value \"2GB\" for flag -quota-backend-bytes: parse error",
            "invalid value \"2GB\" for flag --quota-backend-bytes: it must be a whole number",
        ),
    ),
    args(
        &["--pre-vote=maybe"],
        More(
            "invalid boolean value \"maybe\" for -pre-vote: parse error",
            "invalid value \"maybe\" for flag --pre-vote: it must be true or false",
        ),
    ),
    args(
        &["--initial-cluster-state=old"],
        More(
            "invalid value \"old\" for flag -initial-cluster-state: invalid value",
            "invalid value \"old\" for flag --initial-cluster-state: it must be one of new, existing",
        ),
    ),
    args(
        &["--log-level=loud"],
        More(
            "unrecognized level: \"loud\"",
            "invalid value \"loud\" for flag --log-level: it must be one of debug, info, warn, error, dpanic, panic, \
             fatal",
        ),
    ),
    args(
        &["--log-format=xml"],
        OnlyHere("invalid value \"xml\" for flag --log-format: it must be one of json, console"),
    ),
    args(
        &["--log-outputs=/no/such/folder/log"],
        More(
            "open /no/such/folder/log: no such file or directory",
            "cannot open the log file /no/such/folder/log of --log-outputs: No such file or directory (os error 2)",
        ),
    ),
    args(
        &["--metrics=all"],
        OnlyHere("invalid value \"all\" for flag --metrics: it must be one of basic, extensive"),
    ),
];

pub const URLS: &[Mistake] = &[
    args(&[CLIENT], Same("--advertise-client-urls is required when --listen-client-urls is set explicitly")),
    args(
        &["--listen-client-urls=http://example.com:2379", ADVERTISE],
        More(
            "expected IP in URL for binding (http://example.com:2379)",
            "\"http://example.com:2379\": expected IP in URL for binding",
        ),
    ),
    args(
        &["--listen-peer-urls=http://example.com:2380"],
        More(
            "expected IP in URL for binding (http://example.com:2380)",
            "\"http://example.com:2380\": expected IP in URL for binding",
        ),
    ),
    args(
        &["--listen-client-urls=ftp://127.0.0.1:1", ADVERTISE],
        More(
            "invalid value \"ftp://127.0.0.1:1\" for flag -listen-client-urls: URL scheme must be http, https, unix, \
             or unixs: ftp://127.0.0.1:1",
            "invalid value \"ftp://127.0.0.1:1\" for flag --listen-client-urls: \"ftp://127.0.0.1:1\": URL scheme \
             must be http, https, unix, or unixs",
        ),
    ),
    args(
        &["--listen-client-urls=http://127.0.0.1", ADVERTISE],
        More(
            "invalid value \"http://127.0.0.1\" for flag -listen-client-urls: URL address does not have the form \
             \"host:port\": http://127.0.0.1",
            "invalid value \"http://127.0.0.1\" for flag --listen-client-urls: \"http://127.0.0.1\": URL address does \
             not have the form \"host:port\"",
        ),
    ),
    args(
        &["--listen-client-urls=http://127.0.0.1:1/path", ADVERTISE],
        More(
            "invalid value \"http://127.0.0.1:1/path\" for flag -listen-client-urls: URL must not contain a path: \
             http://127.0.0.1:1/path",
            "invalid value \"http://127.0.0.1:1/path\" for flag --listen-client-urls: \"http://127.0.0.1:1/path\": \
             URL must not contain a path",
        ),
    ),
    args(
        &["--listen-client-urls=https://127.0.0.1:1", "--advertise-client-urls=https://127.0.0.1:1"],
        OnlyHere(
            "--listen-client-urls=https://127.0.0.1:1 is refused: TLS comes in a later version of Decklog",
        ),
    ),
];

pub const MEANING: &[Mistake] = &[
    args(
        &["--election-timeout=499"],
        Same("--election-timeout[499ms] should be at least as 5 times as --heartbeat-interval[100ms]"),
    ),
    args(
        &["--heartbeat-interval=250", "--election-timeout=1249"],
        Same("--election-timeout[1249ms] should be at least as 5 times as --heartbeat-interval[250ms]"),
    ),
    args(
        &["--election-timeout=50001"],
        Same("--election-timeout[50001ms] is too long, and should be set less than 50000ms"),
    ),
    args(&["--heartbeat-interval=0"], Same("--heartbeat-interval must be >0 (set to 0ms)")),
    args(&["--election-timeout=0"], Same("--election-timeout must be >0 (set to 0ms)")),
    args(
        &["--name=one", "--initial-cluster=two=http://localhost:2380"],
        More(
            "couldn't find local name \"one\" in the initial cluster configuration",
            "couldn't find local name \"one\" in the initial cluster configuration; add one=<its peer URLs> to \
             --initial-cluster",
        ),
    ),
    args(
        &["--name=one", "--initial-cluster=one=http://127.0.0.1:2390"],
        More(
            "--initial-cluster has one=http://127.0.0.1:2390 but missing from \
             --initial-advertise-peer-urls=http://localhost:2380",
            "--initial-cluster has one=http://127.0.0.1:2390 but missing from \
             --initial-advertise-peer-urls=http://localhost:2380",
        ),
    ),
    args(
        &["--name=one", "--initial-cluster=one=http://localhost:2380,one=http://127.0.0.1:2390"],
        Same(
            "--initial-cluster has one=http://127.0.0.1:2390 but missing from \
             --initial-advertise-peer-urls=http://localhost:2380",
        ),
    ),
    args(
        &[
            "--name=one",
            "--initial-cluster=one=http://localhost:2380",
            "--initial-advertise-peer-urls=http://localhost:2380,http://127.0.0.1:2390",
        ],
        More(
            "--initial-advertise-peer-urls has http://127.0.0.1:2390 but missing from --initial-cluster=",
            "--initial-advertise-peer-urls has http://127.0.0.1:2390 but missing from \
             --initial-cluster=one=http://localhost:2380",
        ),
    ),
    args(
        &["--name=one", "--initial-cluster=one=http://localhost:2380,two=http://localhost:2380"],
        Same("initial cluster one=http://localhost:2380,two=http://localhost:2380 has duplicate url"),
    ),
    args(
        &[
            "--name=one",
            "--initial-cluster-state=existing",
            "--initial-cluster=one=http://localhost:2380,two=http://127.0.0.1:1,two=http://localhost:2380",
        ],
        Same(
            "initial cluster one=http://localhost:2380,two=http://127.0.0.1:1,two=http://localhost:2380 has \
             duplicate url",
        ),
    ),
    args(
        &["--name=one", "--initial-cluster-state=existing", "--initial-cluster=two=http://localhost:2380"],
        More(
            "couldn't find local name \"one\" in the initial cluster configuration",
            "couldn't find local name \"one\" in the initial cluster configuration; add one=<its peer URLs> to \
             --initial-cluster",
        ),
    ),
    args(&["--initial-advertise-peer-urls="], OnlyHere("--initial-advertise-peer-urls must not be empty")),
    args(
        &["--name=one", "--initial-cluster=one=http://localhost:2380,two=https://127.0.0.1:1"],
        OnlyHere("--initial-cluster=https://127.0.0.1:1 is refused: TLS comes in a later version of Decklog"),
    ),
    args(
        &["--name=one", "--initial-cluster=one"],
        More(
            "error setting up initial cluster: URL scheme must be http, https, unix, or unixs: ",
            "--initial-cluster=\"one\" is malformed: it must be name=url, separated by commas",
        ),
    ),
    args(
        &["--initial-cluster=default=http://localhost:2380", "--discovery-srv=example.com"],
        Same(
            "multiple discovery or bootstrap flags are set. Choose one of \"initial-cluster\", \"discovery\" or \
             \"discovery-srv\"",
        ),
    ),
    args(
        &["--auto-compaction-mode=daily", "--auto-compaction-retention=1"],
        More(
            "unknown auto-compaction-mode \"daily\"",
            "unknown auto-compaction-mode \"daily\": it must be periodic or revision",
        ),
    ),
    args(
        &["--auto-compaction-retention=often"],
        More(
            "error parsing CompactionRetention: time: invalid duration \"often\"",
            "error parsing CompactionRetention: \"often\" is neither a number nor a time such as 10h",
        ),
    ),
    args(&["--max-txn-ops=0"], OnlyHere("--max-txn-ops must be >0 (set to 0)")),
    variables(
        &[("ETCD_NAME", "one")],
        &["--name=two"],
        More(
            "conflicting environment variable is shadowed by corresponding command-line flag (either unset \
             environment variable or disable flag))\",\"environment-variable\":\"ETCD_NAME\"",
            "conflicting environment variable \"ETCD_NAME\" is shadowed by corresponding command-line flag --name \
             (either unset environment variable or disable flag)",
        ),
    ),
    variables(
        &[("ETCD_NAME", "one")],
        &["--name=one"],
        More(
            "conflicting environment variable is shadowed by corresponding command-line flag (either unset \
             environment variable or disable flag))\",\"environment-variable\":\"ETCD_NAME\"",
            "conflicting environment variable \"ETCD_NAME\" is shadowed by corresponding command-line flag --name \
             (either unset environment variable or disable flag)",
        ),
    ),
    variables(
        &[("ETCD_LISTEN_CLIENT_URLS", "http://127.0.0.1:1")],
        &[],
        Same("--advertise-client-urls is required when --listen-client-urls is set explicitly"),
    ),
    variables(
        &[("ETCD_ELECTION_TIMEOUT", "soon")],
        &[],
        OnlyHere(
            "invalid value \"soon\" for flag --election-timeout: it must be a whole number from 0 to 4294967295",
        ),
    ),
];

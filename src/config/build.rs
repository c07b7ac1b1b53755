//! From raw values to a `Config`: everything that can be wrong with their meaning is found here.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::values::Values;
use super::{
    AutoCompaction, Config, Error, LimitConfig, ListenConfig, LogConfig, RaftConfig, StorageConfig, Url,
    WarnConfig, duration, member,
};

const DEFAULT_QUOTA_BYTES: u64 = 2 << 30;
/// Above it etcd warns, too.
const LARGE_QUOTA_BYTES: u64 = 8 << 30;
const LARGE_REQUEST_BYTES: u64 = 10 << 20;
const DEFAULT_ROUND_INTERVAL: Duration = Duration::from_millis(100);
const MIN_PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
const MAX_ELECTION_MILLIS: u64 = 50_000;

/// `is_initialised` says whether a data directory holds a member already: its ids then stand, and what describes a
/// first start does not count.
pub fn build(
    mut values: Values,
    notify_socket: Option<String>,
    is_initialised: &dyn Fn(&Path) -> bool,
) -> Result<Config, Error> {
    let several = values.is_given("initial-cluster")
        && (values.is_given("discovery-srv") || values.is_given("discovery-endpoints"));
    if several {
        return Err(Error::SeveralBootstraps);
    }
    let name = values.text("name").to_owned();
    let data_dir = match values.is_given("data-dir") {
        true => PathBuf::from(values.text("data-dir")),
        false => PathBuf::from(format!("{name}.decklog")),
    };
    if is_initialised(&data_dir) {
        values.forget_first_start();
    }
    values.check_uses()?;
    if name == "default" {
        values
            .warnings
            .push("the member has the name \"default\"; --name gives it one of its own".to_owned());
    }
    let wal_dir = Some(values.text("wal-dir")).filter(|path| !path.is_empty()).map(PathBuf::from);
    let listen = listen(&values)?;
    let member = member::build(&values, &name)?;
    let raft = raft(&values)?;
    let limits = limits(&mut values)?;
    Ok(Config {
        member,
        listen,
        raft,
        limits,
        storage: storage(&values)?,
        auto_compaction: auto_compaction(&values)?,
        progress_notify_interval: values
            .duration("watch-progress-notify-interval")
            .max(MIN_PROGRESS_INTERVAL),
        warn: WarnConfig { apply: values.duration("warning-apply-duration") },
        extensive_metrics: choice(&values, "metrics", &["basic", "extensive"])? == "extensive",
        log: log(&values)?,
        notify_socket,
        warnings: values.warnings,
        name,
        data_dir,
        wal_dir,
    })
}

/// One of several words.
pub(super) fn choice(values: &Values, flag: &'static str, choices: &[&str]) -> Result<String, Error> {
    let value = values.text(flag);
    if choices.contains(&value) {
        return Ok(value.to_owned());
    }
    let what = format!("it must be one of {}", choices.join(", "));
    Err(Error::Value { flag, value: value.to_owned(), what })
}

fn positive(values: &Values, flag: &'static str) -> Result<u64, Error> {
    match values.unsigned(flag) {
        0 => Err(Error::NotPositive { flag, value: values.text(flag).to_owned() }),
        number => Ok(number),
    }
}

pub(super) fn http_urls(values: &Values, flag: &'static str) -> Result<Vec<Url>, Error> {
    let urls = values.urls(flag);
    check_schemes(flag, &urls)?;
    Ok(urls)
}

/// Members and clients are spoken to over plain HTTP.
pub(super) fn check_schemes<'a>(
    flag: &'static str,
    urls: impl IntoIterator<Item = &'a Url>,
) -> Result<(), Error> {
    for url in urls {
        let why = match url.scheme() {
            "http" => continue,
            "https" => "TLS comes in a later version of Decklog",
            _ => "unix sockets come in a later version of Decklog",
        };
        return Err(Error::Refused { flag, value: url.to_string(), why });
    }
    Ok(())
}

fn listen(values: &Values) -> Result<ListenConfig, Error> {
    if values.is_given("listen-client-urls") && !values.is_given("advertise-client-urls") {
        return Err(Error::AdvertiseMissing);
    }
    let bound = |flag: &'static str| -> Result<Vec<Url>, Error> {
        let urls = http_urls(values, flag)?;
        for url in &urls {
            url.bind_addresses()?;
        }
        Ok(urls)
    };
    let client = bound("listen-client-urls")?;
    if client.is_empty() {
        return Err(Error::Empty("listen-client-urls"));
    }
    Ok(ListenConfig {
        client,
        peer: bound("listen-peer-urls")?,
        client_http: bound("listen-client-http-urls")?,
        metrics: bound("listen-metrics-urls")?,
        max_concurrent_streams: u32::try_from(positive(values, "max-concurrent-streams")?)
            .unwrap_or(u32::MAX),
        keepalive_interval: values.duration("grpc-keepalive-interval"),
        keepalive_timeout: values.duration("grpc-keepalive-timeout"),
        reuse_port: values.bool("socket-reuse-port"),
    })
}

fn raft(values: &Values) -> Result<RaftConfig, Error> {
    let millis = |flag: &'static str| match values.unsigned(flag) {
        0 => Err(Error::NotPositive { flag, value: "0ms".to_owned() }),
        millis => Ok(millis),
    };
    let (heartbeat, election) = (millis("heartbeat-interval")?, millis("election-timeout")?);
    if election < 5 * heartbeat {
        return Err(Error::ElectionTooShort { election, heartbeat });
    }
    if election > MAX_ELECTION_MILLIS {
        return Err(Error::ElectionTooLong(election));
    }
    Ok(RaftConfig {
        heartbeat: Duration::from_millis(heartbeat),
        election_timeout: Duration::from_millis(election),
        pre_vote: values.bool("pre-vote"),
        skip_first_timeout: values.bool("initial-election-tick-advance"),
        catch_up_entries: values.unsigned("snapshot-catchup-entries"),
    })
}

fn limits(values: &mut Values) -> Result<LimitConfig, Error> {
    let quota_bytes = match values.signed("quota-backend-bytes") {
        0 => Some(DEFAULT_QUOTA_BYTES),
        bytes => u64::try_from(bytes).ok(),
    };
    if quota_bytes.is_some_and(|bytes| bytes > LARGE_QUOTA_BYTES) {
        values.warnings.push("--quota-backend-bytes is above 8 GiB, the largest that is advised".to_owned());
    }
    let request = positive(values, "max-request-bytes")?;
    if request > LARGE_REQUEST_BYTES {
        values.warnings.push("--max-request-bytes is above 10 MiB, the largest that is advised".to_owned());
    }
    let as_size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX);
    let max_txn_ops = as_size(positive(values, "max-txn-ops")?);
    Ok(LimitConfig { max_txn_ops, max_request_bytes: as_size(request), quota_bytes })
}

fn storage(values: &Values) -> Result<StorageConfig, Error> {
    let round_interval = match values.duration("backend-batch-interval") {
        Duration::ZERO => DEFAULT_ROUND_INTERVAL,
        interval => interval,
    };
    Ok(StorageConfig {
        round_interval,
        compaction_batch: usize::try_from(positive(values, "compaction-batch-limit")?).unwrap_or(usize::MAX),
        compaction_pause: values.duration("compaction-sleep-interval"),
    })
}

fn auto_compaction(values: &Values) -> Result<Option<AutoCompaction>, Error> {
    let text = values.text("auto-compaction-retention");
    let wrong = || Error::CompactionRetention(text.to_owned());
    let number = text.parse::<i64>();
    match values.text("auto-compaction-mode") {
        "periodic" => {
            let period = match number {
                Ok(hours) => Duration::from_secs(u64::try_from(hours).unwrap_or(0).saturating_mul(3600)),
                Err(_not_a_number) => duration::parse(text).ok_or_else(wrong)?,
            };
            Ok((!period.is_zero()).then_some(AutoCompaction::Periodic(period)))
        }
        "revision" => match number {
            Ok(keep) => Ok((keep > 0).then_some(AutoCompaction::Revision(keep))),
            Err(_not_a_number) => Err(wrong()),
        },
        mode => Err(Error::CompactionMode(mode.to_owned())),
    }
}

fn log(values: &Values) -> Result<LogConfig, Error> {
    let levels = ["debug", "info", "warn", "error", "dpanic", "panic", "fatal"];
    let outputs = values.text("log-outputs").split(',').map(|output| output.trim().to_owned());
    Ok(LogConfig {
        level: choice(values, "log-level", &levels)?,
        json: choice(values, "log-format", &["json", "console"])? == "json",
        outputs: outputs.filter(|output| !output.is_empty()).collect(),
    })
}

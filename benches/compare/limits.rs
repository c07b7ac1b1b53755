//! What Decklog is held to by itself, whatever etcd does.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::busy::Busy;
use crate::client;
use crate::echo::EchoServer;
use crate::load::Load;
use crate::options::Options;
use crate::report::Case;
use crate::servers::{Cluster, Kind, Programs};
use crate::stopped::Stopped;
use crate::store::{self, QUOTA};
use crate::used::MIB;
use crate::{three, used};

/// Groups of limits; `--only` takes these names.
const BUSY: &str = "busy: puts while something else runs";
const READS: &str = "reads: of a full store";
const STOPPED: &str = "stopped: watchers that stop reading";
const MANY: &str = "many: 1000 clients";
const JOINING: &str = "joining: a new member";
const LARGE: &str = "large: 4 GiB";

const LARGE_FILL: [&str; 4] = ["--keys", "4194304", "--value-size", "1024"];
/// Other keys: these are a byte longer.
const MORE_FILL: [&str; 6] = ["--keys", "2097152", "--value-size", "1024", "--key-size", "25"];
const MORE_KEYS: f64 = 2_097_152.0;
const MORE_KEY_BYTES: f64 = 25.0;
const STOPPED_WATCHERS: usize = 100;
const SAMPLE: Duration = Duration::from_millis(50);
const LOG_AND_STORE: [&str; 2] =
    ["etcd_disk_wal_fsync_duration_seconds_count", "etcd_disk_backend_commit_duration_seconds_count"];

struct Limits<'a> {
    tool: &'a str,
    options: &'a Options,
    cases: Vec<Case>,
}

/// # Errors
/// When a server does not do what it should, or the load tool fails.
pub async fn measure(programs: &Programs, options: &Options) -> Result<Vec<Case>, String> {
    let mut limits = Limits { tool: &programs.decklog, options, cases: Vec::new() };
    let wants = |group: &str| {
        let wanted = options.wants(group);
        if wanted {
            eprintln!("{group}");
        }
        wanted
    };
    if wants(MANY) {
        limits.many().await?;
    }
    if wants(STOPPED) {
        limits.stopped().await?;
    }
    if options.wants(BUSY) || options.wants(READS) {
        let cluster = limits.full().await?;
        if wants(READS) {
            limits.reads(&cluster).await?;
        }
        if wants(BUSY) {
            limits.busy(&cluster).await?;
        }
    }
    if wants(JOINING) {
        limits.joining().await?;
    }
    if options.large && wants(LARGE) {
        limits.large().await?;
    }
    Ok(limits.cases)
}

impl Limits<'_> {
    /// One more value of a row; `at_most` not finite: nothing is asked of it. Told at once: a whole run takes long.
    fn found(&mut self, name: &str, (unit, at_most): (&str, f64), value: f64) {
        eprintln!("    {name}: {value:.3} {unit}");
        let known = self.cases.iter().position(|case| case.name == name);
        let place = known.unwrap_or_else(|| {
            let at_most = at_most.is_finite().then_some(at_most);
            self.cases.push(Case { at_most, ..Case::once(name, unit) });
            self.cases.len() - 1
        });
        self.cases[place].add(Kind::Decklog, json!({"once": value}));
    }

    fn puts(&self, cluster: &Cluster) -> Load {
        let rate = self.options.rate.to_string();
        Load::new(cluster, self.tool, &["put", "--clients", "100", "--rate", &rate])
    }

    /// A fresh member.
    async fn fresh(&self) -> Result<Cluster, String> {
        Cluster::start(self.tool, 1, &[QUOTA]).await
    }

    /// Puts every key, and waits until that is over.
    async fn fill(&self, cluster: &Cluster, keys: u64) -> Result<(), String> {
        Load::new(cluster, self.tool, &["fill", "--clients", "100", "--keys", &keys.to_string()]).run()?;
        used::settle(cluster.first()?.running()?).await
    }

    async fn full(&self) -> Result<Cluster, String> {
        let cluster = self.fresh().await?;
        self.fill(&cluster, self.options.keys).await?;
        Ok(cluster)
    }

    /// Nothing but the puts, for a while.
    async fn alone(&self, cluster: &Cluster) -> Result<Value, String> {
        let while_nothing = async {
            tokio::time::sleep(Duration::from_secs_f64(self.options.seconds)).await;
            Ok(())
        };
        Ok(self.puts(cluster).during(while_nothing).await?.0)
    }

    /// The rows of puts beside something, against those without.
    fn found_beside(&mut self, what: &str, alone: &Value, beside: &Value) {
        let longest = |result: &Value| result["latency_us"]["max"].as_f64().unwrap_or(f64::NAN) / 1e3;
        self.found(&format!("put p99 during {what}, to that alone"), ("", 2.0), p99(beside) / p99(alone));
        self.found(&format!("longest put during {what}"), ("ms", 50.0), longest(beside));
        self.found("put p99 alone", ("ms", f64::NAN), p99(alone) / 1e3);
        self.found("longest put alone", ("ms", 50.0), longest(alone));
    }

    async fn busy(&mut self, cluster: &Cluster) -> Result<(), String> {
        let keys = self.options.keys;
        for _ in 0..self.options.rounds {
            for busy in Busy::ALL {
                let name = busy.name(keys);
                eprintln!("  {name}");
                if busy == Busy::Compaction {
                    self.fill(cluster, keys).await?;
                }
                let alone = self.alone(cluster).await?;
                let running = busy.run(cluster, self.tool, self.options);
                let (beside, took) = self.puts(cluster).during(running).await?;
                self.found(&format!("{name}, beside puts"), ("ms", f64::NAN), took.as_secs_f64() * 1e3);
                self.found_beside(&name, &alone, &beside);
                used::settle(cluster.first()?.running()?).await?;
            }
        }
        Ok(())
    }

    async fn reads(&mut self, cluster: &Cluster) -> Result<(), String> {
        let small = self.fresh().await?;
        self.fill(&small, 1000).await?;
        let keys = self.options.keys.to_string();
        for _ in 0..self.options.rounds {
            let cpu = |cluster: &Cluster, args: &[&str]| {
                let args = [&["range-many", "--clients", "1", "--connections", "1"], args].concat();
                let load = Load::new(cluster, self.tool, &args).seconds(self.options.seconds);
                load.run().and_then(|result| cpu_per_operation(&result))
            };
            let count = cpu(cluster, &["--keys", &keys, "--count-only"])?;
            let page = cpu(cluster, &["--keys", &keys, "--limit", "500"])?;
            let page_again = cpu(cluster, &["--keys", "1000", "--limit", "500"])?;
            let small_page = cpu(&small, &["--keys", "1000", "--limit", "500"])?;
            self.found(&format!("count of {keys} keys, CPU"), ("us", 1000.0), count);
            self.found("page of 500 out of 1000 keys, CPU", ("us", f64::NAN), small_page);
            // The same, but for what two measurements of the same differ by.
            for (which, page) in [("any page", page), ("a page read before", page_again)] {
                let name = format!("{which} of 500 out of {keys} keys, CPU to that out of 1000");
                self.found(&name, ("", 1.1), page / small_page);
            }
        }
        Ok(())
    }

    async fn stopped(&mut self) -> Result<(), String> {
        let name = format!("{STOPPED_WATCHERS} watchers that stop reading");
        for _ in 0..self.options.rounds {
            let cluster = self.fresh().await?;
            let (member, endpoint) = (cluster.first()?.running()?, cluster.first()?.endpoint());
            let channel = client::channel(&endpoint)?;
            // What memory the puts need by themselves is taken before.
            self.alone(&cluster).await?;
            let (before, _) = used::memory_mib(member)?;
            let (alone, highest_alone) = self.puts(&cluster).during(self.highest_memory(member)).await?;
            let (between, _) = used::memory_mib(member)?;
            let from = client::known_revision(&channel).await? + 1;
            let stopped = Stopped::open(endpoint, (STOPPED_WATCHERS, from)).await?;
            let (beside, highest) = self.puts(&cluster).during(self.highest_memory(member)).await?;
            let last = client::known_revision(&channel).await?;
            let began = Instant::now();
            let read = stopped.read_on(last);
            let took = began.elapsed().as_secs_f64() * 1e3;
            if let Err(error) = &read {
                eprintln!("compare: {error}");
            }
            self.found(
                &format!("put p99 beside {name}, to that without"),
                ("", 1.2),
                p99(&beside) / p99(&alone),
            );
            let memory = (highest - between - (highest_alone - before)).max(0.0);
            self.found(&format!("memory for {name}"), ("MiB", 64.0), memory);
            let gaps = f64::from(u8::from(read.is_err()));
            self.found(&format!("gaps for {name}, when they read on"), ("", 0.0), gaps);
            self.found(&format!("time for {name} to read on"), ("ms", f64::NAN), took);
        }
        Ok(())
    }

    /// While the puts run, in MiB.
    async fn highest_memory(&self, pid: u32) -> Result<f64, String> {
        let (mut most, began) = (0.0_f64, Instant::now());
        while began.elapsed().as_secs_f64() < self.options.seconds {
            tokio::time::sleep(SAMPLE).await;
            most = most.max(used::memory_mib(pid)?.0);
        }
        Ok(most)
    }

    async fn many(&mut self) -> Result<(), String> {
        const PUTS: [&str; 5] = ["put", "--clients", "1000", "--connections", "100"];
        for _ in 0..self.options.rounds {
            let cluster = self.fresh().await?;
            let member = cluster.first()?;
            let channel = client::channel(&member.endpoint())?;
            let mut at = Vec::new();
            let mut result = Value::Null;
            for load in [None, Some(Load::new(&cluster, self.tool, &PUTS))] {
                if let Some(load) = load {
                    result = load.seconds(self.options.seconds).run()?;
                }
                let revision = client::known_revision(&channel).await?;
                at.push((member.metrics(&LOG_AND_STORE)?, revision as f64));
            }
            let syncs = (at[1].0 - at[0].0) / (at[1].1 - at[0].1);
            let switches = result["server_context_switches_per_operation"].as_f64().unwrap_or(f64::NAN);
            self.found("flushes of log and store per put, 1000 clients", ("", 0.05), syncs);
            self.found("context switches per put, 1000 clients", ("", 2.0), switches);
            self.found("put, 1000 clients, CPU", ("us", f64::NAN), cpu_per_operation(&result)?);
            drop(cluster);
            let echo = EchoServer::start()?;
            let load = Load::of(self.tool, &PUTS, std::slice::from_ref(&echo.endpoint), &[echo.pid()]);
            let result = load.seconds(self.options.seconds).run()?;
            let name = "tonic alone, which answers such a put with nothing, CPU";
            self.found(name, ("us", f64::NAN), cpu_per_operation(&result)?);
        }
        Ok(())
    }

    async fn joining(&mut self) -> Result<(), String> {
        let cluster = Cluster::start(self.tool, 3, &[three::FLAGS, &[QUOTA]].concat()).await?;
        let leader = three::leader_of(&cluster).await?;
        client::fill(&leader, self.options.keys).await?;
        for pid in cluster.pids() {
            used::settle(pid).await?;
        }
        for _ in 0..self.options.rounds {
            let alone = self.alone(&cluster).await?;
            let joining = three::join_once(&cluster, &leader, self.options.keys);
            let (beside, took) = self.puts(&cluster).during(joining).await?;
            self.found_beside("a snapshot to a new member", &alone, &beside);
            self.found("new member in sync, beside puts", ("ms", f64::NAN), took.as_secs_f64() * 1e3);
        }
        Ok(())
    }

    async fn large(&mut self) -> Result<(), String> {
        let mut cluster = self.fresh().await?;
        let [resident, highest, _, _, cpu, _] = store::of_full(&mut cluster, self.tool, &LARGE_FILL).await?;
        self.found("4 Mi keys x 1 KiB: resident memory after the load", ("MiB", 1536.0), resident);
        self.found("4 Mi keys x 1 KiB: highest resident memory", ("MiB", 1536.0), highest);
        self.found("4 Mi keys x 1 KiB: restart, CPU", ("ms", 10_000.0), cpu);
        Load::new(&cluster, self.tool, &[&["fill", "--clients", "100"], &MORE_FILL[..]].concat()).run()?;
        let member = cluster.first()?.running()?;
        used::settle(member).await?;
        let (with_more, highest) = used::memory_mib(member)?;
        self.found("2 Mi keys x 1 KiB more: highest resident memory", ("MiB", 1536.0), highest);
        let per_key = (with_more - resident) * MIB / MORE_KEYS - MORE_KEY_BYTES;
        self.found("resident memory for each of those beside its own bytes", ("bytes", f64::NAN), per_key);
        Ok(())
    }
}

fn cpu_per_operation(result: &Value) -> Result<f64, String> {
    result["server_cpu_us_per_operation"].as_f64().ok_or_else(|| "no CPU time".to_owned())
}

fn p99(result: &Value) -> f64 {
    result["latency_us"]["p99"].as_f64().unwrap_or(f64::NAN)
}

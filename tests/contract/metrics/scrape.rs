//! Reads `/metrics`: Prometheus' text form, as far as these tests need it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::path::Path;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::servers::Server;

/// A server that tells its metrics on a port of their own.
pub struct Measured {
    pub server: Server,
    address: String,
}

impl Measured {
    pub async fn start(program: &Path, more_flags: &[&str]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free loopback port");
        let address = listener.local_addr().expect("a bound address").to_string();
        drop(listener);
        let metrics = format!("--listen-metrics-urls=http://{address}");
        let server = Server::start(program, &[more_flags, &[metrics.as_str()]].concat()).await;
        Self { server, address }
    }

    pub async fn decklog(more_flags: &[&str]) -> Self {
        Self::start(env!("CARGO_BIN_EXE_decklog").as_ref(), more_flags).await
    }

    /// The answer to GET, with its head.
    pub async fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).await.expect("the server listens");
        let request = format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.address);
        stream.write_all(request.as_bytes()).await.expect("the server reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("the server answers");
        answer
    }
}

type Labels = BTreeMap<String, String>;

/// One metric with its time series.
#[derive(Default)]
pub struct Metric {
    pub kind: String,
    /// Labels (without those of a histogram's buckets) with the value: of a histogram, how much was observed.
    pub series: Vec<(Labels, f64)>,
    sums: Vec<(Labels, f64)>,
    bounds: BTreeSet<String>,
}

impl Metric {
    /// Names of the labels, sorted.
    pub fn labels(&self) -> Vec<&str> {
        self.series.first().map_or(Vec::new(), |(labels, _)| labels.keys().map(String::as_str).collect())
    }

    /// Upper bounds of a histogram's buckets, without the last, which has none.
    pub fn buckets(&self) -> Vec<f64> {
        let finite = self.bounds.iter().filter(|bound| *bound != "+Inf");
        let mut bounds: Vec<f64> = finite.map(|bound| bound.parse().expect("a number")).collect();
        bounds.sort_by(f64::total_cmp);
        bounds
    }
}

/// Everything that a server told at one time.
#[derive(Default)]
pub struct Scrape {
    pub metrics: BTreeMap<String, Metric>,
}

impl Scrape {
    pub async fn of(measured: &Measured) -> Self {
        let answer = measured.get("/metrics").await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("an HTTP answer");
        assert!(head.starts_with("HTTP/1.0 200 OK"), "{head}");
        Self::parse(body)
    }

    pub fn parse(text: &str) -> Self {
        let mut scrape = Self::default();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect("a name and a type");
                scrape.metrics.entry(name.to_owned()).or_default().kind = kind.to_owned();
            } else if !line.starts_with('#') {
                scrape.sample(line);
            }
        }
        scrape
    }

    fn sample(&mut self, line: &str) {
        let (series, value) = line.rsplit_once(' ').expect("a series and a value");
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let mut labels = parse_labels(labels.strip_suffix('}').expect("braces are closed"));
        let value: f64 = value.parse().expect("a number");
        if let Some(metric) = self.metrics.get_mut(name) {
            metric.series.push((labels, value));
            return;
        }
        let (base, part) = name.rsplit_once('_').expect("a part of a histogram");
        let metric = self.metrics.get_mut(base).unwrap_or_else(|| panic!("{name} has no type"));
        match part {
            "bucket" => drop(metric.bounds.insert(labels.remove("le").expect("a bound"))),
            "sum" => metric.sums.push((labels, value)),
            _ => metric.series.push((labels, value)),
        }
    }

    /// The value of the series with exactly these labels; of a histogram, how much was observed.
    pub fn value(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.find(name, labels).unwrap_or_else(|| panic!("there is no {name} with {labels:?}"))
    }

    /// The same, if it is shown.
    pub fn find(&self, name: &str, labels: &[(&str, &str)]) -> Option<f64> {
        find(&self.metrics.get(name)?.series, labels)
    }

    /// The sum of what a histogram without labels observed.
    pub fn sum(&self, name: &str) -> f64 {
        let metric = self.metrics.get(name).unwrap_or_else(|| panic!("there is no {name}"));
        find(&metric.sums, &[]).unwrap_or_else(|| panic!("{name} is no histogram without labels"))
    }

    /// Every series of a metric by its labels, as text; nothing when it is not shown.
    pub fn all(&self, name: &str) -> BTreeMap<String, f64> {
        let series = self.metrics.get(name).map_or(&[][..], |metric| &metric.series);
        series.iter().map(|(labels, value)| (format!("{labels:?}"), *value)).collect()
    }
}

fn find(series: &[(Labels, f64)], labels: &[(&str, &str)]) -> Option<f64> {
    let wanted: Labels = labels.iter().map(|(key, value)| ((*key).into(), (*value).into())).collect();
    series.iter().find(|(labels, _)| *labels == wanted).map(|(_, value)| *value)
}

/// `a="1",b="2"`; no value here has a quote in it.
fn parse_labels(text: &str) -> Labels {
    let pairs = text.split("\",").filter(|pair| !pair.is_empty());
    let pair = |pair: &str| {
        let (key, value) = pair.split_once("=\"").unwrap_or_else(|| panic!("{pair} is no label"));
        (key.to_owned(), value.trim_end_matches('"').to_owned())
    };
    pairs.map(pair).collect()
}

//! The HTTP endpoints: health, version, metrics; paths, bodies and codes as etcd has them.

use http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use serde_json::json;

use super::dispatch::HttpScope;
use crate::alarm::Alarms;
use crate::consensus::Handle;
use crate::ids::MemberId;
use crate::metrics::{Metrics, Sample};
use crate::mvcc::Reader;
use crate::rpc::ClientError;
use crate::version::{CLUSTER_VERSION, DECKLOG_VERSION, ETCD_VERSION};
use crate::wire::etcdserverpb::{AlarmType, RangeRequest};

pub(super) type Answer = Response<Full<bytes::Bytes>>;

const LIVE_CHECKS: &[Check] = &[Check::SerializableRead];
const READY_CHECKS: &[Check] =
    &[Check::DataCorruption, Check::SerializableRead, Check::LinearizableRead, Check::NonLearner];

/// What the endpoints look at. Cheap to clone.
#[derive(Clone)]
pub struct HttpEndpoints {
    pub consensus: Handle,
    pub reader: Reader,
    pub alarms: Alarms,
    pub metrics: Metrics,
    pub sample: Sample,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Check {
    DataCorruption,
    SerializableRead,
    LinearizableRead,
    NonLearner,
}

impl Check {
    fn name(self) -> &'static str {
        match self {
            Self::DataCorruption => "data_corruption",
            Self::SerializableRead => "serializable_read",
            Self::LinearizableRead => "linearizable_read",
            Self::NonLearner => "non_learner",
        }
    }
}

/// A query string's parameters, as far as these endpoints need them.
struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    fn values(&self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let pairs = self.0.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs.filter(move |(key, _)| *key == name).map(|(_, value)| value)
    }

    fn has(&self, name: &'a str) -> bool {
        self.values(name).next().is_some()
    }
}

impl HttpEndpoints {
    pub async fn answer<B>(&self, request: &Request<B>, scope: HttpScope) -> Answer {
        let mut answer = self.route(request, scope).await;
        let cors: [(&str, &str); 3] = [
            ("access-control-allow-headers", "accept, content-type, authorization"),
            ("access-control-allow-methods", "POST, GET, OPTIONS, PUT, DELETE"),
            ("access-control-allow-origin", "*"),
        ];
        if scope == HttpScope::All {
            for (name, value) in cors {
                answer.headers_mut().insert(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
        }
        answer
    }

    async fn route<B>(&self, request: &Request<B>, scope: HttpScope) -> Answer {
        let query = Query(request.uri().query().unwrap_or_default());
        let path = request.uri().path();
        if scope == HttpScope::None {
            return not_found();
        }
        if scope == HttpScope::All && request.method() == Method::OPTIONS {
            // Browsers ask so whether they may ask; etcd says yes to every path.
            return Response::new(Full::default());
        }
        if path == "/metrics" {
            return self.metrics();
        }
        let is_known = matches!(path, "/health" | "/livez" | "/readyz")
            || (scope == HttpScope::All && path == "/version")
            || self.single(path).is_some();
        if !is_known {
            return not_found();
        }
        if request.method() != Method::GET {
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
            return answer;
        }
        match path {
            "/version" => version(),
            "/health" => self.health(&query).await,
            "/livez" => self.checks("livez", LIVE_CHECKS, &query).await,
            "/readyz" => self.checks("readyz", READY_CHECKS, &query).await,
            _ => match self.single(path) {
                Some((kind, check)) => {
                    self.checks(kind, &[check], &Query(if query.has("verbose") { "verbose" } else { "" }))
                        .await
                }
                None => not_found(),
            },
        }
    }

    /// The one check that a path such as `/readyz/non_learner` names.
    fn single(&self, path: &str) -> Option<(&'static str, Check)> {
        let (kind, checks, name) = match path.strip_prefix("/livez/") {
            Some(name) => ("livez", LIVE_CHECKS, name),
            None => ("readyz", READY_CHECKS, path.strip_prefix("/readyz/")?),
        };
        checks.iter().find(|check| check.name() == name).map(|check| (kind, *check))
    }

    fn metrics(&self) -> Answer {
        self.sample.take(&self.metrics);
        match self.metrics.text() {
            Ok(text) => {
                let mut answer = Response::new(Full::new(text.into()));
                let kind = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
                answer.headers_mut().insert(CONTENT_TYPE, kind);
                answer
            }
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &format!("{error}\n")),
        }
    }

    /// The older health endpoint, with its own words.
    async fn health(&self, query: &Query<'_>) -> Answer {
        let excluded: Vec<&str> = query.values("exclude").collect();
        let serializable = query.values("serializable").any(|value| value == "true");
        let reason = self.unhealthy(&excluded, serializable).await;
        let body = json!({"health": if reason.is_none() { "true" } else { "false" }, "reason": reason.clone().unwrap_or_default()});
        match reason {
            None => {
                self.metrics.health_successes.inc();
                text(StatusCode::OK, &body.to_string())
            }
            Some(reason) => {
                self.metrics.health_failures.inc();
                tracing::warn!(%reason, "serving /health false");
                plain(StatusCode::SERVICE_UNAVAILABLE, &format!("{body}\n"))
            }
        }
    }

    async fn unhealthy(&self, excluded: &[&str], serializable: bool) -> Option<String> {
        for alarm in self.alarms.list(AlarmType::None) {
            let name = alarm.alarm().as_str_name();
            if !excluded.contains(&name) {
                return Some(format!("ALARM {name}"));
            }
        }
        if !serializable && self.consensus.status().leader == MemberId(0) {
            return Some("RAFT NO LEADER".to_owned());
        }
        let check = if serializable { Check::SerializableRead } else { Check::LinearizableRead };
        self.run(check).await.err().map(|error| format!("RANGE ERROR:{error}"))
    }

    async fn checks(&self, kind: &str, checks: &[Check], query: &Query<'_>) -> Answer {
        let excluded: Vec<&str> = query.values("exclude").collect();
        let mut lines = String::new();
        let mut failed = false;
        for check in checks.iter().filter(|check| !excluded.contains(&check.name())) {
            let name = check.name();
            let result = self.run(*check).await;
            let status = if result.is_ok() { "success" } else { "error" };
            self.metrics.health_checks.with_label_values(&[kind, name, status]).inc();
            self.metrics.health_check.with_label_values(&[kind, name]).set(i64::from(result.is_ok()));
            match result {
                Ok(()) => lines += &format!("[+]{name} ok\n"),
                Err(reason) => {
                    lines += &format!("[-]{name} failed: {reason}\n");
                    failed = true;
                }
            }
        }
        if failed {
            tracing::warn!(%kind, checks = %lines.trim_end(), "health check failed");
            // With the empty line that etcd's has.
            return plain(StatusCode::SERVICE_UNAVAILABLE, &format!("{lines}\n"));
        }
        let verbose = if query.has("verbose") { lines.as_str() } else { "" };
        plain(StatusCode::OK, &format!("{verbose}ok\n"))
    }

    async fn run(&self, check: Check) -> Result<(), String> {
        match check {
            Check::DataCorruption if self.alarms.is_active(AlarmType::Corrupt) => {
                Err("alarm activated: CORRUPT".to_owned())
            }
            Check::DataCorruption => Ok(()),
            Check::NonLearner if self.consensus.status().is_learner => {
                Err("the member is a learner".to_owned())
            }
            Check::NonLearner => Ok(()),
            Check::SerializableRead => self.read(),
            Check::LinearizableRead => {
                let barrier = self.consensus.read_barrier().await;
                barrier.map_err(|error| ClientError::from(error).text().to_owned())?;
                self.read()
            }
        }
    }

    fn read(&self) -> Result<(), String> {
        let request = RangeRequest { key: bytes::Bytes::from_static(b"a"), limit: 1, ..Default::default() };
        self.reader.snapshot().range(&request).map(drop).map_err(|error| error.to_string())
    }
}

pub(super) fn version() -> Answer {
    let body = json!({
        "etcdserver": ETCD_VERSION,
        "etcdcluster": CLUSTER_VERSION,
        "storage": CLUSTER_VERSION,
        "decklog": DECKLOG_VERSION,
    });
    let mut answer = text(StatusCode::OK, &body.to_string());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

fn not_found() -> Answer {
    plain(StatusCode::NOT_FOUND, "404 page not found\n")
}

pub(super) fn plain(status: StatusCode, body: &str) -> Answer {
    let mut answer = text(status, body);
    let name = HeaderName::from_static("x-content-type-options");
    answer.headers_mut().insert(name, HeaderValue::from_static("nosniff"));
    answer
}

pub(super) fn text(status: StatusCode, body: &str) -> Answer {
    let mut answer = Response::new(Full::new(body.to_owned().into()));
    *answer.status_mut() = status;
    let kind = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

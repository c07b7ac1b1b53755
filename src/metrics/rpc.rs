//! Counters per RPC, found once per call by the method's place in a table, never by its name's hash.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use prometheus::{Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, Opts, Registry};
use tonic::Code;

use crate::wire::RPCS;

/// How the messages of an RPC go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RpcKind {
    Unary,
    ServerStream,
    BidiStream,
}

/// Codes of gRPC, OK to Unauthenticated.
const CODES: usize = 17;

/// The counters of one RPC.
pub struct Rpc {
    pub service: &'static str,
    pub kind: RpcKind,
    pub started: IntCounter,
    pub received: IntCounter,
    pub sent: IntCounter,
    handled: Vec<IntCounter>,
    seconds: Option<Histogram>,
}

impl Rpc {
    /// The call has ended with this code after this time.
    pub fn ended(&self, code: Code, took: Duration) {
        let place = usize::try_from(i32::from(code)).unwrap_or(CODES).min(CODES - 1);
        self.handled[place].inc();
        if let Some(seconds) = &self.seconds {
            seconds.observe(took.as_secs_f64());
        }
    }
}

/// The counters of all RPCs, by path.
pub struct RpcMetrics {
    rpcs: HashMap<String, Arc<Rpc>>,
}

impl RpcMetrics {
    pub(super) fn new(registry: &Registry, extensive: bool) -> Self {
        let vectors = Vectors::new(registry, extensive);
        let mut rpcs = HashMap::new();
        for (service, method, kind) in methods() {
            rpcs.insert(format!("/{service}/{method}"), Arc::new(vectors.rpc(service, method, kind)));
        }
        Self { rpcs }
    }

    /// The counters of the RPC with this path; `None` when there is no such RPC.
    pub fn find(&self, path: &str) -> Option<Arc<Rpc>> {
        self.rpcs.get(path).cloned()
    }

    /// Whether a service of this name has any RPC.
    pub fn has_service(&self, service: &str) -> bool {
        methods().any(|(name, _, _)| name == service)
    }
}

struct Vectors {
    started: IntCounterVec,
    handled: IntCounterVec,
    received: IntCounterVec,
    sent: IntCounterVec,
    seconds: Option<HistogramVec>,
}

impl Vectors {
    fn new(registry: &Registry, extensive: bool) -> Self {
        let labels = ["grpc_type", "grpc_service", "grpc_method"];
        let counter = |name: &str, help: &str, labels: &[&str]| {
            let vector = IntCounterVec::new(Opts::new(name, help), labels).expect("constant names");
            registry.register(Box::new(vector.clone())).expect("each name stands here once");
            vector
        };
        let with_code = ["grpc_type", "grpc_service", "grpc_method", "grpc_code"];
        let seconds = extensive.then(|| {
            let options = HistogramOpts::new("grpc_server_handling_seconds", "RPCs from start to end");
            let vector = HistogramVec::new(options, &labels).expect("constant names");
            registry.register(Box::new(vector.clone())).expect("each name stands here once");
            vector
        });
        Self {
            started: counter("grpc_server_started_total", "RPCs begun", &labels),
            handled: counter("grpc_server_handled_total", "RPCs ended, by code", &with_code),
            received: counter("grpc_server_msg_received_total", "Messages received", &labels),
            sent: counter("grpc_server_msg_sent_total", "Messages sent", &labels),
            seconds,
        }
    }

    fn rpc(&self, service: &'static str, method: &str, kind: RpcKind) -> Rpc {
        let labels = [type_name(kind), service, method];
        let handled = (0..CODES).map(|code| {
            let code = Code::from_i32(i32::try_from(code).unwrap_or_default());
            self.handled.with_label_values(&[labels[0], service, method, code_name(code)])
        });
        Rpc {
            service,
            kind,
            started: self.started.with_label_values(&labels),
            received: self.received.with_label_values(&labels),
            sent: self.sent.with_label_values(&labels),
            handled: handled.collect(),
            seconds: self.seconds.as_ref().map(|seconds| seconds.with_label_values(&labels)),
        }
    }
}

/// Every RPC of `proto/`.
fn methods() -> impl Iterator<Item = (&'static str, &'static str, RpcKind)> {
    let kind = |client_streams, server_streams| match (client_streams, server_streams) {
        (true, _) => RpcKind::BidiStream,
        (false, true) => RpcKind::ServerStream,
        (false, false) => RpcKind::Unary,
    };
    RPCS.iter().map(move |(service, method, client, server)| (*service, *method, kind(*client, *server)))
}

fn type_name(kind: RpcKind) -> &'static str {
    match kind {
        RpcKind::Unary => "unary",
        RpcKind::ServerStream => "server_stream",
        RpcKind::BidiStream => "bidi_stream",
    }
}

/// The names that Go's gRPC gives its codes.
fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "Canceled",
        Code::Unknown => "Unknown",
        Code::InvalidArgument => "InvalidArgument",
        Code::DeadlineExceeded => "DeadlineExceeded",
        Code::NotFound => "NotFound",
        Code::AlreadyExists => "AlreadyExists",
        Code::PermissionDenied => "PermissionDenied",
        Code::ResourceExhausted => "ResourceExhausted",
        Code::FailedPrecondition => "FailedPrecondition",
        Code::Aborted => "Aborted",
        Code::OutOfRange => "OutOfRange",
        Code::Unimplemented => "Unimplemented",
        Code::Internal => "Internal",
        Code::Unavailable => "Unavailable",
        Code::DataLoss => "DataLoss",
        Code::Unauthenticated => "Unauthenticated",
    }
}

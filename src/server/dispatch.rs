//! One request to one handler: by path, without a router. gRPC on HTTP/2, everything else to `http`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, Version};
use hyper::body::Incoming;
use tokio::sync::watch;
use tonic::Status;
use tower_service::Service;

use super::body::{Answered, RequestBody, ResponseBody};
use super::http::HttpEndpoints;
use super::in_flight::InFlight;
use super::long_body::LongBody;
use super::peer_http::PeerEndpoints;
use super::unary::{self, Unary};
use super::until::Until;
use crate::consensus::Handle;
use crate::ids::MemberId;
use crate::metrics::{Metrics, Rpc, RpcKind};
use crate::peers::PeerService;
use crate::rpc::{self, ClientError};
use crate::wire::etcdserverpb::auth_server::AuthServer;
use crate::wire::etcdserverpb::cluster_server::ClusterServer;
use crate::wire::etcdserverpb::kv_server::KvServer;
use crate::wire::etcdserverpb::lease_server::LeaseServer;
use crate::wire::etcdserverpb::maintenance_server::MaintenanceServer;
use crate::wire::etcdserverpb::watch_server::WatchServer;
use crate::wire::health::health_server::HealthServer;
use crate::wire::peer::peer_server::PeerServer;
use crate::wire::v3electionpb::election_server::ElectionServer;
use crate::wire::v3lockpb::lock_server::LockServer;

/// Room for the rest of a message beside the request that `--max-request-bytes` limits, as in etcd.
const MESSAGE_OVERHEAD_BYTES: usize = 512 << 10;
const PEER_SERVICE: &str = "/decklogpeer.Peer/";
/// A stream of the server that only the client ends.
const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";
/// Distinct client versions that are counted; the rest counts together.
const MAX_CLIENT_VERSIONS: usize = 32;

/// Everything that answers gRPC. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    /// For the calls that need no tonic.
    pub plain_kv: Arc<rpc::KvService>,
    pub kv: KvServer<rpc::KvService>,
    pub watch: WatchServer<rpc::WatchService>,
    pub lease: LeaseServer<rpc::LeaseService>,
    pub cluster: ClusterServer<rpc::ClusterService>,
    pub maintenance: MaintenanceServer<rpc::MaintenanceService>,
    pub auth: AuthServer<rpc::AuthService>,
    pub lock: LockServer<rpc::LockService>,
    pub election: ElectionServer<rpc::ElectionService>,
    pub health: HealthServer<rpc::HealthService>,
}

/// The services that have something behind them.
pub struct ServiceParts {
    pub kv: rpc::KvService,
    pub watch: rpc::WatchService,
    pub lease: rpc::LeaseService,
    pub cluster: rpc::ClusterService,
    pub maintenance: rpc::MaintenanceService,
    pub auth: rpc::AuthService,
}

impl Services {
    /// Messages are limited where they are framed, with the text of Go's gRPC.
    pub fn new(parts: ServiceParts) -> Self {
        let ServiceParts { kv, watch, lease, cluster, maintenance, auth } = parts;
        let plain_kv = Arc::new(kv);
        Self {
            kv: KvServer::from_arc(plain_kv.clone()).max_decoding_message_size(usize::MAX),
            plain_kv,
            watch: WatchServer::new(watch).max_decoding_message_size(usize::MAX),
            lease: LeaseServer::new(lease),
            cluster: ClusterServer::new(cluster),
            maintenance: MaintenanceServer::new(maintenance),
            auth: AuthServer::new(auth),
            lock: LockServer::new(rpc::LockService),
            election: ElectionServer::new(rpc::ElectionService),
            health: HealthServer::new(rpc::HealthService),
        }
    }
}

impl Serves {
    /// Serves also what another URL of the same address asks for.
    pub fn add(&mut self, other: Self) {
        self.grpc |= other.grpc;
        self.peer |= other.peer;
        self.http = self.http.max(other.http);
    }
}

/// What a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serves {
    /// The services for clients.
    pub grpc: bool,
    pub http: HttpScope,
    /// The service for the other members.
    pub peer: bool,
}

/// Which HTTP endpoints a listener has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum HttpScope {
    None,
    /// Metrics and health alone: `--listen-metrics-urls`.
    Metrics,
    All,
}

/// See the module. One for the whole server, shared.
pub struct Dispatcher {
    pub services: Services,
    pub http: HttpEndpoints,
    pub peer_http: PeerEndpoints,
    pub metrics: Metrics,
    pub consensus: Handle,
    pub peer: PeerServer<PeerService>,
    pub in_flight: InFlight,
    pub max_request_bytes: usize,
    /// Becomes true when the server stops.
    pub stopping: watch::Receiver<bool>,
    /// True while there has been no leader for long.
    pub leaderless: watch::Receiver<bool>,
}

impl Dispatcher {
    pub async fn call(
        self: Arc<Self>,
        request: Request<Incoming>,
        serves: Serves,
    ) -> Result<Response<ResponseBody>, Infallible> {
        if serves.peer && is_grpc(&request) && request.uri().path().starts_with(PEER_SERVICE) {
            let Ok(response) = self.peer.clone().call(request.map(tonic::body::Body::new)).await;
            return Ok(response.map(ResponseBody::uncounted));
        }
        if serves.grpc && is_grpc(&request) {
            return Ok(self.grpc(request).await);
        }
        if serves.peer
            && let Some(answer) = self.peer_http.answer(&request)
        {
            return Ok(ResponseBody::of_http(answer));
        }
        let _guard = self.in_flight.enter();
        Ok(ResponseBody::of_http(self.http.answer(&request, serves.http).await))
    }

    async fn grpc(&self, request: Request<Incoming>) -> Response<ResponseBody> {
        let path = request.uri().path();
        let Some(rpc) = self.metrics.rpcs().find(path) else {
            return self.refuse(&unknown(path, &self.metrics));
        };
        rpc.started.inc();
        let has_no_end = rpc.kind == RpcKind::BidiStream || path == HEALTH_WATCH;
        let guard = if has_no_end { InFlight::uncounted() } else { self.in_flight.enter() };
        let answered = Answered {
            metrics: self.metrics.clone(),
            rpc: rpc.clone(),
            began: Instant::now(),
            _guard: guard,
        };
        // In etcd's order.
        let checked = self.check_learner(path).and_then(|()| self.check_metadata(&request, &rpc));
        if let Err(status) = checked {
            answered.ended_with(status.code());
            return self.refuse(&status);
        }
        let ends = self.ends(has_no_end, wants_leader(&request));
        let max_message_bytes = self.max_request_bytes + MESSAGE_OVERHEAD_BYTES;
        let request = request.map(|body| {
            let mut body = RequestBody::new(body, &rpc, &self.metrics, max_message_bytes);
            for (end, _) in &ends {
                body.end_when(Until::new(end.clone()));
            }
            body
        });
        let request = match unary::call(&self.services.plain_kv, request).await {
            Unary::NotPlain(request) => request.map(tonic::body::Body::new),
            Unary::Answered(Ok(reply)) => return ResponseBody::of_reply(reply, answered),
            Unary::Answered(Err(status)) => {
                answered.ended_with(status.code());
                return self.refuse(&status);
            }
        };
        let response = self.call_service(rpc.service, request).await;
        let (mut parts, body) = response.into_parts();
        let body = match parts.extensions.remove() {
            Some(answer) => LongBody::of(answer),
            None => body,
        };
        let mut body = ResponseBody::grpc(body, &parts.headers, answered);
        for (end, says) in ends {
            body.stop_when(Until::new(end), says);
        }
        Response::from_parts(parts, body)
    }

    /// What ends a call from here, and in which words.
    fn ends(&self, has_no_end: bool, wants_leader: bool) -> Vec<(watch::Receiver<bool>, ClientError)> {
        if !has_no_end {
            return Vec::new();
        }
        let stop = (self.stopping.clone(), ClientError::Stopped);
        let loss = wants_leader.then(|| (self.leaderless.clone(), ClientError::NoLeader));
        std::iter::once(stop).chain(loss).collect()
    }

    /// What a learner answers: its status, and reads that need no leader (the rest of ranges the service refuses). As in
    /// etcd it refuses all else, also of other services.
    fn check_learner(&self, path: &str) -> Result<(), Status> {
        const ANSWERED: [&str; 3] = [
            "/etcdserverpb.Maintenance/Status",
            "/etcdserverpb.Maintenance/Snapshot",
            "/etcdserverpb.KV/Range",
        ];
        let is_refused = !ANSWERED.contains(&path) && self.consensus.status().is_learner;
        if is_refused { Err(ClientError::NotSupportedForLearner.into()) } else { Ok(()) }
    }

    async fn call_service(
        &self,
        service: &str,
        request: Request<tonic::body::Body>,
    ) -> Response<tonic::body::Body> {
        macro_rules! answer {
            ($service:ident) => {{
                let Ok(response) = self.services.$service.clone().call(request).await;
                response
            }};
        }
        match service {
            "etcdserverpb.KV" => answer!(kv),
            "etcdserverpb.Watch" => answer!(watch),
            "etcdserverpb.Lease" => answer!(lease),
            "etcdserverpb.Cluster" => answer!(cluster),
            "etcdserverpb.Maintenance" => answer!(maintenance),
            "etcdserverpb.Auth" => answer!(auth),
            "v3lockpb.Lock" => answer!(lock),
            "v3electionpb.Election" => answer!(election),
            "grpc.health.v1.Health" => answer!(health),
            service => Status::unimplemented(format!("unknown service {service}")).into_http(),
        }
    }

    /// What every call may carry beside its message.
    fn check_metadata(&self, request: &Request<Incoming>, rpc: &Rpc) -> Result<(), Status> {
        let version = match request.headers().get("client-api-version") {
            None => "unknown",
            Some(value) => std::str::from_utf8(value.as_bytes()).map_err(|error| {
                tracing::debug!(%error, "a client states a version that is no text");
                Status::from(ClientError::InvalidClientAPIVersion)
            })?,
        };
        self.metrics.count_client(rpc.kind, version, MAX_CLIENT_VERSIONS);
        if wants_leader(request) && self.consensus.status().leader == MemberId(0) {
            return Err(ClientError::NoLeader.into());
        }
        Ok(())
    }

    fn refuse(&self, status: &Status) -> Response<ResponseBody> {
        let response = status.clone().into_http::<tonic::body::Body>();
        let (parts, _) = response.into_parts();
        Response::from_parts(parts, ResponseBody::Http(http_body_util::Full::default()))
    }
}

fn wants_leader(request: &Request<Incoming>) -> bool {
    request.headers().get("hasleader").is_some_and(|value| value == "true")
}

fn is_grpc(request: &Request<Incoming>) -> bool {
    let content_type = request.headers().get(CONTENT_TYPE);
    request.version() == Version::HTTP_2
        && request.method() == Method::POST
        && content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// What Go's gRPC says of a path that leads nowhere.
fn unknown(path: &str, metrics: &Metrics) -> Status {
    match path.strip_prefix('/').and_then(|path| path.rsplit_once('/')) {
        Some((service, method)) if metrics.rpcs().has_service(service) => {
            Status::unimplemented(format!("unknown method {method} for service {service}"))
        }
        Some((service, _)) => Status::unimplemented(format!("unknown service {service}")),
        None => Status::unimplemented(format!("malformed method name: {path:?}")),
    }
}

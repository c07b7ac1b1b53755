//! Leases with a key each, kept alive for a while and then revoked or left to run out. While one holds, neither it nor
//! its key may go.

use std::sync::Arc;
use std::time::Duration;

use decklog::wire::etcdserverpb as pb;
use decklog::wire::etcdserverpb::kv_client::KvClient;
use decklog::wire::etcdserverpb::lease_client::LeaseClient;
use rand::Rng;
use rand::rngs::SmallRng;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::checker::history::Request;
use crate::let_pass;
use crate::recorder::{Ends, Recorder};

const TTL_SECONDS: i64 = 2;
const BETWEEN: Duration = Duration::from_millis(150);
const LIMIT: Duration = Duration::from_secs(60);

pub struct LeaseLoad {
    pub ends: Ends,
    pub kv: KvClient<Channel>,
    pub lease: LeaseClient<Channel>,
    pub random: SmallRng,
    pub recorder: Arc<Recorder>,
    pub granted: i64,
}

impl LeaseLoad {
    pub async fn run(mut self) {
        let mut left = Vec::new();
        while !self.recorder.is_over() {
            self.granted += 1;
            let id = i64::try_from(self.ends.client).expect("few clients") * 1000 + self.granted;
            // What is left may run out, or have been made although nobody said so.
            left.push(id);
            if let Err(_noted) = self.one_lease(id).await {
                let_pass(BETWEEN).await;
            }
        }
        let all_gone = tokio::time::timeout(LIMIT, async {
            for id in left {
                while self.revoke(id).await.is_err_and(|status| status.code() != Code::NotFound) {
                    let_pass(BETWEEN).await;
                }
            }
        });
        assert!(all_gone.await.is_ok(), "leases cannot be revoked");
    }

    async fn one_lease(&mut self, id: i64) -> Result<(), Status> {
        let asked_ns = self.recorder.now_ns();
        let request = pb::LeaseGrantRequest { id, ttl: TTL_SECONDS };
        let asked = Request::LeaseGrant { id, ttl_seconds: TTL_SECONDS };
        let granted = self.recorder.ask(self.ends, asked, self.lease.lease_grant(request)).await?;
        let mut holds_until_ns = until(asked_ns, granted.ttl);
        let key = format!("lease-{id}");
        let put = pb::PutRequest { key: key.clone().into(), lease: id, ..pb::PutRequest::default() };
        let put = self.recorder.ask(self.ends, (&put).into(), self.kv.put(put)).await;
        if let Err(status) = put {
            self.must_hold(status.code() != Code::NotFound, id, holds_until_ns);
            return Err(status);
        }
        for _ in 0..self.random.random_range(0..20) {
            let_pass(BETWEEN).await;
            let asked_ns = self.recorder.now_ns();
            let ttl = self.keep_alive(id).await?;
            self.must_hold(ttl > 0, id, holds_until_ns);
            if ttl <= 0 {
                return Ok(());
            }
            holds_until_ns = until(asked_ns, ttl);
            let request = pb::RangeRequest { key: key.clone().into(), ..pb::RangeRequest::default() };
            let found = self.recorder.ask(self.ends, (&request).into(), self.kv.range(request)).await?;
            self.must_hold(found.count == 1, id, holds_until_ns);
        }
        match self.random.random() {
            true => self.revoke(id).await,
            false => Ok(()),
        }
    }

    /// A lease was found to hold, or its time is over.
    fn must_hold(&self, holds: bool, id: i64, until_ns: u64) {
        let now_ns = self.recorder.now_ns();
        assert!(
            holds || now_ns > until_ns,
            "lease {id} has gone {} ms too early",
            (until_ns - now_ns) / 1_000_000
        );
    }

    async fn keep_alive(&mut self, id: i64) -> Result<i64, Status> {
        let requests = tokio_stream::once(pb::LeaseKeepAliveRequest { id });
        let first = async {
            let mut answers = self.lease.lease_keep_alive(requests).await?.into_inner();
            let answer = answers.message().await?;
            answer.map(tonic::Response::new).ok_or_else(|| Status::unavailable("the stream ended"))
        };
        Ok(self.recorder.ask(self.ends, Request::LeaseKeepAlive { id }, first).await?.ttl)
    }

    async fn revoke(&mut self, id: i64) -> Result<(), Status> {
        let revoked = self.lease.lease_revoke(pb::LeaseRevokeRequest { id });
        self.recorder.ask(self.ends, Request::LeaseRevoke { id }, revoked).await.map(drop)
    }
}

fn until(asked_ns: u64, ttl_seconds: i64) -> u64 {
    asked_ns + u64::try_from(ttl_seconds).expect("it was granted") * 1_000_000_000
}

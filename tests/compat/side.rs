//! One of the two sides under comparison, a server or a cluster: asks any member of it and keeps what its answers mean.

use std::collections::BTreeSet;

use decklog::wire::etcdserverpb::{
    CompactionRequest, DeleteRangeRequest, LeaseLeasesRequest, LeaseRevokeRequest, RangeRequest,
    RangeResponse,
};
use futures_util::future::try_join_all;
use http::uri::PathAndQuery;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand::seq::{IndexedMutRandom, IndexedRandom};
use tonic::{Code, Request, Response, Status};

use crate::answer::Answer;
use crate::member::Member;
use crate::programs::Step;
use crate::resolve::Meaning;
use crate::servers::Server;
use crate::watching::{STREAMS, Watched, Watching};

pub struct Side {
    members: Vec<Member>,
    /// Chooses the member that is asked.
    choice: SmallRng,
    pub meaning: Meaning,
    /// The store's revision, and the greatest compacted one, as far as answers told.
    revision: i64,
    compacted: i64,
    /// Every revision that was compacted at.
    compactions: BTreeSet<i64>,
    watching: Option<Watching>,
}

impl Side {
    pub fn new(members: Vec<Member>, seed: u64) -> Self {
        Self {
            members,
            choice: SmallRng::seed_from_u64(seed),
            meaning: Meaning::default(),
            revision: 0,
            compacted: 0,
            compactions: BTreeSet::new(),
            watching: None,
        }
    }

    pub fn is_cluster(&self) -> bool {
        self.members.len() > 1
    }

    /// One of the members.
    pub fn any(&mut self) -> &mut Member {
        self.members.choose_mut(&mut self.choice).expect("there is one")
    }

    pub fn servers(&mut self) -> impl Iterator<Item = &mut Server> {
        self.members.iter_mut().map(|member| &mut member.server)
    }

    /// What one member has acknowledged the others may not have applied: every member has after this.
    async fn catch_up(&mut self) -> Result<(), Status> {
        if self.is_cluster() {
            try_join_all(self.members.iter_mut().map(Member::catch_up)).await?;
        }
        Ok(())
    }

    /// Asks for what is not a watch; the answer is neutral.
    pub async fn ask(&mut self, step: &Step) -> Answer {
        let step = self.meaning.resolve(step);
        if step.is_local()
            && let Err(status) = self.catch_up().await
        {
            return Answer::of(Err(status), Answer::Range);
        }
        let member = self.members.choose_mut(&mut self.choice).expect("there is one");
        let mut answer = match step {
            Step::Range(request) => Answer::of(member.kv.range(request).await, Answer::Range),
            Step::Put(request) => Answer::of(member.kv.put(request).await, Answer::Put),
            Step::DeleteRange(request) => {
                Answer::of(member.kv.delete_range(request).await, Answer::DeleteRange)
            }
            Step::Txn(request) => Answer::of(member.kv.txn(request).await, Answer::Txn),
            Step::Compact(request) => {
                let revision = request.revision;
                let answer = Answer::of(member.kv.compact(request).await, Answer::Compact);
                if matches!(answer, Answer::Compact(_)) {
                    self.compacted = revision;
                    self.compactions.insert(revision);
                }
                answer
            }
            Step::HashKv(request) => Answer::of(member.maintenance.hash_kv(request).await, Answer::HashKv),
            Step::LeaseGrant(request) => {
                let chosen_by_server = request.id == 0;
                let answer = Answer::of(member.lease.lease_grant(request).await, Answer::LeaseGrant);
                if let (true, Answer::LeaseGrant(granted)) = (chosen_by_server, &answer) {
                    self.meaning.chosen_leases.push(granted.id);
                }
                answer
            }
            Step::LeaseRevoke(request) => {
                Answer::of(member.lease.lease_revoke(request).await, Answer::LeaseRevoke)
            }
            Step::LeaseTimeToLive(request) => {
                Answer::of(member.lease.lease_time_to_live(request).await, Answer::LeaseTimeToLive)
            }
            Step::LeaseLeases(request) => {
                Answer::of(member.lease.lease_leases(request).await, Answer::LeaseLeases)
            }
            Step::LeaseKeepAlive(request) => member.keep_alive_once(request).await,
            Step::WatchCreate(_) | Step::WatchCancel { .. } | Step::WatchProgress { .. } => {
                unreachable!("watch steps go to the side's watch streams")
            }
        };
        self.revision = answer.header().map_or(self.revision, |header| header.revision.max(self.revision));
        self.meaning.neutral(answer)
    }

    /// Does what the step asks of watches, if it does, and waits for all that open watches have to deliver.
    /// Watches are opened with the first step that asks for one.
    pub async fn watch(&mut self, step: &Step) -> Result<Watched, Status> {
        let Self { revision, compacted, .. } = *self;
        let is_asked =
            matches!(step, Step::WatchCreate(_) | Step::WatchCancel { .. } | Step::WatchProgress { .. });
        if is_asked {
            self.catch_up().await?;
        }
        let watching = match (&mut self.watching, step) {
            (Some(watching), _) => watching,
            (none, Step::WatchCreate(_)) => {
                // What is compacted, no watch can ask for.
                let start = compacted.max(self.meaning.base_revision + 1);
                let channels = [(); STREAMS].map(|()| {
                    let member = self.members.choose(&mut self.choice).expect("there is one");
                    member.server.channel.clone()
                });
                none.insert(Watching::open(channels, start, revision).await?)
            }
            (None, _) => return Ok(Watched::new()),
        };
        match self.meaning.resolve(step) {
            Step::WatchCreate(request) => watching.create(request, revision, compacted).await?,
            Step::WatchCancel { stream, id } => watching.cancel(stream, id).await?,
            Step::WatchProgress { stream } => watching.progress(stream, revision).await?,
            _ => {}
        }
        watching.settle(revision).await?;
        Ok(watching.watched(&self.meaning))
    }

    /// Whether `step` asks for the hash at a revision that was compacted at: etcd has kept the one that it took when
    /// it compacted, of what was there before, and answers with that from some moment on.
    pub fn asks_for_a_kept_hash(&self, step: &Step) -> bool {
        matches!(step, Step::HashKv(request) if self.compactions.contains(&request.revision))
    }

    /// Compacts an empty store at its first revision. etcd takes a compaction at 0 before any other, and from then
    /// on the hash that it keeps for it is its answer for the current revision.
    pub async fn compact_first(&mut self) -> Result<(), Status> {
        self.any().kv.compact(CompactionRequest { revision: 1, physical: true }).await.map(drop)
    }

    /// Starts a program: its numbers count from here.
    pub async fn begin(&mut self) -> Result<(), Status> {
        let request = RangeRequest { key: "x".into(), ..Default::default() };
        let header = self.any().kv.range(request).await?.into_inner().header.unwrap_or_default();
        self.meaning = Meaning { base_revision: header.revision, chosen_leases: Vec::new() };
        (self.revision, self.compacted) = (header.revision, header.revision);
        self.watching = None;
        Ok(())
    }

    /// Leaves no key, no history and no lease behind.
    pub async fn clean_up(&mut self) -> Result<(), Status> {
        let everything =
            DeleteRangeRequest { key: "\0".into(), range_end: "\0".into(), ..Default::default() };
        let deleted = self.any().kv.delete_range(everything).await?.into_inner();
        let revision = deleted.header.unwrap_or_default().revision;
        match self.any().kv.compact(CompactionRequest { revision, physical: true }).await {
            Err(status) if status.code() == Code::OutOfRange => {} // the program did it at this revision
            other => drop(other?),
        }
        self.compactions.insert(revision);
        self.catch_up().await?;
        let leases = self.any().lease.lease_leases(LeaseLeasesRequest {}).await?.into_inner().leases;
        for lease in leases {
            self.any().lease.lease_revoke(LeaseRevokeRequest { id: lease.id }).await?;
        }
        Ok(())
    }

    /// Calls the method at `path` with an empty message.
    pub async fn call_unknown(&mut self, path: &'static str) -> Result<Response<RangeResponse>, Status> {
        let mut client = tonic::client::Grpc::new(self.any().server.channel.clone());
        client.ready().await.map_err(|error| Status::from_error(error.into()))?;
        let codec = tonic_prost::ProstCodec::<RangeRequest, RangeResponse>::default();
        client.unary(Request::new(RangeRequest::default()), PathAndQuery::from_static(path), codec).await
    }
}

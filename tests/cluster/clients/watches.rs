//! Watchers that go on over lost streams, at their member or at another, until they have been told everything.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use decklog::wire::etcdserverpb as pb;
use decklog::wire::etcdserverpb::watch_client::WatchClient;
use decklog::wire::etcdserverpb::watch_request::RequestUnion;
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use crate::checker::history::{Session, Told, Watcher};
use crate::let_pass;
use crate::members::channel;
use crate::recorder::{Recorder, is_expected};

/// How often a watcher asks how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(250);
const AFTER_FAILURE: Duration = Duration::from_millis(50);

pub struct WatchLoad {
    pub member: usize,
    pub urls: Vec<String>,
    pub random: SmallRng,
    pub recorder: Arc<Recorder>,
    pub create: pb::WatchCreateRequest,
    pub watcher: Watcher,
    /// It ends when it was told everything through this revision.
    pub last_revision: Arc<AtomicI64>,
}

impl WatchLoad {
    pub async fn run(mut self) {
        while !self.is_done() {
            let mut session = Session {
                member: self.member as u64,
                asked_ns: self.recorder.now_ns(),
                request: (&self.create).into(),
                told: Vec::new(),
            };
            let ended = self.session(&mut session).await;
            self.watcher.sessions.push(session);
            if let Err(status) = ended {
                assert!(is_expected(&status), "{status}");
                let_pass(AFTER_FAILURE).await;
            }
            self.create.start_revision = match self.watcher.next_revision() {
                0 => self.create.start_revision,
                next => next,
            };
            if self.random.random_range(0..3) == 0 {
                self.member = self.random.random_range(0..self.urls.len());
            }
        }
        self.recorder.add_watcher(self.watcher);
    }

    fn is_done(&self) -> bool {
        self.watcher.next_revision() > self.last_revision.load(Ordering::Relaxed)
    }

    /// Until the stream breaks or everything has been told.
    async fn session(&self, session: &mut Session) -> Result<(), Status> {
        let (requests, receiver) = mpsc::channel(4);
        let create = RequestUnion::CreateRequest(self.create.clone());
        requests.try_send(request(create)).expect("there is room");
        let mut client = WatchClient::new(channel(&self.urls[self.member]));
        let opened =
            tokio::time::timeout(crate::recorder::TIMEOUT, client.watch(ReceiverStream::new(receiver)));
        let opened = opened.await.map_err(|_elapsed| Status::cancelled("it takes too long to open"))?;
        let mut answers = opened?.into_inner();
        let mut progress = tokio::time::interval(PROGRESS_INTERVAL);
        let mut through = 0;
        loop {
            let answer = tokio::select! {
                answer = answers.message() => answer?,
                _ = progress.tick() => {
                    // A stream that takes nothing is asked again later.
                    drop(requests.try_send(request(RequestUnion::ProgressRequest(Default::default()))));
                    continue;
                }
            };
            let Some(answer) = answer else { return Err(Status::unavailable("the stream ended")) };
            let told = Told::new(self.recorder.now_ns(), &answer);
            through = told.through().unwrap_or(0).max(through);
            session.told.push(told);
            if answer.canceled || through >= self.last_revision.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
    }
}

fn request(union: RequestUnion) -> pb::WatchRequest {
    pb::WatchRequest { request_union: Some(union) }
}

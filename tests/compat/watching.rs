//! The watch streams of one side: sends what a program asks of them and keeps all they deliver. Checks what must
//! hold on every server by itself: all events come within a deadline, and those of one revision together.

mod expected;
mod log;

use std::time::Duration;

use decklog::wire::etcdserverpb::watch_client::WatchClient;
use decklog::wire::etcdserverpb::watch_request::RequestUnion;
use decklog::wire::etcdserverpb::{
    WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest, WatchResponse,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Response, Status, Streaming};

use crate::resolve::Meaning;
use log::StreamLog;
pub use log::{Watched, unlike};

/// How long a server may take to deliver what it must.
const DELIVERY_DEADLINE: Duration = Duration::from_secs(30);
/// How long to wait for a progress answer before asking again.
const PROGRESS_PATIENCE: Duration = Duration::from_millis(20);
const REQUEST_QUEUE: usize = 16;

/// Watches are put on streams by what makes their server answer a progress request or not.
pub const PAST: usize = 0;
pub const FUTURE: usize = 1;
pub const COMPACTED: usize = 2;
/// Watches everything from the program's start: tells which events the other watches have to deliver.
const REFERENCE: usize = 3;
/// One channel for each.
pub const STREAMS: usize = 4;

pub struct Watching {
    streams: [Stream; STREAMS],
}

struct Stream {
    requests: mpsc::Sender<WatchRequest>,
    responses: Responses,
    log: StreamLog,
}

/// etcd sends the stream's headers with its first response only, so that opening waits for a request.
enum Responses {
    Opening(JoinHandle<Result<Response<Streaming<WatchResponse>>, Status>>),
    Open(Box<Streaming<WatchResponse>>),
}

impl Watching {
    /// Opens the streams when the store is at `revision`; no watch will ask for what is before `start`.
    pub async fn open(channels: [Channel; STREAMS], start: i64, revision: i64) -> Result<Self, Status> {
        let mut watching = Self { streams: channels.map(Stream::open) };
        let everything = WatchCreateRequest {
            range_end: "\0".into(),
            start_revision: start,
            prev_kv: true,
            ..Default::default()
        };
        watching.streams[REFERENCE].create(everything, revision, false).await?;
        Ok(watching)
    }

    /// Creates a watch when the store is at `revision`, with everything below `compacted` compacted.
    pub async fn create(
        &mut self,
        request: WatchCreateRequest,
        revision: i64,
        compacted: i64,
    ) -> Result<(), Status> {
        let stream = match request.start_revision {
            start if start < 0 || (start > 0 && start < compacted) => COMPACTED,
            start if start > 0 && start <= revision => PAST,
            _ => FUTURE,
        };
        self.streams[stream].create(request, revision, stream == COMPACTED).await?;
        if stream == PAST {
            self.settle(revision).await?;
            self.streams[PAST].until_in_sync().await?;
        }
        Ok(())
    }

    pub async fn cancel(&mut self, stream: usize, id: i64) -> Result<(), Status> {
        self.streams[stream].cancel(id).await
    }

    /// Asks for progress when the store is at `revision`; waits for the answer where there must be one.
    pub async fn progress(&mut self, stream: usize, revision: i64) -> Result<(), Status> {
        self.streams[stream].progress(revision).await
    }

    /// Waits until every watch has delivered what it must up to `revision`.
    pub async fn settle(&mut self, revision: i64) -> Result<(), Status> {
        let [watches @ .., reference] = &mut self.streams;
        reference.until("the reference watch has every event", |log| log.reaches(revision)).await?;
        let history = reference.log.history();
        for stream in watches {
            stream.until("the events", |log| log.lacks(&history).is_none()).await.map_err(|error| {
                let lacking = stream.log.lacks(&history).unwrap_or_default();
                Status::new(error.code(), format!("{}: {lacking}", error.message()))
            })?;
        }
        Ok(())
    }

    /// All that was delivered, with the lease ids that both sides share.
    pub fn watched(&self, meaning: &Meaning) -> Watched {
        self.streams.iter().map(|stream| stream.log.neutral(meaning)).collect()
    }
}

impl Stream {
    fn open(channel: Channel) -> Self {
        let (requests, queue) = mpsc::channel(REQUEST_QUEUE);
        let mut client = WatchClient::new(channel);
        let opening = tokio::spawn(async move { client.watch(ReceiverStream::new(queue)).await });
        Self { requests, responses: Responses::Opening(opening), log: StreamLog::default() }
    }

    async fn create(
        &mut self,
        request: WatchCreateRequest,
        revision: i64,
        doomed: bool,
    ) -> Result<(), Status> {
        self.log.asked_to_create(request.clone(), revision, doomed);
        self.send(RequestUnion::CreateRequest(request)).await?;
        self.until("the created answer", StreamLog::created).await
    }

    async fn cancel(&mut self, id: i64) -> Result<(), Status> {
        self.send(RequestUnion::CancelRequest(WatchCancelRequest { watch_id: id })).await?;
        if self.log.is_open(id) {
            self.until("the canceled answer", |log| !log.is_open(id)).await
        } else {
            Ok(())
        }
    }

    async fn progress(&mut self, revision: i64) -> Result<(), Status> {
        self.send(RequestUnion::ProgressRequest(WatchProgressRequest {})).await?;
        if !self.log.answers_progress(revision) {
            return Ok(());
        }
        let seen = self.log.progress_revisions().len();
        self.until("the progress answer", |log| log.progress_revisions()[seen..].contains(&revision)).await
    }

    /// Until the server says that all watches of the stream are in sync. It may not answer while they are not.
    async fn until_in_sync(&mut self) -> Result<(), Status> {
        let seen = self.log.progress_revisions().len();
        self.log.polled_for_progress();
        let deadline = tokio::time::Instant::now() + DELIVERY_DEADLINE;
        while self.log.any_open() && self.log.progress_revisions().len() == seen {
            self.send(RequestUnion::ProgressRequest(WatchProgressRequest {})).await?;
            match tokio::time::timeout(PROGRESS_PATIENCE, self.receive()).await {
                Ok(received) => received?,
                Err(_) if tokio::time::Instant::now() < deadline => {}
                Err(_) => return Err(Status::deadline_exceeded("waiting until the watches are in sync")),
            }
        }
        Ok(())
    }

    async fn until(&mut self, what: &str, done: impl Fn(&StreamLog) -> bool) -> Result<(), Status> {
        let receiving = async {
            while !done(&self.log) {
                self.receive().await?;
            }
            Ok(())
        };
        let late = || Status::deadline_exceeded(format!("waiting for {what}"));
        tokio::time::timeout(DELIVERY_DEADLINE, receiving).await.unwrap_or_else(|_| Err(late()))
    }

    async fn receive(&mut self) -> Result<(), Status> {
        let response = match &mut self.responses {
            Responses::Opening(opening) => {
                let opened = opening.await.expect("a task that does not panic")?;
                self.responses = Responses::Open(Box::new(opened.into_inner()));
                return Ok(());
            }
            Responses::Open(responses) => responses.message().await?,
        };
        let response = response.ok_or_else(|| Status::unavailable("the watch stream ended"))?;
        self.log.add(response)
    }

    async fn send(&self, request: RequestUnion) -> Result<(), Status> {
        let request = WatchRequest { request_union: Some(request) };
        self.requests.send(request).await.map_err(|error| Status::unavailable(error.to_string()))
    }
}

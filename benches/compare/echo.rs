//! What tonic itself takes: its own server in a process of its own, which answers every put at once with nothing.
//! Does nothing else, so what it takes is the floor of any server that stands on tonic.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use decklog::wire::etcdserverpb as pb;
use decklog::wire::etcdserverpb::kv_server::{Kv, KvServer};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// Makes the program this server.
pub const FLAG: &str = "--echo";

struct Echo;

#[tonic::async_trait]
impl Kv for Echo {
    async fn put(&self, _request: Request<pb::PutRequest>) -> Result<Response<pb::PutResponse>, Status> {
        Ok(Response::new(pb::PutResponse::default()))
    }

    async fn range(&self, _: Request<pb::RangeRequest>) -> Result<Response<pb::RangeResponse>, Status> {
        Err(unknown())
    }

    type RangeStreamStream = tokio_stream::Empty<Result<pb::RangeStreamResponse, Status>>;

    async fn range_stream(
        &self,
        _: Request<pb::RangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(unknown())
    }

    async fn delete_range(
        &self,
        _: Request<pb::DeleteRangeRequest>,
    ) -> Result<Response<pb::DeleteRangeResponse>, Status> {
        Err(unknown())
    }

    async fn txn(&self, _: Request<pb::TxnRequest>) -> Result<Response<pb::TxnResponse>, Status> {
        Err(unknown())
    }

    async fn compact(
        &self,
        _: Request<pb::CompactionRequest>,
    ) -> Result<Response<pb::CompactionResponse>, Status> {
        Err(unknown())
    }
}

fn unknown() -> Status {
    Status::unimplemented("only puts are answered")
}

/// Serves on a free port of loopback, which it prints, until it is killed: a thread for each core, with a runtime of its
/// own, as Decklog has them.
///
/// # Errors
/// When it cannot listen.
pub fn serve() -> Result<(), String> {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    listener.set_nonblocking(true).map_err(|error| error.to_string())?;
    println!("{}", listener.local_addr().map_err(|error| error.to_string())?);
    let service = KvServer::from_arc(Arc::new(Echo));
    let count = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = (0..count).map(|_| {
        let (listener, service) = (listener.try_clone(), service.clone());
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let connections = TcpListenerStream::new(tokio::net::TcpListener::from_std(listener?)?);
                let server = tonic::transport::Server::builder().serve_with_incoming(service, connections);
                server.await.map_err(std::io::Error::other)
            })
        })
    });
    for thread in threads.collect::<Vec<_>>() {
        thread.join().map_err(|_panicked| "a thread panicked")?.map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// That server, in a process that ends with this.
pub struct EchoServer {
    child: Child,
    pub endpoint: String,
}

impl EchoServer {
    /// # Errors
    /// When it does not start.
    pub fn start() -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let started = Command::new(program).arg(FLAG).stdout(Stdio::piped()).spawn();
        let mut server = Self { child: started.map_err(|error| error.to_string())?, endpoint: String::new() };
        let output = server.child.stdout.take().ok_or("the echo server has no output")?;
        let mut address = String::new();
        BufReader::new(output).read_line(&mut address).map_err(|error| error.to_string())?;
        server.endpoint = format!("http://{}", address.trim());
        Ok(server)
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait().map(drop)) {
            eprintln!("compare: cannot end the echo server: {error}");
        }
    }
}

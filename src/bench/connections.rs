//! Connections to the servers under load.

use bytes::Bytes;
use http::uri::PathAndQuery;
use tonic::Status;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};

use super::Options;
use super::codec::Raw;

/// Bytes that a server may send ahead: a large range must not wait for the client.
const WINDOW_BYTES: u32 = 8 << 20;

/// A client on one of the connections.
#[derive(Clone)]
pub struct Client(Grpc<Channel>);

impl Client {
    /// # Errors
    /// The status of a call that failed.
    pub async fn unary(&mut self, path: &'static str, message: Bytes) -> Result<Bytes, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static(path);
        Ok(self.0.unary(tonic::Request::new(message), path, Raw).await?.into_inner())
    }

    /// # Errors
    /// The status of a call that failed.
    pub async fn stream(
        &mut self,
        path: &'static str,
        messages: impl tokio_stream::Stream<Item = Bytes> + Send + 'static,
    ) -> Result<tonic::Streaming<Bytes>, Status> {
        self.ready().await?;
        let path = PathAndQuery::from_static(path);
        Ok(self.0.streaming(tonic::Request::new(messages), path, Raw).await?.into_inner())
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.0.ready().await.map_err(|error| Status::unavailable(error.to_string()))
    }
}

/// Opens the connections and shares them among `count` clients.
///
/// # Errors
/// When a server cannot be reached.
pub async fn clients(options: &Options, count: usize) -> Result<Vec<Client>, tonic::transport::Error> {
    let mut channels = Vec::new();
    for number in 0..options.connections.max(1) {
        let endpoint = Endpoint::from_shared(options.endpoints[number % options.endpoints.len()].clone())?
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(WINDOW_BYTES)
            .tcp_nodelay(true);
        channels.push(endpoint.connect().await?);
    }
    let client = |number: usize| {
        Client(Grpc::new(channels[number % channels.len()].clone()).max_decoding_message_size(usize::MAX))
    };
    Ok((0..count).map(client).collect())
}

//! A write whose way to the leader breaks under it: nobody knows then whether it was made, and its caller is told why
//! nobody answers.

use std::time::Duration;

use decklog::wire::etcdserverpb::PutRequest;
use decklog::wire::etcdserverpb::kv_client::KvClient;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::members::{Cluster, Options, channel};

/// The key of the write: the connection on which it is seen is cut, and the write is lost with it.
const MARKER: &str = "what-the-connection-breaks-on";
const LIMIT: Duration = Duration::from_secs(120);

/// Carries connections to a port until somebody sends the marker on one.
async fn carry(listener: TcpListener, to: u16) {
    while let Ok((from_here, _)) = listener.accept().await {
        tokio::spawn(async move {
            // Nobody listens there yet, or not any more: the connection is refused, in effect.
            if let Ok(there) = TcpStream::connect(("127.0.0.1", to)).await {
                let (mut from, mut back) = from_here.into_split();
                let (mut answers, mut on) = there.into_split();
                tokio::select! {
                    () = until_marker(&mut from, &mut on) => {}
                    _ = tokio::io::copy(&mut answers, &mut back) => {}
                }
            }
        });
    }
}

async fn until_marker(from: &mut (impl AsyncReadExt + Unpin), on: &mut (impl AsyncWriteExt + Unpin)) {
    let (mut piece, mut seen) = (vec![0; 64 << 10], Vec::new());
    while let Ok(length) = from.read(&mut piece).await
        && length > 0
    {
        seen.extend_from_slice(&piece[..length]);
        if seen.windows(MARKER.len()).any(|window| window == MARKER.as_bytes()) {
            return;
        }
        seen.drain(..seen.len().saturating_sub(MARKER.len()));
        if on.write_all(&piece[..length]).await.is_err() {
            return;
        }
    }
}

/// Three members that reach each other by way of the proxies.
async fn cluster_behind_proxies() -> Cluster {
    let (mut listeners, mut urls) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free loopback port");
        urls.push(format!("http://{}", listener.local_addr().expect("a bound address")));
        listeners.push(listener);
    }
    let all: Vec<String> = urls.iter().enumerate().map(|(place, url)| format!("m{place}={url}")).collect();
    let mut listeners = listeners.into_iter();
    Cluster::start_changed(3, Options::default(), |place, launch| {
        launch.more_flags.push(format!("--initial-advertise-peer-urls={}", urls[place]));
        launch.more_flags.push(format!("--initial-cluster={}", all.join(",")));
        tokio::spawn(carry(listeners.next().expect("one for each"), launch.peer_port));
    })
    .await
}

#[tokio::test]
async fn a_write_that_was_lost_with_its_connection_to_the_leader_says_so() {
    let cluster = cluster_behind_proxies().await;
    let told = async {
        loop {
            let follower = (cluster.leader().await + 1) % 3;
            let request = PutRequest { key: MARKER.into(), ..PutRequest::default() };
            let answer = KvClient::new(channel(&cluster.urls()[follower])).put(request).await;
            let text = answer.expect_err("the write is lost").message().to_owned();
            // On a busy machine another leader may have been elected meanwhile.
            if !text.contains("leader") {
                return (follower, text);
            }
        }
    };
    let (follower, text) = tokio::time::timeout(LIMIT, told).await.expect("it answers");
    assert_eq!(text, "etcdserver: request timed out, possibly due to connection lost");
    cluster.put_at(follower, "key", "value").await;
}

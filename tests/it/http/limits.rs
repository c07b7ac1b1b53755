//! How large a request may be: `--max-request-bytes` has etcd's error, half a megabyte more has that of gRPC.

use bytes::Bytes;
use decklog::wire::etcdserverpb::PutRequest;
use decklog::wire::etcdserverpb::kv_client::KvClient;
use tonic::{Code, Status};

use crate::peers::peer_or_skip;
use crate::server::decklog_program;
use crate::servers::Server;

const OVERHEAD: usize = 512 << 10;

async fn put(server: &Server, bytes: usize) -> Result<i64, (Code, String)> {
    let mut kv = KvClient::new(server.channel.clone());
    let put = PutRequest { key: "k".into(), value: Bytes::from(vec![b'x'; bytes]), ..Default::default() };
    let answer = kv.put(put).await.map_err(|status: Status| (status.code(), status.message().to_owned()))?;
    Ok(answer.into_inner().header.expect("an answer has one").revision)
}

#[tokio::test]
async fn requests_above_the_limit_are_refused_as_by_etcd() {
    let test = "requests_above_the_limit_are_refused_as_by_etcd";
    let Some(etcd) = peer_or_skip(test, "etcd") else { return };
    for limit in [None, Some(4096)] {
        let flag = limit.map(|limit: usize| format!("--max-request-bytes={limit}"));
        let flags: Vec<&str> = flag.iter().map(String::as_str).collect();
        let etcd_flags = [&["--unsafe-no-fsync"], flags.as_slice()].concat();
        let (etcd, decklog) =
            tokio::join!(Server::start(&etcd, &etcd_flags), Server::start(decklog_program(), &flags));
        let limit = limit.unwrap_or(3 << 19);
        // Well below, well above, far above; then again below, on the same connection.
        for bytes in [limit - 200, limit + 1, limit + OVERHEAD - 100, limit + OVERHEAD + 1, 50 << 20, 1] {
            let (expected, found) = (put(&etcd, bytes).await, put(&decklog, bytes).await);
            println!("{bytes}: {found:?}");
            assert_eq!(expected, found, "{bytes} bytes with a limit of {limit}");
        }
        let too_large = put(&decklog, limit + 1).await.expect_err("it is above the limit");
        assert_eq!(too_large, (Code::InvalidArgument, "etcdserver: request is too large".to_owned()));
        let (code, text) = put(&decklog, limit + OVERHEAD).await.expect_err("it is far above the limit");
        assert_eq!(code, Code::ResourceExhausted);
        assert!(
            text.starts_with("grpc: received message larger than max (")
                && text.ends_with(&format!(" vs. {})", limit + OVERHEAD)),
            "{text}"
        );
    }
}

//! RangeStream beside Range: all messages of a stream, put together, are the answer of Range. (etcd 3.5 has no such call.)

use decklog::wire::etcdserverpb as pb;
use decklog::wire::etcdserverpb::kv_client::KvClient;
use pb::range_request::{SortOrder, SortTarget};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::server::decklog_program;
use crate::servers::Server;

const KEYS: u32 = 3000;
const REQUESTS: u32 = 300;
const FIRST_CHUNK: usize = 10;
/// As etcd takes them.
const MAX_REQUEST_BYTES: usize = 1536 << 10;
const LARGE_BYTES: usize = 1 << 20;

/// The messages of a stream put together, and the pairs in each.
async fn streamed(
    kv: &mut KvClient<Channel>,
    request: &pb::RangeRequest,
) -> Result<(pb::RangeResponse, Vec<usize>), Status> {
    let mut messages = kv.range_stream(request.clone()).await?.into_inner();
    let (mut whole, mut sizes) = (pb::RangeResponse::default(), Vec::new());
    while let Some(message) = messages.message().await? {
        let part = message.range_response.expect("a part of the answer");
        assert!(whole.header.is_none(), "a message behind the one with the header");
        let bytes: usize = part.kvs.iter().map(|pair| pair.as_bytes().len()).sum();
        assert!(bytes < MAX_REQUEST_BYTES + LARGE_BYTES + 1024, "a message of {bytes} bytes");
        assert!(part.header.is_some() || (part.count == 0 && !part.more), "{:?}", (part.count, part.more));
        sizes.push(part.kvs.len());
        whole.kvs.extend(part.kvs);
        (whole.header, whole.count, whole.more) = (part.header, part.count, part.more);
    }
    assert!(whole.header.is_some(), "no message with the header");
    Ok((whole, sizes))
}

fn key(number: u32) -> String {
    format!("key-{number:06}")
}

/// Numbers of keys are random; many are below a few hundred, whose pairs are small.
fn request(random: &mut SmallRng, revision: i64) -> pb::RangeRequest {
    let number = |random: &mut SmallRng| {
        let most = if random.random() { 300 } else { KEYS + 10 };
        random.random_range(0..most)
    };
    let (from, to) = (number(random), number(random));
    let range_end = match random.random_range(0..8) {
        0 => Vec::new(),
        1 => vec![0],
        _ => key(to).into_bytes(),
    };
    pb::RangeRequest {
        key: key(from).into(),
        range_end: range_end.into(),
        limit: if random.random_ratio(1, 3) { random.random_range(1..200) } else { 0 },
        revision: if random.random_ratio(1, 3) { random.random_range(0..=revision) } else { 0 },
        sort_order: if random.random() { SortOrder::Ascend } else { SortOrder::None }.into(),
        serializable: random.random(),
        keys_only: random.random_ratio(1, 4),
        count_only: random.random_ratio(1, 8),
        ..Default::default()
    }
}

#[tokio::test]
async fn the_messages_of_a_stream_are_the_answer_of_a_range() {
    let chosen = std::env::var("DECKLOG_STREAM_SEED").map(|seed| seed.parse().expect("a number"));
    let seed: u64 = chosen.unwrap_or_else(|_unset| rand::random());
    println!("DECKLOG_STREAM_SEED={seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let server = Server::start(decklog_program(), &[]).await;
    let mut kv = KvClient::new(server.channel.clone()).max_decoding_message_size(usize::MAX);
    let mut revision = 0;
    for number in 0..KEYS {
        let length = match number {
            0..300 => 100,
            _ if number % 500 == 0 => LARGE_BYTES,
            _ => random.random_range(0..2000),
        };
        let put =
            pb::PutRequest { key: key(number).into(), value: vec![1; length].into(), ..Default::default() };
        let answer = kv.put(put).await.expect("it is put").into_inner();
        revision = answer.header.expect("a header").revision;
    }
    let compacted = revision / 4;
    let compact = pb::CompactionRequest { revision: compacted, physical: true };
    kv.compact(compact).await.expect("it is compacted");
    let mut compared = 0;
    for _ in 0..REQUESTS {
        let request = request(&mut random, revision + 3);
        let (range, stream) = (kv.range(request.clone()).await, streamed(&mut kv, &request).await);
        match (range, stream) {
            (Ok(range), Ok((whole, sizes))) => {
                assert!(range.into_inner() == whole, "{request:?} is streamed in {sizes:?}");
                assert!(sizes[0] <= FIRST_CHUNK, "{sizes:?}");
                assert!(!request.count_only || sizes == [0], "{sizes:?}");
                compared += 1;
            }
            (Err(range), Err(stream)) => {
                assert_eq!((range.code(), range.message()), (stream.code(), stream.message()), "{request:?}");
            }
            (range, stream) => panic!("{request:?}: {:?}, streamed {:?}", range.err(), stream.err()),
        }
    }
    assert!(compared > REQUESTS / 2, "{compared} of {REQUESTS}");
    let everything =
        pb::RangeRequest { key: vec![0].into(), range_end: vec![0].into(), ..Default::default() };
    let (whole, sizes) = streamed(&mut kv, &everything).await.expect("a stream");
    assert_eq!((whole.kvs.len(), whole.count), (KEYS as usize, i64::from(KEYS)));
    assert!(sizes.len() > 3, "{sizes:?}");
}

#[tokio::test]
async fn what_cannot_be_streamed_is_refused_as_in_etcd() {
    let server = Server::start(decklog_program(), &[]).await;
    let mut kv = KvClient::new(server.channel.clone());
    let plain = pb::RangeRequest { key: "key".into(), ..Default::default() };
    let sorted = "RangeStream does not support custom sort orders";
    let filtered = "RangeStream does not support revision filters";
    let descending = SortOrder::Descend.into();
    let refused = [
        (pb::RangeRequest { sort_order: descending, ..plain.clone() }, sorted),
        (pb::RangeRequest { sort_target: SortTarget::Version.into(), ..plain.clone() }, sorted),
        (pb::RangeRequest { min_mod_revision: 1, ..plain.clone() }, filtered),
        (pb::RangeRequest { max_mod_revision: 1, ..plain.clone() }, filtered),
        (pb::RangeRequest { min_create_revision: 1, ..plain.clone() }, filtered),
        (pb::RangeRequest { max_create_revision: 1, ..plain }, filtered),
    ];
    for (request, text) in refused {
        let told = streamed(&mut kv, &request).await.expect_err("it is refused");
        assert_eq!((told.code(), told.message()), (Code::Unimplemented, text), "{request:?}");
    }
    let empty = streamed(&mut kv, &pb::RangeRequest::default()).await.expect_err("it is refused");
    assert_eq!((empty.code(), empty.message()), (Code::InvalidArgument, "etcdserver: key is not provided"));
}

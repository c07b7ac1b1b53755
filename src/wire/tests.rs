//! Messages that are kept encoded travel as the decoded ones do, and any bytes are one or an error.

use proptest::prelude::*;
use prost::Message;

use super::*;

/// A `RangeResponse` whose pairs are decoded: what the encoded ones must agree with.
#[derive(Clone, PartialEq, prost::Message)]
struct DecodedRange {
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
    #[prost(bool, tag = "3")]
    more: bool,
    #[prost(int64, tag = "4")]
    count: i64,
}

fn bytes() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..20).prop_map(Bytes::from)
}

fn pair() -> impl Strategy<Value = KeyValue> {
    (bytes(), any::<i64>(), any::<i64>(), any::<i64>(), bytes(), any::<i64>()).prop_map(
        |(key, create_revision, mod_revision, version, value, lease)| KeyValue {
            key,
            create_revision,
            mod_revision,
            version,
            value,
            lease,
        },
    )
}

fn damaged(mut whole: Vec<u8>, at: prop::sample::Index, change: u8, cut: usize) -> Vec<u8> {
    if !whole.is_empty() {
        let place = at.index(whole.len());
        whole[place] ^= change;
        whole.truncate(whole.len() - cut.min(whole.len()));
    }
    whole
}

proptest! {
    #[test]
    fn encoded_pairs_travel_as_decoded_ones_do(kvs in proptest::collection::vec(pair(), 0..5), more in any::<bool>()) {
        let decoded = DecodedRange { kvs: kvs.clone(), more, count: 3 };
        let encoded = etcdserverpb::RangeResponse { kvs: kvs.iter().map(Into::into).collect(), more, count: 3, header: None };
        prop_assert_eq!(encoded.encode_to_vec(), decoded.encode_to_vec());
        let read = etcdserverpb::RangeResponse::decode(encoded.encode_to_vec().as_slice()).expect("decoded");
        prop_assert_eq!(&read, &encoded);
        for (read, pair) in read.kvs.iter().zip(&kvs) {
            prop_assert_eq!(&read.decode().expect("a pair"), pair);
            prop_assert_eq!(read.as_bytes().len(), pair.encoded_len());
        }
    }

    /// What is no pair is found when it is asked for, never before, and nothing falls over it.
    #[test]
    fn any_bytes_are_a_pair_an_event_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
        let shared = Bytes::from(bytes.clone());
        drop(EncodedKeyValue::from_encoded(shared.clone()).decode());
        drop(format!("{:?}", EncodedEvent::from_encoded(shared)));
        if let Ok(merged) = <EncodedKeyValue as Message>::decode(bytes.as_slice()) {
            // The same message, if perhaps in fewer bytes.
            let direct = KeyValue::decode(bytes.as_slice());
            prop_assert_eq!(direct.ok(), EncodedKeyValue::decode(&merged).ok());
        }
        drop(etcdserverpb::RangeResponse::decode(bytes.as_slice()));
        drop(etcdserverpb::WatchResponse::decode(bytes.as_slice()));
        drop(etcdserverpb::TxnResponse::decode(bytes.as_slice()));
    }

    #[test]
    fn a_changed_answer_is_read_as_the_decoded_form_reads_it(
        kvs in proptest::collection::vec(pair(), 1..4),
        at in any::<prop::sample::Index>(),
        change in any::<u8>(),
        cut in 0usize..10,
    ) {
        let whole = DecodedRange { kvs, more: true, count: 9 }.encode_to_vec();
        let bytes = damaged(whole, at, change, cut);
        let encoded = etcdserverpb::RangeResponse::decode(bytes.as_slice());
        if let (Ok(encoded), Ok(decoded)) = (encoded, DecodedRange::decode(bytes.as_slice())) {
            let read: Vec<_> = encoded.kvs.iter().map(EncodedKeyValue::decode).collect();
            prop_assert_eq!(read.into_iter().collect::<Result<Vec<_>, _>>().ok(), Some(decoded.kvs));
            prop_assert_eq!((encoded.more, encoded.count), (decoded.more, decoded.count));
        }
    }
}

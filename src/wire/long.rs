//! A message with many pairs, encoded piece by piece: prost's encoding, byte by byte, but never more of it in memory than
//! a piece, beside the pairs that have not gone out yet.

use std::collections::VecDeque;

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use prost::encoding::{self, WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tonic::Status;

use super::EncodedKeyValue;
use super::etcdserverpb::response_op::Response;
use super::etcdserverpb::{RangeResponse, ResponseHeader, ResponseOp, TxnResponse};

/// Bytes that a piece has, about.
const PIECE_BYTES: usize = 64 << 10;
/// A pair of so many bytes goes out as it is, without being copied.
const LARGE_PAIR_BYTES: usize = 16 << 10;
/// A message with more bytes of pairs than this is long.
const LONG_BYTES: usize = 256 << 10;

/// Field numbers: `header` of every response, `kvs` of a range, `responses` of a transaction, `response_range` of those.
const HEADER: u32 = 1;
const KVS: u32 = 2;
const RESPONSES: u32 = 3;
const RESPONSE_RANGE: u32 = 1;

/// An answer: as a message, or encoded piece by piece when it is long.
#[derive(Debug)]
pub enum Answer<M> {
    Short(M),
    /// Without its header.
    Long(Option<ResponseHeader>, LongMessage),
}

impl From<RangeResponse> for Answer<RangeResponse> {
    fn from(mut response: RangeResponse) -> Self {
        if bytes_of_pairs(&response) <= LONG_BYTES {
            return Self::Short(response);
        }
        let header = response.header.take();
        let mut message = LongMessage::default();
        message.add_range(response);
        Self::Long(header, message)
    }
}

impl From<TxnResponse> for Answer<TxnResponse> {
    fn from(mut response: TxnResponse) -> Self {
        let ranges = response.responses.iter().filter_map(|operation| match &operation.response {
            Some(Response::ResponseRange(range)) => Some(bytes_of_pairs(range)),
            _ => None,
        });
        if ranges.sum::<usize>() <= LONG_BYTES {
            return Self::Short(response);
        }
        let header = response.header.take();
        let mut message = LongMessage::default();
        message.add_txn(response);
        Self::Long(header, message)
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct LongMessage {
    parts: VecDeque<Part>,
    /// Of all parts.
    bytes: usize,
}

#[derive(Clone, Debug)]
enum Part {
    Encoded(Bytes),
    Pairs(std::vec::IntoIter<EncodedKeyValue>),
}

impl LongMessage {
    fn add_range(&mut self, mut response: RangeResponse) {
        let kvs = std::mem::take(&mut response.kvs);
        // Pairs stand between what the rest has.
        let header = RangeResponse { header: response.header.take(), ..RangeResponse::default() };
        self.add_encoded(header.encode_to_vec());
        self.bytes += kvs.iter().map(framed_len).sum::<usize>();
        self.parts.push_back(Part::Pairs(kvs.into_iter()));
        self.add_encoded(response.encode_to_vec());
    }

    fn add_txn(&mut self, mut response: TxnResponse) {
        let operations = std::mem::take(&mut response.responses);
        self.add_encoded(response.encode_to_vec());
        for operation in operations {
            let mut begin = Vec::new();
            match operation.response {
                Some(Response::ResponseRange(range)) => {
                    let bytes = range.encoded_len();
                    let bytes_with_key = key_len(RESPONSE_RANGE) + encoded_len_varint(bytes as u64) + bytes;
                    put_key(RESPONSES, bytes_with_key, &mut begin);
                    put_key(RESPONSE_RANGE, bytes, &mut begin);
                    self.add_encoded(begin);
                    self.add_range(range);
                }
                response => {
                    encoding::message::encode(RESPONSES, &ResponseOp { response }, &mut begin);
                    self.add_encoded(begin);
                }
            }
        }
    }

    fn add_encoded(&mut self, encoded: Vec<u8>) {
        self.bytes += encoded.len();
        self.parts.push_back(Part::Encoded(encoded.into()));
    }

    /// With its header, and with what gRPC puts before a message.
    ///
    /// # Errors
    /// `ResourceExhausted` when it is longer than a message of gRPC can be.
    pub fn framed(mut self, header: &ResponseHeader) -> Result<LongAnswer, Status> {
        let mut begin = Vec::new();
        encoding::message::encode(HEADER, header, &mut begin);
        let bytes = self.bytes + begin.len();
        // In tonic's words.
        let text = || format!("Cannot return body with more than 4GB of data but got {bytes} bytes");
        let length = u32::try_from(bytes).map_err(|_too_long| Status::resource_exhausted(text()))?;
        let mut prefix = vec![0];
        prefix.put_u32(length);
        let begin = [prefix, begin].concat();
        let left = self.bytes + begin.len();
        self.parts.push_front(Part::Encoded(begin.into()));
        Ok(LongAnswer { parts: self.parts, left })
    }
}

/// A long message on its way: what has not gone out yet. It travels as an extension of a response without pairs, whose
/// body it takes the place of; the copies that extensions may be asked for are never made.
#[derive(Clone, Debug, Default)]
pub struct LongAnswer {
    parts: VecDeque<Part>,
    /// Bytes that have not gone out.
    left: usize,
}

impl LongAnswer {
    /// The next bytes; none at the end.
    pub fn next_piece(&mut self) -> Option<Bytes> {
        let mut piece = BytesMut::with_capacity(self.left.min(PIECE_BYTES + LARGE_PAIR_BYTES));
        while piece.len() < PIECE_BYTES
            && let Some(part) = self.parts.front_mut()
        {
            match part {
                Part::Encoded(encoded) if encoded.len() < LARGE_PAIR_BYTES => {
                    piece.put_slice(encoded);
                    self.parts.pop_front();
                }
                Part::Encoded(encoded) if piece.is_empty() => {
                    let encoded = std::mem::take(encoded);
                    self.parts.pop_front();
                    self.left -= encoded.len();
                    return Some(encoded);
                }
                Part::Encoded(_) => break,
                Part::Pairs(pairs) => match pairs.next().map(|pair| pair.0) {
                    Some(pair) => {
                        put_key(KVS, pair.len(), &mut piece);
                        if pair.len() < LARGE_PAIR_BYTES {
                            piece.put_slice(&pair);
                        } else {
                            self.parts.push_front(Part::Encoded(pair));
                        }
                    }
                    None => drop(self.parts.pop_front()),
                },
            }
        }
        self.left -= piece.len();
        (!piece.is_empty()).then(|| piece.freeze())
    }
}

/// What stands before a message that is a field of another.
fn put_key(field: u32, bytes: usize, out: &mut impl BufMut) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(bytes as u64, out);
}

/// Bytes of a pair, with what stands before it.
fn framed_len(pair: &EncodedKeyValue) -> usize {
    key_len(KVS) + encoded_len_varint(pair.0.len() as u64) + pair.0.len()
}

fn bytes_of_pairs(response: &RangeResponse) -> usize {
    response.kvs.iter().map(|pair| pair.0.len()).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::etcdserverpb::PutResponse;
    use super::*;

    fn header() -> impl Strategy<Value = ResponseHeader> {
        (any::<u64>(), any::<u64>(), 0..i64::MAX, 0u64..3).prop_map(
            |(cluster_id, member_id, revision, raft_term)| ResponseHeader {
                cluster_id,
                member_id,
                revision,
                raft_term,
            },
        )
    }

    fn pair() -> impl Strategy<Value = EncodedKeyValue> {
        let length = prop_oneof![
            0usize..300,
            LARGE_PAIR_BYTES - 2..LARGE_PAIR_BYTES + 2,
            PIECE_BYTES - 40..PIECE_BYTES + 40
        ];
        (length, any::<u8>())
            .prop_map(|(length, byte)| EncodedKeyValue::from_encoded(vec![byte; length].into()))
    }

    fn range() -> impl Strategy<Value = RangeResponse> {
        let header = proptest::option::of(header());
        let kvs = proptest::collection::vec(pair(), 0..12);
        (header, kvs, any::<bool>(), any::<i64>()).prop_map(|(header, kvs, more, count)| RangeResponse {
            header,
            kvs,
            more,
            count,
        })
    }

    fn operation() -> impl Strategy<Value = ResponseOp> {
        let put =
            || Response::ResponsePut(PutResponse { header: None, prev_kv: Some(vec![7; 70_000].into()) });
        let response = prop_oneof![
            range().prop_map(|range| Some(Response::ResponseRange(range))),
            range().prop_map(|range| Some(Response::ResponseTxn(TxnResponse {
                responses: vec![ResponseOp { response: Some(Response::ResponseRange(range)) }],
                ..TxnResponse::default()
            }))),
            Just(()).prop_map(move |()| Some(put())),
            Just(()).prop_map(|()| None),
        ];
        response.prop_map(|response| ResponseOp { response })
    }

    impl From<Vec<u8>> for EncodedKeyValue {
        fn from(bytes: Vec<u8>) -> Self {
            Self(bytes.into())
        }
    }

    /// What gRPC sends for a message.
    fn framed(message: &impl Message) -> Vec<u8> {
        let encoded = message.encode_to_vec();
        let mut framed = vec![0];
        framed.put_u32(u32::try_from(encoded.len()).expect("it is small"));
        [framed, encoded].concat()
    }

    /// All its pieces.
    fn sent(message: LongMessage, header: &ResponseHeader) -> Vec<Bytes> {
        let mut answer = message.framed(header).expect("it is not too long");
        let pieces = std::iter::from_fn(|| answer.next_piece()).collect();
        assert!(answer.parts.is_empty() && answer.left == 0);
        pieces
    }

    proptest! {
        #[test]
        fn a_range_in_pieces_is_the_encoded_message(mut range in range(), header in header()) {
            let mut message = LongMessage::default();
            message.add_range(RangeResponse { header: None, ..range.clone() });
            range.header = Some(header);
            let pieces = sent(message, &header);
            prop_assert!(pieces.concat() == framed(&range));
            let largest = pieces.iter().map(Bytes::len).max();
            prop_assert!(largest <= Some(PIECE_BYTES + LARGE_PAIR_BYTES + 10), "a piece of {largest:?}");
        }

        #[test]
        fn a_transaction_in_pieces_is_the_encoded_message(
            responses in proptest::collection::vec(operation(), 0..5),
            succeeded in any::<bool>(),
            header in header(),
        ) {
            let mut txn = TxnResponse { header: None, succeeded, responses };
            let mut message = LongMessage::default();
            message.add_txn(txn.clone());
            txn.header = Some(header);
            prop_assert!(sent(message, &header).concat() == framed(&txn));
        }
    }

    #[test]
    fn only_an_answer_with_many_bytes_goes_in_pieces() {
        let of = |pairs| RangeResponse {
            header: Some(ResponseHeader { revision: 7, ..ResponseHeader::default() }),
            kvs: vec![vec![1; LONG_BYTES / 4].into(); pairs],
            ..RangeResponse::default()
        };
        let txn = |pairs| TxnResponse {
            responses: vec![ResponseOp { response: Some(Response::ResponseRange(of(pairs))) }; 2],
            ..TxnResponse::default()
        };
        assert!(matches!(Answer::from(of(4)), Answer::Short(response) if response == of(4)));
        assert!(matches!(Answer::from(of(5)), Answer::Long(Some(header), _) if header.revision == 7));
        assert!(matches!(Answer::from(txn(2)), Answer::Short(response) if response == txn(2)));
        assert!(matches!(Answer::from(txn(3)), Answer::Long(None, _)));
    }

    #[test]
    fn an_answer_that_no_message_of_grpc_holds_is_refused() {
        let message = LongMessage { parts: VecDeque::new(), bytes: u32::MAX as usize };
        let refused = message.framed(&ResponseHeader { revision: 1, ..ResponseHeader::default() });
        assert_eq!(refused.expect_err("it is too long").code(), tonic::Code::ResourceExhausted);
    }
}

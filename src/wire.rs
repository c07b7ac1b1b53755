//! The messages and services made from `proto/`, and the two types that travel as stored bytes.
//! Owns the shape of what goes over the wire; decides nothing about it.

mod codec;
mod long;

use bytes::{Buf, BufMut, Bytes};
use prost::DecodeError;
use prost::encoding::{self, DecodeContext, WireType};

pub use codec::{MessageCodec, MessageDecoder, MessageEncoder};
pub use long::{Answer, LongAnswer};

/// A key with its value: etcd's `mvccpb.KeyValue`, decoded.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct KeyValue {
    #[prost(bytes = "bytes", tag = "1")]
    pub key: Bytes,
    #[prost(int64, tag = "2")]
    pub create_revision: i64,
    #[prost(int64, tag = "3")]
    pub mod_revision: i64,
    #[prost(int64, tag = "4")]
    pub version: i64,
    #[prost(bytes = "bytes", tag = "5")]
    pub value: Bytes,
    #[prost(int64, tag = "6")]
    pub lease: i64,
}

/// A change to one key: etcd's `mvccpb.Event`, decoded.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Event {
    #[prost(enumeration = "EventType", tag = "1")]
    pub r#type: i32,
    #[prost(message, optional, tag = "2")]
    pub kv: Option<EncodedKeyValue>,
    #[prost(message, optional, tag = "3")]
    pub prev_kv: Option<EncodedKeyValue>,
}

/// What an event tells: etcd's `mvccpb.Event.EventType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum EventType {
    Put = 0,
    Delete = 1,
}

macro_rules! encoded {
    ($(#[$doc:meta])* $name:ident, $decoded:ty) => {
        $(#[$doc])*
        #[derive(Clone, Default, PartialEq, Eq, Hash)]
        pub struct $name(Bytes);

        impl $name {
            /// Takes bytes that already are the encoded message.
            pub fn from_encoded(bytes: Bytes) -> Self {
                Self(bytes)
            }

            pub fn as_bytes(&self) -> &Bytes {
                &self.0
            }

            /// # Errors
            /// When the bytes are not such a message (they came from outside or from a damaged disk).
            pub fn decode(&self) -> Result<$decoded, DecodeError> {
                prost::Message::decode(self.0.clone())
            }
        }

        impl From<&$decoded> for $name {
            fn from(message: &$decoded) -> Self {
                Self(prost::Message::encode_to_vec(message).into())
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self.decode() {
                    Ok(message) => message.fmt(f),
                    Err(error) => write!(f, "undecodable: {error}"),
                }
            }
        }

        impl prost::Message for $name {
            fn encode_raw(&self, buf: &mut impl BufMut) {
                buf.put_slice(&self.0);
            }

            fn merge_field(
                &mut self,
                tag: u32,
                wire_type: WireType,
                buf: &mut impl Buf,
                context: DecodeContext,
            ) -> Result<(), DecodeError> {
                append_field(&mut self.0, tag, wire_type, buf, context)
            }

            fn encoded_len(&self) -> usize {
                self.0.len()
            }

            fn clear(&mut self) {
                self.0 = Bytes::new();
            }
        }
    };
}

encoded!(
    /// A `KeyValue` as its encoded bytes: stored, cached and sent without being decoded.
    EncodedKeyValue,
    KeyValue
);
encoded!(
    /// An `Event` as its encoded bytes: made once and shared by every watcher.
    EncodedEvent,
    Event
);

/// Puts one received field behind those already received, as it stood on the wire.
fn append_field(
    bytes: &mut Bytes,
    tag: u32,
    wire_type: WireType,
    buf: &mut impl Buf,
    context: DecodeContext,
) -> Result<(), DecodeError> {
    if matches!(wire_type, WireType::StartGroup | WireType::EndGroup) {
        return encoding::skip_field(wire_type, tag, buf, context);
    }
    let mut out = Vec::from(std::mem::take(bytes));
    encoding::encode_key(tag, wire_type, &mut out);
    match wire_type {
        WireType::Varint => encoding::encode_varint(encoding::decode_varint(buf)?, &mut out),
        WireType::ThirtyTwoBit => {
            let mut value = 0u32;
            encoding::fixed32::merge(wire_type, &mut value, buf, context)?;
            out.put_u32_le(value);
        }
        WireType::SixtyFourBit => {
            let mut value = 0u64;
            encoding::fixed64::merge(wire_type, &mut value, buf, context)?;
            out.put_u64_le(value);
        }
        _ => {
            let mut value = Bytes::new();
            encoding::bytes::merge(wire_type, &mut value, buf, context)?;
            encoding::encode_varint(value.len() as u64, &mut out);
            out.put(value);
        }
    }
    *bytes = out.into();
    Ok(())
}

#[cfg(test)]
mod tests;

/// Descriptors of everything in `proto/`, as one encoded `FileDescriptorSet`.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Every RPC for clients: service, method, whether the client streams, whether the server does.
pub const RPCS: &[(&str, &str, bool, bool)] = include!(concat!(env!("OUT_DIR"), "/rpcs.rs"));

pub use generated::{
    authpb, decklog as log, etcdserverpb, health, membershippb, peer, v3electionpb, v3lockpb,
};

#[expect(clippy::allow_attributes, clippy::too_many_lines, reason = "generated from proto/")]
mod generated {
    /// The services and their messages.
    pub mod etcdserverpb {
        tonic::include_proto!("etcdserverpb");
    }
    /// Users, roles, permissions.
    pub mod authpb {
        tonic::include_proto!("authpb");
    }
    /// Members as the log holds them.
    pub mod membershippb {
        tonic::include_proto!("membershippb");
    }
    /// The lock service.
    pub mod v3lockpb {
        tonic::include_proto!("v3lockpb");
    }
    /// The election service.
    pub mod v3electionpb {
        tonic::include_proto!("v3electionpb");
    }
    /// The health service.
    pub mod health {
        tonic::include_proto!("grpc.health.v1");
    }
    /// The raft log's entries.
    pub mod decklog {
        tonic::include_proto!("decklog");
    }
    /// What members say to each other.
    pub mod peer {
        tonic::include_proto!("decklogpeer");
    }
}

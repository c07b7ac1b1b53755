//! Clients that keep a cluster busy on every member, and note what they ask and are told.

pub mod kv;
pub mod leases;
pub mod watches;

/// Keys of the clients that read and write; a few, so that clients meet.
pub const KEYS: usize = 12;
pub const PREFIX: &str = "key-";
/// Behind every key with the prefix.
pub const PREFIX_END: &str = "key.";

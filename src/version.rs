//! What we say we are. Clients decide by etcd's version which features they may use.

/// The version of etcd whose behaviour this server has.
pub const ETCD_VERSION: &str = "3.7.1";
/// The version of the cluster, and of the stored data in etcd's sense.
pub const CLUSTER_VERSION: &str = "3.7.0";
/// Our own.
pub const DECKLOG_VERSION: &str = env!("CARGO_PKG_VERSION");

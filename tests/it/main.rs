//! The server as its users meet it: the real binary on free loopback ports, asked by real etcdctl and over raw
//! sockets, and compared with real etcd where both can be asked.

#[path = "../common/peers.rs"]
mod peers;
#[path = "../common/servers.rs"]
mod servers;
#[path = "../common/until.rs"]
mod until;

mod auto_compaction;
mod bench;
mod captured;
mod containers;
mod etcdctl;
mod http;
mod http_client;
mod manifests;
mod peer_calls;
mod range_stream;
mod server;
mod startup;

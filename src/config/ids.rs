//! The ids of members and clusters, computed as etcd does: the same configuration gives the same ids everywhere.

use sha1::{Digest, Sha1};

use super::Url;
use crate::ids::{ClusterId, MemberId};

/// The first 8 bytes of SHA-1 over the sorted peer URLs and the cluster's token.
pub fn member(peer_urls: &[Url], token: &str) -> MemberId {
    let mut urls: Vec<&str> = peer_urls.iter().map(Url::as_str).collect();
    urls.sort_unstable();
    MemberId(first_bytes(&[urls.concat(), token.to_owned()].concat().into_bytes()))
}

/// The first 8 bytes of SHA-1 over the sorted member ids.
pub fn cluster(members: &[MemberId]) -> ClusterId {
    let mut ids: Vec<u64> = members.iter().map(|member| member.0).collect();
    ids.sort_unstable();
    let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_be_bytes()).collect();
    ClusterId(first_bytes(&bytes))
}

fn first_bytes(bytes: &[u8]) -> u64 {
    let digest = Sha1::digest(bytes);
    let first: [u8; 8] = digest[..8].try_into().expect("a digest has 20 bytes");
    u64::from_be_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a real etcd says of its defaults: `http://localhost:2380` and the token `etcd-cluster`.
    #[test]
    fn ids_are_those_of_etcd() {
        let url = Url::parse("http://localhost:2380").expect("a URL");
        let id = member(&[url], "etcd-cluster");
        assert_eq!(id, MemberId(0x8e9e_05c5_2164_694d));
        assert_eq!(cluster(&[id]), ClusterId(0xcdf8_1819_4e3a_8c32));
    }
}

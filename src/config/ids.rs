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

/// As `member`, for one that joins: the time makes it an id that never was.
pub fn new_member(peer_urls: &[String], unix_seconds: u64) -> MemberId {
    let mut urls: Vec<&str> = peer_urls.iter().map(String::as_str).collect();
    urls.sort_unstable();
    MemberId(first_bytes(&[urls.concat(), unix_seconds.to_string()].concat().into_bytes()))
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

    /// What a real etcd 3.5.30 said when it was started so.
    #[test]
    fn ids_are_those_of_etcd() {
        let cases: [(&[&str], &str, u64, u64); 3] = [
            (&["http://localhost:2380"], "etcd-cluster", 0x8e9e_05c5_2164_694d, 0xcdf8_1819_4e3a_8c32),
            (&["http://127.0.0.1:34581"], "tok-1", 0x66c0_023e_e5f3_0cb5, 0x9b2e_4ae8_3d1c_41f0),
            (
                &["http://127.0.0.1:34583", "http://127.0.0.1:34580"],
                "etcd-cluster",
                0x5692_b01d_aee6_7feb,
                0x9ddf_4fae_444b_d23e,
            ),
        ];
        for (urls, token, expected_member, expected_cluster) in cases {
            let urls: Vec<_> = urls.iter().map(|url| Url::parse(url).expect("a URL")).collect();
            let id = member(&urls, token);
            assert_eq!(id, MemberId(expected_member));
            assert_eq!(cluster(&[id]), ClusterId(expected_cluster));
        }
    }
}

//! Bad requests of the Cluster service.

use decklog::wire::etcdserverpb::{
    MemberAddRequest, MemberPromoteRequest, MemberRemoveRequest, MemberUpdateRequest,
};
use tonic::Code::{InvalidArgument, NotFound};

use super::{Ask, Row};

const BAD_URLS: &str = "etcdserver: given member URLs are invalid";
const NOT_FOUND: &str = "etcdserver: member not found";

pub fn rows() -> Vec<Row> {
    let add = |urls: &[&str]| Ask::MemberAdd(MemberAddRequest { peer_ur_ls: owned(urls), is_learner: false });
    let update = |id, urls: &[&str]| Ask::MemberUpdate(MemberUpdateRequest { id, peer_ur_ls: owned(urls) });
    vec![
        Row::new("MemberAdd: no URL", add(&[]), InvalidArgument, BAD_URLS),
        Row::new("MemberAdd: no scheme", add(&["127.0.0.1:1"]), InvalidArgument, BAD_URLS),
        Row::new("MemberAdd: other scheme", add(&["ftp://127.0.0.1:1"]), InvalidArgument, BAD_URLS),
        Row::new("MemberAdd: no port", add(&["http://127.0.0.1"]), InvalidArgument, BAD_URLS),
        Row::new("MemberAdd: a path", add(&["http://127.0.0.1:1/x"]), InvalidArgument, BAD_URLS),
        Row::new("MemberAdd: second one bad", add(&["http://127.0.0.1:1", "x"]), InvalidArgument, BAD_URLS),
        Row::new(
            "MemberPromote: unknown",
            Ask::MemberPromote(MemberPromoteRequest { id: 404 }),
            NotFound,
            NOT_FOUND,
        ),
        Row::new("MemberPromote: 0", Ask::MemberPromote(MemberPromoteRequest { id: 0 }), NotFound, NOT_FOUND),
        Row::new(
            "MemberRemove: unknown",
            Ask::MemberRemove(MemberRemoveRequest { id: 404 }),
            NotFound,
            NOT_FOUND,
        ),
        Row::new("MemberRemove: 0", Ask::MemberRemove(MemberRemoveRequest { id: 0 }), NotFound, NOT_FOUND),
        Row::new("MemberUpdate: unknown", update(404, &["http://127.0.0.1:1"]), NotFound, NOT_FOUND),
        Row::new("MemberUpdate: unknown, bad URL", update(404, &["x"]), NotFound, NOT_FOUND),
        Row::new("MemberUpdate: unknown, no URL", update(404, &[]), NotFound, NOT_FOUND),
    ]
}

fn owned(urls: &[&str]) -> Vec<String> {
    urls.iter().map(|&url| url.to_owned()).collect()
}

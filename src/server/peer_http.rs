//! What a peer URL answers over plain HTTP: who the members are, and the version, as etcd's does.

use http::header::{ALLOW, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{Method, Request, StatusCode};
use serde_json::{Map, Value, json};

use super::http::{Answer, plain, text, version};
use crate::ids::ClusterId;
use crate::members::Members;
use crate::wire::etcdserverpb::Member;

/// What the answers are made of. Cheap to clone.
#[derive(Clone)]
pub struct PeerEndpoints {
    pub cluster: ClusterId,
    pub members: Members,
}

impl PeerEndpoints {
    /// `None` for a path that has nothing to do with members.
    pub fn answer<B>(&self, request: &Request<B>) -> Option<Answer> {
        let path = request.uri().path();
        if !matches!(path, "/members" | "/version") {
            return None;
        }
        if request.method() != Method::GET {
            let mut answer = plain(StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed\n");
            answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET"));
            return Some(answer);
        }
        Some(if path == "/version" { version() } else { self.list() })
    }

    fn list(&self) -> Answer {
        let members: Vec<Value> = self.members.list().into_iter().map(to_json).collect();
        let mut answer = text(StatusCode::OK, &format!("{}\n", Value::Array(members)));
        let cluster = format!("{:x}", self.cluster.0);
        let cluster = HeaderValue::from_str(&cluster).expect("digits are a header's value");
        answer.headers_mut().insert(HeaderName::from_static("x-etcd-cluster-id"), cluster);
        answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        answer
    }
}

/// What is empty is left out.
fn to_json(member: Member) -> Value {
    let mut fields = Map::new();
    fields.insert("id".to_owned(), json!(member.id));
    fields.insert("peerURLs".to_owned(), json!(member.peer_ur_ls));
    if member.is_learner {
        fields.insert("isLearner".to_owned(), json!(true));
    }
    if !member.name.is_empty() {
        fields.insert("name".to_owned(), json!(member.name));
    }
    if !member.client_ur_ls.is_empty() {
        fields.insert("clientURLs".to_owned(), json!(member.client_ur_ls));
    }
    Value::Object(fields)
}

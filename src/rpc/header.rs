//! Response headers: who answers, in which term, at which revision.

use crate::consensus::Handle;
use crate::ids::{ClusterId, MemberId, Revision};
use crate::mvcc::Reader;
use crate::wire::etcdserverpb::ResponseHeader;

/// Makes headers. Cheap to clone.
#[derive(Clone)]
pub struct Headers {
    pub cluster: ClusterId,
    pub member: MemberId,
    pub consensus: Handle,
    pub reader: Reader,
}

impl Headers {
    /// Adds what only the answering member knows; a revision that the handler left open is the current one.
    pub fn fill(&self, header: &mut Option<ResponseHeader>) {
        *header = Some(self.filled(header.take()));
    }

    /// The same for one that does not stand in its message.
    pub fn filled(&self, header: Option<ResponseHeader>) -> ResponseHeader {
        match header.map_or(0, |header| header.revision) {
            0 => self.now(),
            revision => self.at(Revision(revision)),
        }
    }

    /// A header of the current revision.
    pub fn now(&self) -> ResponseHeader {
        self.at(self.reader.revision())
    }

    pub fn at(&self, revision: Revision) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.cluster.0,
            member_id: self.member.0,
            revision: revision.0,
            raft_term: self.consensus.status().term.0,
        }
    }
}

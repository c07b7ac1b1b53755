//! Random lease requests. Leases live much longer than a program, so that none expires in between.

use decklog::wire::etcdserverpb::{
    LeaseGrantRequest, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
};

use super::{Chooser, SERVER_CHOSEN, Step};

impl Chooser {
    pub fn lease_step(&mut self) -> Step {
        match self.below(10) {
            0..4 => Step::LeaseGrant(self.lease_grant()),
            4 | 5 => Step::LeaseRevoke(LeaseRevokeRequest { id: self.lease_id() }),
            6 | 7 => {
                Step::LeaseTimeToLive(LeaseTimeToLiveRequest { id: self.lease_id(), keys: self.one_in(2) })
            }
            8 => Step::LeaseKeepAlive(LeaseKeepAliveRequest { id: self.lease_id() }),
            _ => Step::LeaseLeases(LeaseLeasesRequest {}),
        }
    }

    /// None, one of a few that programs choose, one that the server chose, or one that never is.
    pub fn lease_id(&mut self) -> i64 {
        match self.below(12) {
            0 => 0,
            1 => self.pick(&[i64::MAX, i64::MIN, 404]),
            2..4 => SERVER_CHOSEN + i64::from(self.below(2)),
            4 => -7,
            _ => self.pick(&[101, 102, 103]),
        }
    }

    fn lease_grant(&mut self) -> LeaseGrantRequest {
        let id = match self.below(8) {
            0 => 0,
            1 => -7,
            _ => self.pick(&[101, 102, 103]),
        };
        // Far apart, so that the order by remaining time does not hang on milliseconds.
        let ttl = self.pick(&[600, 6_000, 60_000, 9_000_000_000, 9_000_000_001, i64::MAX]);
        LeaseGrantRequest { ttl, id }
    }
}

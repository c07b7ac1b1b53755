//! The quota of the store: what a request may still add.
//! Asks the store's size and raises NOSPACE through the log; the alarm itself is apply's.

use tonic::Status;

use super::status::ClientError;
use crate::alarm::Alarms;
use crate::command::Kind;
use crate::consensus::Handle;
use crate::ids::MemberId;
use crate::mvcc::Reader;
use crate::wire::etcdserverpb as pb;
use crate::wire::etcdserverpb::alarm_request::AlarmAction;

/// Cheap to clone.
#[derive(Clone)]
pub struct Quota {
    pub reader: Reader,
    pub consensus: Handle,
    pub alarms: Alarms,
    pub member: MemberId,
    /// Bytes that live revisions may take; `None` for no quota.
    pub limit: Option<u64>,
}

impl Quota {
    /// Refuses a request that would pass the quota, after raising the alarm. One that costs nothing (it only
    /// deletes or reads) always passes.
    ///
    /// # Errors
    /// etcd's "database space exceeded".
    pub async fn check(&self, cost: u64) -> Result<(), Status> {
        let Some(limit) = self.limit.filter(|_| cost > 0) else {
            return Ok(());
        };
        if self.reader.sizes().in_use.saturating_add(cost) < limit {
            return Ok(());
        }
        if !self.alarms.is_active(pb::AlarmType::Nospace) {
            let raise = pb::AlarmRequest {
                action: AlarmAction::Activate.into(),
                member_id: self.member.0,
                alarm: pb::AlarmType::Nospace.into(),
            };
            if let Err(error) = self.consensus.propose(Kind::Alarm(raise).into()).await {
                tracing::warn!(%error, "cannot raise the NOSPACE alarm");
            }
        }
        Err(ClientError::NoSpace.into())
    }
}

//! Jobs that only propose, like a client: leases that run out, automatic compaction, a learner that wants to vote; and one
//! that looks whether there is a leader. They own no state.

pub mod auto_compact;
pub mod leader;
pub mod leases;
pub mod promote;

//! Jobs that only propose, like a client: leases that run out, automatic compaction. They own no state.

pub mod auto_compact;
pub mod leases;

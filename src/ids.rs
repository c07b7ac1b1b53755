//! The numbers that name things, each its own type so that they cannot be swapped.
//! Owns no behaviour but order, text and bytes; every module may use it.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// The store's revision: one per command that changes data. An empty store is at 1.
    Revision(i64)
);
number!(
    /// Position of an entry in the raft log, from 1.
    LogIndex(u64)
);
number!(
    /// A raft term.
    Term(u64)
);
number!(
    /// A lease's id; 0 on the wire means "no lease".
    LeaseId(i64)
);
number!(
    /// A member's id, as etcd computes it.
    MemberId(u64)
);
number!(
    /// A cluster's id, as etcd computes it.
    ClusterId(u64)
);

/// Names one change: the main revision of its command and its place inside it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FullRevision {
    pub main: Revision,
    pub sub: u32,
}

impl FullRevision {
    pub const fn new(main: i64, sub: u32) -> Self {
        Self { main: Revision(main), sub }
    }

    /// The place just behind this one.
    pub fn successor(&self) -> Self {
        match self.sub.checked_add(1) {
            Some(sub) => Self { main: self.main, sub },
            None => Self::new(self.main.0 + 1, 0),
        }
    }

    /// The first possible change of `main`: the lower end of a scan.
    pub const fn start_of(main: Revision) -> Self {
        Self { main, sub: 0 }
    }
}

/// A log position with the term of its entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition {
    pub index: LogIndex,
    pub term: Term,
}

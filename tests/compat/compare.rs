//! What Decklog must answer, given what etcd answered.

use crate::answer::Answer;
use crate::differences;
use crate::programs::Step;

/// Which two servers are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// Two etcds of one version, to test this test: everything is equal.
    EtcdWithItself,
    /// etcd 3.5 with Decklog, which answers like etcd 3.7.
    EtcdWithDecklog,
}

impl Comparison {
    /// `etcd`'s answer to `step`, changed where the versions are known to differ.
    pub fn expected(self, step: &Step, etcd: Answer) -> Answer {
        match self {
            Self::EtcdWithItself => etcd,
            Self::EtcdWithDecklog => differences::applied(step, etcd),
        }
    }
}

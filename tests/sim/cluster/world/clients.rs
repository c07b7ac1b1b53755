//! Clients that write and read, and what they are answered: held against what was acknowledged before they asked.

use std::hash::Hash;

use bytes::Bytes;
use decklog::command::{Command, Kind, Outcome, Rejection};
use decklog::consensus::ConsensusError;
use decklog::wire::etcdserverpb as pb;
use rand::Rng;
use tokio::sync::oneshot::error::TryRecvError;

use super::super::machine::{Answer, Read};
use super::{KEYS, REQUEST_TIMEOUT, TICK, World, place_of};

/// What a client waits for.
pub(super) enum Waiting {
    Put {
        key: usize,
        answer: Answer,
    },
    Read {
        key: usize,
        granted: Read,
    },
    Grant {
        id: i64,
        answer: Answer,
    },
    Revoke {
        id: i64,
        answer: Answer,
    },
    Change {
        answer: Answer,
    },
    /// `rejections`: what apply may say to it.
    Other {
        answer: Answer,
        rejections: &'static [Rejection],
    },
}

impl Waiting {
    /// Whether this can be said to what was asked.
    fn may_hear(&self, error: &ConsensusError) -> bool {
        let rejections: &[Rejection] = match self {
            Self::Revoke { .. } => &[Rejection::LeaseNotFound],
            Self::Change { .. } => OF_CHANGES,
            Self::Other { rejections, .. } => rejections,
            // Its lease is new, and a read waits for the next leader.
            Self::Put { .. } | Self::Grant { .. } | Self::Read { .. } => &[],
        };
        match error {
            ConsensusError::Rejected(rejection) => rejections.contains(rejection),
            // Nobody else carries a change to the leader.
            ConsensusError::NotLeader => matches!(self, Self::Change { .. }),
            // The last when the log could not make room before its machine stopped.
            ConsensusError::LeaderChanged | ConsensusError::TooManyRequests | ConsensusError::NoSpace => {
                !matches!(self, Self::Read { .. })
            }
            _ => false,
        }
    }
}

pub(super) struct Asked {
    pub at: u64,
    pub machine: usize,
    /// The highest revision that was acknowledged before, in all and of the key.
    pub acknowledged: i64,
    pub of_key: i64,
    pub waiting: Waiting,
}

/// What the rules for members may say to a change that nobody thought about.
const OF_CHANGES: &[Rejection] = &[
    Rejection::MemberNotFound,
    Rejection::MemberExists,
    Rejection::PeerUrlsExist,
    Rejection::MemberNotLearner,
    Rejection::TooManyLearners,
    Rejection::LastVoter,
];

pub(super) fn put(key: String, value: String, lease: i64) -> pb::PutRequest {
    pb::PutRequest { key: key.into(), value: value.into(), lease, ..pb::PutRequest::default() }
}

impl World {
    pub(super) fn load(&mut self) {
        if self.is_quiet() {
            if self.now.is_multiple_of(5 * TICK) {
                // Stores go on when all is quiet: a state that has come makes room for the next.
                (0..self.machines.len()).for_each(|place| self.persist(place, usize::MAX));
            }
            return;
        }
        if !self.random.random_ratio(1, 6) {
            return;
        }
        let place = self.random_place();
        match self.random.random_range(0..22) {
            0..=5 => self.put(place),
            6..=9 => self.read(place),
            10..=12 => {
                let rounds = self.random.random_range(0..30);
                self.persist(place, rounds);
            }
            13 | 14 => self.change_other_keys(place),
            15 => self.compact(place),
            16 => self.grant(place),
            17 => self.bind(place),
            18 => self.revoke(place),
            _ => self.renew(place),
        }
        self.run_machine(place);
    }

    /// The store's thread takes so many rounds.
    fn persist(&mut self, place: usize, rounds: usize) {
        if self.is_running(place)
            && let Some(life) = &mut self.machines[place].life
        {
            life.persist(rounds);
        }
    }

    pub(super) fn ask(&mut self, place: usize, key: usize, ask: impl FnOnce(&mut super::Life) -> Waiting) {
        let (acknowledged, of_key, at) = (self.acknowledged, self.of_keys[key], self.now);
        if let Some(life) = self.awake(place) {
            let waiting = ask(life);
            self.asked.push(Asked { at, machine: place, acknowledged, of_key, waiting });
        }
    }

    fn put(&mut self, place: usize) {
        let key = self.random.random_range(0..KEYS);
        self.puts += 1;
        let command = Command::from(Kind::Put(put(format!("key-{key}"), self.puts.to_string(), 0)));
        self.ask(place, key, |life| Waiting::Put { key, answer: life.propose(&command) });
    }

    fn read(&mut self, place: usize) {
        let key = self.random.random_range(0..KEYS);
        self.ask(place, key, |life| Waiting::Read { key, granted: life.read() });
    }

    pub(super) fn propose(&mut self, place: usize, kind: Kind, rejections: &'static [Rejection]) {
        let command = Command::from(kind);
        self.ask(place, 0, |life| Waiting::Other { answer: life.propose(&command), rejections });
    }

    /// Several keys in one revision, or none.
    fn change_other_keys(&mut self, place: usize) {
        use pb::request_op::Request;
        let range = || pb::DeleteRangeRequest {
            key: Bytes::from_static(b"other-"),
            range_end: Bytes::from_static(b"other."),
            ..pb::DeleteRangeRequest::default()
        };
        if self.random.random_ratio(1, 3) {
            return self.propose(place, Kind::DeleteRange(range()), &[]);
        }
        let value = self.puts.to_string();
        let ops = (0..self.random.random_range(1..4)).map(|key| {
            let put = Request::RequestPut(put(format!("other-{key}"), value.clone(), 0));
            pb::RequestOp { request: Some(put) }
        });
        let success = ops.collect();
        self.propose(place, Kind::Txn(pb::TxnRequest { success, ..pb::TxnRequest::default() }), &[]);
    }

    /// At any revision: also one that is compacted already, or has not come.
    fn compact(&mut self, place: usize) {
        let newest = self.truth.naive.revision();
        let revision = newest - self.random.random_range(-1..30);
        if revision > 0 {
            let request = pb::CompactionRequest { revision, ..pb::CompactionRequest::default() };
            let rejections = &[Rejection::Compacted, Rejection::FutureRevision];
            self.propose(place, Kind::Compact(request), rejections);
        }
    }

    /// When all is quiet one client asks until it is answered.
    pub(super) fn ask_until_live(&mut self) {
        if !self.asked.is_empty() {
            return;
        }
        let voters = self.truth.voters();
        let place = place_of(voters[self.random.random_range(0..voters.len())]);
        self.put(place);
        self.run_machine(place);
    }

    /// Takes the answers that have come.
    pub(super) fn answers(&mut self) {
        for mut asked in std::mem::take(&mut self.asked) {
            if self.now - asked.at > REQUEST_TIMEOUT {
                self.met.count("unknown");
                continue;
            }
            let (Waiting::Put { answer, .. }
            | Waiting::Grant { answer, .. }
            | Waiting::Revoke { answer, .. }
            | Waiting::Change { answer }
            | Waiting::Other { answer, .. }) = &mut asked.waiting
            else {
                self.look_at_read(asked);
                continue;
            };
            match answer.try_recv() {
                Ok(Ok(outcome)) => self.acknowledge(&asked, outcome),
                Ok(Err(error)) => self.refused(&asked, &error),
                Err(TryRecvError::Empty) => self.asked.push(asked),
                Err(TryRecvError::Closed) => self.met.count("unknown"),
            }
        }
    }

    fn refused(&mut self, asked: &Asked, error: &ConsensusError) {
        assert!(asked.waiting.may_hear(error), "seed {}: {error:?}", self.seed);
        let is_certain = matches!(error, ConsensusError::Rejected(_));
        self.met.count(if is_certain { "rejected" } else { "unknown" });
    }

    fn acknowledge(&mut self, asked: &Asked, outcome: Outcome) {
        let header = match outcome {
            Outcome::Put(response) => response.header,
            Outcome::DeleteRange(response) => response.header,
            Outcome::Txn(response) => response.header,
            Outcome::Compact(response) => response.header,
            Outcome::LeaseGrant(response) => response.header,
            Outcome::LeaseRevoke(response) => response.header,
            Outcome::Members(_) => return self.met.count("member change"),
            other => panic!("nobody asked for {other:?}"),
        };
        let (seed, revision) = (self.seed, header.expect("a header").revision);
        (self.now, revision).hash(&mut self.trace);
        let least = match asked.waiting {
            Waiting::Put { .. } => asked.acknowledged + 1,
            _ => asked.acknowledged,
        };
        assert!(revision >= least, "seed {seed}: revision {revision} after {}", asked.acknowledged);
        self.acknowledged = self.acknowledged.max(revision);
        match &asked.waiting {
            Waiting::Put { key, .. } => {
                self.met.count("write");
                assert!(self.revisions.insert(revision), "seed {seed}: revision {revision} was given twice");
                self.of_keys[*key] = self.of_keys[*key].max(revision);
            }
            Waiting::Grant { id, .. } => self.granted(*id, asked.at),
            Waiting::Revoke { id, .. } => self.revoked(*id),
            _ => self.met.count("other write"),
        }
    }

    fn look_at_read(&mut self, mut asked: Asked) {
        let Waiting::Read { key, granted } = &mut asked.waiting else {
            panic!("everything else is answered by an outcome");
        };
        match granted.try_recv() {
            Ok(Ok(())) => {
                let key = *key;
                self.check_read(&asked, key);
            }
            Ok(Err(error)) => self.refused(&asked, &error),
            Err(TryRecvError::Empty) => self.asked.push(asked),
            Err(TryRecvError::Closed) => {}
        }
    }
}

/// Known bug of this test: whatever one of them may be told was taken from all.
#[test]
fn clients_hear_what_fits_what_they_asked() {
    use tokio::sync::oneshot::channel;
    let put = Waiting::Put { key: 0, answer: channel().1 };
    let read = Waiting::Read { key: 0, granted: channel().1 };
    let change = Waiting::Change { answer: channel().1 };
    let compaction = Waiting::Other { answer: channel().1, rejections: &[Rejection::Compacted] };
    let heard = |error: ConsensusError| [&put, &read, &change, &compaction].map(|it| it.may_hear(&error));
    assert_eq!(heard(ConsensusError::LeaderChanged), [true, false, true, true]);
    assert_eq!(heard(ConsensusError::NotLeader), [false, false, true, false]);
    assert_eq!(heard(ConsensusError::Rejected(Rejection::Compacted)), [false, false, false, true]);
    assert_eq!(heard(ConsensusError::Rejected(Rejection::LastVoter)), [false, false, true, false]);
    assert_eq!(heard(ConsensusError::Rejected(Rejection::Corrupt)), [false; 4]);
    assert_eq!(heard(ConsensusError::Timeout), [false; 4]);
}

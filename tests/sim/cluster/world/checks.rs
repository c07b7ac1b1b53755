//! What clients were told, against what had been acknowledged before they asked; and the end of a run.

use std::hash::Hash;

use decklog::command::Outcome;
use decklog::consensus::ConsensusError;
use decklog::wire::etcdserverpb as pb;

use super::{Asked, Life, REQUEST_TIMEOUT, Waiting, World};

impl World {
    /// Takes the answers that have come, and holds them against what was acknowledged before they were asked for.
    pub(super) fn answers(&mut self) {
        for mut asked in std::mem::take(&mut self.asked) {
            if self.now - asked.at > REQUEST_TIMEOUT {
                self.met.unknown += 1;
                continue;
            }
            match &mut asked.waiting {
                Waiting::Put { key, answer } => match answer.try_recv() {
                    Ok(Ok(Outcome::Put(response))) => {
                        let key = *key;
                        self.acknowledge(&asked, key, response.header.expect("a header").revision);
                    }
                    Ok(Ok(other)) => panic!("{other:?}"),
                    Ok(Err(error)) => self.refused(&error),
                    Err(tokio::sync::oneshot::error::TryRecvError::Empty) => self.asked.push(asked),
                    Err(_crashed) => self.met.unknown += 1,
                },
                Waiting::Read { key, granted } => match granted.try_recv() {
                    Ok(Ok(())) => {
                        let key = *key;
                        self.check_read(&asked, key);
                    }
                    Ok(Err(error)) => self.refused(&error),
                    Err(tokio::sync::oneshot::error::TryRecvError::Empty) => self.asked.push(asked),
                    Err(_crashed) => {}
                },
            }
        }
    }

    fn refused(&mut self, error: &ConsensusError) {
        match error {
            // The last when the log could not make room before its machine stopped.
            ConsensusError::LeaderChanged | ConsensusError::TooManyRequests | ConsensusError::NoSpace => {
                self.met.unknown += 1;
            }
            other => panic!("seed {}: {other:?}", self.seed),
        }
    }

    fn acknowledge(&mut self, asked: &Asked, key: usize, revision: i64) {
        self.met.writes += 1;
        (self.now, revision).hash(&mut self.trace);
        let seed = self.seed;
        assert!(
            revision > asked.acknowledged,
            "seed {seed}: revision {revision} after {}",
            asked.acknowledged
        );
        assert!(self.revisions.insert(revision), "seed {seed}: revision {revision} was given twice");
        self.acknowledged = self.acknowledged.max(revision);
        self.of_keys[key] = self.of_keys[key].max(revision);
    }

    fn check_read(&mut self, asked: &Asked, key: usize) {
        let Some(life) = &self.machines[asked.machine].life else { return };
        self.met.reads += 1;
        let request = pb::RangeRequest { key: format!("key-{key}").into(), ..pb::RangeRequest::default() };
        let snapshot = life.reader.snapshot();
        let answer = decklog::mvcc::range_response(&snapshot, &request).expect("no fault is armed");
        let found = answer.kvs.first().map_or(0, |pair| pair.decode().expect("a pair").mod_revision);
        let seed = self.seed;
        assert!(snapshot.revision().0 >= asked.acknowledged, "seed {seed}: a read of an older revision");
        assert!(found >= asked.of_key, "seed {seed}: a stale read: {found} of at least {}", asked.of_key);
    }

    pub(super) fn check_end(&self) {
        let lives: Vec<&Life> = self.machines.iter().filter_map(|machine| machine.life.as_ref()).collect();
        let hash = lives[0].hash();
        for life in &lives {
            assert_eq!(life.hash(), hash, "seed {}: members differ", self.seed);
        }
        for (key, revision) in self.of_keys.iter().enumerate() {
            let request =
                pb::RangeRequest { key: format!("key-{key}").into(), ..pb::RangeRequest::default() };
            let snapshot = lives[0].reader.snapshot();
            let answer = decklog::mvcc::range_response(&snapshot, &request).expect("no fault is armed");
            let found = answer.kvs.first().map_or(0, |pair| pair.decode().expect("a pair").mod_revision);
            assert!(found >= *revision, "seed {}: an acknowledged write is missing", self.seed);
        }
    }
}

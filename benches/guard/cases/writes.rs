//! What an entry does when it is applied and published; renewals of leases.

use std::time::{Duration, Instant};

use bytes::Bytes;
use decklog::command::Kind;
use decklog::ids::LeaseId;
use decklog::lease::Leases;
use decklog::wire::etcdserverpb::DeleteRangeRequest;

use super::machine::{Machine, entry};
use super::wire::compare_and_swap;
use super::{key, put, scattered};
use crate::counter::Counter;

/// Commands that are counted together.
const COMMANDS: usize = 1000;
const LEASES: i64 = 10_000;

pub fn applied(counter: &Counter, machine: &mut Machine) {
    let puts = |number| Kind::Put(put(number));
    let txns = |number| Kind::Txn(compare_and_swap(number));
    let deletes = |number| Kind::DeleteRange(DeleteRangeRequest { key: key(number), ..Default::default() });
    let mut apply = |case: &str, per_entry: usize, make: fn(usize) -> Kind| {
        let inputs = [0, COMMANDS].map(|from| entries(per_entry, scattered(COMMANDS, from).map(make)));
        counter.count(case, COMMANDS, inputs, |entries| {
            entries.iter().map(|entry| machine.apply(entry)).collect::<Vec<_>>()
        });
    };
    apply("apply-put", 100, puts);
    apply("apply-put-alone", 1, puts);
    apply("apply-txn", 100, txns);
    apply("apply-delete", 100, deletes);
}

fn entries(per_entry: usize, commands: impl Iterator<Item = Kind>) -> Vec<Bytes> {
    commands.collect::<Vec<_>>().chunks(per_entry).map(|commands| entry(commands.to_vec())).collect()
}

pub fn leases(counter: &Counter) {
    let (leases, mut now) = (Leases::default(), Instant::now());
    for id in 1..=LEASES {
        leases.grant(LeaseId(id), 60).expect("granted");
    }
    let ids = || (1..=LEASES).step_by(10).map(LeaseId).collect::<Vec<_>>();
    counter.count("lease-renew", ids().len(), [ids(), ids()], |ids| {
        now += Duration::from_millis(1);
        assert!(ids.iter().all(|id| leases.renew(*id, now).is_some()));
    });
}

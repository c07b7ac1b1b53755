//! Ranges over a store that has everything in its cache.

use bytes::Bytes;
use decklog::mvcc::range_response;
use decklog::wire::etcdserverpb::RangeRequest;

use super::machine::Machine;
use super::{KEYS, key, scattered};
use crate::counter::Counter;

/// Behind the last key.
const BEHIND: &[u8] = b"/registry/pods0";

pub fn ranges(counter: &Counter, machine: &Machine) {
    let read = |case: &str, pairs: usize, requests: Vec<RangeRequest>| {
        let inputs = [requests.clone(), requests];
        counter.count(case, inputs[0].len(), inputs, |requests| answer(machine, pairs, &requests));
    };
    read("range-one-key", 1, scattered(1000, 0).map(|number| of(key(number), b"", 0)).collect());
    read("range-page-500", 500, pages(10, 500));
    read("range-page-10000", 10_000, pages(1, 10_000));
    let keys_only = |page| RangeRequest { keys_only: true, ..page };
    read("range-keys-only-500", 500, pages(10, 500).into_iter().map(keys_only).collect());
    let count = RangeRequest { count_only: true, ..of(key(0), BEHIND, 0) };
    read("range-count-100000", 0, vec![count; 100]);
}

/// Pages from different places.
fn pages(pages: usize, keys: usize) -> Vec<RangeRequest> {
    (0..pages).map(|page| of(key(20_000 + page * 1000), BEHIND, keys)).collect()
}

fn of(key: Bytes, range_end: &'static [u8], limit: usize) -> RangeRequest {
    let range_end = Bytes::from_static(range_end);
    RangeRequest { key, range_end, limit: limit as i64, ..RangeRequest::default() }
}

/// From the newest view to the responses, of so many pairs each.
fn answer(machine: &Machine, pairs: usize, requests: &[RangeRequest]) {
    for request in requests {
        let response = range_response(&machine.reader.snapshot(), request).expect("read");
        assert_eq!(response.kvs.len(), pairs);
        assert!(!request.count_only || response.count == KEYS as i64);
    }
}

//! The hot paths, one after the other, over one store of 100 000 keys. Runs under valgrind.

mod consensus;
mod machine;
mod reads;
mod watches;
mod wire;
mod writes;

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use decklog::wire::etcdserverpb::PutRequest;
use machine::Machine;

use crate::counter::Counter;

/// Keys in the store.
const KEYS: usize = 100_000;
const VALUE_BYTES: usize = 200;

/// The allocator of the server.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Does every case in an empty directory.
pub fn run(counter: &Counter, directory: &Path) {
    wire::messages(counter);
    wire::log(counter, &directory.join("log"));
    consensus::proposals(counter, &directory.join("proposals"));
    let mut machine = Machine::of_keys(&directory.join("store"), KEYS);
    reads::ranges(counter, &machine);
    consensus::calls(counter, &machine, &directory.join("calls"));
    writes::applied(counter, &mut machine);
    watches::events(counter, &mut machine);
    writes::leases(counter);
}

/// As Kubernetes names its objects; all of one length, in the order of the numbers.
fn key(number: usize) -> Bytes {
    format!("/registry/pods/namespace-{:03}/pod-{number:06}", number / 1000).into()
}

fn put(number: usize) -> PutRequest {
    PutRequest { key: key(number), value: vec![b'v'; VALUE_BYTES].into(), ..PutRequest::default() }
}

/// Numbers of keys far from each other, each once in `KEYS`.
fn scattered(count: usize, from: usize) -> impl Iterator<Item = usize> {
    (from..from + count).map(|number| number * 7919 % KEYS)
}

fn context() -> Context<'static> {
    Context::from_waker(Waker::noop())
}

/// The outcome of what need not wait.
fn at_once<F: Future>(future: F) -> F::Output {
    match pin!(future).poll(&mut context()) {
        Poll::Ready(outcome) => outcome,
        Poll::Pending => panic!("nobody is in the way"),
    }
}

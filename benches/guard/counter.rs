//! The two functions that valgrind is told of by name (`valgrind.rs`), and the line that says what was counted.

use std::hint::black_box;

/// Instructions count from a call of this to its return.
#[inline(never)]
fn guard_counted(work: &mut dyn FnMut()) {
    work();
    // Something to do behind the call, so that it stays a call.
    black_box(());
}

/// When this returns, valgrind writes down what has been counted, and begins with nothing again. It takes one of these two
/// orders for a name, not both.
#[inline(never)]
fn guard_case(work: &mut dyn FnMut()) {
    guard_counted(work);
    black_box(());
}

/// Which cases are counted; all are done, because one finds what those before it left.
pub enum Counter {
    All,
    Only(String),
}

impl Counter {
    /// Does `work` twice, of which the second time counts: by then caches are filled and buffers have grown. What it
    /// returns is dropped within the count: somebody has to.
    pub fn count<I, O>(&self, case: &str, operations: usize, inputs: [I; 2], mut work: impl FnMut(I) -> O) {
        let [warm, input] = inputs;
        drop(black_box(work(warm)));
        let mut input = Some(input);
        let mut work = || drop(black_box(input.take().map(&mut work)));
        match self {
            Self::Only(other) if other != case => work(),
            Self::All | Self::Only(_) => {
                guard_case(&mut work);
                println!("{case} {operations}");
            }
        }
    }
}

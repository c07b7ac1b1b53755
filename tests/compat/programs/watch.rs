//! Random watch requests; all watches of a program stay open to its end unless cancelled.

use decklog::wire::etcdserverpb::WatchCreateRequest;

use super::{Chooser, Step};

impl Chooser {
    pub fn watch_step(&mut self) -> Step {
        match self.below(10) {
            0..6 => Step::WatchCreate(self.watch_create()),
            6..8 => {
                Step::WatchCancel { stream: self.pick(&[0, 1]), id: self.pick(&[0, 1, 2, 3, 7, 8, -1, 99]) }
            }
            _ => Step::WatchProgress { stream: self.pick(&[0, 1]) },
        }
    }

    fn watch_create(&mut self) -> WatchCreateRequest {
        let key = self.key();
        let range_end = if self.one_in(2) { self.whole_prefix_end() } else { self.range_end(&key) };
        WatchCreateRequest {
            key,
            range_end,
            start_revision: if self.one_in(3) { 0 } else { self.revision() },
            progress_notify: self.one_in(4),
            filters: self.pick(&[vec![], vec![], vec![], vec![0], vec![1], vec![0, 1], vec![1, 1], vec![9]]),
            prev_kv: self.one_in(2),
            watch_id: self.pick(&[0, 0, 0, 0, 7, 8, 1, -5]),
            fragment: self.one_in(3),
        }
    }
}

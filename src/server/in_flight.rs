//! How many requests are being answered: a graceful stop waits for them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Cheap to clone; all clones count together.
#[derive(Clone, Default)]
pub struct InFlight(Arc<AtomicUsize>);

/// One request, until it is dropped.
pub struct Guard(Option<InFlight>);

impl InFlight {
    pub fn enter(&self) -> Guard {
        self.0.fetch_add(1, Ordering::Relaxed);
        Guard(Some(self.clone()))
    }

    /// For a call that a stop does not wait for: a stream that only its client ends.
    pub fn uncounted() -> Guard {
        Guard(None)
    }

    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if let Some(count) = &self.0 {
            count.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

//! The end of what has no end of its own: the server's stop. Whether it has come is asked of its value; a future alone
//! would not do, since those who wait are woken one after the other, and the first can make the next one's stream end
//! before that one has heard why.

use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::watch;

/// See the module.
pub struct Until {
    stopping: watch::Receiver<bool>,
    told: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Until {
    pub fn new(stopping: watch::Receiver<bool>) -> Self {
        let mut waiting = stopping.clone();
        let told = Box::pin(async move {
            // An error says that nobody can tell any more: the server has stopped.
            drop(waiting.wait_for(|stopping| *stopping).await);
        });
        Self { stopping, told }
    }

    pub fn has_come(&self) -> bool {
        *self.stopping.borrow()
    }

    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.has_come() { Poll::Ready(()) } else { self.told.as_mut().poll(context) }
    }
}

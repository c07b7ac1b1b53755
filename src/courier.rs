//! The way back from a stage to the tasks of a front-end thread: what a batch has for them goes over together, with one
//! wake-up of the thread, and is given out there. To wake each task from outside would be a system call each.
//! Bounded by what waits: a proposal has one reply, a watch stream so many places.

use std::cell::RefCell;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::Notify;

type Delivery = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Shared {
    waiting: Mutex<Vec<Delivery>>,
    filled: Notify,
}

thread_local! {
    static HERE: RefCell<Option<Arc<Shared>>> = const { RefCell::new(None) };
}

/// Where the tasks of one thread are reached; of a thread without a courier they are reached one by one.
#[derive(Clone)]
pub struct Courier(Option<Arc<Shared>>);

impl std::fmt::Debug for Courier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Courier" } else { "no courier" })
    }
}

impl Courier {
    /// That of the thread that asks.
    pub fn here() -> Self {
        Self(HERE.with_borrow(Clone::clone))
    }

    /// Gives this thread a courier, and delivers until it is dropped.
    pub async fn run() {
        let shared = Arc::new(Shared::default());
        HERE.set(Some(shared.clone()));
        loop {
            shared.filled.notified().await;
            for delivery in std::mem::take(&mut *shared.waiting.lock()) {
                delivery();
            }
        }
    }
}

/// What a stage has for several couriers, until it sends it.
#[derive(Default)]
pub struct Outbox {
    bags: Vec<(Arc<Shared>, Vec<Delivery>)>,
}

impl Outbox {
    /// Adds what is to be done on the courier's thread, behind what was added before.
    pub fn push(&mut self, to: &Courier, delivery: impl FnOnce() + Send + 'static) {
        let Courier(Some(shared)) = to else {
            return delivery();
        };
        let known = self.bags.iter_mut().find(|(known, _)| Arc::ptr_eq(known, shared));
        match known {
            Some((_, bag)) => bag.push(Box::new(delivery)),
            None => self.bags.push((shared.clone(), vec![Box::new(delivery)])),
        }
    }

    /// Sends everything.
    pub fn send(&mut self) {
        for (shared, bag) in self.bags.iter_mut().filter(|(_, bag)| !bag.is_empty()) {
            shared.waiting.lock().append(bag);
            shared.filled.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;

    #[test]
    fn a_thread_gets_what_it_is_sent_in_order() {
        let (told, courier) = std::sync::mpsc::sync_channel(1);
        let (sender, mut receiver) = mpsc::channel(1000);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            runtime.block_on(async {
                tokio::spawn(Courier::run());
                tokio::task::yield_now().await;
                told.send(Courier::here()).expect("somebody listens");
                let mut got = Vec::new();
                while got.len() < 300 {
                    got.push(receiver.recv().await.expect("more comes"));
                }
                got
            })
        });
        let courier = courier.recv().expect("it begins");
        let mut outbox = Outbox::default();
        for batch in 0..30 {
            for number in 0..10 {
                let sender = sender.clone();
                let item = batch * 10 + number;
                outbox.push(&courier, move || sender.try_send(item).expect("there is room"));
            }
            outbox.send();
        }
        let got = thread.join().expect("it does not panic");
        assert_eq!(got, (0..300).collect::<Vec<_>>());
    }
}

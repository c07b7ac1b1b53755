//! The way into a stage's thread: many senders, one receiver that takes all that waits at once.
//! Bounded. A wake-up is paid once per batch and none while the stage is busy; nobody spins.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};

/// Why an item was not taken. It is dropped: who needs it keeps what it takes to make it again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("the inbox is full")]
    Full,
    #[error("the stage has ended")]
    Closed,
}

/// What waiting has brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    Items,
    TimedOut,
    /// Nothing is left and nobody can send any more.
    Closed,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    filled: Condvar,
    capacity: usize,
}

struct State<T> {
    items: VecDeque<T>,
    senders: usize,
    receiver_lives: bool,
    receiver_waits: bool,
}

/// One end of many. The receiver learns when the last is dropped.
pub struct Sender<T>(Arc<Shared<T>>);

/// The stage's end.
pub struct Receiver<T>(Arc<Shared<T>>);

/// An inbox that holds `capacity` items beside those that the receiver has taken.
pub fn bounded<T>(capacity: usize) -> (Sender<T>, Receiver<T>) {
    let state = State { items: VecDeque::new(), senders: 1, receiver_lives: true, receiver_waits: false };
    let shared = Arc::new(Shared { state: Mutex::new(state), filled: Condvar::new(), capacity });
    (Sender(shared.clone()), Receiver(shared))
}

impl<T> Sender<T> {
    /// Never waits.
    ///
    /// # Errors
    /// See `Refused`.
    pub fn try_send(&self, item: T) -> Result<(), Refused> {
        self.try_send_below(self.0.capacity, item)
    }

    /// The same as if the inbox had room for `capacity` items: some kinds of items leave room for others.
    ///
    /// # Errors
    /// See `Refused`.
    pub fn try_send_below(&self, capacity: usize, item: T) -> Result<(), Refused> {
        let mut state = self.0.state.lock();
        if !state.receiver_lives {
            return Err(Refused::Closed);
        }
        if state.items.len() >= capacity {
            return Err(Refused::Full);
        }
        state.items.push_back(item);
        let wake = std::mem::take(&mut state.receiver_waits);
        drop(state);
        if wake {
            self.0.filled.notify_one();
        }
        Ok(())
    }

    /// Sends what comes seldom and must not be lost, such as what ends the stage: there is room for it whatever waits, and a
    /// stage that has ended needs it no more.
    pub fn send_end(&self, item: T) {
        if let Err(refused) = self.try_send_below(usize::MAX, item) {
            tracing::debug!(%refused, "a stage that has ended was told something");
        }
    }

    /// Whether an item would be taken now.
    pub fn has_room(&self) -> bool {
        self.0.state.lock().items.len() < self.0.capacity
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        self.0.state.lock().senders += 1;
        Self(self.0.clone())
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.senders -= 1;
        if state.senders == 0 {
            self.0.filled.notify_one();
        }
    }
}

impl<T> Receiver<T> {
    /// Takes what is there without waiting, behind what `items` holds.
    pub fn take_now(&self, items: &mut VecDeque<T>) {
        items.append(&mut self.0.state.lock().items);
    }

    /// Waits until something is there and takes all of it behind what `items` holds; with `until` no longer than
    /// that.
    pub fn take(&self, items: &mut VecDeque<T>, until: Option<Instant>) -> Taken {
        let mut state = self.0.state.lock();
        loop {
            if !state.items.is_empty() {
                if items.is_empty() {
                    std::mem::swap(items, &mut state.items);
                } else {
                    items.append(&mut state.items);
                }
                return Taken::Items;
            }
            if state.senders == 0 {
                return Taken::Closed;
            }
            state.receiver_waits = true;
            let timed_out = match until {
                Some(until) => self.0.filled.wait_until(&mut state, until).timed_out(),
                None => {
                    self.0.filled.wait(&mut state);
                    false
                }
            };
            state.receiver_waits = false;
            if timed_out && state.items.is_empty() {
                return Taken::TimedOut;
            }
        }
    }
}

impl<T> Drop for Receiver<T> {
    /// What nobody will take is dropped, so that those who wait for it learn of it.
    fn drop(&mut self) {
        let mut state = self.0.state.lock();
        state.receiver_lives = false;
        let left = std::mem::take(&mut state.items);
        drop(state);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn everything_arrives_in_order_through_a_small_inbox() {
        let (sender, receiver) = bounded(3);
        let senders: Vec<_> = (0..4u64)
            .map(|number| {
                let sender = sender.clone();
                std::thread::spawn(move || {
                    for item in 0..1000 {
                        while sender.try_send((number, item)).is_err() {
                            std::thread::yield_now();
                        }
                    }
                })
            })
            .collect();
        drop(sender);
        let mut next = [0; 4];
        let mut items = VecDeque::new();
        while receiver.take(&mut items, None) == Taken::Items {
            assert!(items.len() <= 3);
            for (sender, item) in items.drain(..) {
                assert_eq!(next[usize::try_from(sender).expect("it is small")], item);
                next[usize::try_from(sender).expect("it is small")] += 1;
            }
        }
        assert_eq!(next, [1000; 4]);
        for sender in senders {
            sender.join().expect("it does not panic");
        }
    }

    #[test]
    fn both_ends_learn_that_the_other_is_gone() {
        let (sender, receiver) = bounded(2);
        sender.try_send(1).expect("there is room");
        sender.try_send(2).expect("there is room");
        assert_eq!(sender.try_send(3), Err(Refused::Full));
        let mut items = VecDeque::new();
        assert_eq!(receiver.take(&mut items, None), Taken::Items);
        let soon = Instant::now() + Duration::from_millis(1);
        assert_eq!(receiver.take(&mut items, Some(soon)), Taken::TimedOut);
        assert_eq!(items, [1, 2]);
        drop(receiver);
        assert_eq!(sender.try_send(4), Err(Refused::Closed));
        let (sender, receiver) = bounded::<u8>(1);
        drop(sender);
        assert_eq!(receiver.take(&mut VecDeque::new(), None), Taken::Closed);
    }
}

//! Where readers wait for the loop. Owns those that have come since it last looked.
//!
//! While a round with the leader is under way nobody can be served by it who comes later, and the loop looks here anyway when it is
//! over: so the loop is told of the first reader alone, and only when there is no round.

use std::sync::Arc;

use parking_lot::Mutex;

use super::ConsensusError;
use super::event_loop::MAX_QUEUED_REQUESTS;
use super::reads::ReadReply;

/// The readers' end. Cheap to clone. A lock, because readers come from every front thread.
#[derive(Clone)]
pub(super) struct Door(Arc<Mutex<State>>);

/// The loop's end.
pub(super) struct Lobby(Arc<Mutex<State>>);

struct State {
    readers: Vec<ReadReply>,
    /// The loop wants to be told when somebody comes.
    is_awaited: bool,
    is_closed: bool,
}

pub(super) fn lobby() -> (Door, Lobby) {
    let state = State { readers: Vec::new(), is_awaited: true, is_closed: false };
    let shared = Arc::new(Mutex::new(state));
    (Door(shared.clone()), Lobby(shared))
}

impl Door {
    /// Whether the loop is to be told.
    ///
    /// # Errors
    /// `TooManyRequests`, `Stopped`.
    pub fn enter(&self, reader: ReadReply) -> Result<bool, ConsensusError> {
        let mut state = self.0.lock();
        if state.is_closed {
            return Err(ConsensusError::Stopped);
        }
        if state.readers.len() >= MAX_QUEUED_REQUESTS {
            return Err(ConsensusError::TooManyRequests);
        }
        state.readers.push(reader);
        Ok(std::mem::take(&mut state.is_awaited))
    }
}

impl Lobby {
    /// Everybody. When that is nobody, the loop is told of who comes next; otherwise it looks here again in its turn.
    pub fn let_in(&self) -> Vec<ReadReply> {
        let mut state = self.0.lock();
        state.is_awaited = state.readers.is_empty();
        std::mem::take(&mut state.readers)
    }

    /// The loop need not be told of anybody: it looks again by itself.
    pub fn keep(&self) {
        self.0.lock().is_awaited = false;
    }
}

impl Drop for Lobby {
    /// The loop has ended: those who wait learn of it.
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.is_closed = true;
        let left = std::mem::take(&mut state.readers);
        drop(state);
        drop(left);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;
    use crate::courier::Courier;

    fn reader() -> (ReadReply, oneshot::Receiver<Result<(), ConsensusError>>) {
        let (reply, answer) = oneshot::channel();
        (ReadReply { reply, courier: Courier::here() }, answer)
    }

    #[test]
    fn the_loop_is_told_once_and_not_while_it_will_look_anyway() {
        let (door, lobby) = lobby();
        assert_eq!([door.enter(reader().0), door.enter(reader().0)], [Ok(true), Ok(false)]);
        assert_eq!(lobby.let_in().len(), 2);
        // The loop looks once more when it has let somebody in.
        assert_eq!(lobby.let_in().len(), 0);
        assert_eq!(door.enter(reader().0), Ok(true));
        lobby.keep();
        assert_eq!(door.enter(reader().0), Ok(false));
        assert_eq!(lobby.let_in().len(), 2);
        lobby.keep();
        assert_eq!(door.enter(reader().0), Ok(false));
    }

    #[test]
    fn a_full_lobby_refuses_and_one_that_is_gone_says_so() {
        let (door, lobby) = lobby();
        let mut answers: Vec<_> = (0..MAX_QUEUED_REQUESTS)
            .map(|_| {
                let (reader, answer) = reader();
                door.enter(reader).expect("there is room");
                answer
            })
            .collect();
        assert_eq!(door.enter(reader().0), Err(ConsensusError::TooManyRequests));
        drop(lobby);
        let closed = oneshot::error::TryRecvError::Closed;
        assert!(answers.iter_mut().all(|answer| answer.try_recv() == Err(closed.clone())));
        assert_eq!(door.enter(reader().0), Err(ConsensusError::Stopped));
    }
}

//! Measuring from when somebody else says so until they say so: a line on standard input, then its end.

use std::io::BufRead;

use tokio::sync::watch;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Waiting,
    Begun,
    Ended,
}

/// What standard input has said so far.
pub struct Steering(watch::Receiver<Stage>);

impl Steering {
    /// Reads in a thread of its own, which the process does not wait for.
    pub fn by_standard_input() -> Self {
        let (sender, receiver) = watch::channel(Stage::Waiting);
        std::thread::spawn(move || {
            let mut lines = std::io::stdin().lock().lines();
            // An input that cannot be read has ended.
            let begun = lines.next();
            sender.send_replace(if begun.is_some() { Stage::Begun } else { Stage::Ended });
            for _more in lines.map_while(Result::ok) {}
            sender.send_replace(Stage::Ended);
        });
        Self(receiver)
    }

    pub async fn begun(&mut self) {
        self.0.wait_for(|stage| *stage >= Stage::Begun).await.expect("the last word is that it ended");
    }

    pub fn has_ended(&self) -> bool {
        *self.0.borrow() == Stage::Ended
    }
}

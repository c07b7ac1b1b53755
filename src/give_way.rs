//! Threads of long work give way to those that somebody waits for: the system gives them little of a core that others want as
//! well, and all of it otherwise. Owns how little that is.
//!
//! There is no way back: only who is privileged may take more again. So it is for threads that do nothing else, and hold nothing
//! for long that others wait for.

/// What a thread gets beside another that does not give way: about a third (`setpriority`). With a tenth, a new member on a
/// machine without a free core took minutes to take in a state.
const NICENESS: i32 = 5;

/// The calling thread gives way from here on, and so do those that it starts. Without effect where the system refuses.
pub fn from_here_on() {
    // For Linux this is one thread, not its process.
    if let Err(error) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(%error, "a thread of long work does not give way");
    }
}

#[cfg(test)]
mod tests {
    use rustix::process::getpriority_process;

    use super::*;

    #[test]
    fn a_thread_gives_way_and_the_others_do_not() {
        let before = getpriority_process(None).expect("it can be asked");
        let gives_way = std::thread::spawn(|| {
            from_here_on();
            getpriority_process(None).expect("it can be asked")
        });
        let gives_way = gives_way.join().expect("no panic");
        // The tests may run at a lower priority themselves.
        assert_eq!(gives_way, before.max(NICENESS));
        assert_eq!(getpriority_process(None).expect("it can be asked"), before);
    }
}

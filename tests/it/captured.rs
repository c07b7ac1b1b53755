//! A process whose output is gathered while it runs, so that a test can wait for what it says, with a deadline.

use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::servers::Process;

/// A process and what it wrote so far.
pub struct Captured {
    process: Process,
    stdin: Option<ChildStdin>,
    stdout: Arc<Stream>,
    stderr: Arc<Stream>,
}

/// What a process that has ended wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// `None` when a signal ended it.
    pub code: Option<i32>,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Output {
    pub fn stderr_text(&self) -> String {
        String::from_utf8_lossy(&self.stderr).into_owned()
    }

    pub fn stdout_text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

#[derive(Default)]
struct Stream {
    written: Mutex<Written>,
    grown: Condvar,
}

#[derive(Default)]
struct Written {
    bytes: Vec<u8>,
    closed: bool,
}

impl Captured {
    /// Starts it; its stdin stays open.
    pub fn spawn(command: &mut Command) -> Self {
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut child = child.unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        let stdin = child.stdin.take();
        let stdout = follow(child.stdout.take().expect("it was piped"));
        let stderr = follow(child.stderr.take().expect("it was piped"));
        Self { process: Process(child), stdin, stdout, stderr }
    }

    /// Runs it to its end with `input` on stdin.
    ///
    /// # Errors
    /// What it wrote, when it has not ended within `limit`.
    pub fn run(command: &mut Command, input: &str, limit: Duration) -> Result<Output, String> {
        let mut running = Self::spawn(command);
        running.write(input);
        running.end(limit)
    }

    /// Writes to its stdin. That it does not read, or has ended, is no fault of the test.
    pub fn write(&mut self, input: &str) {
        if let Some(stdin) = &mut self.stdin
            && stdin.write_all(input.as_bytes()).and_then(|()| stdin.flush()).is_err()
        {
            self.stdin = None;
        }
    }

    /// Sends a signal, such as `INT`.
    pub fn signal(&self, name: &str) {
        signal(&self.process.0, name);
    }

    /// Waits until it wrote so many lines to stdout; returns what it wrote.
    ///
    /// # Errors
    /// What it wrote, when that is less after `limit`, or it has ended before.
    pub fn wait_for_lines(&self, count: usize, limit: Duration) -> Result<Vec<u8>, String> {
        let enough = |bytes: &[u8]| bytes.iter().filter(|byte| **byte == b'\n').count() >= count;
        self.stdout.wait(limit, |written| enough(&written.bytes) || written.closed);
        let bytes = self.stdout.bytes();
        if enough(&bytes) { Ok(bytes) } else { Err(format!("fewer than {count} lines; {}", self.so_far())) }
    }

    /// Waits until it wrote `text` to stderr; returns what it wrote there.
    ///
    /// # Errors
    /// What it wrote, when `text` is not there after `limit`, or it has ended without.
    pub fn wait_for_stderr(&self, text: &str, limit: Duration) -> Result<String, String> {
        let is_there = |bytes: &[u8]| String::from_utf8_lossy(bytes).contains(text);
        self.stderr.wait(limit, |written| is_there(&written.bytes) || written.closed);
        let bytes = self.stderr.bytes();
        if !is_there(&bytes) {
            return Err(format!("{text:?} is missing; {}", self.so_far()));
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Closes its stdin and waits for its end.
    ///
    /// # Errors
    /// What it wrote, when it has not ended within `limit`.
    pub fn end(mut self, limit: Duration) -> Result<Output, String> {
        self.stdin = None;
        self.wait_for_end(limit)
    }

    /// Waits for its end with its stdin open: it ends for a signal, and not for want of input.
    ///
    /// # Errors
    /// What it wrote, when it has not ended within `limit`.
    pub fn wait_for_end(mut self, limit: Duration) -> Result<Output, String> {
        let deadline = Instant::now() + limit;
        for stream in [&self.stdout, &self.stderr] {
            stream.wait(deadline.saturating_duration_since(Instant::now()), |written| written.closed);
            if !stream.written.lock().closed {
                return Err(format!("it has not ended; {}", self.so_far()));
            }
        }
        let status = self.process.0.wait().expect("a child of this process");
        Ok(Output { code: status.code(), stdout: self.stdout.bytes(), stderr: self.stderr.bytes() })
    }

    fn so_far(&self) -> String {
        let text = |stream: &Stream| String::from_utf8_lossy(&stream.bytes()).into_owned();
        format!("stdout: {:?}, stderr: {:?}", text(&self.stdout), text(&self.stderr))
    }
}

/// Sends a signal to a process that this one started.
pub fn signal(child: &Child, name: &str) {
    let sent = Command::new("kill").arg(format!("-{name}")).arg(child.id().to_string()).status();
    assert!(sent.as_ref().is_ok_and(ExitStatus::success), "cannot signal {}: {sent:?}", child.id());
}

impl Stream {
    fn wait(&self, limit: Duration, done: impl Fn(&Written) -> bool) {
        let mut written = self.written.lock();
        self.grown.wait_while_for(&mut written, |written| !done(written), limit);
    }

    fn bytes(&self) -> Vec<u8> {
        self.written.lock().bytes.clone()
    }
}

fn follow(mut source: impl Read + Send + 'static) -> Arc<Stream> {
    let stream = Arc::new(Stream::default());
    let followed = stream.clone();
    thread::spawn(move || {
        let mut piece = [0; 4096];
        loop {
            let length = source.read(&mut piece).unwrap_or(0);
            let mut written = followed.written.lock();
            written.bytes.extend_from_slice(&piece[..length]);
            written.closed = length == 0;
            followed.grown.notify_all();
            if length == 0 {
                return;
            }
        }
    });
    stream
}

//! `decklog health`: asks a server's /health and says in one line what it answered, for probes of containers that have
//! no shell and no other program. Works with any server that has etcd's endpoint.

use std::ffi::OsString;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use serde::Deserialize;

use crate::config::{Url, UrlError};

/// Above what any server says of its health.
const MAX_ANSWER_BYTES: usize = 64 << 10;

/// Asks a server's /health: exit code 0 when it is healthy, else 1, with one line that says why.
#[derive(Debug, Parser)]
#[command(name = "decklog health")]
struct Options {
    /// Where the server is: http://host:port.
    #[arg(long, default_value = "http://127.0.0.1:2379")]
    endpoint: String,
    /// Seconds that the answer may take, connecting included.
    #[arg(long, default_value_t = 10.0)]
    timeout: f64,
}

/// Why a server does not count as healthy.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error(transparent)]
    Url(#[from] UrlError),
    #[error("{0:?}: only http:// is spoken here")]
    Scheme(String),
    #[error("--timeout {0} is no time: it must be above 0, in seconds")]
    Timeout(f64),
    #[error("{0}: the name stands for no address")]
    Name(String),
    #[error("{0} does not answer in time")]
    TooLate(Url),
    #[error("{url} cannot be asked: {source}")]
    Io { url: Url, source: std::io::Error },
    #[error("{url} is unhealthy: {reason}")]
    Unhealthy { url: Url, reason: String },
    #[error("{url} does not answer as a server of this kind: {answer:?}")]
    Strange { url: Url, answer: String },
}

/// What /health answers.
#[derive(Deserialize)]
struct Answer {
    health: String,
    #[serde(default)]
    reason: String,
}

/// Runs the tool with the arguments behind `health`.
pub fn run(args: Vec<OsString>) -> ExitCode {
    let args = std::iter::once(OsString::from("decklog health")).chain(args);
    let options = match Options::try_parse_from(args) {
        Ok(options) => options,
        Err(error) => {
            let printed = error.print().is_ok();
            return if printed && !error.use_stderr() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        }
    };
    match check(&options) {
        Ok(url) => {
            println!("{url} is healthy");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("decklog health: {error}");
            ExitCode::FAILURE
        }
    }
}

fn check(options: &Options) -> Result<Url, Error> {
    let url = Url::parse(&options.endpoint)?;
    if url.scheme() != "http" {
        return Err(Error::Scheme(options.endpoint.clone()));
    }
    let timeout = Duration::try_from_secs_f64(options.timeout).ok().filter(|time| !time.is_zero());
    let deadline = timeout.and_then(|time| Instant::now().checked_add(time));
    let deadline = deadline.ok_or(Error::Timeout(options.timeout))?;
    let address = url.address().ok_or_else(|| Error::Name(url.to_string()))?;
    let answer = match ask(address, &url, deadline) {
        Ok(answer) => answer,
        // What a socket says when its time is over.
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
            return Err(Error::TooLate(url));
        }
        Err(source) => return Err(Error::Io { url, source }),
    };
    judge(url, &answer)
}

/// The bytes of the answer.
fn ask(address: SocketAddr, url: &Url, deadline: Instant) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&address, left_until(deadline)?)?;
    stream.set_write_timeout(Some(left_until(deadline)?))?;
    let host = url.as_str().split_once("://").map_or("", |(_, host)| host);
    let request = format!("GET /health HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let (mut answer, mut piece) = (Vec::new(), [0; 4096]);
    while answer.len() < MAX_ANSWER_BYTES {
        stream.set_read_timeout(Some(left_until(deadline)?))?;
        match stream.read(&mut piece)? {
            0 => break,
            count => answer.extend_from_slice(&piece[..count]),
        }
    }
    Ok(answer)
}

/// Never zero, which a socket does not take.
fn left_until(deadline: Instant) -> std::io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
}

fn judge(url: Url, answer: &[u8]) -> Result<Url, Error> {
    let text = String::from_utf8_lossy(answer);
    let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let Ok(Answer { health, reason }) = serde_json::from_str(body) else {
        let answer = text.chars().take(100).collect();
        return Err(Error::Strange { url, answer });
    };
    let is_ok = text.split_whitespace().nth(1) == Some("200");
    if is_ok && health == "true" { Ok(url) } else { Err(Error::Unhealthy { url, reason }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(answer: &str) -> String {
        let url = Url::parse("http://127.0.0.1:2379").expect("a URL");
        judge(url, answer.as_bytes())
            .map_or_else(|error| error.to_string(), |url| format!("{url} is healthy"))
    }

    #[test]
    fn both_the_code_and_the_word_must_say_so() {
        let good = r#"{"health":"true","reason":""}"#;
        let bad = r#"{"health":"false","reason":"RAFT NO LEADER"}"#;
        assert_eq!(
            said(&format!("HTTP/1.1 200 OK\r\na: b\r\n\r\n{good}")),
            "http://127.0.0.1:2379 is healthy"
        );
        let unhealthy = "http://127.0.0.1:2379 is unhealthy: RAFT NO LEADER";
        assert_eq!(said(&format!("HTTP/1.1 503 Service Unavailable\r\n\r\n{bad}\n")), unhealthy);
        assert_eq!(said(&format!("HTTP/1.1 200 OK\r\n\r\n{bad}")), unhealthy);
        assert!(said(&format!("HTTP/1.1 503 No\r\n\r\n{good}")).contains("is unhealthy"));
        // Before 3.4 there was no reason.
        assert!(said("HTTP/1.1 200 OK\r\n\r\n{\"health\":\"true\"}").contains("is healthy"));
        assert!(said("SSH-2.0-x\r\n").contains("does not answer as"));
        assert!(said("").contains("does not answer as"));
    }
}

//! One of the two servers, asked by etcdctl: plays a script and keeps, in neutral words, what came of each step.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use super::neutral::{self, Neutral};
use super::script::{Action, Script};
use crate::captured::{Captured, Output};
use crate::http_client;
use crate::servers::Server;

const LIMIT: Duration = Duration::from_secs(60);
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
const WATCHERS: &str = "etcd_debugging_mvcc_watcher_total ";

pub struct Side {
    server: Option<Server>,
    etcdctl: PathBuf,
    neutral: Neutral,
    running: BTreeMap<String, (Vec<String>, Captured)>,
}

impl Side {
    pub async fn new(server: Server, etcdctl: &Path) -> Self {
        let neutral = Neutral::of(&server).await;
        Self { server: Some(server), etcdctl: etcdctl.to_owned(), neutral, running: BTreeMap::new() }
    }

    pub fn log(&self) -> String {
        self.server().launch.log()
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("it is there but for the time of a restart")
    }

    /// On a thread that is not one of a runtime's.
    fn restart(&mut self) {
        let server = self.server.take().expect("it is there but for the time of a restart");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        self.server = Some(runtime.block_on(async { Server::launch(server.stop().await).await }));
    }

    /// What came of each step, or why it could not be done.
    pub fn play(&mut self, script: &Script) -> Vec<Result<String, String>> {
        script.steps.iter().map(|step| self.step(&step.action)).collect()
    }

    fn step(&mut self, action: &Action) -> Result<String, String> {
        match action {
            Action::Run { save, only_shape, args, input } => {
                let args = self.filled(args);
                let output = Captured::run(&mut self.command(&args), &self.neutral.fill(input), LIMIT)?;
                if let Some(name) = save {
                    self.neutral.learn(name, &output.stdout);
                }
                let ended = self.ended(&args, &output);
                Ok(if *only_shape { neutral::shape(&ended) } else { ended })
            }
            Action::Start { name, args } => {
                let args = self.filled(args);
                let running = Captured::spawn(&mut self.command(&args));
                self.running.insert(name.clone(), (args, running));
                Ok(String::new())
            }
            Action::Send { name, line } => {
                let line = self.neutral.fill(line);
                self.running(name).1.write(&format!("{line}\n"));
                Ok(String::new())
            }
            Action::Read { name, lines } => {
                let (args, running) = self.running(name);
                let (args, bytes) = (args.clone(), running.wait_for_lines(*lines, LIMIT)?);
                let first: Vec<&[u8]> = bytes.split_inclusive(|byte| *byte == b'\n').take(*lines).collect();
                Ok(self.neutral.words(&args, &first.concat()))
            }
            Action::Told { name, text } => {
                self.running(name).1.wait_for_stderr(text, LIMIT)?;
                Ok(String::new())
            }
            Action::Stop { name, compare } => {
                let (args, running) = self.running.remove(name).expect("the script started it");
                running.signal("INT");
                let output = running.wait_for_end(LIMIT)?;
                Ok(if *compare { self.ended(&args, &output) } else { String::new() })
            }
            Action::Watchers(count) => {
                let wanted = format!("{WATCHERS}{count}");
                self.wait_until(|side| {
                    let metrics = http_client::get(side.server().launch.client_port, "/metrics").body;
                    metrics.lines().any(|line| line == wanted)
                })
            }
            Action::Restart => {
                self.restart();
                Ok(String::new())
            }
            Action::Expired(lease) => {
                let args = self.filled(&["lease".to_owned(), "timetolive".to_owned(), lease.clone()]);
                self.wait_until(|side| {
                    let output = Captured::run(&mut side.command(&args), "", LIMIT);
                    output.is_ok_and(|output| output.stdout.ends_with(b"already expired\n"))
                })
            }
        }
    }

    fn running(&mut self, name: &str) -> &mut (Vec<String>, Captured) {
        self.running.get_mut(name).expect("the script started it")
    }

    fn filled(&self, args: &[String]) -> Vec<String> {
        args.iter().map(|arg| self.neutral.fill(arg)).collect()
    }

    fn command(&self, args: &[String]) -> Command {
        let mut command = Command::new(&self.etcdctl);
        command.arg(format!("--endpoints={}", self.server().launch.client_url())).args(args);
        command.current_dir(self.server().launch.folder.path());
        command
    }

    fn ended(&self, args: &[String], output: &Output) -> String {
        let stdout = self.neutral.words(args, &output.stdout);
        let stderr = self.neutral.words(&[], &output.stderr);
        let code = output.code.map_or("none".to_owned(), |code| code.to_string());
        format!(
            "exit code {code}\n{stdout}{}",
            if stderr.is_empty() { String::new() } else { format!("stderr: {stderr}") }
        )
    }

    fn wait_until(&self, done: impl Fn(&Self) -> bool) -> Result<String, String> {
        let deadline = Instant::now() + LIMIT;
        while !done(self) {
            if Instant::now() > deadline {
                return Err("it did not come to that".to_owned());
            }
            thread::park_timeout(LOOK_INTERVAL);
        }
        Ok(String::new())
    }
}

//! A script of etcdctl commands as text, one step a line:
//!
//! `put a 1`             runs to its end; lines below that begin with `< ` go to its stdin
//! `shape put a 1`       the same, but numbers in its output may be others
//! `$id = lease grant 9` the same, and the first long id that it prints is known as `$id` from there on
//! `start w: watch a`    runs beside the next steps, under the name `w`
//! `send w: progress`    a line to its stdin
//! `read w: 4`           waits until it wrote four lines
//! `told w: nosuch`       waits until it wrote that to stderr
//! `stop w`              interrupts it and waits for its end; all that it wrote is compared
//! `quit w`              the same for one that goes on writing by the clock: what it wrote is not compared
//! `watchers 1`          waits until the server has one watcher
//! `restart`             stops the server as systemd does, and starts it again
//! `expired $id`         waits until the server knows the lease no more
//!
//! A line `! text` below a step says that Decklog means to differ here: its output holds `text`, and etcd's does not.

/// The steps in order.
pub struct Script {
    pub steps: Vec<Step>,
}

pub struct Step {
    /// In the script's text, from 1.
    pub line: usize,
    pub text: String,
    pub action: Action,
    /// What Decklog says where it means to differ.
    pub differs: Option<String>,
}

pub enum Action {
    Run { save: Option<String>, only_shape: bool, args: Vec<String>, input: String },
    Start { name: String, args: Vec<String> },
    Send { name: String, line: String },
    Read { name: String, lines: usize },
    Told { name: String, text: String },
    Stop { name: String, compare: bool },
    Watchers(usize),
    Expired(String),
    Restart,
}

impl Script {
    /// Panics on what is no script.
    pub fn parse(text: &str) -> Self {
        let mut steps: Vec<Step> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if let Some(more) = line.strip_prefix('<') {
                let Some(Step { action: Action::Run { input, .. }, .. }) = steps.last_mut() else {
                    panic!("line {}: no command stands before its input", index + 1);
                };
                input.push_str(more.strip_prefix(' ').unwrap_or(more));
                input.push('\n');
            } else if let Some(text) = line.strip_prefix("! ") {
                let step =
                    steps.last_mut().unwrap_or_else(|| panic!("line {}: no step stands before", index + 1));
                step.differs = Some(text.to_owned());
            } else if !line.trim().is_empty() && !line.starts_with('#') {
                steps.push(Step {
                    line: index + 1,
                    text: line.to_owned(),
                    action: action(line),
                    differs: None,
                });
            }
        }
        Self { steps }
    }
}

fn action(line: &str) -> Action {
    let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
    let named = || {
        let (name, rest) = rest.split_once(": ").unwrap_or_else(|| panic!("no name in {line:?}"));
        (name.to_owned(), rest)
    };
    let number = |text: &str| text.parse().unwrap_or_else(|_| panic!("no number in {line:?}"));
    match verb {
        "start" => {
            let (name, rest) = named();
            Action::Start { name, args: words(rest) }
        }
        "send" => {
            let (name, rest) = named();
            Action::Send { name, line: rest.to_owned() }
        }
        "read" => {
            let (name, rest) = named();
            Action::Read { name, lines: number(rest) }
        }
        "told" => {
            let (name, rest) = named();
            Action::Told { name, text: rest.to_owned() }
        }
        "stop" => Action::Stop { name: rest.to_owned(), compare: true },
        "quit" => Action::Stop { name: rest.to_owned(), compare: false },
        "watchers" => Action::Watchers(number(rest)),
        "restart" => Action::Restart,
        "expired" => Action::Expired(rest.to_owned()),
        _ if verb.starts_with('$') => {
            let command = rest.strip_prefix("= ").unwrap_or_else(|| panic!("no = in {line:?}"));
            Action::Run {
                save: Some(verb.to_owned()),
                only_shape: false,
                args: words(command),
                input: String::new(),
            }
        }
        "shape" => Action::Run { save: None, only_shape: true, args: words(rest), input: String::new() },
        _ => Action::Run { save: None, only_shape: false, args: words(line), input: String::new() },
    }
}

/// Words as a shell takes them, with single quotes round what belongs together.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quoted = false;
    for letter in text.chars() {
        match letter {
            '\'' => {
                quoted = !quoted;
                word.get_or_insert_default();
            }
            ' ' if !quoted => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    assert!(!quoted, "a quote is open in {text:?}");
    words.extend(word);
    words
}

//! Takes out of etcdctl's output what must differ between two servers: ids, ports, times. Everything else stays.

use decklog::wire::etcdserverpb::cluster_client::ClusterClient;
use decklog::wire::etcdserverpb::{
    DeleteRangeResponse, MemberListRequest, MemberListResponse, PutResponse, RangeResponse, TxnResponse,
};
use prost::Message;

use crate::servers::Server;

/// Digits from which on a run of hexadecimal digits is an id: none of the scripts' words is so long.
const ID_DIGITS: usize = 14;

/// `$big` in scripts.
const BIG_BYTES: usize = 150_000;

/// Texts of one server, and the words that stand for them on both.
pub struct Neutral {
    names: Vec<(String, String)>,
    /// `$name` in scripts, and what it stands for.
    variables: Vec<(String, String)>,
}

impl Neutral {
    pub async fn of(server: &Server) -> Self {
        let mut cluster = ClusterClient::new(server.channel.clone());
        let list = cluster.member_list(MemberListRequest { linearizable: true }).await.expect("it serves");
        let list = list.into_inner();
        let mut neutral = Self { names: Vec::new(), variables: Vec::new() };
        neutral.name_id("cluster", list.header.expect("there is one").cluster_id);
        neutral.name_id("member", list.members.first().expect("there is one").id);
        let launch = &server.launch;
        neutral.variables.push(("$endpoint".to_owned(), format!("127.0.0.1:{}", launch.client_port)));
        neutral.variables.push(("$peer".to_owned(), format!("127.0.0.1:{}", launch.peer_port)));
        neutral.variables.push(("$big".to_owned(), "x".repeat(BIG_BYTES)));
        for (name, port) in [("endpoint", launch.client_port), ("peer", launch.peer_port)] {
            neutral.names.push((format!("127.0.0.1:{port}"), format!("<{name}>")));
        }
        neutral.names.push((launch.folder.path().display().to_string(), "<folder>".to_owned()));
        neutral
    }

    fn name_id(&mut self, name: &str, id: u64) {
        self.variables.push((format!("${name}"), format!("{id:x}")));
        for form in [format!("{id:016x}"), format!("{id:x}"), format!("{id}")] {
            self.names.push((form, format!("<{name}>")));
        }
    }

    /// Remembers the first id in the output as `name`, which begins with `$`.
    pub fn learn(&mut self, name: &str, stdout: &[u8]) {
        let text = String::from_utf8_lossy(stdout);
        let found = runs(&text).find(|run| is_id(run));
        let id = found.and_then(|run| u64::from_str_radix(run, 16).ok());
        self.name_id(name.trim_start_matches('$'), id.unwrap_or_else(|| panic!("no id in {text:?}")));
    }

    /// A text of the script with this server's values for its variables.
    pub fn fill(&self, text: &str) -> String {
        self.variables.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value))
    }

    /// What the command with these arguments wrote, in words that both servers share.
    pub fn words(&self, args: &[String], bytes: &[u8]) -> String {
        let text = match protobuf(args, bytes) {
            Some(decoded) => decoded,
            None => String::from_utf8_lossy(bytes).into_owned(),
        };
        // Where Go's runtime was when etcdctl itself panicked.
        let text = text.split("\ngoroutine ").next().unwrap_or_default().to_owned();
        let text = self.names.iter().fold(text, |text, (from, to)| text.replace(from, to));
        let text: String = runs(&text).map(|run| if is_id(run) { "<id>" } else { run }).collect();
        let is_table = args.iter().any(|arg| arg.contains("table"));
        let lines = text
            .split_inclusive('\n')
            .map(|line| without_what_varies(&if is_table { narrow(line) } else { line.to_owned() }));
        if args.first().is_some_and(|noun| noun == "member") {
            in_order(lines).concat()
        } else {
            lines.collect()
        }
    }
}

/// Members stand in the order of their ids, which are others on each server: here, in the order of the rest.
fn in_order(lines: impl Iterator<Item = String>) -> Vec<String> {
    const MEMBERS: &str = "ETCD_INITIAL_CLUSTER=\"";
    let mut lines: Vec<String> = lines
        .map(|line| match line.strip_prefix(MEMBERS).and_then(|rest| rest.strip_suffix("\"\n")) {
            Some(members) => {
                let mut members: Vec<&str> = members.split(',').collect();
                members.sort_unstable();
                format!("{MEMBERS}{}\"\n", members.join(","))
            }
            // etcdctl pads the ids of a change to 16 digits.
            None if line.starts_with("Member ") => {
                line.split_whitespace().collect::<Vec<_>>().join(" ") + "\n"
            }
            None => line,
        })
        .collect();
    let is_row = |line: &String| line.starts_with('<') && line.contains("started, ");
    if lines.iter().all(is_row) {
        lines.sort_unstable();
    }
    lines
}

/// Runs of hexadecimal digits and what stands between them, in order.
fn runs(text: &str) -> impl Iterator<Item = &str> {
    let is_hex = |letter: char| letter.is_ascii_digit() || ('a'..='f').contains(&letter);
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let end = rest.find(|letter| is_hex(letter) != is_hex(first)).unwrap_or(rest.len());
        let (run, after) = rest.split_at(end);
        rest = after;
        Some(run)
    })
}

fn is_id(run: &str) -> bool {
    run.len() >= ID_DIGITS && run.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The text with every number, also one with points in it, as `#`.
pub fn shape(text: &str) -> String {
    let text = text.replace("µs", "ms").replace(" kB", " B");
    let mut shape = String::new();
    for letter in text.chars() {
        match letter {
            '0'..='9' if shape.ends_with('#') => {}
            '0'..='9' => shape.push('#'),
            '.' if shape.ends_with('#') => {}
            _ => shape.push(letter),
        }
    }
    shape
}

/// A row of a table without its padding.
fn narrow(line: &str) -> String {
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut narrow = String::new();
    for letter in line.chars() {
        if !matches!(letter, '-' | '─') || !narrow.ends_with(letter) {
            narrow.push(letter);
        }
    }
    narrow + "\n"
}

/// Replaces what stands between two texts.
fn cut(line: &str, from: &str, to: &str) -> String {
    let Some((before, rest)) = line.split_once(from) else {
        return line.to_owned();
    };
    match rest.find(to) {
        Some(end) => format!("{before}{from}<..>{}", cut(&rest[end..], from, to)),
        None => format!("{before}{from}<..>"),
    }
}

fn without_what_varies(line: &str) -> String {
    let places = [
        ("\"ts\":\"", "\""),
        ("LocalAddr: '", "'"),
        // etcd needs an election, a member alone here does not.
        ("\"raft_term\":", "}"),
        ("\"RaftTerm\" : ", "\n"),
        ("raft_term: ", ","),
        ("etcd-endpoints://", "/"),
        ("took = ", "\n"),
        ("\"took\":\"", "\""),
        ("remaining(", ")"),
    ];
    places.iter().fold(line.to_owned(), |line, (from, to)| cut(&line, from, to))
}

/// The message that `-w protobuf` wrote, in readable form.
fn protobuf(args: &[String], bytes: &[u8]) -> Option<String> {
    let asked = args.iter().any(|arg| arg == "--write-out=protobuf")
        || args.windows(2).any(|pair| pair == ["-w", "protobuf"]);
    if !asked || bytes.is_empty() {
        return None;
    }
    let decoded = match args.iter().find(|arg| !arg.starts_with('-'))?.as_str() {
        "get" => RangeResponse::decode(bytes).map(|message| format!("{message:#?}\n")),
        "put" => PutResponse::decode(bytes).map(|message| format!("{message:#?}\n")),
        "del" => DeleteRangeResponse::decode(bytes).map(|message| format!("{message:#?}\n")),
        "txn" => TxnResponse::decode(bytes).map(|message| format!("{message:#?}\n")),
        "member" => MemberListResponse::decode(bytes).map(|message| format!("{message:#?}\n")),
        _ => return None,
    };
    Some(decoded.unwrap_or_else(|error| format!("{error}\n")))
}

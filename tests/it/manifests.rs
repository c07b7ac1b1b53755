//! What `deploy/` starts: every flag and variable in it is one that this binary takes, with the meaning that the file
//! counts on. Read by the configuration's own code.

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::process::Command;

use decklog::config::{self, Config, Invocation};
use serde_json::Value;

use crate::server::decklog_program;

fn text_of(name: &str) -> String {
    let path = format!("{}/deploy/{name}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml(name: &str) -> Value {
    serde_saphyr::from_str(&text_of(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
}

fn words(value: &Value) -> Vec<String> {
    let words = value.as_array().unwrap_or_else(|| panic!("{value} is a list"));
    words.iter().map(|word| word.as_str().expect("a word").to_owned()).collect()
}

/// `NAME=value` as a variable.
fn variable(text: &str) -> (OsString, OsString) {
    let (name, value) = text.split_once('=').unwrap_or_else(|| panic!("{text:?} has no ="));
    (name.into(), value.into())
}

/// The flag that a word or a warning begins with.
fn name_of(text: &str) -> &str {
    text.split(['=', ' ']).next().expect("a word")
}

/// What the server makes of it, on a first start.
fn load(args: &[String], variables: &[(OsString, OsString)]) -> Config {
    match config::load(args.iter().map(OsString::from).collect(), variables, &|_| false) {
        Ok(Invocation::Serve(config)) => *config,
        Ok(Invocation::Print(text)) => panic!("it only prints: {text}"),
        Err(error) => panic!("{args:?} {variables:?}: {error}"),
    }
}

#[test]
fn the_compose_file_starts_one_cluster_of_three() {
    let compose = yaml("compose.yaml");
    let services = compose["services"].as_object().expect("services");
    let mut ids = Vec::new();
    let mut clusters = Vec::new();
    for (name, service) in services {
        let config = load(&words(&service["command"]), &[]);
        assert_eq!((config.warnings.as_slice(), &config.name), (&[][..], name));
        // Below the folder that the image begins in.
        assert_eq!(config.data_dir.to_str(), Some(format!("{name}.decklog").as_str()));
        assert!(text_of("Dockerfile").contains("\nWORKDIR /data\n"));
        assert_eq!(words(&service["volumes"]), [format!("{name}:/data")]);
        assert_eq!(config.member.initial.len(), 3);
        ids.push(config.member.id);
        clusters.push(config.member.cluster_id);
        // Reached from outside of the container, by the name that the network knows.
        for urls in [&config.listen.client, &config.listen.peer] {
            assert!(urls.iter().all(|url| url.host() == "0.0.0.0"), "{urls:?}");
        }
        for urls in [&config.member.advertise_client_urls, &config.member.advertise_peer_urls] {
            assert!(urls.iter().all(|url| url.host() == name), "{urls:?}");
        }
        // Loopback alone, unless another place is asked for.
        let ports = words(&service["ports"]);
        assert!(!ports.is_empty() && ports.iter().all(|port| port.contains(":-127.0.0.1:")), "{ports:?}");
    }
    ids.sort_unstable();
    ids.dedup();
    clusters.dedup();
    assert_eq!((ids.len(), clusters.len()), (3, 1));
}

#[test]
fn the_static_pod_listens_on_loopback_and_is_probed_where_it_listens() {
    let pod = yaml("kubernetes.yaml");
    let container = &pod["spec"]["containers"][0];
    // A variable of the image would stand against the flag of the same name.
    assert!(!text_of("Dockerfile").contains("ETCD_"));
    let command = words(&container["command"]);
    assert_eq!(command[0], "/decklog");
    let config = load(&command[1..], &[]);
    let listen = &config.listen;
    for url in listen.client.iter().chain(&listen.peer).chain(&listen.metrics) {
        assert_eq!((url.scheme(), url.host()), ("http", "127.0.0.1"));
    }
    for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
        let get = &container[probe]["httpGet"];
        assert!(listen.metrics.iter().any(|url| get["port"] == url.port()), "{probe}: {get}");
    }
    let mount = &container["volumeMounts"][0]["mountPath"];
    assert_eq!(mount.as_str(), config.data_dir.to_str());
    // The flags that the file says do nothing are warned of, unless they have their defaults; and no others are.
    let text = text_of("kubernetes.yaml");
    let (_, idle) = text.split_once("they do nothing here").expect("the file says which");
    let idle = idle.lines().skip(1).map_while(|line| line.trim_start().strip_prefix("- "));
    let idle: Vec<&str> = idle.map(name_of).collect();
    assert!(!config.warnings.is_empty() && !idle.is_empty(), "{idle:?}: {:?}", config.warnings);
    assert!(config.warnings.iter().all(|warning| idle.contains(&name_of(warning))), "{:?}", config.warnings);
    for flag in idle {
        let changed = load(&[command[1..].to_vec(), vec![format!("{flag}=7")]].concat(), &[]);
        assert!(changed.warnings.iter().any(|warning| name_of(warning) == flag), "{flag} does something");
    }
}

/// By systemd's own words, where there is one.
#[test]
fn the_unit_is_one_for_systemd() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("decklog.service");
    // It looks whether the program is there.
    let program = decklog_program().to_str().expect("a path of letters");
    let unit = text_of("decklog.service").replace("/usr/local/bin/decklog", program);
    fs::write(&path, unit).expect("written");
    let output = match Command::new("systemd-analyze").arg("verify").arg(&path).output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            println!("SKIPPED the_unit_is_one_for_systemd: there is no systemd-analyze");
            return;
        }
        output => output.expect("it runs"),
    };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}");
}

#[test]
fn the_unit_starts_a_member_with_its_variables() {
    let unit = text_of("decklog.service");
    let value = |key: &str| -> Vec<&str> {
        unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('=')).collect()
    };
    assert_eq!(value("ExecStart"), ["/usr/local/bin/decklog"]);
    let own: Vec<_> = value("Environment").into_iter().map(variable).collect();
    // Alone, and with the example of its comment.
    let config = load(&[], &own);
    let state = format!("/var/lib/{}", value("StateDirectory")[0]);
    assert_eq!(config.data_dir.to_str(), Some(state.as_str()));
    let lines = unit.lines().filter_map(|line| line.strip_prefix("#   ETCD_"));
    let example: Vec<_> = lines.map(|line| variable(&format!("ETCD_{line}"))).collect();
    assert_eq!(example.len(), 6);
    let config = load(&[], &[own, example].concat());
    assert_eq!((config.warnings.as_slice(), config.member.initial.len()), (&[][..], 3));
}

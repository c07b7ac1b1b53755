//! Member and cluster ids: those that etcd computes, and kept for good by the data directory.

use decklog::wire::etcdserverpb::MemberListRequest;
use decklog::wire::etcdserverpb::cluster_client::ClusterClient;
use decklog::wire::etcdserverpb::kv_client::KvClient;
use decklog::wire::etcdserverpb::{PutRequest, RangeRequest};

use crate::peers::peer_or_skip;
use crate::server::decklog_program;
use crate::servers::{Launch, Server};

/// Cluster and member id, as an answer's header and the list of members tell.
async fn ids_of(server: &Server) -> (u64, u64) {
    let mut cluster = ClusterClient::new(server.channel.clone());
    let list = cluster.member_list(MemberListRequest { linearizable: true }).await.expect("it serves");
    let list = list.into_inner();
    let header = list.header.expect("an answer has one");
    let members: Vec<u64> = list.members.iter().map(|member| member.id).collect();
    assert_eq!(members, [header.member_id]);
    (header.cluster_id, header.member_id)
}

#[tokio::test]
async fn ids_are_those_of_etcd() {
    let Some(etcd) = peer_or_skip("ids_are_those_of_etcd", "etcd") else { return };
    let mut seen = Vec::new();
    for (peer_ports, flags) in [
        (1, vec![]),
        (1, vec!["--initial-cluster-token=another"]),
        (1, vec!["--name=other-name"]),
        // Sorted before they are hashed.
        (3, vec!["--initial-cluster-token=third"]),
    ] {
        let theirs = launch(&etcd, peer_ports, &flags, &["--unsafe-no-fsync"]);
        let ours = Launch {
            program: decklog_program().to_owned(),
            more_flags: theirs.more_flags[1..].to_vec(),
            peer_port: theirs.peer_port,
            ..Launch::new(decklog_program(), &[])
        };
        // One after the other: both have the same peer URLs.
        let theirs = Server::launch(theirs).await;
        let expected = ids_of(&theirs).await;
        theirs.stop().await;
        let found = ids_of(&Server::launch(ours).await).await;
        assert_eq!(expected, found, "cluster and member with {flags:?}");
        seen.push(found);
    }
    seen.dedup();
    assert_eq!(seen.len(), 4, "each flag counts");
}

/// A member with so many peer URLs.
fn launch(program: &std::path::Path, peer_ports: usize, flags: &[&str], first: &[&str]) -> Launch {
    let mut launch = Launch::new(program, first);
    launch.more_flags.extend(flags.iter().map(ToString::to_string));
    let name = flags.iter().find_map(|flag| flag.strip_prefix("--name=")).unwrap_or("one");
    let ports = (1..peer_ports).map(|_| Launch::new(program, &[]).peer_port);
    let urls: Vec<String> =
        [launch.peer_port].into_iter().chain(ports).map(|port| format!("http://127.0.0.1:{port}")).collect();
    let cluster: Vec<String> = urls.iter().map(|url| format!("{name}={url}")).collect();
    launch.more_flags.extend([
        format!("--listen-peer-urls={}", urls.join(",")),
        format!("--initial-advertise-peer-urls={}", urls.join(",")),
        format!("--initial-cluster={}", cluster.join(",")),
    ]);
    launch
}

/// As in etcd, what describes a first start does not count at the next.
#[tokio::test]
async fn a_restart_keeps_ids_and_data_whatever_initial_flags_say() {
    let test = "a_restart_keeps_ids_and_data_whatever_initial_flags_say";
    let other_starts: &[&[&str]] = &[
        &["--initial-cluster-token=another"],
        &["--initial-cluster=x=http://127.0.0.1:1,y=http://127.0.0.1:2"],
        &["--initial-cluster=nonsense"],
        &["--initial-cluster-state=existing"],
        &["--name=renamed"],
    ];
    let mut programs = vec![decklog_program().to_owned()];
    programs.extend(peer_or_skip(test, "etcd"));
    for program in programs {
        let mut server = Server::start(&program, &[]).await;
        let ids = ids_of(&server).await;
        let mut kv = KvClient::new(server.channel.clone());
        kv.put(PutRequest { key: "k".into(), value: "v".into(), ..Default::default() })
            .await
            .expect("it serves");
        for flags in other_starts {
            let mut launch = server.stop().await;
            launch.more_flags = flags.iter().map(ToString::to_string).collect();
            server = Server::launch(launch).await;
            assert_eq!(ids_of(&server).await, ids, "{}: {flags:?}", program.display());
            let mut kv = KvClient::new(server.channel.clone());
            let answer =
                kv.range(RangeRequest { key: "k".into(), ..Default::default() }).await.expect("it serves");
            let answer = answer.into_inner();
            let pair = answer.kvs.first().expect("it is there").decode().expect("a pair");
            assert_eq!(
                (answer.header.expect("one").revision, pair.version, &pair.value[..]),
                (2, 1, &b"v"[..])
            );
        }
    }
}

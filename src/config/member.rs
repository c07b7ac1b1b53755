//! Who this member is and who its cluster begins with: the flags of a first start, held against each other.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use super::build::{check_schemes, choice, http_urls};
use super::values::Values;
use super::{Error, InitialMember, MemberConfig, Url, ids};

/// # Errors
/// See `Error`.
pub fn build(values: &Values, name: &str) -> Result<MemberConfig, Error> {
    let advertise_peer_urls = http_urls(values, "initial-advertise-peer-urls")?;
    if advertise_peer_urls.is_empty() {
        return Err(Error::Empty("initial-advertise-peer-urls"));
    }
    let initial_cluster = match values.is_given("initial-cluster") {
        true => initial_cluster(values.text("initial-cluster"))?,
        // As in etcd, it follows the name and the advertised URLs.
        false => vec![(name.to_owned(), advertise_peer_urls.clone())],
    };
    let Some((_, own)) = initial_cluster.iter().find(|(member, _)| member == name) else {
        return Err(Error::NameMissing(name.to_owned()));
    };
    let joins = choice(values, "initial-cluster-state", &["new", "existing"])? == "existing";
    // As in etcd, the members of a cluster that is joined know best what the new one's URLs are.
    if !joins {
        check_advertised(name, own, &advertise_peer_urls)?;
    }
    check_schemes("initial-cluster", initial_cluster.iter().flat_map(|(_, urls)| urls))?;
    check_duplicates(&initial_cluster)?;
    let token = values.text("initial-cluster-token");
    let id = ids::member(own, token);
    let initial: Vec<_> = initial_cluster
        .iter()
        .map(|(name, urls)| InitialMember {
            id: ids::member(urls, token),
            name: name.clone(),
            peer_urls: urls.iter().collect::<BTreeSet<_>>().into_iter().cloned().collect(),
        })
        .collect();
    let advertise_client_urls = values.urls("advertise-client-urls");
    if advertise_client_urls.is_empty() {
        return Err(Error::Empty("advertise-client-urls"));
    }
    let cluster_id = ids::cluster(&initial.iter().map(|member| member.id).collect::<Vec<_>>());
    Ok(MemberConfig {
        id,
        cluster_id,
        initial,
        joins,
        rejoins: values.bool("rejoin"),
        promote_when_ready: values.bool("promote-when-ready"),
        force_new_cluster: values.bool("force-new-cluster"),
        max_learners: usize::try_from(values.unsigned("max-learners")).unwrap_or(usize::MAX),
        strict_reconfig_check: values.bool("strict-reconfig-check"),
        advertise_peer_urls,
        advertise_client_urls,
    })
}

/// A member's URLs in `--initial-cluster` are those that it advertises, or stand for the same addresses.
fn check_advertised(name: &str, own: &[Url], advertised: &[Url]) -> Result<(), Error> {
    let only = |some: &[Url], others: &[Url]| -> Vec<Url> {
        some.iter().filter(|url| !others.contains(url)).cloned().collect()
    };
    let (not_advertised, not_in_cluster) = (only(own, advertised), only(advertised, own));
    if resolved(&not_advertised) == resolved(&not_in_cluster) {
        return Ok(());
    }
    Err(match not_advertised.is_empty() {
        false => Error::NotAdvertised {
            missing: list(not_advertised.iter().map(|url| (name, url)).map(pair)),
            advertised: list(advertised.iter().map(ToString::to_string)),
        },
        true => Error::NotInCluster {
            missing: list(not_in_cluster.iter().map(ToString::to_string)),
            cluster: list(own.iter().map(|url| (name, url)).map(pair)),
        },
    })
}

fn pair((name, url): (&str, &Url)) -> String {
    format!("{name}={url}")
}

/// In order.
fn list(texts: impl Iterator<Item = String>) -> String {
    let mut texts: Vec<_> = texts.collect();
    texts.sort_unstable();
    texts.join(",")
}

/// The addresses that URLs stand for, in order; a name that stands for none remains what it is.
fn resolved(urls: &[Url]) -> Vec<Result<(&str, SocketAddr), &Url>> {
    let mut addresses: Vec<_> =
        urls.iter().map(|url| url.address().map(|address| (url.scheme(), address)).ok_or(url)).collect();
    addresses.sort_unstable();
    addresses
}

fn check_duplicates(initial_cluster: &[(String, Vec<Url>)]) -> Result<(), Error> {
    let pairs = || initial_cluster.iter().flat_map(|(name, urls)| urls.iter().map(move |url| (&**name, url)));
    let mut seen = BTreeSet::new();
    match pairs().all(|(_, url)| seen.insert(url)) {
        true => Ok(()),
        false => Err(Error::DuplicateUrl(list(pairs().map(pair)))),
    }
}

/// Names with their URLs; a name may stand several times.
fn initial_cluster(text: &str) -> Result<Vec<(String, Vec<Url>)>, Error> {
    let mut members: Vec<(String, Vec<Url>)> = Vec::new();
    for pair in text.split(',').filter(|pair| !pair.trim().is_empty()) {
        let Some((name, url)) = pair.split_once('=') else {
            return Err(Error::InitialCluster(text.to_owned()));
        };
        let (name, url) = (name.trim(), Url::parse(url)?);
        match members.iter_mut().find(|(known, _)| known == name) {
            Some((_, urls)) => urls.push(url),
            None => members.push((name.to_owned(), vec![url])),
        }
    }
    Ok(members)
}

//! URLs of listeners and members.

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};

/// `http://host:port`, as it was given.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Url {
    text: String,
    scheme: String,
    host: String,
    port: u16,
}

/// What is wrong with a URL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("{0:?}: URL scheme must be http, https, unix, or unixs")]
    Scheme(String),
    #[error("{0:?}: URL address does not have the form \"host:port\"")]
    Port(String),
    #[error("{0:?}: URL must not contain a path")]
    Path(String),
    #[error("{0:?}: expected IP in URL for binding")]
    Host(String),
}

impl Url {
    /// # Errors
    /// See `UrlError`.
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        let text = text.trim().to_owned();
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(UrlError::Scheme(text));
        };
        let scheme = scheme.to_ascii_lowercase();
        if !matches!(scheme.as_str(), "http" | "https" | "unix" | "unixs") {
            return Err(UrlError::Scheme(text));
        }
        let address = rest.split_once('/').map_or(rest, |(address, _)| address);
        if rest.len() > address.len() {
            return Err(UrlError::Path(text));
        }
        let Some((host, port)) = address.rsplit_once(':') else {
            return Err(UrlError::Port(text));
        };
        let Ok(port) = port.parse::<u16>() else {
            return Err(UrlError::Port(text));
        };
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Ok(Self { text: text.clone(), scheme, host, port })
    }

    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The first address that it stands for; asks for the name when it is no IP.
    pub fn address(&self) -> Option<SocketAddr> {
        (self.host.as_str(), self.port).to_socket_addrs().ok()?.min_by_key(SocketAddr::is_ipv6)
    }

    /// The addresses to listen on: an IP, or what `localhost` stands for.
    ///
    /// # Errors
    /// `Host` for another name: it may stand for an address that is not ours.
    pub fn bind_addresses(&self) -> Result<Vec<SocketAddr>, UrlError> {
        if let Ok(ip) = self.host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, self.port)]);
        }
        if self.host == "localhost" {
            let found = ("localhost", self.port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
            if let Ok(first) = found
                && let Some(first) = first.into_iter().min_by_key(SocketAddr::is_ipv6)
            {
                return Ok(vec![first]);
            }
        }
        Err(UrlError::Host(self.text.clone()))
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn any_text_is_a_url_or_not(text in "(https?|unixs?|HTTP|x)?(://|:|/)?[\\[\\]a-z0-9.:%/ ]{0,20}|\\PC{0,20}") {
            if let Ok(url) = Url::parse(&text) {
                prop_assert_eq!(url.as_str(), text.trim());
                prop_assert_eq!(&Url::parse(&url.to_string()), &Ok(url.clone()));
                // Names are not asked for here: that may take as long as the network likes.
                if url.host() != "localhost" {
                    drop(url.bind_addresses());
                }
            }
        }

        #[test]
        fn an_address_is_read_as_it_stands(address in any::<[u8; 4]>(), wide in any::<[u8; 16]>(), port in any::<u16>()) {
            for ip in [IpAddr::from(address), IpAddr::from(wide)] {
                let address = SocketAddr::new(ip, port);
                let url = Url::parse(&format!("http://{address}")).expect("it is one");
                prop_assert_eq!(url.bind_addresses(), Ok(vec![address]));
            }
        }
    }
}

//! The address of a server: a host and a port.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

use serde::{Serialize, Serializer};

/// Where a server listens for agents: `host:port`, where the host is a DNS name, an IPv4 address or an
/// IPv6 address in brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerAddress {
    /// Without brackets.
    host: String,
    port: u16,
}

/// The text is not the address of a server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not an address: write host or host:port, such as pull.example.com:50051")]
pub struct AddressError {
    found: String,
}

impl ServerAddress {
    /// The port where a server listens for agents by default.
    pub const DEFAULT_PORT: u16 = 50051;

    /// Maximum length of a host, in bytes (RFC 1035).
    pub(crate) const MAX_HOST_LEN: usize = 253;

    /// Creates an address; `None` if the host is none, or the port is 0.
    pub fn new(host: &str, port: u16) -> Option<Self> {
        let valid = port != 0 && (host.parse::<IpAddr>().is_ok() || is_dns_name(host));
        valid.then(|| Self { host: host.to_owned(), port })
    }

    /// Parses `host` or `host:port`. An IPv6 address with a port is in brackets.
    ///
    /// # Errors
    /// The host is none, or the port is not a number from 1 to 65535.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let invalid = || AddressError { found: text.chars().take(80).collect() };
        let (host, port) = split(text).ok_or_else(invalid)?;
        let port = match port {
            None => Self::DEFAULT_PORT,
            // `parse` accepts a plus sign.
            Some(port) if port.starts_with('+') => return Err(invalid()),
            Some(port) => port.parse().map_err(|_| invalid())?,
        };
        Self::new(host, port).ok_or_else(invalid)
    }

    /// Returns the host, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Returns the port, which is not 0.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Splits an address into its host and its port.
fn split(text: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        let port = if after.is_empty() { None } else { Some(after.strip_prefix(':')?) };
        return host.parse::<Ipv6Addr>().is_ok().then_some((host, port));
    }
    if text.parse::<Ipv6Addr>().is_ok() {
        return Some((text, None));
    }
    match text.split_once(':') {
        None => Some((text, None)),
        Some((host, port)) => Some((host, Some(port))),
    }
}

/// Accepts what resolvers accept: an underscore too, which names of containers may have.
fn is_dns_name(host: &str) -> bool {
    let is_label = |label: &str| {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        (1..=63).contains(&label.len()) && label.bytes().all(allowed) && !label.starts_with('-')
    };
    host.len() <= ServerAddress::MAX_HOST_LEN && host.split('.').all(is_label)
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Serialize for ServerAddress {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_parsed_and_shown() {
        let check = |text, shown: &str| {
            let address = ServerAddress::parse(text).unwrap();
            assert_eq!(address.to_string(), shown);
            assert_eq!(ServerAddress::parse(shown), Ok(address));
        };
        check("pull.example.com", "pull.example.com:50051");
        check("pull.example.com:443", "pull.example.com:443");
        check("file_server:1", "file_server:1");
        check("192.0.2.1:65535", "192.0.2.1:65535");
        check("[2001:db8::1]:9", "[2001:db8::1]:9");
        check("2001:db8::1", "[2001:db8::1]:50051");
    }

    #[test]
    fn a_text_that_could_not_be_dialled_is_rejected() {
        let long = "a".repeat(254);
        for text in [
            "",
            ":50051",
            "host:",
            "host:0",
            "host:65536",
            "host:+1",
            "host:1:2",
            "https://host",
            "a b",
            "-rf",
            "a..b",
            "[::1",
            "[host]:1",
            "[::1]1",
            "user@host",
            "host/path",
            "é",
            &long,
        ] {
            assert!(ServerAddress::parse(text).is_err(), "{text:?} was accepted");
        }
    }
}

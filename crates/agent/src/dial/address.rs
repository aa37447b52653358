//! `SERVER_ADDR`: the address of the server, and whether it is dialed with TLS.

use std::fmt;
use std::net::IpAddr;

use filepull_core::invite::ServerAddress;
use tonic::transport::Uri;

/// The address that the agent dials, such as `pull.example.com:50051`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAddr {
    address: ServerAddress,
    scheme: Scheme,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scheme {
    Http,
    Https,
    /// TLS except on loopback.
    NotStated,
}

/// Why a text is no server address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "SERVER_ADDR={found:?}: write host, host:port, https://host:port, or http://host:port for plain text"
)]
pub struct ServerAddrError {
    found: String,
}

impl ServerAddr {
    /// Parses `host` or `host:port`, with or without `http://` or `https://`.
    ///
    /// # Errors
    /// The text is no such address.
    pub fn parse(text: &str) -> Result<Self, ServerAddrError> {
        let reject = || ServerAddrError { found: text.chars().take(80).collect() };
        let (scheme, authority) = match text.split_once("://") {
            None => (Scheme::NotStated, text),
            Some(("http", rest)) => (Scheme::Http, rest.strip_suffix('/').unwrap_or(rest)),
            Some(("https", rest)) => (Scheme::Https, rest.strip_suffix('/').unwrap_or(rest)),
            Some(_) => return Err(reject()),
        };
        // `::1` could be an address or a port: the reader meant one of them.
        let is_ambiguous = authority.starts_with(':');
        match ServerAddress::parse(authority) {
            Ok(address) if !is_ambiguous => Ok(Self { address, scheme }),
            Ok(_) | Err(_) => Err(reject()),
        }
    }

    /// Returns the address for messages and records.
    pub(crate) fn address(&self) -> &ServerAddress {
        &self.address
    }

    /// Returns whether an agent without a key of its own uses TLS.
    pub(crate) fn uses_tls(&self) -> bool {
        match self.scheme {
            Scheme::Http => false,
            Scheme::Https => true,
            Scheme::NotStated => !self.is_loopback(),
        }
    }

    /// Returns whether the address itself requests plain text.
    pub(crate) fn requests_plain_text(&self) -> bool {
        self.scheme == Scheme::Http
    }

    fn is_loopback(&self) -> bool {
        let host = self.address.host();
        host.eq_ignore_ascii_case("localhost")
            || host.parse().is_ok_and(|address: IpAddr| address.is_loopback())
    }

    /// Returns the address as the URI of an HTTP request with `scheme`.
    pub(crate) fn uri(&self, scheme: &str) -> Uri {
        format!("{scheme}://{}/", self.address).parse().expect("an address is a valid authority")
    }
}

impl From<ServerAddress> for ServerAddr {
    fn from(address: ServerAddress) -> Self {
        Self { address, scheme: Scheme::NotStated }
    }
}

impl fmt::Display for ServerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.address.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scheme_and_the_port_are_optional() {
        let check = |text: &str, expected: &str| {
            assert_eq!(
                ServerAddr::parse(text).map(|addr| addr.to_string()),
                Ok(expected.to_owned())
            );
        };
        check("pull.example.com", "pull.example.com:50051");
        check("server:50052", "server:50052");
        check("http://127.0.0.1:50051/", "127.0.0.1:50051");
        check("https://pull.example.com/", "pull.example.com:50051");
        check("[::1]", "[::1]:50051");
        check("http://[::1]:7", "[::1]:7");
    }

    #[test]
    fn an_address_without_a_scheme_uses_tls_except_on_loopback() {
        let uses_tls = |text: &str| ServerAddr::parse(text).unwrap().uses_tls();
        for text in ["pull.example.com", "192.0.2.1:1", "https://127.0.0.1", "[2001:db8::1]"] {
            assert!(uses_tls(text), "{text}");
        }
        for text in ["localhost", "127.0.0.1:7", "127.8.9.1", "[::1]", "http://pull.example.com"] {
            assert!(!uses_tls(text), "{text}");
        }
    }

    #[test]
    fn an_invalid_address_is_rejected() {
        for text in
            ["", "::1", "a b", "x:99999", "x:", "x:0", "u@x", "ftp://x", "x/path", "http://"]
        {
            assert!(ServerAddr::parse(text).is_err(), "{text:?} was accepted");
        }
    }
}

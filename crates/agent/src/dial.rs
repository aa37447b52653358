//! The address of the server, and the socket and HTTP/2 settings of a connection to it.
//!
//! Only this module knows whether a connection uses TLS.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint, Error, Uri};
use tower::ServiceExt as _;
use tower::util::MapResponse;

/// The address that the agent dials, such as `pull.example.com:50051`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerAddr {
    /// Host and port, as the log shows them.
    text: String,
    uri: Uri,
}

/// Opens connections to one server.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    pub(crate) server: ServerAddr,
    /// The address to dial from; `None` lets the system choose.
    pub(crate) source_addr: Option<IpAddr>,
}

/// Why a text is no server address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("SERVER_ADDR={found:?}: {rule}")]
pub struct ServerAddrError {
    found: String,
    rule: &'static str,
}

impl ServerAddr {
    const DEFAULT_PORT: u16 = 50051;

    /// Parses `host`, `host:port` or `http://host:port`.
    ///
    /// # Errors
    /// Names the rule that the text breaks.
    pub fn parse(text: &str) -> Result<Self, ServerAddrError> {
        let reject = |rule| ServerAddrError { found: text.to_owned(), rule };
        let authority = match text.split_once("://") {
            None => text,
            Some(("http", rest)) => rest.strip_suffix('/').unwrap_or(rest),
            Some(("https", _)) => {
                return Err(reject("this agent does not support TLS yet; write http://host:port"));
            }
            Some(_) => return Err(reject("write host, host:port or http://host:port")),
        };
        let malformed = || reject("write host, host:port or http://host:port");
        let uri: Uri = format!("http://{authority}/").parse().map_err(|_| malformed())?;
        let parsed = uri.authority().filter(|parsed| parsed.as_str() == authority);
        let host = parsed.map(|parsed| parsed.host()).ok_or_else(malformed)?;
        let port = match authority.strip_prefix(host) {
            Some("") => Self::DEFAULT_PORT,
            Some(_) => uri.port_u16().filter(|&port| port != 0).ok_or_else(malformed)?,
            None => return Err(malformed()),
        };
        let text = format!("{host}:{port}");
        let uri = format!("http://{text}").parse().map_err(|_| malformed())?;
        Ok(Self { text, uri })
    }

    /// Returns how the connection is protected, for the log.
    pub(crate) fn protection(&self) -> &'static str {
        "plain text"
    }
}

impl Dialer {
    /// Dials now, for a session. Every dial queries the DNS again, because a server may have moved.
    pub(crate) async fn dial(&self) -> Result<Channel, Error> {
        self.endpoint().connect_with_connector(self.connector(tune_session_socket)).await
    }

    /// Returns a channel for uploads. It dials when it is first used.
    pub(crate) fn dial_lazily(&self) -> Channel {
        self.endpoint().connect_with_connector_lazy(self.connector(tune_upload_socket))
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::from(self.server.uri.clone())
            .connect_timeout(Duration::from_secs(20))
            // Limits the wait for response headers only: streams stay open for days.
            .timeout(Duration::from_secs(10))
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20))
            .keep_alive_while_idle(true)
            // A server sends little. Small windows bound the memory on a small machine.
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(512 * 1024)
            .user_agent(concat!("filepull-agent/", env!("CARGO_PKG_VERSION")))
            .expect("a constant is a valid header")
    }

    fn connector(&self, tuning: SocketTuning) -> MapResponse<HttpConnector, SocketTuning> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_local_address(self.source_addr);
        // Otherwise a small message waits for the acknowledgement of the previous one.
        http.set_nodelay(true);
        http.set_connect_timeout(Some(Duration::from_secs(10)));
        http.set_keepalive(Some(Duration::from_secs(60)));
        http.set_keepalive_interval(Some(Duration::from_secs(15)));
        http.set_keepalive_retries(Some(3));
        #[cfg(target_os = "linux")]
        http.set_tcp_user_timeout(Some(Duration::from_secs(45)));
        http.map_response(tuning)
    }
}

impl fmt::Display for ServerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

type SocketTuning = fn(TokioIo<TcpStream>) -> TokioIo<TcpStream>;

/// Limits unsent bytes to 128 KiB. A ping waits behind them, so with megabytes of unsent data a
/// slow uplink would look dead.
fn tune_session_socket(connection: TokioIo<TcpStream>) -> TokioIo<TcpStream> {
    limit_unsent(connection, 128 * 1024)
}

/// Limits unsent bytes to 1 MiB. At 1 Mbit/s they are sent in 8 s, and HTTP/2 waits 20 s for the
/// response to its ping. A lower limit would slow a fast connection down.
fn tune_upload_socket(connection: TokioIo<TcpStream>) -> TokioIo<TcpStream> {
    limit_unsent(connection, 1024 * 1024)
}

/// Limits the unsent bytes in the kernel's buffer.
fn limit_unsent(connection: TokioIo<TcpStream>, len_bytes: u32) -> TokioIo<TcpStream> {
    #[cfg(target_os = "linux")]
    if let Err(error) = SockRef::from(connection.inner()).set_tcp_notsent_lowat(len_bytes) {
        tracing::debug!(event = "socket.option_failed", %error, "cannot set TCP_NOTSENT_LOWAT");
    }
    connection
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
        check("[::1]", "[::1]:50051");
        check("http://[::1]:7", "[::1]:7");
    }

    #[test]
    fn an_invalid_address_is_rejected_and_tls_is_explained() {
        for text in
            ["", "::1", "a b", "x:99999", "x:", "x:0", "u@x", "ftp://x", "x/path", "http://"]
        {
            assert!(ServerAddr::parse(text).is_err(), "{text:?} was accepted");
        }
        let error = ServerAddr::parse("https://pull.example.com").unwrap_err().to_string();
        assert!(error.contains("does not support TLS yet"), "{error}");
    }
}

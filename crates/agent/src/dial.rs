//! Where the server is, and how a connection to it is opened: the socket and HTTP/2 settings.
//!
//! TLS belongs here and nowhere else: [`ServerAddr::parse`] decides, `endpoint` carries it out.

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
    /// Host and port, as said in the log.
    shown: String,
    uri: Uri,
}

/// Opens connections to one server.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    pub(crate) server: ServerAddr,
    /// Where to dial from; none lets the system choose.
    pub(crate) source_addr: Option<IpAddr>,
}

/// Why a text is not the address of a server.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("SERVER_ADDR={found:?}: {rule}")]
pub struct ServerAddrError {
    found: String,
    rule: &'static str,
}

impl ServerAddr {
    /// Where a server listens for agents unless it is told otherwise.
    pub const DEFAULT_PORT: u16 = 50051;

    /// Parses `host`, `host:port` or `http://host:port`.
    ///
    /// # Errors
    /// Says what is wrong with the text, in words.
    pub fn parse(text: &str) -> Result<Self, ServerAddrError> {
        let refuse = |rule| ServerAddrError { found: text.to_owned(), rule };
        let authority = match text.split_once("://") {
            None => text,
            Some(("http", rest)) => rest.strip_suffix('/').unwrap_or(rest),
            Some(("https", _)) => {
                return Err(refuse("this agent does not speak TLS yet; write http://host:port"));
            }
            Some(_) => return Err(refuse("write host, host:port or http://host:port")),
        };
        let malformed = || refuse("write host, host:port or http://host:port");
        let uri: Uri = format!("http://{authority}/").parse().map_err(|_| malformed())?;
        let parsed = uri.authority().filter(|parsed| parsed.as_str() == authority);
        let host = parsed.map(|parsed| parsed.host()).ok_or_else(malformed)?;
        let port = match authority.strip_prefix(host) {
            Some("") => Self::DEFAULT_PORT,
            Some(_) => uri.port_u16().filter(|&port| port != 0).ok_or_else(malformed)?,
            None => return Err(malformed()),
        };
        let shown = format!("{host}:{port}");
        let uri = format!("http://{shown}").parse().map_err(|_| malformed())?;
        Ok(Self { shown, uri })
    }

    /// What protects the line, as said in the log.
    pub fn protection(&self) -> &'static str {
        "plain text"
    }
}

impl Dialer {
    /// Dials now, for a session. Every dial asks the DNS anew: a server may have moved.
    pub(crate) async fn dial(&self) -> Result<Channel, Error> {
        self.endpoint().connect_with_connector(self.connector(of_session)).await
    }

    /// Dials when the channel is first used, for uploads.
    pub(crate) fn dial_lazily(&self) -> Channel {
        self.endpoint().connect_with_connector_lazy(self.connector(of_uploads))
    }

    fn endpoint(&self) -> Endpoint {
        Endpoint::from(self.server.uri.clone())
            .connect_timeout(Duration::from_secs(20))
            // Bounds the wait for response headers only; streams live for days.
            .timeout(Duration::from_secs(10))
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20))
            .keep_alive_while_idle(true)
            // What a server sends is tiny: these bound the memory of a small machine.
            .initial_stream_window_size(256 * 1024)
            .initial_connection_window_size(512 * 1024)
            .user_agent(concat!("filepull-agent/", env!("CARGO_PKG_VERSION")))
            .expect("a constant is a valid header")
    }

    fn connector(&self, tuned: Tuned) -> MapResponse<HttpConnector, Tuned> {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_local_address(self.source_addr);
        // Without it a small message waits for the acknowledgement of the last one.
        http.set_nodelay(true);
        http.set_connect_timeout(Some(Duration::from_secs(10)));
        http.set_keepalive(Some(Duration::from_secs(60)));
        http.set_keepalive_interval(Some(Duration::from_secs(15)));
        http.set_keepalive_retries(Some(3));
        #[cfg(target_os = "linux")]
        http.set_tcp_user_timeout(Some(Duration::from_secs(45)));
        http.map_response(tuned)
    }
}

impl fmt::Display for ServerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.shown)
    }
}

type Tuned = fn(TokioIo<TcpStream>) -> TokioIo<TcpStream>;

/// A ping queues behind what waits unsent: with megabytes there, a slow uplink looks dead before it
/// is.
fn of_session(connection: TokioIo<TcpStream>) -> TokioIo<TcpStream> {
    bound_unsent(connection, 128 * 1024)
}

/// At 1 Mbit/s this is sent in 8 s, and HTTP/2 waits 20 s for the answer to its ping. Less would
/// make the sender of a fast line wait for the receiver again and again.
fn of_uploads(connection: TokioIo<TcpStream>) -> TokioIo<TcpStream> {
    bound_unsent(connection, 1024 * 1024)
}

/// Bounds what waits unsent in the kernel to `len` bytes.
fn bound_unsent(connection: TokioIo<TcpStream>, len: u32) -> TokioIo<TcpStream> {
    #[cfg(target_os = "linux")]
    if let Err(error) = SockRef::from(connection.inner()).set_tcp_notsent_lowat(len) {
        tracing::debug!(%error, "TCP_NOTSENT_LOWAT could not be set");
    }
    connection
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_leave_out_the_scheme_and_the_port() {
        let check = |text: &str, shown: &str| {
            assert_eq!(ServerAddr::parse(text).map(|addr| addr.to_string()), Ok(shown.to_owned()));
        };
        check("pull.example.com", "pull.example.com:50051");
        check("server:50052", "server:50052");
        check("http://127.0.0.1:50051/", "127.0.0.1:50051");
        check("[::1]", "[::1]:50051");
        check("http://[::1]:7", "[::1]:7");
    }

    #[test]
    fn anything_else_is_refused_and_tls_in_words_of_its_own() {
        for text in
            ["", "::1", "a b", "x:99999", "x:", "x:0", "u@x", "ftp://x", "x/path", "http://"]
        {
            assert!(ServerAddr::parse(text).is_err(), "{text:?} was accepted");
        }
        let said = ServerAddr::parse("https://pull.example.com").unwrap_err().to_string();
        assert!(said.contains("does not speak TLS yet"), "{said}");
    }
}

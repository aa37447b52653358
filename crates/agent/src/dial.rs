//! Connections to the server: the addresses, the encryption, and the settings of sockets and HTTP/2.
//!
//! Only this module knows whether a connection uses TLS or a proxy.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ClientConfig;
use tonic::transport::{Channel, Endpoint, Error};

use crate::dial::connector::Connector;

mod address;
mod connector;
mod plain_stream;
mod proxy;

pub use crate::dial::address::{ServerAddr, ServerAddrError};
pub(crate) use crate::dial::connector::DialError;
pub use crate::dial::proxy::ProxyRules;

/// Opens connections to one server. A handle: clones dial the same server.
#[derive(Clone, Debug)]
pub(crate) struct Dialer {
    target: Arc<Mutex<Arc<DialTarget>>>,
    /// The address to dial from; `None` lets the system choose.
    source_addr: Option<IpAddr>,
    proxy: ProxyRules,
}

/// What to dial.
#[derive(Debug)]
struct DialTarget {
    /// At least one.
    servers: Vec<ServerAddr>,
    /// The index of the address that answered last.
    preferred: AtomicUsize,
    security: Security,
}

/// How connections are protected.
#[derive(Clone, Debug)]
pub(crate) enum Security {
    PlainText,
    Tls(Arc<ClientConfig>),
}

/// Maximum number of unsent bytes of a session. A ping waits behind them, so with megabytes of unsent
/// data a slow uplink would look dead.
const MAX_UNSENT_SESSION: u32 = 128 * 1024;

/// Maximum number of unsent bytes of an upload. At 1 Mbit/s they are sent in 8 s, and HTTP/2 waits 20 s
/// for the response to its ping. A lower limit would slow a fast connection down.
const MAX_UNSENT_UPLOAD: u32 = 1024 * 1024;

impl Dialer {
    /// Creates a dialer for the addresses of one server, which are at least one.
    pub(crate) fn new(
        servers: Vec<ServerAddr>,
        source_addr: Option<IpAddr>,
        proxy: ProxyRules,
        security: Security,
    ) -> Self {
        let target = Arc::new(Mutex::new(Arc::new(DialTarget::new(servers, security))));
        Self { target, source_addr, proxy }
    }

    /// Dials now, for a session.
    pub(crate) async fn dial(&self) -> Result<Channel, Error> {
        self.endpoint().connect_with_connector(self.connector(MAX_UNSENT_SESSION)).await
    }

    /// Returns a channel for uploads. It dials when it is first used.
    pub(crate) fn dial_lazily(&self) -> Channel {
        self.endpoint().connect_with_connector_lazy(self.connector(MAX_UNSENT_UPLOAD))
    }

    /// Uses another key or other pins from the next connection on.
    pub(crate) fn replace_security(&self, security: Security) {
        self.replace(self.target().servers.clone(), security);
    }

    /// Dials other addresses from the next connection on.
    pub(crate) fn replace(&self, servers: Vec<ServerAddr>, security: Security) {
        let target = Arc::new(DialTarget::new(servers, security));
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = target;
    }

    /// Returns how connections are protected, for the log.
    pub(crate) fn protection(&self) -> &'static str {
        match self.target().security {
            Security::PlainText => "plain text",
            Security::Tls(_) => "TLS",
        }
    }

    fn target(&self) -> Arc<DialTarget> {
        Arc::clone(&self.target.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Without a limit for the whole connect: the connector limits each of its steps.
    fn endpoint(&self) -> Endpoint {
        Endpoint::from(self.target().servers[0].uri("http"))
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

    fn connector(&self, max_unsent_bytes: u32) -> Connector {
        Connector { dialer: self.clone(), max_unsent_bytes }
    }
}

impl DialTarget {
    fn new(servers: Vec<ServerAddr>, security: Security) -> Self {
        assert!(!servers.is_empty(), "a server has an address");
        Self { servers, preferred: AtomicUsize::new(0), security }
    }

    /// Returns the indexes of the addresses in the order in which to try them.
    fn order(&self) -> impl Iterator<Item = usize> + use<> {
        let len = self.servers.len();
        let preferred = self.preferred.load(Ordering::Relaxed);
        (0..len).map(move |offset| (preferred + offset) % len)
    }
}

#[cfg(test)]
impl Dialer {
    /// Returns a dialer without TLS.
    pub(crate) fn plain_text(server: ServerAddr) -> Self {
        Self::new(vec![server], None, ProxyRules::none(), Security::PlainText)
    }
}

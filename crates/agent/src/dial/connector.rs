//! Opens one connection: TCP, perhaps through a proxy, then TLS. Each step is bounded.

use std::error::Error;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::Intercept;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tonic::transport::Uri;
use tower::{Service, ServiceExt as _};

use crate::dial::plain_stream::PlainStream;
use crate::dial::{Dialer, Security, ServerAddr};

/// How long TCP may take, with the DNS lookup.
const TCP_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a proxy may take to connect to the server.
const TUNNEL_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the TLS handshake may take.
const TLS_TIMEOUT: Duration = Duration::from_secs(10);

type ServerStream = Either<PlainStream, TlsStream<TcpStream>>;

/// Why no connection was opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    #[error("cannot open a TCP connection")]
    Tcp(#[source] Box<dyn Error + Send + Sync>),
    #[error("the proxy {proxy} opens no connection")]
    Proxy {
        /// Host and port.
        proxy: String,
        /// Credentials were sent.
        has_login: bool,
        source: Box<dyn Error + Send + Sync>,
    },
    #[error("the TLS handshake failed")]
    Tls(#[source] io::Error),
    /// The server has chosen no protocol, or not HTTP/2.
    #[error("the server does not speak HTTP/2")]
    NotHttp2,
}

/// Opens connections for one kind of use.
#[derive(Clone, Debug)]
pub(crate) struct Connector {
    pub(crate) dialer: Dialer,
    /// Maximum number of unsent bytes in the kernel's buffer.
    pub(crate) max_unsent_bytes: u32,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<ServerStream>;
    type Error = DialError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, DialError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    /// The URI only names the first address: the dialer knows all of them.
    fn call(&mut self, _: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move { connector.connect_any().await.map(TokioIo::new) })
    }
}

impl Connector {
    /// Tries each address, the last successful one first. Returns the error of the first one tried.
    async fn connect_any(&self) -> Result<ServerStream, DialError> {
        let target = self.dialer.target();
        let mut first_error = None;
        for index in target.order() {
            match self.connect(&target.servers[index], &target.security).await {
                Ok(stream) => {
                    target.preferred.store(index, Ordering::Relaxed);
                    return Ok(stream);
                }
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        Err(first_error.expect("a target has an address"))
    }

    async fn connect(
        &self,
        server: &ServerAddr,
        security: &Security,
    ) -> Result<ServerStream, DialError> {
        let source_addr = self.dialer.source_addr;
        match security {
            Security::PlainText => {
                let tcp = open_tcp(source_addr, server.uri("http")).await?;
                self.limit_unsent(&tcp);
                Ok(Either::Left(PlainStream::new(tcp)))
            }
            Security::Tls(config) => {
                let tcp = match self.dialer.proxy.for_server(server) {
                    Some(proxy) => open_tunnel(source_addr, &proxy, server).await?,
                    None => open_tcp(source_addr, server.uri("http")).await?,
                };
                self.limit_unsent(&tcp);
                open_tls(Arc::clone(config), server, tcp).await.map(Either::Right)
            }
        }
    }

    fn limit_unsent(&self, tcp: &TcpStream) {
        #[cfg(target_os = "linux")]
        if let Err(error) = SockRef::from(tcp).set_tcp_notsent_lowat(self.max_unsent_bytes) {
            tracing::debug!(event = "socket.option_failed", %error, "cannot set TCP_NOTSENT_LOWAT");
        }
    }
}

async fn open_tcp(source_addr: Option<IpAddr>, uri: Uri) -> Result<TcpStream, DialError> {
    let opened = timeout(TCP_TIMEOUT, tcp_connector(source_addr).oneshot(uri)).await;
    let connection = opened.map_err(|elapsed| DialError::Tcp(elapsed.into()))?;
    connection.map(TokioIo::into_inner).map_err(|error| DialError::Tcp(error.into()))
}

/// Dials from `source_addr`; `None` lets the system choose. Every dial queries the DNS again, because a
/// server may have moved.
fn tcp_connector(source_addr: Option<IpAddr>) -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_local_address(source_addr);
    // Otherwise a small message waits for the acknowledgement of the previous one.
    tcp.set_nodelay(true);
    tcp.set_connect_timeout(Some(TCP_TIMEOUT));
    tcp.set_keepalive(Some(Duration::from_secs(60)));
    tcp.set_keepalive_interval(Some(Duration::from_secs(15)));
    tcp.set_keepalive_retries(Some(3));
    #[cfg(target_os = "linux")]
    tcp.set_tcp_user_timeout(Some(Duration::from_secs(45)));
    tcp
}

async fn open_tunnel(
    source_addr: Option<IpAddr>,
    proxy: &Intercept,
    server: &ServerAddr,
) -> Result<TcpStream, DialError> {
    let failed = |source| DialError::Proxy {
        proxy: proxy.uri().authority().map(ToString::to_string).unwrap_or_default(),
        has_login: proxy.basic_auth().is_some(),
        source,
    };
    let mut tunnel = Tunnel::new(proxy.uri().clone(), tcp_connector(source_addr));
    if let Some(login) = proxy.basic_auth() {
        tunnel = tunnel.with_auth(login.clone());
    }
    let opened = timeout(TCP_TIMEOUT + TUNNEL_TIMEOUT, tunnel.oneshot(server.uri("https"))).await;
    let connection = opened.map_err(|elapsed| failed(elapsed.into()))?;
    connection.map(TokioIo::into_inner).map_err(|error| failed(error.into()))
}

async fn open_tls(
    config: Arc<ClientConfig>,
    server: &ServerAddr,
    tcp: TcpStream,
) -> Result<TlsStream<TcpStream>, DialError> {
    let name = ServerName::try_from(server.address().host().to_owned())
        .map_err(|error| DialError::Tls(io::Error::other(error)))?;
    let handshake = TlsConnector::from(config).connect(name, tcp);
    let stream = timeout(TLS_TIMEOUT, handshake)
        .await
        .map_err(|elapsed| DialError::Tls(elapsed.into()))?
        .map_err(DialError::Tls)?;
    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
        Ok(stream)
    } else {
        Err(DialError::NotHttp2)
    }
}

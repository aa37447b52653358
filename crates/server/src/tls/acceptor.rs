//! The TLS handshake of one listener, bounded in time and in number.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rustls::{Error, PeerIncompatible};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout_at};
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::server::TlsStream;

use super::certificate::ServerCertificate;
use super::read_ahead::ReadAhead;
use super::stream::PeerStream;

/// How long a handshake may take. The time in which it waits for a permit does not count.
pub(crate) const HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);

/// How many handshakes are computed at once. Others wait, so that sessions and transfers get their share
/// of the processor while a fleet connects. A peer that sends nothing has no permit: it blocks no other.
const MAX_COMPUTED: usize = 64;

/// The first byte of TLS: a handshake record (RFC 8446, section 5.1).
pub(crate) const HANDSHAKE_BYTE: u8 = 0x16;

/// Performs the handshakes of one listener. Clones share the limit.
#[derive(Clone, Debug)]
pub(crate) struct TlsAcceptor {
    presented: watch::Receiver<Arc<ServerCertificate>>,
    alpn: Alpn,
    permits: Arc<Semaphore>,
}

/// What a peer must offer to speak in the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Alpn {
    /// HTTP/2, which gRPC needs.
    Http2,
    /// HTTP/1.1, also without ALPN.
    Http1,
}

/// Why a connection did not pass the handshake.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HandshakeError {
    /// The peer closed the connection before it sent anything, as health checks do.
    #[error("the peer sent nothing")]
    Silent,
    /// The handshake took too long.
    #[error("the handshake took more than {} s", HANDSHAKE_LIMIT.as_secs())]
    TooLate,
    /// The first byte is not TLS.
    #[error("the peer speaks plain text, and this port speaks TLS")]
    PlainText(TcpStream),
    /// The peer speaks an old version only.
    #[error("the peer does not speak TLS 1.3")]
    OldVersion,
    /// The peer does not speak the protocol of the listener.
    #[error("the peer does not offer HTTP/2 in TLS (ALPN h2)")]
    OtherProtocol,
    /// The handshake failed.
    #[error("the TLS handshake failed: {0}")]
    Failed(io::Error),
}

impl Alpn {
    /// Returns the name in TLS.
    pub(crate) fn name(self) -> &'static [u8] {
        match self {
            Self::Http2 => b"h2",
            Self::Http1 => b"http/1.1",
        }
    }
}

impl TlsAcceptor {
    /// Creates an acceptor that presents the newest certificate in each handshake.
    pub(crate) fn new(presented: watch::Receiver<Arc<ServerCertificate>>, alpn: Alpn) -> Self {
        Self { presented, alpn, permits: Arc::new(Semaphore::new(MAX_COMPUTED)) }
    }

    /// Performs the handshake. The caller runs this in a task of the connection.
    pub(crate) async fn accept(&self, stream: TcpStream) -> Result<PeerStream, HandshakeError> {
        let deadline = Instant::now() + HANDSHAKE_LIMIT;
        let in_time = timeout_at(deadline, self.hello(stream)).await;
        let hello = in_time.map_err(|_| HandshakeError::TooLate)??;
        let time_left = deadline.saturating_duration_since(Instant::now());
        let permit = self.permits.acquire().await.expect("this semaphore is never closed");
        let config = Arc::clone(&self.presented.borrow().config);
        let mut answer = Box::pin(hello.into_stream(config));
        // The first poll answers the hello, which is the costly part, and does not wait for the peer.
        let first = futures::poll!(&mut answer);
        drop(permit);
        let finished = match first {
            std::task::Poll::Ready(finished) => finished,
            std::task::Poll::Pending => {
                let in_time = timeout_at(Instant::now() + time_left, answer).await;
                in_time.map_err(|_| HandshakeError::TooLate)?
            }
        };
        self.check(finished.map_err(classify)?)
    }

    /// Receives the first message of the peer.
    async fn hello(
        &self,
        stream: TcpStream,
    ) -> Result<tokio_rustls::StartHandshake<ReadAhead>, HandshakeError> {
        let mut first = [0];
        match stream.peek(&mut first).await {
            Ok(0) | Err(_) => return Err(HandshakeError::Silent),
            Ok(_) if first != [HANDSHAKE_BYTE] => return Err(HandshakeError::PlainText(stream)),
            Ok(_) => {}
        }
        let acceptor = rustls::server::Acceptor::default();
        LazyConfigAcceptor::new(acceptor, ReadAhead::new(stream)).await.map_err(classify)
    }

    fn check(&self, stream: TlsStream<ReadAhead>) -> Result<PeerStream, HandshakeError> {
        let chosen = stream.get_ref().1.alpn_protocol();
        match self.alpn {
            Alpn::Http2 if chosen != Some(self.alpn.name()) => Err(HandshakeError::OtherProtocol),
            Alpn::Http1 | Alpn::Http2 => Ok(PeerStream::Tls(Box::new(stream))),
        }
    }
}

/// Returns the reason that an operator can act on.
fn classify(error: io::Error) -> HandshakeError {
    let reason = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match reason {
        Some(Error::PeerIncompatible(
            PeerIncompatible::SupportedVersionsExtensionRequired
            | PeerIncompatible::Tls12NotOffered
            | PeerIncompatible::Tls12NotOfferedOrEnabled
            | PeerIncompatible::ServerDoesNotSupportTls12Or13
            | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig,
        )) => HandshakeError::OldVersion,
        Some(Error::NoApplicationProtocol) => HandshakeError::OtherProtocol,
        Some(_) | None => HandshakeError::Failed(error),
    }
}

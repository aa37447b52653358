//! Accepts the connections of agents, and closes those that send no preface or carry no stream.
//!
//! Each handshake of TLS runs in a task of its own: a slow peer delays no other one. Replaces tonic's own accept loop, which uses a whole core when file descriptors run out, and in
//! which a connection without an HTTP/2 preface blocks the shutdown (hyperium/hyper#4170).

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use filepull_core::fingerprint::Fingerprint;
use filepull_process::Lifecycle;
use futures::Stream;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use super::{GREETING_LIMIT, GrpcShutdown};
use crate::connection_limit::{ConnectionLimit, ConnectionPermit};
use crate::listener;
use crate::read_budget::ReadBudget;
use crate::tls::{HANDSHAKE_BYTE, PeerStream, ProtocolLog, TlsAcceptor};

/// Length of the HTTP/2 connection preface in bytes (RFC 9113, section 3.4).
const PREFACE_LEN: usize = 24;

/// A connection without a stream for this long is closed. An agent closes its own connection for
/// uploads after 60 s.
const IDLE_LIMIT: Duration = Duration::from_secs(75);

/// What the listener for agents needs to accept connections.
pub(crate) struct AgentListener {
    pub(crate) listener: TcpListener,
    pub(crate) limit: ConnectionLimit,
    /// None: plain text.
    pub(crate) tls: Option<TlsAcceptor>,
    /// Runs the handshakes.
    pub(crate) lifecycle: Lifecycle,
}

/// Maximum number of connections that wait for tonic. Their tasks wait when it is full.
const QUEUE_LEN: usize = 64;

impl AgentListener {
    /// Returns the connections until the listener must stop accepting. The stream ends only at `finish`,
    /// because tonic then ends all connections.
    pub(crate) fn incoming(
        self,
        shutdown: GrpcShutdown,
    ) -> impl Stream<Item = io::Result<GrpcConnection>> {
        let (sender, receiver) = mpsc::channel(QUEUE_LEN);
        self.lifecycle.clone().spawn(self.accept(sender, shutdown.clone()));
        futures::stream::unfold((receiver, shutdown), |(mut receiver, shutdown)| async {
            match receiver.recv().await {
                Some(connection) => Some((Ok(connection), (receiver, shutdown))),
                None => {
                    shutdown.finish.cancelled().await;
                    None
                }
            }
        })
    }

    /// Accepts connections until the listener must stop.
    async fn accept(self, connections: mpsc::Sender<GrpcConnection>, shutdown: GrpcShutdown) {
        let log = ProtocolLog::new("agents");
        let next = || async {
            let (stream, peer) = listener::accept(&self.listener, "agents").await;
            (stream, peer, self.limit.admit(&shutdown.abort).await)
        };
        while let Some(accepted) = shutdown.stop_accepting.run_until_cancelled(next()).await {
            let (stream, peer, permit) = accepted;
            listener::set_options(&stream);
            let newcomer = IncomingAgent { stream, peer, permit, log: log.clone() };
            let stop = shutdown.clone();
            let connections = connections.clone();
            match self.tls.clone() {
                Some(tls) => self.lifecycle.spawn(newcomer.shake_hands(tls, connections, stop)),
                None => {
                    let stream = PeerStream::Plain(newcomer.stream);
                    let connection =
                        GrpcConnection::new(stream, stop.abort, newcomer.permit, newcomer.log);
                    let queued = connections.send(connection);
                    let _ = shutdown.stop_accepting.run_until_cancelled(queued).await;
                }
            }
        }
    }
}

/// A connection that is counted, and whose handshake is not finished.
struct IncomingAgent {
    stream: TcpStream,
    peer: SocketAddr,
    permit: ConnectionPermit,
    log: ProtocolLog,
}

impl IncomingAgent {
    /// Performs the handshake. Ends when it has succeeded, failed or taken too long, when another
    /// connection needs the permit, and when the server stops accepting.
    async fn shake_hands(
        self,
        tls: TlsAcceptor,
        connections: mpsc::Sender<GrpcConnection>,
        shutdown: GrpcShutdown,
    ) {
        let Self { stream, peer, permit, log } = self;
        let closed = permit.closed().clone();
        let accepted = closed.run_until_cancelled(Box::pin(tls.accept(stream)));
        let stream = match shutdown.stop_accepting.run_until_cancelled(accepted).await.flatten() {
            Some(Ok(stream)) => stream,
            Some(Err(error)) => return log.failed(peer, &error),
            None => return,
        };
        let connection = GrpcConnection::new(stream, shutdown.abort, permit, log);
        // Fails only if the listener has stopped.
        let _ = connections.send(connection).await;
    }
}

/// How long a connection is not read while its data is not consumed.
const UNTAKEN_PAUSE: Duration = Duration::from_millis(50);

/// How long a connection may take to close.
const CLOSE_LIMIT: Duration = Duration::from_secs(5);

/// A connection that must send a preface and requests in time, and that the server can abort.
pub(crate) struct GrpcConnection {
    stream: PeerStream,
    /// Bytes of the preface read so far.
    preface_len: usize,
    /// When to check for progress: first for the preface, then for streams.
    check_at: Pin<Box<Sleep>>,
    /// Aborts all connections at the end of the shutdown.
    abort_all: CancellationToken,
    aborted: Pin<Box<WaitForCancellationFutureOwned>>,
    read_budget: ReadBudget,
    /// Runs while received data is not consumed.
    pause: Option<Pin<Box<Sleep>>>,
    /// Runs while the connection closes.
    close_by: Option<Pin<Box<Sleep>>>,
    permit: ConnectionPermit,
    log: ProtocolLog,
}

/// What the handlers of requests know of their connection.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionInfo {
    /// The address from which the agent dials.
    pub(crate) remote_addr: Option<SocketAddr>,
    /// The key of the agent: TLS has proved that the agent has it. None without a client certificate, and
    /// in plain text. A resumed connection has the key of the first one.
    pub(crate) peer_key: Option<Fingerprint>,
    /// Limits how far the connection is read ahead.
    pub(crate) read_budget: ReadBudget,
    /// Counts the streams of the connection.
    pub(crate) permit: ConnectionPermit,
}

impl ConnectionInfo {
    /// Resets the connection. If the agent's packets are lost, a normal close waits behind the data
    /// that TCP retransmits, and may never arrive; a reset needs no answer.
    pub(crate) fn reset(&self) {
        self.permit.closed().cancel();
    }
}

impl GrpcConnection {
    fn new(
        stream: PeerStream,
        abort_all: CancellationToken,
        permit: ConnectionPermit,
        log: ProtocolLog,
    ) -> Self {
        let aborted = Box::pin(permit.closed().clone().cancelled_owned());
        Self {
            stream,
            preface_len: 0,
            check_at: Box::pin(sleep(GREETING_LIMIT)),
            abort_all,
            aborted,
            read_budget: ReadBudget::default(),
            pause: None,
            close_by: None,
            permit,
            log,
        }
    }

    /// Closes the connection if its preface is late, or if it has carried no stream for too long.
    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let too_late = |what| Err(io::Error::new(io::ErrorKind::TimedOut, what));
        while self.check_at.as_mut().poll(context).is_ready() {
            if self.preface_len < PREFACE_LEN {
                return too_late("no HTTP/2 preface arrived");
            }
            let now = Instant::now();
            let next = match self.permit.idle() {
                None => now + IDLE_LIMIT,
                // The first request follows the preface.
                Some(idle) if !idle.was_used => return too_late("no request arrived"),
                Some(idle) => idle.since + IDLE_LIMIT,
            };
            if next <= now {
                return too_late("the connection is idle");
            }
            self.check_at.as_mut().reset(next);
        }
        Ok(())
    }
}

impl AsyncRead for GrpcConnection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.aborted.as_mut().poll(context).is_ready() {
            if !self.abort_all.is_cancelled() {
                // Makes the close send a reset.
                SockRef::from(self.stream.tcp()).set_linger(Some(Duration::ZERO))?;
            }
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        self.check(context)?;
        while self.read_budget.poll_ready(context).is_pending() {
            if self.read_budget.has_upload() {
                return Poll::Pending;
            }
            // Unconsumed data may belong to a stream that has ended: HTTP/2 drops it.
            let pause = self.pause.get_or_insert_with(|| Box::pin(sleep(UNTAKEN_PAUSE)));
            ready!(pause.as_mut().poll(context));
            self.pause = None;
            self.read_budget.renew();
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let len = buffer.filled().len() - before;
        self.read_budget.consume(len);
        let is_first = self.preface_len == 0 && 0 < len;
        if is_first && buffer.filled()[before] == HANDSHAKE_BYTE {
            self.log.tls_to_plain(self.stream.tcp().peer_addr().ok());
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        self.preface_len = self.preface_len.saturating_add(len);
        ready!(read)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for GrpcConnection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if Pin::new(&mut self.stream).poll_shutdown(context)?.is_ready() {
            return Poll::Ready(Ok(()));
        }
        // TLS sends a last message, for which an agent that reads nothing leaves no space.
        let limit = self.close_by.get_or_insert_with(|| Box::pin(sleep(CLOSE_LIMIT)));
        ready!(limit.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl Connected for GrpcConnection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        ConnectionInfo {
            remote_addr: self.stream.tcp().peer_addr().ok(),
            peer_key: self.stream.peer_key(),
            read_budget: self.read_budget.clone(),
            permit: self.permit.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn data_beyond_the_budget_stays_in_the_socket() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut agent = TcpStream::connect(listener.local_addr()?).await?;
        let (stream, _) = listener.accept().await?;
        let stop = CancellationToken::new();
        let permit = ConnectionLimit::new("agents", 1, false).admit(&stop).await;
        let stream = PeerStream::Plain(stream);
        let log = ProtocolLog::new("agents");
        let mut connection = GrpcConnection::new(stream, stop, permit, log);
        let budget = connection.read_budget.clone();
        agent.write_all(&[0; 64]).await?;
        budget.begin_upload();
        budget.set_budget(32);
        connection.read_exact(&mut [0; 32]).await?;
        let mut rest = [0; 32];
        let mut read = pin!(connection.read_exact(&mut rest));
        assert!(futures::poll!(&mut read).is_pending());
        budget.set_budget(32);
        read.await.map(drop)
    }
}

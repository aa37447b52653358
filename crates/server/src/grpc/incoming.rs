//! Accepts the connections of agents, and closes those that send no preface or carry no stream.
//!
//! Replaces tonic's own accept loop, which uses a whole core when file descriptors run out, and in
//! which a connection without an HTTP/2 preface blocks the shutdown (hyperium/hyper#4170).

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use filepull_core::fingerprint::Fingerprint;
use futures::Stream;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

use super::{GREETING_LIMIT, GrpcShutdown};
use crate::connection_limit::{ConnectionLimit, ConnectionPermit};
use crate::listener;
use crate::read_budget::ReadBudget;

/// Length of the HTTP/2 connection preface in bytes (RFC 9113, section 3.4).
const PREFACE_LEN: usize = 24;

/// A connection without a stream for this long is closed. An agent closes its own connection for
/// uploads after 60 s.
const IDLE_LIMIT: Duration = Duration::from_secs(75);

/// Returns the connections of `listener` until it must stop accepting. The stream ends only at
/// `finish`, because tonic then ends all connections.
pub(crate) fn incoming(
    listener: TcpListener,
    limit: ConnectionLimit,
    shutdown: GrpcShutdown,
) -> impl Stream<Item = io::Result<GrpcConnection>> {
    futures::stream::unfold((listener, limit, shutdown), |(listener, limit, shutdown)| async {
        let next = async {
            let (stream, _) = listener::accept(&listener, "agents").await;
            (stream, limit.admit(&shutdown.abort).await)
        };
        match shutdown.stop_accepting.run_until_cancelled(next).await {
            Some((stream, permit)) => {
                listener::set_options(&stream);
                let connection = GrpcConnection::new(stream, shutdown.abort.clone(), permit);
                Some((Ok(connection), (listener, limit, shutdown)))
            }
            None => {
                drop(listener);
                shutdown.finish.cancelled().await;
                None
            }
        }
    })
}

/// How long a connection is not read while its data is not consumed.
const UNTAKEN_PAUSE: Duration = Duration::from_millis(50);

/// A connection that must send a preface and requests in time, and that the server can abort.
pub(crate) struct GrpcConnection {
    stream: TcpStream,
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
    permit: ConnectionPermit,
}

/// What the handlers of requests know of their connection.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionInfo {
    /// The address from which the agent dials.
    pub(crate) remote_addr: Option<SocketAddr>,
    /// Whether the connection is encrypted.
    pub(crate) is_tls: bool,
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
    fn new(stream: TcpStream, abort_all: CancellationToken, permit: ConnectionPermit) -> Self {
        let aborted = Box::pin(permit.closed().clone().cancelled_owned());
        Self {
            stream,
            preface_len: 0,
            check_at: Box::pin(sleep(GREETING_LIMIT)),
            abort_all,
            aborted,
            read_budget: ReadBudget::default(),
            pause: None,
            permit,
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
                SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?;
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
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

impl Connected for GrpcConnection {
    type ConnectInfo = ConnectionInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        ConnectionInfo {
            remote_addr: self.stream.peer_addr().ok(),
            is_tls: false,
            peer_key: None,
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
        let mut connection = GrpcConnection::new(stream, stop, permit);
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

//! Connections of agents: sets their options, and drops those that never speak.
//!
//! It replaces tonic's own, which spins when file descriptors run out and lets a connection that
//! never sends its HTTP/2 preface block the end of the server (hyperium/hyper#4170).

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::Stream;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Sleep, sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;
use tracing::debug;

use super::GREETING_LIMIT;
use crate::brake::Brake;
use crate::room::{Place, Room};
use crate::{Doors, door};

/// What a client of HTTP/2 sends first (RFC 9113, section 3.4): 24 bytes.
const PREFACE_LEN: usize = 24;

/// The connections of `listener` until its doors are closed. The stream itself goes on until they
/// finish: tonic takes its end as the word to end all connections.
pub(super) fn incoming(
    listener: TcpListener,
    room: Room,
    doors: Doors,
) -> impl Stream<Item = io::Result<Connection>> {
    futures::stream::unfold((listener, room, doors), |(listener, mut room, doors)| async {
        let next = async {
            let place = room.place().await;
            (door::accept(&listener, "agents").await, place)
        };
        match doors.close.run_until_cancelled(next).await {
            Some(((stream, _), place)) => {
                if let Err(error) = set_options(&stream) {
                    debug!(%error, "socket options");
                }
                let connection = Connection::new(stream, doors.cut.clone(), place);
                Some((Ok(connection), (listener, room, doors)))
            }
            None => {
                drop(listener);
                doors.finish.cancelled().await;
                None
            }
        }
    })
}

fn set_options(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new()
        .with_time(Duration::from_secs(60))
        .with_interval(Duration::from_secs(15))
        .with_retries(3);
    socket.set_tcp_keepalive(&keepalive)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(Duration::from_secs(45)))?;
    Ok(())
}

/// A connection that must speak in time, and can be cut.
pub(super) struct Connection {
    stream: TcpStream,
    /// Bytes of the preface read so far, and when it must be whole; none once it is.
    greeting: Option<(usize, Pin<Box<Sleep>>)>,
    /// That of all connections: their time is over.
    all_cut: CancellationToken,
    cut: CancellationToken,
    until_cut: Pin<Box<WaitForCancellationFutureOwned>>,
    brake: Brake,
    _place: Place,
}

/// What the handlers of a connection's requests know of it.
#[derive(Clone, Debug)]
pub(super) struct Caller {
    /// Where the agent dials from.
    pub(super) remote_addr: Option<SocketAddr>,
    /// Stops reading from the connection.
    pub(super) brake: Brake,
    cut: CancellationToken,
}

impl Caller {
    /// Resets the connection. Where nothing comes back from the other end, a polite end would wait
    /// behind what TCP sends again and again, and never be heard; a reset needs no answer.
    pub(super) fn reset(&self) {
        self.cut.cancel();
    }
}

impl Connection {
    fn new(stream: TcpStream, all_cut: CancellationToken, place: Place) -> Self {
        let greeting = Some((0, Box::pin(sleep(GREETING_LIMIT))));
        let cut = all_cut.child_token();
        let until_cut = Box::pin(cut.clone().cancelled_owned());
        Self { stream, greeting, all_cut, cut, until_cut, brake: Brake::default(), _place: place }
    }

    /// Notes `len` more bytes; without any, checks whether it is too late for them.
    fn greeted(&mut self, len: usize, context: &mut Context<'_>) -> io::Result<()> {
        if let Some((read, deadline)) = &mut self.greeting {
            *read += len;
            if PREFACE_LEN <= *read {
                self.greeting = None;
            } else if deadline.as_mut().poll(context).is_ready() {
                return Err(io::Error::new(io::ErrorKind::TimedOut, "no HTTP/2 preface came"));
            }
        }
        Ok(())
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.until_cut.as_mut().poll(context).is_ready() {
            if !self.all_cut.is_cancelled() {
                // Closing it resets it.
                SockRef::from(&self.stream).set_linger(Some(Duration::ZERO))?;
            }
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if self.brake.holds(context) {
            return Poll::Pending;
        }
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(context, buffer);
        let len = buffer.filled().len() - before;
        self.brake.has_read(len);
        self.greeted(len, context)?;
        ready!(read)?;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Connection {
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

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Self::ConnectInfo {
        let (brake, cut) = (self.brake.clone(), self.cut.clone());
        Caller { remote_addr: self.stream.peer_addr().ok(), brake, cut }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn what_is_not_wanted_stays_in_the_socket() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut agent = TcpStream::connect(listener.local_addr()?).await?;
        let (stream, _) = listener.accept().await?;
        let place = Room::make().place().await;
        let mut connection = Connection::new(stream, CancellationToken::new(), place);
        let brake = connection.brake.clone();
        agent.write_all(&[0; 64]).await?;
        brake.want(32);
        connection.read_exact(&mut [0; 32]).await?;
        let mut rest = [0; 32];
        let mut read = pin!(connection.read_exact(&mut rest));
        assert!(futures::poll!(&mut read).is_pending());
        brake.want(32);
        read.await.map(drop)
    }
}

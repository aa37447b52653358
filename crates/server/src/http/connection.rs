//! A connection of an operator, with a timeout for blocked writes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use crate::connection_limit::ConnectionPermit;
use crate::tls::{HANDSHAKE_BYTE, PeerStream, ProtocolLog};

/// How long a write may wait until the caller reads.
const WRITE_LIMIT: Duration = Duration::from_secs(30);

/// A connection that fails if the caller does not read for [`WRITE_LIMIT`].
#[derive(Debug)]
pub(crate) struct HttpConnection<S> {
    stream: S,
    permit: ConnectionPermit,
    log: ProtocolLog,
    /// Whether the peer has sent something.
    has_begun: bool,
    /// Runs while a write is blocked.
    write_deadline: Option<Pin<Box<Sleep>>>,
}

impl<S> HttpConnection<S> {
    pub(crate) fn new(stream: S, permit: ConnectionPermit, log: ProtocolLog) -> Self {
        Self { stream, permit, log, has_begun: false, write_deadline: None }
    }

    /// Returns the result of a write, or an error if writes are blocked for too long.
    fn with_deadline(
        &mut self,
        written: Poll<io::Result<usize>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if written.is_ready() {
            self.write_deadline = None;
            self.permit.note_progress();
            return written;
        }
        let deadline = self.write_deadline.get_or_insert_with(|| Box::pin(sleep(WRITE_LIMIT)));
        deadline.as_mut().poll(context).map(|()| {
            let reason = format!("the caller did not read for {} s", WRITE_LIMIT.as_secs());
            Err(io::Error::new(io::ErrorKind::TimedOut, reason))
        })
    }
}

impl HttpConnection<PeerStream> {
    /// Returns whether the connection is encrypted.
    pub(crate) fn is_tls(&self) -> bool {
        self.stream.is_tls()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for HttpConnection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        let first = buffer.filled().get(before).copied();
        if !std::mem::replace(&mut self.has_begun, true) && first == Some(HANDSHAKE_BYTE) {
            self.log.tls_to_plain(None);
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for HttpConnection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.with_deadline(written, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, slices);
        self.with_deadline(written, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // TLS sends a last message, for which a caller that reads nothing leaves no space.
        let closed = Pin::new(&mut self.stream).poll_shutdown(context);
        self.with_deadline(closed.map_ok(|()| 0), context).map_ok(drop)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::connection_limit::ConnectionLimit;

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_stops_reading_times_out_and_a_slow_one_does_not() {
        let (mut reader, stream) = tokio::io::duplex(16);
        let limit = ConnectionLimit::new("operators", 1, true);
        let permit = limit.admit(&CancellationToken::new()).await;
        let log = ProtocolLog::new("operators");
        let mut connection = HttpConnection::new(stream, permit, log);
        let slow = async {
            for _ in 0..4 {
                sleep(WRITE_LIMIT - Duration::from_secs(1)).await;
                reader.read_exact(&mut [0; 16]).await.unwrap();
            }
        };
        let (written, ()) = tokio::join!(connection.write_all(&[0; 80]), slow);
        written.unwrap();
        let error = connection.write_all(&[0; 1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}

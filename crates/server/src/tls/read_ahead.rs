//! A socket that is read in large pieces. rustls reads at most 4 KiB at a time: an upload would need four
//! system calls for each record of TLS.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::io::poll_read_buf;

/// Four records of TLS. Held only while encrypted bytes wait: an idle connection has no buffer.
const BUFFER_LEN: usize = 64 * 1024;

/// A read of this length shows that the peer sends more than messages of a session.
const BUSY_LEN: usize = 4096;

/// A socket and the bytes that were read ahead.
#[derive(Debug)]
pub(crate) struct ReadAhead {
    socket: TcpStream,
    buffer: BytesMut,
    is_busy: bool,
}

impl ReadAhead {
    pub(crate) fn new(socket: TcpStream) -> Self {
        Self { socket, buffer: BytesMut::new(), is_busy: false }
    }

    /// Returns the socket.
    pub(crate) fn tcp(&self) -> &TcpStream {
        &self.socket
    }

    /// Moves bytes that were read ahead into `target`.
    fn take(&mut self, target: &mut ReadBuf<'_>) {
        let len = self.buffer.len().min(target.remaining());
        target.put_slice(&self.buffer[..len]);
        self.buffer.advance(len);
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
    }

    fn poll_direct(
        &mut self,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = target.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(context, target);
        self.is_busy = BUSY_LEN <= target.filled().len() - before;
        read
    }

    fn poll_ahead(
        &mut self,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.is_busy = false;
        let mut buffer = BytesMut::with_capacity(BUFFER_LEN);
        let len = ready!(poll_read_buf(Pin::new(&mut self.socket), context, &mut buffer))?;
        self.is_busy = BUSY_LEN <= len;
        self.buffer = buffer;
        self.take(target);
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for ReadAhead {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        target: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.buffer.is_empty() {
            self.take(target);
            return Poll::Ready(Ok(()));
        }
        if self.is_busy {
            self.poll_ahead(context, target)
        } else {
            self.poll_direct(context, target)
        }
    }
}

impl AsyncWrite for ReadAhead {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.socket).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn every_byte_arrives_once_and_an_idle_socket_has_no_buffer() -> io::Result<()> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let mut peer = TcpStream::connect(listener.local_addr()?).await?;
        let (socket, _) = listener.accept().await?;
        let mut reader = ReadAhead::new(socket);
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[1]).collect();
        let mut received = vec![0; sent.len()];
        let receive = async {
            for piece in received.chunks_mut(4096) {
                reader.read_exact(piece).await?;
            }
            io::Result::Ok(())
        };
        let (written, read) = tokio::join!(peer.write_all(&sent), receive);
        written.and(read)?;
        assert!(received == sent);
        assert!(futures::poll!(Box::pin(reader.read_u8())).is_pending());
        assert_eq!(reader.buffer.capacity(), 0);
        drop(peer);
        assert_eq!(reader.read(&mut [0; 8]).await?, 0);
        Ok(())
    }
}

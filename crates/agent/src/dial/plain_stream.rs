//! A connection without TLS. Its first bytes tell a server with TLS or HTTP/1 from a server of filepull:
//! the HTTP/2 library sees only an invalid frame in both.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The first bytes of the server are not HTTP/2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum OtherProtocol {
    /// The start of a TLS alert.
    #[error("the server answers with TLS")]
    Tls,
    /// A response of HTTP/1.
    #[error("the server answers with HTTP/1")]
    Http1,
}

#[derive(Debug)]
pub(crate) struct PlainStream {
    stream: TcpStream,
    has_read: bool,
}

impl PlainStream {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, has_read: false }
    }
}

fn other_protocol(first_bytes: &[u8]) -> Option<OtherProtocol> {
    match first_bytes {
        [0x15, 3, ..] => Some(OtherProtocol::Tls),
        [b'H', b'T', b'T', b'P', ..] => Some(OtherProtocol::Http1),
        _ => None,
    }
}

impl AsyncRead for PlainStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let start = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if !self.has_read {
            self.has_read = true;
            if let Some(other) = other_protocol(&buffer.filled()[start..]) {
                return Poll::Ready(Err(io::Error::other(other)));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for PlainStream {
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
        slices: &[IoSlice<'_>],
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

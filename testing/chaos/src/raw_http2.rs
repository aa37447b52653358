//! An HTTP/2 client that breaks every rule: it sends frames as the trial builds them (RFC 9113).

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedWriteHalf;
use tokio::task::JoinHandle;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The types of frames.
pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const CONTINUATION: u8 = 9;

/// The flag of a HEADERS frame without CONTINUATION frames.
pub(crate) const END_HEADERS: u8 = 4;

/// The methods of the server for agents.
pub(crate) const SESSION: &str = "/filepull.v1.AgentControl/Session";
pub(crate) const UPLOAD: &str = "/filepull.v1.AgentTransfer/Upload";

/// A connection after its preface. What the server sends is read and dropped.
pub(crate) struct RawHttp2 {
    writer: OwnedWriteHalf,
    reader: JoinHandle<()>,
}

impl RawHttp2 {
    /// Connects and sends the preface with these settings, as pairs of identifier and value.
    pub(crate) async fn connect(
        server: SocketAddr,
        settings: &[(u16, u32)],
    ) -> std::io::Result<Self> {
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let (mut reading, writer) = stream.into_split();
        #[allow(clippy::disallowed_methods, reason = "ends with the connection")]
        let reader = tokio::spawn(async move {
            let mut bytes = vec![0; 16 << 10];
            while reading.read(&mut bytes).await.is_ok_and(|len| len != 0) {}
        });
        let mut connection = Self { writer, reader };
        let pairs = settings
            .iter()
            .flat_map(|(id, value)| id.to_be_bytes().into_iter().chain(value.to_be_bytes()));
        let first = frame(SETTINGS, 0, 0, &pairs.collect::<Vec<u8>>());
        connection.send(&[PREFACE, &first].concat()).await?;
        Ok(connection)
    }

    pub(crate) async fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.writer.write_all(bytes).await
    }
}

impl Drop for RawHttp2 {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Returns one frame.
pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut bytes = vec![len[1], len[2], len[3], kind, flags];
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Returns the header block of a gRPC request, without compression (RFC 7541, section 6.2.2).
pub(crate) fn request(path: &str, more: &[(&str, &str)]) -> Vec<u8> {
    let usual = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "server"),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ];
    let mut block = Vec::new();
    for (name, value) in usual.iter().chain(more) {
        block.push(0);
        for text in [name, value] {
            // Shorter than 127 bytes: one byte of length.
            block.push(u8::try_from(text.len().min(126)).unwrap_or_default());
            block.extend(&text.as_bytes()[..text.len().min(126)]);
        }
    }
    block
}

/// Returns a gRPC message that claims to have `len` bytes.
pub(crate) fn message(is_compressed: bool, len: u32, bytes: &[u8]) -> Vec<u8> {
    let mut message = vec![u8::from(is_compressed)];
    message.extend(len.to_be_bytes());
    message.extend(bytes);
    message
}

//! Reads an upload from the frames of its request, below tonic.
//!
//! tonic copies each message into a buffer before it decodes the message. For chunks that is a copy
//! and an allocation of 64 KiB each, a tenth of the server's work for a transfer. Here the bytes of a
//! chunk are passed on as they arrive. Any other message, and a chunk in an unusual encoding, is
//! collected and decoded by prost. The test `any_split_of_any_messages_reads_as_prost_does` checks
//! that the result is equal.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes, BytesMut};
use filepull_core::CHUNK_LEN;
use filepull_proto::v1::UploadRequest;
use filepull_proto::v1::upload_request::Kind;
use futures::{Stream, stream};
use http_body_util::BodyExt as _;
use hyper::{Request, Response};
use prost::Message as _;
use tonic::Status;
use tonic::body::Body;
use tonic::server::NamedService;
use tower::Service;

/// The next part of an upload.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum UploadFrame {
    /// A complete message, which may be a chunk.
    Message(UploadRequest),
    /// One or more bytes of a chunk, at this offset in the file. The rest of the chunk follows.
    Bytes { offset: u64, bytes: Bytes },
}

/// Maximum length of a message: a chunk, and 16 KiB for fields of later versions.
const MAX_MESSAGE_LEN: usize = CHUNK_LEN + 16 * 1024;

/// Length of the prefix of a message: a flag, and the length of the message in four bytes (gRPC over
/// HTTP/2, "Length-Prefixed-Message").
const PREFIX_LEN: usize = 5;

/// Maximum number of bytes before the data of a chunk: three tags, two lengths, an offset.
const MAX_HEAD_LEN: usize = 3 + 2 * 5 + 10;

/// Parses the body of a request. Does no I/O.
#[derive(Debug, Default)]
struct Parser {
    /// Received and not yet parsed.
    frames: VecDeque<Bytes>,
    len: usize,
    state: ParserState,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ParserState {
    /// The prefix of a message is next.
    #[default]
    Prefix,
    /// A message of this length is next.
    Message(usize),
    /// `left` bytes of a chunk are next, for this offset.
    Chunk { offset: u64, left: usize },
}

impl Parser {
    fn push(&mut self, frame: Bytes) {
        if !frame.is_empty() {
            self.len += frame.len();
            self.frames.push_back(frame);
        }
    }

    /// Returns the next part that has arrived, or none if more frames are needed.
    fn next(&mut self) -> Result<Option<UploadFrame>, Status> {
        loop {
            match self.state {
                ParserState::Prefix => {
                    if self.len < PREFIX_LEN {
                        return Ok(None);
                    }
                    self.state = ParserState::Message(message_len(self.take(PREFIX_LEN))?);
                }
                ParserState::Message(len) => {
                    if self.len < len.min(MAX_HEAD_LEN) {
                        return Ok(None);
                    }
                    if let Some((offset, left)) = self.chunk_head(len) {
                        check_chunk(left)?;
                        self.state = ParserState::Chunk { offset, left };
                    } else if len <= self.len {
                        self.state = ParserState::Prefix;
                        let message = UploadRequest::decode(self.take(len));
                        let malformed = |error| Status::invalid_argument(format!("{error}"));
                        let message = message.map_err(malformed)?;
                        if let Some(Kind::Chunk(chunk)) = &message.kind {
                            check_chunk(chunk.data.len())?;
                        }
                        return Ok(Some(UploadFrame::Message(message)));
                    } else {
                        return Ok(None);
                    }
                }
                ParserState::Chunk { left: 0, .. } => self.state = ParserState::Prefix,
                ParserState::Chunk { offset, left } => {
                    let Some(frame) = self.frames.front_mut() else { return Ok(None) };
                    let bytes = frame.split_to(frame.len().min(left));
                    if frame.is_empty() {
                        self.frames.pop_front();
                    }
                    self.len -= bytes.len();
                    let end = offset.saturating_add(bytes.len() as u64);
                    self.state = ParserState::Chunk { offset: end, left: left - bytes.len() };
                    return Ok(Some(UploadFrame::Bytes { offset, bytes }));
                }
            }
        }
    }

    /// Takes the bytes before the data of a chunk, if the next message, of `len` bytes, is a chunk in
    /// the usual encoding: fields in order, and nothing after the data.
    fn chunk_head(&mut self, len: usize) -> Option<(u64, usize)> {
        let frame = self.frames.front()?;
        let start = &frame[..frame.len().min(len)];
        let (offset, head_len) = chunk_head(start, len)?;
        let left = len - head_len;
        self.take(head_len);
        Some((offset, left))
    }

    /// Takes `len` bytes, which must have arrived.
    fn take(&mut self, len: usize) -> Bytes {
        self.len -= len;
        match self.frames.front_mut() {
            Some(frame) if len < frame.len() => return frame.split_to(len),
            Some(frame) if len == frame.len() => {
                return self.frames.pop_front().unwrap_or_default();
            }
            _ => {}
        }
        let mut bytes = BytesMut::with_capacity(len);
        while bytes.len() < len {
            let Some(frame) = self.frames.front_mut() else { break };
            bytes.extend_from_slice(&frame.split_to(frame.len().min(len - bytes.len())));
            if frame.is_empty() {
                self.frames.pop_front();
            }
        }
        bytes.freeze()
    }
}

fn check_chunk(len: usize) -> Result<(), Status> {
    if len <= CHUNK_LEN {
        return Ok(());
    }
    Err(Status::out_of_range(format!("a chunk has {len} bytes; the maximum is {CHUNK_LEN}")))
}

fn message_len(mut prefix: Bytes) -> Result<usize, Status> {
    if prefix.get_u8() != 0 {
        return Err(Status::unimplemented("compressed uploads are not supported"));
    }
    match usize::try_from(prefix.get_u32()) {
        Ok(len) if len <= MAX_MESSAGE_LEN => Ok(len),
        _ => Err(Status::out_of_range(format!("a message is longer than {MAX_MESSAGE_LEN} bytes"))),
    }
}

/// The tags of `UploadRequest.chunk`, `DataChunk.offset` and `DataChunk.data`: field number and
/// wire type (<https://protobuf.dev/programming-guides/encoding/>).
const CHUNK_TAG: u8 = 2 << 3 | 2;
const OFFSET_TAG: u8 = 1 << 3;
const DATA_TAG: u8 = 2 << 3 | 2;

/// Returns the offset of a chunk and the number of bytes before its data, for a message of `len` bytes
/// that starts with `head`. None for any other message, and for a chunk without data.
fn chunk_head(head: &[u8], len: usize) -> Option<(u64, usize)> {
    let mut rest = head.strip_prefix(&[CHUNK_TAG])?;
    let chunk_len = varint(&mut rest)?;
    if chunk_len != (len - (head.len() - rest.len())) as u64 {
        return None;
    }
    let mut offset = 0;
    if let Some(after) = rest.strip_prefix(&[OFFSET_TAG]) {
        rest = after;
        offset = varint(&mut rest)?;
    }
    let mut rest = rest.strip_prefix(&[DATA_TAG])?;
    let data_len = varint(&mut rest)?;
    let head_len = head.len() - rest.len();
    (data_len != 0 && data_len == (len - head_len) as u64).then_some((offset, head_len))
}

/// Takes a varint: at most ten bytes, each with seven bits of the number, the lowest first.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let len = rest.iter().take(10).position(|byte| byte & 0x80 == 0)? + 1;
    let (mut number, after) = rest.split_at_checked(len)?;
    *rest = after;
    prost::encoding::decode_varint(&mut number).ok()
}

/// Reads `body` to its end, or to its first error.
pub(crate) fn upload_frames(
    body: Body,
) -> impl Stream<Item = Result<UploadFrame, Status>> + Send + 'static {
    stream::unfold(Some((body, Parser::default())), |open| async {
        let (mut body, mut parser) = open?;
        loop {
            match parser.next() {
                Ok(Some(frame)) => return Some((Ok(frame), Some((body, parser)))),
                Err(status) => return Some((Err(status), None)),
                Ok(None) => {}
            }
            match body.frame().await? {
                // A frame without data holds HTTP trailers, which an upload does not use.
                Ok(frame) => parser.push(frame.into_data().unwrap_or_default()),
                Err(status) => return Some((Err(status), None)),
            }
        }
    })
}

/// The body of a request, which the handler of the rpc takes.
#[derive(Clone, Debug)]
pub(crate) struct RawBody(Arc<Mutex<Option<Body>>>);

impl RawBody {
    /// Takes the body. None if it was taken before.
    pub(crate) fn take(&self) -> Option<Body> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A service generated by tonic, whose handlers get an empty stream, and the body of the request as a
/// [`RawBody`] in its extensions.
#[derive(Clone, Debug)]
pub(crate) struct Raw<S>(pub(crate) S);

impl<S: NamedService> NamedService for Raw<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Raw<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: Request<Body>) -> S::Future {
        let (mut parts, body) = request.into_parts();
        parts.extensions.insert(RawBody(Arc::new(Mutex::new(Some(body)))));
        self.0.call(Request::from_parts(parts, Body::empty()))
    }
}

#[cfg(test)]
mod tests;

//! Reads an upload from the frames of its request, below tonic.
//!
//! tonic gathers a message in a buffer of its own before it decodes it. For chunks that is one copy
//! and one allocation of 64 KiB each, a tenth of what the server spends on a transfer. Here a chunk
//! is handed on as the pieces of it that arrived, and everything that is no chunk in its plain form
//! is gathered and left to prost. `any_cut_of_any_messages_reads_as_prost_does` holds both equal.

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

/// What arrived of an upload.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum UploadFrame {
    /// A whole message, which may be a chunk.
    Message(UploadRequest),
    /// Bytes of a chunk; the rest of the chunk follows in order.
    Bytes {
        /// Where they belong in the file.
        offset: u64,
        /// Some of them, at least one.
        bytes: Bytes,
    },
}

/// A message is not longer than this: a chunk and room for what may be added to it.
const MAX_MESSAGE_LEN: usize = CHUNK_LEN + 16 * 1024;

/// Of every message: a flag, and its length in four bytes (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX_LEN: usize = 5;

/// The most that stands before the bytes of a chunk: three tags, two lengths, an offset.
const MAX_HEAD_LEN: usize = 3 + 2 * 5 + 10;

/// Turns the bytes of a request's body into what they mean. Does no I/O.
#[derive(Debug, Default)]
struct Parser {
    /// Bytes that have come and are not understood yet: as many frames as they came in.
    frames: VecDeque<Bytes>,
    len: usize,
    reading: ParserState,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ParserState {
    /// The prefix of a message comes next.
    #[default]
    Prefix,
    /// A message of this length.
    Message(usize),
    /// What is left of a chunk: where it belongs, and how long it is.
    Chunk { offset: u64, left: usize },
}

impl Parser {
    fn push(&mut self, frame: Bytes) {
        if !frame.is_empty() {
            self.len += frame.len();
            self.frames.push_back(frame);
        }
    }

    /// The next thing that has arrived whole, or none before more frames come.
    fn next(&mut self) -> Result<Option<UploadFrame>, Status> {
        loop {
            match self.reading {
                ParserState::Prefix => {
                    if self.len < PREFIX_LEN {
                        return Ok(None);
                    }
                    self.reading = ParserState::Message(message_len(self.take(PREFIX_LEN))?);
                }
                ParserState::Message(len) => {
                    if self.len < len.min(MAX_HEAD_LEN) {
                        return Ok(None);
                    }
                    if let Some((offset, left)) = self.chunk_head(len) {
                        check_chunk(left)?;
                        self.reading = ParserState::Chunk { offset, left };
                    } else if len <= self.len {
                        self.reading = ParserState::Prefix;
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
                ParserState::Chunk { left: 0, .. } => self.reading = ParserState::Prefix,
                ParserState::Chunk { offset, left } => {
                    let Some(frame) = self.frames.front_mut() else { return Ok(None) };
                    let bytes = frame.split_to(frame.len().min(left));
                    if frame.is_empty() {
                        self.frames.pop_front();
                    }
                    self.len -= bytes.len();
                    let end = offset.saturating_add(bytes.len() as u64);
                    self.reading = ParserState::Chunk { offset: end, left: left - bytes.len() };
                    return Ok(Some(UploadFrame::Bytes { offset, bytes }));
                }
            }
        }
    }

    /// Takes what stands before the bytes of a chunk, if the message of `len` bytes is one in the
    /// form that encoders give it: fields in order, and nothing after the bytes.
    fn chunk_head(&mut self, len: usize) -> Option<(u64, usize)> {
        let head = self.frames.front()?;
        let head = &head[..head.len().min(len)];
        let (offset, head_len) = chunk_head(head, len)?;
        let left = len - head_len;
        self.take(head_len);
        Some((offset, left))
    }

    /// Takes `len` bytes, which have come.
    fn take(&mut self, len: usize) -> Bytes {
        self.len -= len;
        match self.frames.front_mut() {
            Some(frame) if len < frame.len() => return frame.split_to(len),
            Some(frame) if len == frame.len() => {
                return self.frames.pop_front().unwrap_or_default();
            }
            _ => {}
        }
        let mut gathered = BytesMut::with_capacity(len);
        while gathered.len() < len {
            let Some(frame) = self.frames.front_mut() else { break };
            gathered.extend_from_slice(&frame.split_to(frame.len().min(len - gathered.len())));
            if frame.is_empty() {
                self.frames.pop_front();
            }
        }
        gathered.freeze()
    }
}

fn check_chunk(len: usize) -> Result<(), Status> {
    if len <= CHUNK_LEN {
        return Ok(());
    }
    Err(Status::out_of_range(format!("a chunk has {len} bytes; the longest has {CHUNK_LEN}")))
}

fn message_len(mut prefix: Bytes) -> Result<usize, Status> {
    if prefix.get_u8() != 0 {
        return Err(Status::unimplemented("uploads are not compressed"));
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

/// The offset of a chunk and the length of what stands before its bytes, in a message of `len`
/// bytes that starts with `head`. None if it is anything else, or has no bytes.
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

/// Takes a number of at most ten bytes, seven bits in each, the lowest first.
fn varint(rest: &mut &[u8]) -> Option<u64> {
    let len = rest.iter().take(10).position(|byte| byte & 0x80 == 0)? + 1;
    let (mut number, after) = rest.split_at_checked(len)?;
    *rest = after;
    prost::encoding::decode_varint(&mut number).ok()
}

/// Reads `body` to its end, or to the first thing that is wrong with it.
pub(super) fn arrivals(
    body: Body,
) -> impl Stream<Item = Result<UploadFrame, Status>> + Send + 'static {
    stream::unfold(Some((body, Parser::default())), |open| async {
        let (mut body, mut parser) = open?;
        loop {
            match parser.next() {
                Ok(Some(arrived)) => return Some((Ok(arrived), Some((body, parser)))),
                Err(status) => return Some((Err(status), None)),
                Ok(None) => {}
            }
            match body.frame().await? {
                // What is no data is the trailers of a client that has some.
                Ok(frame) => parser.push(frame.into_data().unwrap_or_default()),
                Err(status) => return Some((Err(status), None)),
            }
        }
    })
}

/// The body of a request, for the handler of the rpc to take.
#[derive(Clone, Debug)]
pub(super) struct RawBody(Arc<Mutex<Option<Body>>>);

impl RawBody {
    /// The body; nothing if it was taken before.
    pub(super) fn take(&self) -> Option<Body> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// A service generated by tonic whose handlers find the body of a request as a [`RawBody`] among
/// its extensions, and an empty stream in its place.
#[derive(Clone, Debug)]
pub(super) struct Raw<S>(pub(super) S);

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

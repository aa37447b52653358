//! Compresses the content of one upload where that pays.

use std::time::Instant;

use bytes::Bytes;
use filepull_core::CHUNK_LEN;
use filepull_core::compression::{self, Encoder};
use filepull_proto::v1;
use filepull_proto::v1::upload_request::Kind;
use tokio::sync::watch;

use crate::compression_rule::{CompressionRule, SentContent};
use crate::server_answers::Ack;

/// Content after which another sample is taken, in bytes. Doubled by each sample that does not shrink.
const SAMPLE_INTERVAL: u64 = 512 * 1024;

/// The maximum of this interval, in bytes. A sample takes about 0.1 ms.
const MAX_SAMPLE_INTERVAL: u64 = 4 << 20;

/// A shorter piece shows nothing about the file, in bytes.
const MIN_SAMPLE_LEN: usize = 1024;

/// Shorter content may become longer, in bytes.
const MIN_ENCODED_LEN: usize = 64;

/// The compressor of one upload, and the rules for its use.
#[derive(Debug)]
pub(crate) struct Compressor {
    rule: CompressionRule,
    acks: watch::Receiver<Option<Ack>>,
    stream: Stream,
    samples: Samples,
}

/// The zstd stream of the upload.
#[derive(Debug)]
enum Stream {
    /// Most uploads of pictures and archives need no memory for it.
    NotStarted,
    Open(Encoder),
    /// The encoder has no memory.
    Failed,
}

/// Samples of the content: whether it shrinks.
#[derive(Debug)]
struct Samples {
    shrinks: bool,
    /// Content before the next sample.
    n_left: u64,
    interval: u64,
}

impl Compressor {
    /// Starts an upload at `offset` of the file.
    pub(crate) fn new(offset: u64, acks: watch::Receiver<Option<Ack>>, now: Instant) -> Self {
        Self {
            rule: CompressionRule::new(offset, now),
            acks,
            stream: Stream::NotStarted,
            samples: Samples::new(),
        }
    }

    /// Compresses the content at `offset` in extents of up to [`CHUNK_LEN`] bytes. None if it is to be
    /// sent as it is.
    pub(crate) fn encode(&mut self, offset: u64, content: &[u8]) -> Option<Vec<Kind>> {
        if let Some(Ack { received, at }) = *self.acks.borrow_and_update() {
            self.rule.on_ack(received, at);
        }
        let len = content.len() as u64;
        let end = offset + len;
        let pays = MIN_ENCODED_LEN <= content.len()
            && self.rule.compresses()
            && self.samples.shrinks(content);
        if !pays || !self.stream.open() {
            self.rule.on_sent(SentContent { end, len, on_wire: len, encoding: None });
            return None;
        }
        let start = Instant::now();
        let mut extents = Vec::new();
        let mut extent_offset = offset;
        for piece in content.chunks(CHUNK_LEN) {
            extents.push(self.stream.encode(extent_offset, piece));
            extent_offset += piece.len() as u64;
        }
        let on_wire = extents.iter().map(content_len).sum();
        let encoding = Some(start.elapsed());
        self.rule.on_sent(SentContent { end, len, on_wire, encoding });
        Some(extents)
    }
}

impl Stream {
    /// Returns whether the stream can encode.
    fn open(&mut self) -> bool {
        if let Self::NotStarted = self {
            *self = Encoder::new().map_or(Self::Failed, Self::Open);
        }
        matches!(self, Self::Open(_))
    }

    /// Returns the extent of a piece. It is plain if the encoder fails, and the stream is not continued.
    fn encode(&mut self, offset: u64, piece: &[u8]) -> Kind {
        if let Self::Open(encoder) = self
            && let Ok(encoded) = encoder.encode(piece)
        {
            let data = Bytes::copy_from_slice(encoded);
            // A piece has at most 64 KiB.
            let len = u32::try_from(piece.len()).unwrap_or(u32::MAX);
            return Kind::Zstd(v1::ZstdChunk { offset, len, data });
        }
        *self = Self::Failed;
        Kind::Chunk(v1::DataChunk { offset, data: Bytes::copy_from_slice(piece) })
    }
}

impl Samples {
    fn new() -> Self {
        Self { shrinks: true, n_left: 0, interval: SAMPLE_INTERVAL }
    }

    /// Returns whether `content` shrinks, judged by the last sample.
    fn shrinks(&mut self, content: &[u8]) -> bool {
        if self.n_left == 0 && MIN_SAMPLE_LEN <= content.len() {
            self.shrinks = compression::shrinks(content).unwrap_or(false);
            self.interval = match self.shrinks {
                true => SAMPLE_INTERVAL,
                false => (self.interval * 2).min(MAX_SAMPLE_INTERVAL),
            };
            self.n_left = self.interval;
        }
        self.n_left = self.n_left.saturating_sub(content.len() as u64);
        self.shrinks
    }
}

/// Returns the bytes that an extent brings on the wire: what `sent` counts in logs and on the server.
pub(crate) fn content_len(extent: &Kind) -> u64 {
    match extent {
        Kind::Chunk(chunk) => chunk.data.len() as u64,
        Kind::Zstd(zstd) => zstd.data.len() as u64,
        Kind::Header(_) | Kind::Hole(_) | Kind::Copy(_) | Kind::Trailer(_) | Kind::Abort(_) => 0,
    }
}

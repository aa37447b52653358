//! Sends the extents of one upload: each covers the next bytes of the file.

use std::time::{Duration, Instant};

use bytes::Bytes;
use filepull_core::delta::Piece;
use filepull_core::extent::MAX_SPAN_LEN;
use filepull_proto::v1;
use filepull_proto::v1::upload_request::Kind;

use crate::compressor::Compressor;
use crate::read::{ClosedSink, Step, StepSink};

/// Extents in one message to the thread of the upload, if they are short.
const N_BATCHED: u64 = 64;

/// Passes extents to the sink of a reader.
pub(crate) struct ExtentSender<'a, 'sink> {
    sink: &'a mut StepSink<'sink>,
    /// The offset of the next extent in the file.
    offset: u64,
    /// None if the server accepts no compressed data.
    compressor: Option<Compressor>,
    keepalive_interval: Duration,
    last_sent: Instant,
}

impl<'a, 'sink> ExtentSender<'a, 'sink> {
    /// Starts at `offset` of the file.
    pub(crate) fn new(
        sink: &'a mut StepSink<'sink>,
        offset: u64,
        compressor: Option<Compressor>,
        keepalive_interval: Duration,
    ) -> Self {
        Self { sink, offset, compressor, keepalive_interval, last_sent: Instant::now() }
    }

    /// Sends bytes of the file.
    pub(crate) fn data(&mut self, bytes: Bytes) -> Result<(), ClosedSink> {
        let len = bytes.len() as u64;
        let encoded = self.compressor.as_mut().and_then(|it| it.encode(self.offset, &bytes));
        let offset = self.offset;
        self.send(len, encoded.map_or(Step::Block { offset, bytes }, Step::Extents))
    }

    /// Sends what a search has found.
    pub(crate) fn piece(&mut self, piece: Piece<'_>) -> Result<(), ClosedSink> {
        match piece {
            Piece::Data(bytes) => self.data(Bytes::copy_from_slice(bytes)),
            Piece::Copy { base_offset, len } => self.copy(base_offset, len),
        }
    }

    /// Sends `len` zeros that the file does not store.
    pub(crate) fn hole(&mut self, len: u64) -> Result<(), ClosedSink> {
        self.spans(len, |offset, len| Kind::Hole(v1::Hole { offset, len }))
    }

    /// Sends that the next `len` bytes equal the bytes of the base at `base_offset`.
    pub(crate) fn copy(&mut self, base_offset: u64, len: u64) -> Result<(), ClosedSink> {
        let start = self.offset;
        self.spans(len, |offset, len| {
            Kind::Copy(v1::BaseCopy { offset, base_offset: base_offset + (offset - start), len })
        })
    }

    /// Sends a keepalive if nothing was sent for its interval. Otherwise a search that finds the file
    /// unchanged on a slow disk would look like a stalled upload.
    pub(crate) fn keepalive_if_due(&mut self) -> Result<(), ClosedSink> {
        if self.last_sent.elapsed() < self.keepalive_interval {
            return (self.sink)(Step::Read);
        }
        self.send(0, keepalive(self.offset))
    }

    /// Sends extents of up to [`MAX_SPAN_LEN`] for the next `len` bytes.
    fn spans(&mut self, len: u64, extent: impl Fn(u64, u64) -> Kind) -> Result<(), ClosedSink> {
        let end = self.offset + len;
        while self.offset < end {
            let batch_len = (end - self.offset).min(N_BATCHED * MAX_SPAN_LEN);
            let batch_end = self.offset + batch_len;
            let mut extents = Vec::new();
            let mut offset = self.offset;
            while offset < batch_end {
                let len = (batch_end - offset).min(MAX_SPAN_LEN);
                extents.push(extent(offset, len));
                offset += len;
            }
            self.send(batch_len, Step::Extents(extents))?;
        }
        Ok(())
    }

    fn send(&mut self, len: u64, step: Step) -> Result<(), ClosedSink> {
        (self.sink)(step)?;
        self.offset += len;
        self.last_sent = Instant::now();
        Ok(())
    }
}

/// An empty extent at `offset`, the end of the extents so far.
pub(crate) fn keepalive(offset: u64) -> Step {
    Step::Send(Kind::Chunk(v1::DataChunk { offset, data: Bytes::new() }))
}

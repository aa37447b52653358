//! Reads a range of the file part by part: blocks of bytes, and holes, which are not read.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::{BLOCK_LEN, ClosedSink, N_BLOCKS, ReadError, Reader, Step, StepSink};
use crate::holes::{Stretch, next_stretch};
use crate::share::OpenFile;

/// Maximum number of zeros in a part, in bytes: what is hashed between two checks for the end of the
/// upload.
const MAX_ZEROS: u64 = 16 << 20;

/// The next bytes of the file.
#[derive(Clone, Debug)]
pub(crate) enum Part {
    /// At most [`BLOCK_LEN`].
    Bytes(Bytes),
    /// This number of zeros, at most [`MAX_ZEROS`], which the disk does not store.
    Zeros(u64),
}

impl Reader {
    /// Reads `range`, and passes each part to `visit`.
    pub(crate) fn for_each_part(
        &self,
        range: Range<u64>,
        mut visit: impl FnMut(Part) -> Result<(), ClosedSink>,
    ) -> Result<(), ReadError> {
        let mut buffers = Buffers::default();
        let mut offset = range.start;
        while offset < range.end {
            let stretch = self.next_stretch(offset..range.end);
            let (Stretch::Hole { end } | Stretch::Stored { end }) = stretch;
            while offset < end {
                let part = match stretch {
                    Stretch::Hole { end } => Part::Zeros((end - offset).min(MAX_ZEROS)),
                    Stretch::Stored { end } => {
                        let n_left = usize::try_from(end - offset).unwrap_or(usize::MAX);
                        let block = buffers.fill(&self.open_file, offset, n_left.min(BLOCK_LEN));
                        Part::Bytes(block.map_err(|error| self.read_error(&error))?)
                    }
                };
                offset += part.n_bytes();
                visit(part)?;
            }
        }
        Ok(())
    }

    /// Reads `range` without sending it, and passes a `keepalive` to `sink` at each interval.
    /// Otherwise a large file on a slow disk would look like a stalled upload.
    pub(crate) fn read_unsent(
        &self,
        range: Range<u64>,
        mut visit: impl FnMut(&Part),
        keepalive: impl Fn() -> Step,
        sink: &mut StepSink<'_>,
    ) -> Result<(), ReadError> {
        let mut last_keepalive = Instant::now();
        self.for_each_part(range, |part| {
            visit(&part);
            if last_keepalive.elapsed() < self.keepalive_interval {
                return sink(Step::Read);
            }
            last_keepalive = Instant::now();
            sink(keepalive())
        })
    }

    /// Queries the file system only for a file that has holes.
    pub(crate) fn next_stretch(&self, range: Range<u64>) -> Stretch {
        if self.sends_holes() {
            next_stretch(&self.open_file.file, range)
        } else {
            Stretch::Stored { end: range.end }
        }
    }
}

impl Part {
    pub(crate) fn n_bytes(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Zeros(len) => *len,
        }
    }
}

/// Up to [`N_BLOCKS`] buffers, oldest first. The oldest is reused, unless its block is still being
/// sent.
#[derive(Debug, Default)]
pub(crate) struct Buffers {
    filled: VecDeque<Bytes>,
}

impl Buffers {
    pub(crate) fn fill(
        &mut self,
        open_file: &OpenFile,
        offset: u64,
        len: usize,
    ) -> io::Result<Bytes> {
        if let Some(content) = &open_file.content {
            let start = usize::try_from(offset).unwrap_or(usize::MAX);
            return Ok(content.slice(start..start + len));
        }
        let mut buffer = self.next_buffer(len);
        open_file.file.read_exact_at(&mut buffer[..len], offset)?;
        let filled = buffer.freeze();
        self.filled.push_back(filled.clone());
        Ok(filled.slice(..len))
    }

    fn next_buffer(&mut self, len: usize) -> BytesMut {
        let oldest = if self.filled.len() < N_BLOCKS { None } else { self.filled.pop_front() };
        let unused = oldest.and_then(|bytes| bytes.try_into_mut().ok());
        unused.filter(|buffer| len <= buffer.len()).unwrap_or_else(|| BytesMut::zeroed(len))
    }
}

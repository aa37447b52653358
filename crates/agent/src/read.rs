//! Reads a file for one upload: compares the prefix with the bytes of the server, reads the rest,
//! and checks that the file did not change meanwhile.
//!
//! Reading blocks, so it needs its own thread. Every read uses the same file descriptor, and ends
//! at the size that the file had when it was opened.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use filepull_core::file_digest::Blake3Hasher;
use filepull_core::id::ClientId;
use filepull_core::problem::{Code, Problem};
use filepull_core::receive::Prefix;
use filepull_core::source::{Consistency, SourceRead};
use filepull_proto::v1;
use filepull_proto::v1::upload_request::Kind;

use crate::error_text;
use crate::order::SendOrder;
use crate::share::{self, OpenFile};

/// Length of one read from the disk and of one message to the upload, in bytes. An upload needs
/// [`N_BLOCKS`] blocks of memory. A block stays in the processor's cache from the read to the send.
const BLOCK_LEN: usize = 512 * 1024;

/// One block is split into chunks, one is queued, and one is filled.
const N_BLOCKS: usize = 3;

/// How often a keepalive is sent while the reader reads bytes that are not sent.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// What the reader passes to its sink.
#[derive(Debug)]
pub(crate) enum Step {
    /// A message to the server.
    Send(Kind),
    /// Bytes of the file at `offset`, at most [`BLOCK_LEN`].
    Block { offset: u64, bytes: Bytes },
    /// A block was read that is not sent. The sink can stop the reader here.
    Read,
    /// Like `Read`, while the prefix is compared, and a keepalive is due.
    Proving,
}

/// The sink takes no more steps, because the upload has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClosedSink;

/// Why a reader did not reach its trailer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReadError {
    Stopped,
    /// The file cannot be sent as it is: the reader has sent an abort.
    Failed(Problem),
}

impl From<ClosedSink> for ReadError {
    fn from(ClosedSink: ClosedSink) -> Self {
        Self::Stopped
    }
}

/// Reads one file for one order.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) client: ClientId,
    pub(crate) open_file: OpenFile,
    pub(crate) order: SendOrder,
    pub(crate) consistency: Consistency,
    pub(crate) keepalive_interval: Duration,
}

/// Takes the steps of a reader.
pub(crate) type StepSink<'a> = dyn FnMut(Step) -> Result<(), ClosedSink> + 'a;

impl Reader {
    /// Passes a header, the blocks and a trailer to `sink`. An abort replaces the trailer if the
    /// file cannot be sent.
    ///
    /// A trailer is sent only for a file that stayed unchanged, or whose content was read at open.
    /// If the reader panics no trailer is sent, and the server keeps the partial.
    pub(crate) fn read(&self, sink: &mut StepSink<'_>) -> Result<(), ReadError> {
        let result = self.read_file(sink);
        if let Err(ReadError::Failed(problem)) = &result {
            sink(Step::Send(Kind::Abort(problem.into())))?;
        }
        result
    }

    fn read_file(&self, sink: &mut StepSink<'_>) -> Result<(), ReadError> {
        let mut source = SourceRead::new(self.open_file.stat);
        let offset = match self.order.resume {
            Some(prefix) => self.matching_offset(prefix, &mut source, sink)?,
            None => 0,
        };
        sink(Step::Send(Kind::Header(self.header(offset))))?;
        self.for_each_block(offset..self.size(), |offset, bytes| {
            source.update(&bytes);
            sink(Step::Block { offset, bytes })
        })?;
        // Content in memory does not change.
        if self.open_file.content.is_none() {
            self.check_unchanged(&source, sink)?;
        }
        let blake3 = Bytes::copy_from_slice(source.digest().as_bytes());
        sink(Step::Send(Kind::Trailer(v1::UploadTrailer {
            total_size: self.size(),
            blake3,
            receipt: String::new(),
        })))?;
        Ok(())
    }

    /// Returns the offset to send from: the end of `prefix` if the file starts with it, else 0.
    fn matching_offset(
        &self,
        prefix: Prefix,
        source: &mut SourceRead,
        sink: &mut StepSink<'_>,
    ) -> Result<u64, ReadError> {
        if self.size() < prefix.len {
            return Ok(0);
        }
        let mut read = source.clone();
        let result =
            self.read_unsent(prefix.len, |block| read.update(block), || Step::Proving, sink);
        match result {
            Err(ReadError::Stopped) => Err(ReadError::Stopped),
            Ok(()) if read.digest() == prefix.digest => {
                *source = read;
                Ok(prefix.len)
            }
            // After a disk error the file is read from the start. If the error persists it is
            // reported there.
            Ok(()) | Err(ReadError::Failed(_)) => Ok(0),
        }
    }

    /// Checks that the file stayed unchanged: its metadata, then its bytes by a second reading.
    fn check_unchanged(
        &self,
        source: &SourceRead,
        sink: &mut StepSink<'_>,
    ) -> Result<(), ReadError> {
        self.check_stat(source)?;
        if self.consistency == Consistency::Stat {
            return Ok(());
        }
        let mut second = Blake3Hasher::default();
        let empty_chunk = || {
            let chunk = v1::DataChunk { offset: self.size(), data: Bytes::new() };
            Step::Send(Kind::Chunk(chunk))
        };
        self.read_unsent(self.size(), |block| second.update(block), empty_chunk, sink)?;
        source.check_again(second.digest()).map_err(|_| self.changed())?;
        self.check_stat(source)
    }

    fn check_stat(&self, source: &SourceRead) -> Result<(), ReadError> {
        let after = share::stat(&self.open_file.file).map_err(|error| self.unreadable(&error))?;
        source.check_stat(after, self.consistency).map_err(|_| self.changed())
    }

    /// Reads the first `len_bytes` without sending them, and passes a `keepalive` to `sink` at each
    /// interval. Otherwise a large file on a slow disk would look like a stalled upload.
    fn read_unsent(
        &self,
        len_bytes: u64,
        mut visit: impl FnMut(&[u8]),
        keepalive: impl Fn() -> Step,
        sink: &mut StepSink<'_>,
    ) -> Result<(), ReadError> {
        let mut last_keepalive = Instant::now();
        self.for_each_block(0..len_bytes, |_, block| {
            visit(&block);
            if last_keepalive.elapsed() < self.keepalive_interval {
                return sink(Step::Read);
            }
            last_keepalive = Instant::now();
            sink(keepalive())
        })
    }

    /// Reads `range`, and passes each block to `visit` with its offset.
    fn for_each_block(
        &self,
        range: Range<u64>,
        mut visit: impl FnMut(u64, Bytes) -> Result<(), ClosedSink>,
    ) -> Result<(), ReadError> {
        let mut buffers = Buffers::default();
        let mut offset = range.start;
        while offset < range.end {
            let remaining = usize::try_from(range.end - offset).unwrap_or(usize::MAX);
            let len = remaining.min(BLOCK_LEN);
            let block = buffers.fill(&self.open_file, offset, len);
            visit(offset, block.map_err(|error| self.read_error(&error))?)?;
            offset += len as u64;
        }
        Ok(())
    }

    fn header(&self, offset: u64) -> v1::UploadHeader {
        v1::UploadHeader {
            transfer_id: self.order.transfer.to_string(),
            attempt: self.order.attempt,
            upload_token: self.order.token.clone(),
            offset,
            source: Some((&self.open_file.source).into()),
            wants_blocks: false,
        }
    }

    fn size(&self) -> u64 {
        self.open_file.source.size
    }

    fn read_error(&self, error: &io::Error) -> ReadError {
        let truncated = error.kind() == io::ErrorKind::UnexpectedEof;
        if truncated { self.changed() } else { self.unreadable(error) }
    }

    fn changed(&self) -> ReadError {
        let name = &self.open_file.source.name;
        let detail = format!("{name} on {} changed while it was read.", self.client);
        ReadError::Failed(Problem::new(Code::FileChanged, detail))
    }

    fn unreadable(&self, error: &io::Error) -> ReadError {
        let name = &self.open_file.source.name;
        let reason = error_text::io_error(error);
        let detail = format!("{} cannot read {name}: {reason}.", self.client);
        ReadError::Failed(Problem::new(Code::FileUnreadable, detail))
    }
}

/// Up to [`N_BLOCKS`] buffers, oldest first. The oldest is reused, unless its block is still being
/// sent.
#[derive(Debug, Default)]
struct Buffers {
    filled: VecDeque<Bytes>,
}

impl Buffers {
    fn fill(&mut self, open_file: &OpenFile, offset: u64, len: usize) -> io::Result<Bytes> {
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

#[cfg(test)]
mod tests;

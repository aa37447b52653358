//! Reads a file for one upload: the proof of what the server holds, the bytes, and the search for
//! a change meanwhile.
//!
//! It blocks, so it runs on a thread of its own. Everything is read from one descriptor, and never
//! past the size seen at open.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use filepull_core::id::ClientId;
use filepull_core::problem::{Code, Problem};
use filepull_core::receive::Prefix;
use filepull_core::source::{Consistency, Fingerprint, SourceRead};
use filepull_proto::v1;
use filepull_proto::v1::upload_request::Kind;

use crate::error_text;
use crate::order::SendOrder;
use crate::share::{self, OpenFile};

/// What one read asks of the disk, and what one message to the network carries: [`N_BLOCKS`] of it
/// are all the memory an upload takes. Small enough to stay in a processor's cache from the read
/// to the send.
const BLOCK_LEN: usize = 512 * 1024;

/// One is cut into chunks, one waits for that, and one is filled.
const N_BLOCKS: usize = 3;

/// The server hears this often that a reading goes on of which it gets no bytes.
pub(crate) const SIGN_OF_LIFE_EVERY: Duration = Duration::from_secs(5);

/// What the reader hands out as it goes.
#[derive(Debug)]
pub(crate) enum Step {
    /// Goes to the server.
    Send(Kind),
    /// Bytes of the file go to the server, in chunks.
    Block {
        /// Where they belong.
        offset: u64,
        /// At most a block of them.
        bytes: Bytes,
    },
    /// A block was read that does not travel: a moment to stop the reader.
    Read,
    /// So was another one, and the server has not heard for a while that the proof goes on.
    Proving,
}

/// Nobody wants the rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReadStopped;

/// Why a reading did not reach its trailer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ReadError {
    /// Nobody wants the rest.
    Stopped,
    /// The file cannot be sent as it is; the server has been told.
    Failed(Problem),
}

impl From<ReadStopped> for ReadError {
    fn from(ReadStopped: ReadStopped) -> Self {
        Self::Stopped
    }
}

/// One file to read, and for which order.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) client: ClientId,
    pub(crate) opened: OpenFile,
    pub(crate) order: SendOrder,
    pub(crate) consistency: Consistency,
    /// How often the server hears of a reading of which it gets no bytes.
    pub(crate) sign_every: Duration,
}

/// Where the steps go; fails when nobody wants more.
pub(crate) type Outlet<'a> = dyn FnMut(Step) -> Result<(), ReadStopped> + 'a;

impl Reader {
    /// Hands out a header, the blocks and a trailer; or an abort in the trailer's place.
    ///
    /// A trailer is handed out only for a file that stayed unchanged, or whose content was read at
    /// open. If this panics there is none, and
    /// the server keeps the partial.
    pub(crate) fn read(&self, out: &mut Outlet<'_>) -> Result<(), ReadError> {
        let ended = self.read_whole(out);
        if let Err(ReadError::Failed(problem)) = &ended {
            out(Step::Send(Kind::Abort(problem.into())))?;
        }
        ended
    }

    fn read_whole(&self, out: &mut Outlet<'_>) -> Result<(), ReadError> {
        let mut reading = SourceRead::new(self.opened.stat);
        let offset = match self.order.resume {
            Some(prefix) => self.agree(prefix, &mut reading, out)?,
            None => 0,
        };
        out(Step::Send(Kind::Header(self.header(offset))))?;
        self.blocks(offset..self.size(), |offset, bytes| {
            reading.update(&bytes);
            out(Step::Block { offset, bytes })
        })?;
        // Content that is held in memory does not change.
        if self.opened.content.is_none() {
            self.check(&reading, out)?;
        }
        let sha256 = Bytes::copy_from_slice(reading.digest().as_bytes());
        out(Step::Send(Kind::Trailer(v1::UploadTrailer { total_size: self.size(), sha256 })))?;
        Ok(())
    }

    /// From where to send: the end of `prefix` if the file begins with it, else the start.
    fn agree(
        &self,
        prefix: Prefix,
        reading: &mut SourceRead,
        out: &mut Outlet<'_>,
    ) -> Result<u64, ReadError> {
        if self.size() < prefix.len {
            return Ok(0);
        }
        let mut begun = reading.clone();
        let read = self.quietly(prefix.len, |block| begun.update(block), || Step::Proving, out);
        match read {
            Err(ReadError::Stopped) => Err(ReadError::Stopped),
            Ok(()) if begun.digest() == prefix.digest => {
                *reading = begun;
                Ok(prefix.len)
            }
            // An error of the disk meets the reading from the start again, and is reported there.
            Ok(()) | Err(ReadError::Failed(_)) => Ok(0),
        }
    }

    /// Did the file hold still?
    fn check(&self, reading: &SourceRead, out: &mut Outlet<'_>) -> Result<(), ReadError> {
        let after = share::stat(&self.opened.file).map_err(|error| self.unreadable(&error))?;
        reading.check_stat(after, self.consistency).map_err(|_| self.changed())?;
        if self.consistency == Consistency::Stat {
            return Ok(());
        }
        let mut second = Fingerprint::default();
        let nothing_more = || {
            let chunk = v1::DataChunk { offset: self.size(), data: Bytes::new() };
            Step::Send(Kind::Chunk(chunk))
        };
        self.quietly(self.size(), |block| second.update(block), nothing_more, out)?;
        reading.check_again(&second).map_err(|_| self.changed())?;
        let after = share::stat(&self.opened.file).map_err(|error| self.unreadable(&error))?;
        reading.check_stat(after, self.consistency).map_err(|_| self.changed())
    }

    /// Reads the first `len` bytes, of which none travels, and hands out `sign` now and then: without
    /// it a large file on a slow disk would look like a stalled upload.
    fn quietly(
        &self,
        len: u64,
        mut visit: impl FnMut(&[u8]),
        sign: impl Fn() -> Step,
        out: &mut Outlet<'_>,
    ) -> Result<(), ReadError> {
        let mut last_sign = Instant::now();
        self.blocks(0..len, |_, block| {
            visit(&block);
            if last_sign.elapsed() < self.sign_every {
                return out(Step::Read);
            }
            last_sign = Instant::now();
            out(sign())
        })
    }

    /// Reads `range` block by block.
    fn blocks(
        &self,
        range: Range<u64>,
        mut visit: impl FnMut(u64, Bytes) -> Result<(), ReadStopped>,
    ) -> Result<(), ReadError> {
        let mut buffers = Buffers::default();
        let mut at = range.start;
        while at < range.end {
            let left = usize::try_from(range.end - at).unwrap_or(usize::MAX);
            let len = left.min(BLOCK_LEN);
            let block = buffers.fill(&self.opened, at, len);
            visit(at, block.map_err(|error| self.failed(&error))?)?;
            at += len as u64;
        }
        Ok(())
    }

    fn header(&self, offset: u64) -> v1::UploadHeader {
        v1::UploadHeader {
            transfer_id: self.order.transfer.to_string(),
            attempt: self.order.attempt,
            upload_token: self.order.token.clone(),
            offset,
            source: Some((&self.opened.source).into()),
        }
    }

    fn size(&self) -> u64 {
        self.opened.source.size
    }

    fn failed(&self, error: &io::Error) -> ReadError {
        // Fewer bytes than at open: it was cut.
        let cut = error.kind() == io::ErrorKind::UnexpectedEof;
        if cut { self.changed() } else { self.unreadable(error) }
    }

    fn changed(&self) -> ReadError {
        let (client, name) = (&self.client, &self.opened.source.name);
        let detail = format!("{name} on {client} changed while it was read.");
        ReadError::Failed(Problem::new(Code::FileChanged, detail))
    }

    fn unreadable(&self, error: &io::Error) -> ReadError {
        let (client, name) = (&self.client, &self.opened.source.name);
        let detail = format!("{client} cannot read {name}: {}.", error_text::io_error(error));
        ReadError::Failed(Problem::new(Code::FileUnreadable, detail))
    }
}

/// Buffers in turn: while the blocks of some are on their way, the next is filled. The oldest is
/// free again when its turn comes, unless somebody holds its block for longer.
#[derive(Debug, Default)]
struct Buffers {
    in_turn: VecDeque<Bytes>,
}

impl Buffers {
    fn fill(&mut self, opened: &OpenFile, at: u64, len: usize) -> io::Result<Bytes> {
        if let Some(content) = &opened.content {
            let at = usize::try_from(at).unwrap_or(usize::MAX);
            return Ok(content.slice(at..at + len));
        }
        let mut buffer = self.free(len);
        opened.file.read_exact_at(&mut buffer[..len], at)?;
        let filled = buffer.freeze();
        self.in_turn.push_back(filled.clone());
        Ok(filled.slice(..len))
    }

    fn free(&mut self, len: usize) -> BytesMut {
        let oldest = if self.in_turn.len() < N_BLOCKS { None } else { self.in_turn.pop_front() };
        let free = oldest.and_then(|bytes| bytes.try_into_mut().ok());
        free.filter(|free| len <= free.len()).unwrap_or_else(|| BytesMut::zeroed(len))
    }
}

#[cfg(test)]
mod tests;

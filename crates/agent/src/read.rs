//! Reads a file for one upload: compares its begin with the bytes of the server, reads the rest, and
//! checks that the file did not change meanwhile.
//!
//! Reading blocks, so it needs its own thread. Every read uses the same file descriptor, and ends
//! at the size that the file had when it was opened.
//!
//! The first reading covers each byte once, before any byte is read a second time. What is sent, copied
//! or left out as a hole is what the first reading found, and the digest in the trailer is its digest.
//! If the second reading finds the same bytes, they are the file as it was at one instant between the
//! two readings.

mod base;
mod delta;
mod first_reading;
mod parts;

use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use filepull_core::extent::{self, ExtentKinds};
use filepull_core::file_digest::Blake3Hasher;
use filepull_core::id::ClientId;
use filepull_core::problem::{Code, Problem};
use filepull_core::source::Consistency;
use filepull_proto::v1;
use filepull_proto::v1::upload_request::Kind;

use self::base::ReadStart;
use self::first_reading::{FirstReading, StoredDigest};
use self::parts::Part;
use crate::compressor::Compressor;
use crate::error_text;
use crate::extents::{ExtentSender, keepalive};
use crate::holes::Stretch;
use crate::order::SendOrder;
use crate::server_answers::ServerAnswers;
use crate::share::{self, OpenFile};

/// Length of one read from the disk and of one message to the upload, in bytes. An upload needs
/// [`N_BLOCKS`] blocks of memory. A block stays in the processor's cache from the read to the send.
const BLOCK_LEN: usize = 512 * 1024;

/// One block is split into chunks, one is queued, and one is filled.
const N_BLOCKS: usize = 3;

/// How often a keepalive is sent while the reader reads bytes that are not sent.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// How long the server may need for the next message of a list: a message names up to 6 GiB of a base,
/// which the server may read from a slow disk. Then everything is sent as data.
pub(crate) const LIST_TIMEOUT: Duration = Duration::from_secs(300);

/// What the reader passes to its sink.
#[derive(Debug)]
pub(crate) enum Step {
    /// A message to the server.
    Send(Kind),
    /// Bytes of the file at `offset`, at most [`BLOCK_LEN`].
    Block { offset: u64, bytes: Bytes },
    /// Extents that follow each other.
    Extents(Vec<Kind>),
    /// A block was read that is not sent. The sink can stop the reader here.
    Read,
    /// Like `Read`, before the header, and a keepalive is due.
    Proving,
    /// The file equals the base of an order with `if_changed`. No other step follows.
    Unchanged,
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
    /// The extents that the server accepts.
    pub(crate) extents: ExtentKinds,
    pub(crate) keepalive_interval: Duration,
    pub(crate) list_timeout: Duration,
}

/// Takes the steps of a reader.
pub(crate) type StepSink<'a> = dyn FnMut(Step) -> Result<(), ClosedSink> + 'a;

impl Reader {
    /// Passes a header, extents and a trailer to `sink`. An abort replaces the trailer if the file
    /// cannot be sent.
    ///
    /// A trailer is sent only for a file that stayed unchanged, or whose content was read at open.
    /// If the reader panics no trailer is sent, and the server keeps the partial.
    pub(crate) fn read(
        &self,
        answers: &mut ServerAnswers,
        sink: &mut StepSink<'_>,
    ) -> Result<(), ReadError> {
        let result = self.read_file(answers, sink);
        if let Err(ReadError::Failed(problem)) = &result {
            sink(Step::Send(Kind::Abort(problem.into())))?;
        }
        result
    }

    fn read_file(
        &self,
        answers: &mut ServerAnswers,
        sink: &mut StepSink<'_>,
    ) -> Result<(), ReadError> {
        let start = self.find_start(sink)?;
        if self.is_unchanged(&start, sink)? {
            return Ok(sink(Step::Unchanged)?);
        }
        let first = self.send_extents(start, answers, sink)?;
        let end = self.size();
        self.check_unchanged(&first, || keepalive(end), sink)?;
        let blake3 = Bytes::copy_from_slice(first.digest().as_bytes());
        sink(Step::Send(Kind::Trailer(v1::UploadTrailer {
            total_size: self.size(),
            blake3,
            receipt: String::new(),
        })))?;
        Ok(())
    }

    /// Returns whether the order is for a changed file, and the complete file equals the base. It is
    /// checked like a file that is sent, because the answer says what the file is: its bytes are those
    /// of the base at one instant.
    fn is_unchanged(&self, start: &ReadStart, sink: &mut StepSink<'_>) -> Result<bool, ReadError> {
        let is_base = start.begins_with_base && self.base().is_some_and(|it| it.len == self.size());
        if !self.order.if_changed || !is_base {
            return Ok(false);
        }
        match self.check_unchanged(&start.first, || Step::Proving, sink) {
            Ok(()) => Ok(true),
            // An upload reports that the file changes.
            Err(ReadError::Failed(_)) => Ok(false),
            Err(ReadError::Stopped) => Err(ReadError::Stopped),
        }
    }

    /// Sends the header and the extents. Returns what the complete first reading found.
    fn send_extents(
        &self,
        start: ReadStart,
        answers: &mut ServerAnswers,
        sink: &mut StepSink<'_>,
    ) -> Result<FirstReading, ReadError> {
        let list_request = self.needed_list(&start);
        let ReadStart { offset, mut first, .. } = start;
        sink(Step::Send(Kind::Header(self.header(offset, list_request.is_some()))))?;
        let compressor = self
            .extents
            .zstd
            .then(|| Compressor::new(offset, answers.acks.clone(), Instant::now()));
        let mut extents = ExtentSender::new(sink, offset, compressor, self.keepalive_interval);
        self.send_copies(offset..first.n_bytes(), &mut extents)?;
        let list = match list_request {
            Some(request) => self.receive_list(request, answers, &mut extents)?,
            None => None,
        };
        match list {
            Some(list) => self.send_changes(&list, &mut first, &mut extents)?,
            None => self.send_rest(&mut first, &mut extents)?,
        }
        Ok(first)
    }

    /// Sends bytes that the base has at the same offsets. A hole stays a hole, because a copy of zeros
    /// may be stored.
    fn send_copies(
        &self,
        range: Range<u64>,
        extents: &mut ExtentSender<'_, '_>,
    ) -> Result<(), ReadError> {
        let mut offset = range.start;
        while offset < range.end {
            offset = match self.next_stretch(offset..range.end) {
                Stretch::Hole { end } => {
                    extents.hole(end - offset)?;
                    end
                }
                Stretch::Stored { end } => {
                    extents.copy(offset, end - offset)?;
                    end
                }
            };
        }
        Ok(())
    }

    /// Reads the file from the end of `first`, and sends it.
    fn send_rest(
        &self,
        first: &mut FirstReading,
        extents: &mut ExtentSender<'_, '_>,
    ) -> Result<(), ReadError> {
        self.for_each_part(first.n_bytes()..self.size(), |part| {
            first.update(&part);
            match part {
                Part::Bytes(bytes) => extents.data(bytes),
                Part::Zeros(len) => extents.hole(len),
            }
        })
    }

    /// Checks that the file stayed unchanged: its metadata, then its bytes by a second reading.
    fn check_unchanged(
        &self,
        first: &FirstReading,
        keepalive: impl Fn() -> Step,
        sink: &mut StepSink<'_>,
    ) -> Result<(), ReadError> {
        // Content in memory does not change.
        if self.open_file.content.is_some() {
            return Ok(());
        }
        self.check_stat(first)?;
        if self.consistency == Consistency::Stat {
            return Ok(());
        }
        if !self.stores_the_same(first, &keepalive, sink)? {
            let mut second = Blake3Hasher::default();
            let visit = |part: &Part| match part {
                Part::Bytes(bytes) => second.update(bytes),
                Part::Zeros(len) => extent::zeros(*len).for_each(|zeros| second.update(zeros)),
            };
            self.read_unsent(0..self.size(), visit, &keepalive, sink)?;
            first.source().check_again(second.digest()).map_err(|_| self.changed())?;
        }
        self.check_stat(first)
    }

    /// Reads what the disk stores of a file with holes. Returns whether it equals the first reading. If
    /// not, the complete bytes may be equal nevertheless.
    fn stores_the_same(
        &self,
        first: &FirstReading,
        keepalive: impl Fn() -> Step,
        sink: &mut StepSink<'_>,
    ) -> Result<bool, ReadError> {
        let Some(stored) = first.stored() else { return Ok(false) };
        let mut second = StoredDigest::default();
        self.read_unsent(0..self.size(), |part| second.update(part), keepalive, sink)?;
        Ok(stored.equals(&second))
    }

    fn new_reading(&self) -> FirstReading {
        let is_read_again = self.consistency == Consistency::DoubleRead;
        FirstReading::new(self.open_file.stat, is_read_again && self.sends_holes())
    }

    fn sends_holes(&self) -> bool {
        self.extents.hole && self.open_file.stored < self.size()
    }

    fn check_stat(&self, first: &FirstReading) -> Result<(), ReadError> {
        let after = share::stat(&self.open_file.file).map_err(|error| self.unreadable(&error))?;
        first.source().check_stat(after, self.consistency).map_err(|_| self.changed())
    }

    fn header(&self, offset: u64, wants_blocks: bool) -> v1::UploadHeader {
        v1::UploadHeader {
            transfer_id: self.order.transfer.to_string(),
            attempt: self.order.attempt,
            upload_token: self.order.token.clone(),
            offset,
            source: Some(self.open_file.source_info(self.extents)),
            wants_blocks,
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

#[cfg(test)]
mod tests;

//! Compares the begin of the file with what the server has: the prefix of a resumed upload, and the
//! base.
//!
//! Both are compared in one pass. Its bytes are part of the first reading: those that the server has
//! are not read again to be sent. The second reading still covers the complete file.

use filepull_core::base_offer::{BaseOffer, BlockListOffer};
use filepull_core::delta::BlockId;
use filepull_core::receive::Prefix;

use super::first_reading::FirstReading;
use super::{ReadError, Reader, Step, StepSink};

/// Maximum length of a list of blocks on the wire, in bytes: the longest that
/// [`BlockList`](filepull_core::delta::BlockList) accepts.
const MAX_LIST_LEN: u64 = 1 << 20;

/// Where an upload begins.
#[derive(Debug)]
pub(crate) struct ReadStart {
    /// The offset of the first extent.
    pub(crate) offset: u64,
    /// The first bytes of the file, which the server has: as prefix or as base. Extents from `offset`
    /// to their end are copies.
    pub(crate) first: FirstReading,
    /// The file begins with the complete base.
    pub(crate) begins_with_base: bool,
}

impl Reader {
    /// Reads the begin of the file as far as the server may have it.
    pub(crate) fn find_start(&self, sink: &mut StepSink<'_>) -> Result<ReadStart, ReadError> {
        match self.compare_begin(sink) {
            // After a disk error the file is read from the start. If the error persists it is
            // reported there.
            Err(ReadError::Failed(_)) => Ok(ReadStart::new(self.new_reading())),
            start => start,
        }
    }

    /// Returns the offer of the list of blocks, if the upload needs one and it pays.
    pub(crate) fn needed_list(&self, start: &ReadStart) -> Option<ListRequest> {
        let base = self.base().filter(|_| !start.begins_with_base)?;
        let offer = base.blocks?;
        let n_blocks = base.len.checked_div(offer.block_len.into())?;
        let request =
            ListRequest { base_len: base.len, offer, len: n_blocks * BlockId::LEN as u64 };
        let n_left = self.size() - start.offset;
        let pays = u64::from(offer.block_len) <= n_left && request.len <= n_left.min(MAX_LIST_LEN);
        (pays && n_blocks != 0).then_some(request)
    }

    /// Returns the base, if the server accepts copies.
    pub(crate) fn base(&self) -> Option<&BaseOffer> {
        self.order.base.as_ref().filter(|_| self.extents.copy)
    }

    fn compare_begin(&self, sink: &mut StepSink<'_>) -> Result<ReadStart, ReadError> {
        let base = self.base().map(|base| Prefix { len: base.len, digest: base.blake3 });
        let fits = |prefix: &Prefix| prefix.len <= self.size();
        let prefix = self.order.resume.filter(fits);
        let base = base.filter(fits);
        let mut marks: Vec<u64> = prefix.iter().chain(&base).map(|prefix| prefix.len).collect();
        marks.sort_unstable();
        let mut start = ReadStart::new(self.new_reading());
        let mut reading = self.new_reading();
        for mark in marks {
            let range = reading.n_bytes()..mark;
            self.read_unsent(range, |part| reading.update(part), || Step::Proving, sink)?;
            let found = Some(Prefix { len: mark, digest: reading.digest() });
            if found == prefix {
                start.offset = mark;
            }
            start.begins_with_base |= found == base;
            if found == prefix || found == base {
                start.first = reading.clone();
            }
        }
        Ok(start)
    }
}

/// A list of blocks to request from the server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ListRequest {
    pub(crate) base_len: u64,
    pub(crate) offer: BlockListOffer,
    /// Its length in bytes.
    pub(crate) len: u64,
}

impl ReadStart {
    /// Starts at the first byte.
    fn new(first: FirstReading) -> Self {
        Self { offset: 0, first, begins_with_base: false }
    }
}

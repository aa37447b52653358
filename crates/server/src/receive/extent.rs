//! An extent as it arrives: the next bytes of the file, or where they are.

use bytes::Bytes;
use filepull_core::extent::{Content, UploadExtent};

/// Minimum memory of an extent, in bytes: its entry in the batch. Empty chunks are not free.
const MIN_MEMORY: usize = 256;

/// What a copy counts at least as work, in bytes. A disk without much to read needs a seek for it.
const MIN_COPY_WORK: u64 = 64 * 1024;

/// An extent of an upload, with its bytes.
#[derive(Clone, Debug)]
pub(crate) struct ReceivedExtent {
    /// The offset of the first byte in the file.
    pub(crate) offset: u64,
    pub(crate) content: ReceivedContent,
}

/// The bytes of an extent, or where they are. Lengths are in bytes of the file.
#[derive(Clone, Debug)]
pub(crate) enum ReceivedContent {
    /// At most `CHUNK_LEN` bytes. None: a keepalive.
    Data(Bytes),
    /// Compressed bytes.
    Zstd { len: usize, encoded: Bytes },
    /// Zeros.
    Hole { len: u64 },
    /// Bytes of the base.
    Copy { base_offset: u64, len: u64 },
}

impl ReceivedExtent {
    /// Returns the extent for the rules of the core, which check its numbers.
    pub(crate) fn borrow(&self) -> UploadExtent<'_> {
        let content = match &self.content {
            ReceivedContent::Data(bytes) => Content::Data(bytes),
            ReceivedContent::Zstd { len, encoded } => Content::Zstd { len: *len, encoded },
            ReceivedContent::Hole { len } => Content::Hole { len: *len },
            ReceivedContent::Copy { base_offset, len } => {
                Content::Copy { base_offset: *base_offset, len: *len }
            }
        };
        UploadExtent { offset: self.offset, content }
    }

    /// Returns the number of content bytes that the agent has sent for it.
    pub(crate) fn n_sent(&self) -> usize {
        match &self.content {
            ReceivedContent::Data(bytes) | ReceivedContent::Zstd { encoded: bytes, .. } => {
                bytes.len()
            }
            ReceivedContent::Hole { .. } | ReceivedContent::Copy { .. } => 0,
        }
    }

    /// Returns how much memory it occupies in a batch, in bytes.
    pub(crate) fn memory(&self) -> usize {
        self.n_sent().max(MIN_MEMORY)
    }

    /// Returns how much a job has to do for it, as a number of bytes to hash and to write. The
    /// numbers of an extent are not checked yet.
    pub(crate) fn work(&self) -> u64 {
        match self.content {
            ReceivedContent::Data(ref bytes) => bytes.len() as u64,
            ReceivedContent::Zstd { len, .. } => len as u64,
            ReceivedContent::Hole { len } => len,
            ReceivedContent::Copy { len, .. } => len.max(MIN_COPY_WORK),
        }
    }
}

//! What a server makes of the extents of an upload.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, reason = "only tests use it")]

use filepull_core::extent::{ExtentReceiver, Fill};
use filepull_core::receive::Receiver;
use filepull_proto::v1::upload_request::Kind;

/// The received bytes of an upload, and how they came. Lengths are in bytes.
pub(crate) struct Assembly {
    receiver: ExtentReceiver,
    base: Vec<u8>,
    pub(crate) bytes: Vec<u8>,
    pub(crate) plain: u64,
    /// What zstd extents cover.
    pub(crate) compressed: u64,
    pub(crate) holes: u64,
    pub(crate) copied: u64,
    /// The content of data and zstd extents as it travels.
    pub(crate) sent: u64,
}

impl Assembly {
    /// Expects a file of `size` bytes after `prefix`.
    pub(crate) fn new(size: u64, prefix: &[u8], base: &[u8]) -> Self {
        let mut receiver = Receiver::new(size);
        receiver.chunk(0, prefix).unwrap();
        Self {
            receiver: ExtentReceiver::new(receiver, base.len() as u64),
            base: base.to_vec(),
            bytes: prefix.to_vec(),
            plain: 0,
            compressed: 0,
            holes: 0,
            copied: 0,
            sent: 0,
        }
    }

    /// Receives an extent. Fails the test if a server would reject it.
    pub(crate) fn add(&mut self, kind: &Kind) {
        let before = self.bytes.len();
        let extent = filepull_proto::extent(kind).unwrap();
        let range = match self.receiver.next(extent).unwrap() {
            Fill::Bytes(bytes) => {
                self.bytes.extend_from_slice(bytes);
                None
            }
            Fill::Zeros(len) => {
                self.bytes.resize(before + usize::try_from(len).unwrap(), 0);
                None
            }
            Fill::Base(range) => Some(range),
        };
        if let Some(range) = range {
            let start = usize::try_from(range.base_offset()).unwrap();
            let end = start + usize::try_from(range.n_bytes()).unwrap();
            self.receiver.base_bytes(&range, &self.base[start..end]).unwrap();
            self.bytes.extend_from_slice(&self.base[start..end]);
        }
        let len = (self.bytes.len() - before) as u64;
        match kind {
            Kind::Chunk(_) => {
                self.plain += len;
                self.sent += len;
            }
            Kind::Zstd(zstd) => {
                self.compressed += len;
                self.sent += zstd.data.len() as u64;
            }
            Kind::Hole(_) => self.holes += len,
            Kind::Copy(_) => self.copied += len,
            Kind::Header(_) | Kind::Trailer(_) | Kind::Abort(_) => unreachable!(),
        }
    }
}

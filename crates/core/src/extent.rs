//! Checks an upload extent by extent. An extent covers the next bytes of the file: it brings them, as
//! they are or compressed, or it names where they are: in a hole, or in the last good download.
//!
//! An extent is accepted whole or not at all. A checkpoint is an offset in the file and the digest of
//! the bytes before it. It lies between two extents, and an agent that resumes there sends new
//! extents from that offset, with a new stream of zstd: no extent of the earlier upload is continued.

mod kinds;

pub use kinds::ExtentKinds;

use crate::CHUNK_LEN;
use crate::compression::{CompressionError, Decoder, MAX_ENCODED_LEN};
use crate::receive::{ReceiveError, Receiver};

/// Maximum length of a hole or a copy: 1 MiB. The server hashes one in one step, and
/// holds one of the base in memory. A longer one is sent as several.
pub const MAX_SPAN_LEN: u64 = 1 << 20;

/// The extents of an upload may be shorter than [`MIN_MEAN_LEN`] up to this number.
const MAX_SHORT_EXTENTS: u64 = 1024;

/// Minimum mean length of the extents of an upload, in bytes of the file. A delta alternates new bytes
/// with copies of at least 2 KiB, so its extents have at least 1 KiB on average.
const MIN_MEAN_LEN: u64 = 256;

/// Zeros to hash in place of a hole.
static ZEROS: [u8; CHUNK_LEN] = [0; CHUNK_LEN];

/// Returns `n_bytes` zeros in parts.
pub fn zeros(n_bytes: u64) -> impl Iterator<Item = &'static [u8]> {
    let mut n_left = n_bytes;
    std::iter::from_fn(move || {
        let len = usize::try_from(n_left).unwrap_or(usize::MAX).min(ZEROS.len());
        n_left -= len as u64;
        (0 < len).then(|| &ZEROS[..len])
    })
}

/// The next bytes of the file, as they travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadExtent<'a> {
    /// The offset of the first byte in the file.
    pub offset: u64,
    /// The bytes, or where they are.
    pub content: Content<'a>,
}

/// The bytes of an extent, or where they are. Lengths are in bytes of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content<'a> {
    /// The bytes. Empty: the agent is alive, and reads.
    Data(&'a [u8]),
    /// The bytes, compressed by an [`Encoder`](crate::compression::Encoder).
    Zstd {
        /// The number of bytes before compression, at most [`CHUNK_LEN`].
        len: usize,
        /// What the encoder returned.
        encoded: &'a [u8],
    },
    /// Zeros that the source does not store.
    Hole {
        /// At most [`MAX_SPAN_LEN`].
        len: u64,
    },
    /// Bytes of the base: the last good download of the same client and path.
    Copy {
        /// The offset of the first byte in the base.
        base_offset: u64,
        /// At most [`MAX_SPAN_LEN`].
        len: u64,
    },
}

/// What to append to the partial for an accepted extent.
#[derive(Debug, PartialEq, Eq)]
pub enum Fill<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// This number of zeros. A file system with sparse files need not store them.
    Zeros(u64),
    /// Bytes of the base. [`ExtentReceiver::base_bytes`] accepts them.
    Base(BaseRange),
}

/// Bytes of the base that the next bytes of the file equal.
#[derive(Debug, PartialEq, Eq)]
pub struct BaseRange {
    /// The offset in the file.
    offset: u64,
    base_offset: u64,
    len: u64,
}

/// Why an upload cannot continue.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExtentError {
    /// The extent is not the next one, or exceeds the announced size.
    #[error(transparent)]
    Received(#[from] ReceiveError),
    /// The extent brings nothing.
    #[error("an extent at {offset} is empty")]
    Empty {
        /// The offset of the extent in the file.
        offset: u64,
    },
    /// The extent is longer than its kind may be.
    #[error("an extent has {len} bytes, the maximum is {max}")]
    TooLong {
        /// The number of bytes, of the file or encoded.
        len: u64,
        /// The maximum.
        max: u64,
    },
    /// The extents are too short on average.
    #[error("{n_extents} extents bring only {n_bytes} bytes")]
    TooMany {
        /// The number of extents in this upload.
        n_extents: u64,
        /// The bytes of the file that they cover.
        n_bytes: u64,
    },
    /// The extent copies bytes that the base does not have.
    #[error("an extent copies {len} bytes at {base_offset}, the base has {base_len} bytes")]
    OutsideBase {
        /// The offset of the first byte in the base.
        base_offset: u64,
        /// The number of bytes.
        len: u64,
        /// The length of the base. 0: there is no base.
        base_len: u64,
    },
    /// The base has changed: it no longer has the bytes that the extent copies.
    #[error("the base has {found} of {len} bytes")]
    BaseChanged {
        /// The number of bytes to copy.
        len: u64,
        /// The number of bytes that could be read.
        found: u64,
    },
    /// The extent does not decode to the bytes that it covers.
    #[error(transparent)]
    Compression(#[from] CompressionError),
}

/// Checks the extents of one upload. A resumed upload has a new one around the same [`Receiver`].
#[derive(Debug)]
pub struct ExtentReceiver {
    receiver: Receiver,
    base_len: u64,
    /// The stream of this upload. Most uploads have none.
    decoder: Option<Decoder>,
    n_extents: u64,
    /// Received before this upload.
    resumed_at: u64,
}

impl BaseRange {
    /// Returns the offset of the first byte in the base.
    pub fn base_offset(&self) -> u64 {
        self.base_offset
    }

    /// Returns the number of bytes, at most [`MAX_SPAN_LEN`].
    pub fn n_bytes(&self) -> u64 {
        self.len
    }
}

impl ExtentReceiver {
    /// Continues after the bytes of `receiver`. `base_len` is the length of the base in bytes; 0 means
    /// that there is none.
    pub fn new(receiver: Receiver, base_len: u64) -> Self {
        let resumed_at = receiver.received();
        Self { receiver, base_len, decoder: None, n_extents: 0, resumed_at }
    }

    /// Accepts the next extent and returns what to append to the partial.
    ///
    /// The bytes of [`Fill::Base`] are received once [`base_bytes`](Self::base_bytes) has them. Until
    /// then, any other extent leaves a gap.
    ///
    /// # Errors
    /// The extent cannot be the next one. The received bytes are unchanged, and the upload must end.
    pub fn next<'a>(&'a mut self, extent: UploadExtent<'a>) -> Result<Fill<'a>, ExtentError> {
        let UploadExtent { offset, content } = extent;
        if content == Content::Data(&[]) {
            self.receiver.chunk(offset, &[])?;
            return Ok(Fill::Bytes(&[]));
        }
        self.check(offset, &content)?;
        self.n_extents += 1;
        match content {
            Content::Data(bytes) => {
                self.receiver.chunk(offset, bytes)?;
                Ok(Fill::Bytes(bytes))
            }
            Content::Zstd { len, encoded } => {
                let decoder = match &mut self.decoder {
                    Some(decoder) => decoder,
                    unused => unused.insert(Decoder::new()?),
                };
                let bytes = decoder.decode(encoded, len)?;
                self.receiver.chunk(offset, bytes)?;
                Ok(Fill::Bytes(bytes))
            }
            Content::Hole { len } => {
                for zeros in zeros(len) {
                    self.receiver.chunk(self.receiver.received(), zeros)?;
                }
                Ok(Fill::Zeros(len))
            }
            Content::Copy { base_offset, len } => {
                Ok(Fill::Base(BaseRange { offset, base_offset, len }))
            }
        }
    }

    /// Accepts the bytes of the base that an extent copies.
    ///
    /// # Errors
    /// They are not as many as the extent covers: the base was truncated.
    pub fn base_bytes(&mut self, range: &BaseRange, bytes: &[u8]) -> Result<(), ExtentError> {
        let found = bytes.len() as u64;
        if found != range.len {
            return Err(ExtentError::BaseChanged { len: range.len, found });
        }
        Ok(self.receiver.chunk(range.offset, bytes)?)
    }

    /// Returns the received bytes, which another upload may continue.
    pub fn receiver(&self) -> &Receiver {
        &self.receiver
    }

    /// Ends the upload, and returns the received bytes.
    pub fn into_receiver(self) -> Receiver {
        self.receiver
    }

    /// Checks an extent before anything is decoded or hashed.
    fn check(&self, offset: u64, content: &Content<'_>) -> Result<(), ExtentError> {
        let (len, max) = match *content {
            Content::Data(bytes) => (bytes.len() as u64, CHUNK_LEN as u64),
            Content::Zstd { len, .. } => (len as u64, CHUNK_LEN as u64),
            Content::Hole { len } | Content::Copy { len, .. } => (len, MAX_SPAN_LEN),
        };
        if len == 0 {
            return Err(ExtentError::Empty { offset });
        }
        check_len(len, max)?;
        if let Content::Zstd { encoded, .. } = content {
            check_len(encoded.len() as u64, MAX_ENCODED_LEN as u64)?;
        }
        self.receiver.check(offset, len)?;
        if let Content::Copy { base_offset, len } = *content {
            self.check_copy(base_offset, len)?;
        }
        self.check_mean_len()
    }

    fn check_copy(&self, base_offset: u64, len: u64) -> Result<(), ExtentError> {
        let base_len = self.base_len;
        let is_inside = base_offset.checked_add(len).is_some_and(|end| end <= base_len);
        if is_inside {
            Ok(())
        } else {
            Err(ExtentError::OutsideBase { base_offset, len, base_len })
        }
    }

    /// Checks that one more extent may follow, however short it is.
    fn check_mean_len(&self) -> Result<(), ExtentError> {
        let n_extents = self.n_extents;
        let n_bytes = self.receiver.received() - self.resumed_at;
        if n_extents < MAX_SHORT_EXTENTS + n_bytes / MIN_MEAN_LEN {
            Ok(())
        } else {
            Err(ExtentError::TooMany { n_extents, n_bytes })
        }
    }
}

fn check_len(len: u64, max: u64) -> Result<(), ExtentError> {
    if len <= max { Ok(()) } else { Err(ExtentError::TooLong { len, max }) }
}

#[cfg(test)]
mod tests;

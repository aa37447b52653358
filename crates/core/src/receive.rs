//! Checks an upload chunk by chunk: each chunk is the next one and fits, and the complete file is
//! undamaged.

use crate::digest::Digest;
use crate::file_digest::{Blake3, Blake3Hasher, FileDigests};

/// The received bytes of a source, and what may follow.
#[derive(Clone, Debug)]
pub struct Receiver {
    announced: u64,
    received: u64,
    hasher: Blake3Hasher,
}

/// Identifies the first bytes of a file by their number and digest. Equal prefixes prove that both
/// sides have the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The number of bytes.
    pub len: u64,
    /// The BLAKE3 digest of these bytes.
    pub digest: Blake3,
}

impl Prefix {
    /// Returns the prefix of zero bytes.
    pub fn empty() -> Self {
        Self { len: 0, digest: Blake3::of(b"") }
    }
}

/// Proof that an upload was complete and undamaged. Only [`Receiver::finish`] creates it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    size: u64,
    digests: FileDigests,
}

impl Verified {
    /// Returns the size of the complete file in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the BLAKE3 that both sides computed, and the SHA-256 of the same bytes.
    pub fn digests(&self) -> FileDigests {
        self.digests
    }
}

/// Why an upload cannot continue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiveError {
    /// A chunk was lost, repeated or swapped.
    #[error("expected the byte at {expected}, found a chunk at {found}")]
    Gap {
        /// The offset of the next byte.
        expected: u64,
        /// The offset of the chunk.
        found: u64,
    },
    /// The upload has more bytes than announced.
    #[error("{announced} bytes were announced, a chunk ends at {end}")]
    Overrun {
        /// The announced size in bytes.
        announced: u64,
        /// The end of the chunk as an offset.
        end: u64,
    },
    /// The agent ended the upload before the last byte.
    #[error("{announced} bytes were announced, {received} were received at the end")]
    Short {
        /// The announced size in bytes.
        announced: u64,
        /// The number of received bytes.
        received: u64,
    },
    /// The received bytes differ from the bytes that the agent read.
    #[error("the agent sent {sent}, the server received {received}")]
    Damaged {
        /// The digest of the bytes that the agent read.
        sent: Blake3,
        /// The digest of the received bytes.
        received: Blake3,
    },
}

impl Receiver {
    /// Expects a file of `announced` bytes from its start.
    pub fn new(announced: u64) -> Self {
        Self { announced, received: 0, hasher: Blake3Hasher::default() }
    }

    /// Continues after the received bytes, and expects `announced` bytes in all.
    ///
    /// # Errors
    /// More bytes are received already.
    pub fn expect(&mut self, announced: u64) -> Result<(), ReceiveError> {
        if announced < self.received {
            return Err(ReceiveError::Overrun { announced, end: self.received });
        }
        self.announced = announced;
        Ok(())
    }

    /// Accepts the next chunk, or returns why it cannot be the next one.
    ///
    /// # Errors
    /// The chunk leaves a gap, repeats bytes, or exceeds the announced size. The receiver is unchanged.
    pub fn chunk(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ReceiveError> {
        self.received = self.check(offset, bytes.len() as u64)?;
        self.hasher.update(bytes);
        Ok(())
    }

    /// Returns the end of `len` bytes at `offset`, if they may come next.
    ///
    /// # Errors
    /// They leave a gap, repeat bytes, or exceed the announced size.
    pub(crate) fn check(&self, offset: u64, len: u64) -> Result<u64, ReceiveError> {
        if offset != self.received {
            return Err(ReceiveError::Gap { expected: self.received, found: offset });
        }
        let announced = self.announced;
        let overrun = ReceiveError::Overrun { announced, end: offset.saturating_add(len) };
        offset.checked_add(len).filter(|end| *end <= announced).ok_or(overrun)
    }

    /// Returns the number of received bytes.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Returns the announced size in bytes.
    pub fn announced(&self) -> u64 {
        self.announced
    }

    /// Returns the received bytes as a prefix, as proof for the agent.
    pub fn prefix(&self) -> Prefix {
        Prefix { len: self.received, digest: self.hasher.digest() }
    }

    /// Checks that every announced byte was received, and equals the byte that the agent read.
    /// `sha256` is the digest of the received bytes, which the caller computes beside its writes.
    ///
    /// # Errors
    /// Bytes are missing or damaged. The partial must not be published.
    pub fn finish(
        &self,
        total_size: u64,
        sent: Blake3,
        sha256: Digest,
    ) -> Result<Verified, ReceiveError> {
        let Self { announced, received, ref hasher } = *self;
        if received != announced || total_size != announced {
            return Err(ReceiveError::Short { announced, received });
        }
        let blake3 = hasher.digest();
        if blake3 != sent {
            return Err(ReceiveError::Damaged { sent, received: blake3 });
        }
        Ok(Verified { size: received, digests: FileDigests { blake3, sha256 } })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Generates a file, and its split into chunks.
    fn split_file() -> impl Strategy<Value = (Vec<u8>, Vec<(usize, usize)>)> {
        (prop::collection::vec(any::<u8>(), 1..2000), prop::collection::vec(0usize..2000, 0..12))
            .prop_map(|(file, mut cuts)| {
                cuts.retain(|&cut| 0 < cut && cut < file.len());
                cuts.extend([0, file.len()]);
                cuts.sort_unstable();
                cuts.dedup();
                let chunks = cuts.windows(2).map(|pair| (pair[0], pair[1])).collect();
                (file, chunks)
            })
    }

    fn feed(file: &[u8], chunks: &[(usize, usize)]) -> Result<Verified, ReceiveError> {
        let mut receiver = Receiver::new(file.len() as u64);
        for &(start, end) in chunks {
            receiver.chunk(start as u64, &file[start..end])?;
        }
        receiver.finish(file.len() as u64, Blake3::of(file), Digest::of(file))
    }

    proptest! {
        #[test]
        fn any_split_of_a_file_is_accepted((file, chunks) in split_file()) {
            let verified = feed(&file, &chunks).unwrap();
            prop_assert_eq!(verified.digests(), FileDigests::of(&file));
        }

        #[test]
        fn any_lost_chunk_is_rejected((file, mut chunks) in split_file(), pick: prop::sample::Index) {
            chunks.remove(pick.index(chunks.len()));
            prop_assert!(feed(&file, &chunks).is_err());
        }

        #[test]
        fn any_repeated_chunk_is_rejected((file, mut chunks) in split_file(), pick: prop::sample::Index) {
            let chunk_idx = pick.index(chunks.len());
            chunks.insert(chunk_idx, chunks[chunk_idx]);
            prop_assert!(feed(&file, &chunks).is_err());
        }

        #[test]
        fn any_swapped_pair_is_rejected(
            (file, mut chunks) in split_file().prop_filter("no pair", |(_, chunks)| 2 <= chunks.len()),
            pick: prop::sample::Index,
        ) {
            let chunk_idx = pick.index(chunks.len() - 1);
            chunks.swap(chunk_idx, chunk_idx + 1);
            prop_assert!(feed(&file, &chunks).is_err());
        }

        #[test]
        fn any_flipped_bit_is_rejected((file, chunks) in split_file(), pick: prop::sample::Index) {
            let sent = Blake3::of(&file);
            let mut damaged = file;
            let byte_idx = pick.index(damaged.len());
            damaged[byte_idx] ^= 1;
            let mut receiver = Receiver::new(damaged.len() as u64);
            for (start, end) in chunks {
                receiver.chunk(start as u64, &damaged[start..end]).unwrap();
            }
            let finished = receiver.finish(damaged.len() as u64, sent, Digest::of(&damaged));
            prop_assert!(matches!(finished, Err(ReceiveError::Damaged { .. })), "{:?}", finished);
        }
    }

    #[test]
    fn an_empty_file_is_complete_without_a_chunk() {
        let verified = feed(b"", &[]).unwrap();
        assert_eq!((verified.size(), verified.digests()), (0, FileDigests::of(b"")));
    }

    #[test]
    fn a_chunk_at_the_maximum_offset_is_rejected() {
        let mut receiver = Receiver { received: u64::MAX, ..Receiver::new(u64::MAX) };
        receiver.announced = 5;
        assert!(receiver.chunk(u64::MAX, b"x").is_err());
    }
}

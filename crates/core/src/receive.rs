//! Judges an upload chunk by chunk: is it the next one, does it fit, and is the whole undamaged?

use crate::digest::{Digest, Hasher};

/// What has been received of a source, and what may come next.
#[derive(Clone, Debug)]
pub struct Receiver {
    announced: u64,
    received: u64,
    hasher: Hasher,
}

/// The first bytes of a file, by their number and digest: what one side shows the other as proof
/// that both hold the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// How many bytes.
    pub len: u64,
    /// Their SHA-256.
    pub digest: Digest,
}

impl Prefix {
    /// The prefix of no bytes.
    pub fn empty() -> Self {
        Self { len: 0, digest: Digest::of(b"") }
    }
}

/// Proof that an upload was whole and undamaged. Only [`Receiver::finish`] makes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    size: u64,
    digest: Digest,
}

impl Verified {
    /// The size of the whole file, in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// The SHA-256 that both sides computed.
    pub fn digest(&self) -> Digest {
        self.digest
    }
}

/// Why an upload cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiveError {
    /// A chunk was lost, doubled or swapped.
    #[error("expected the byte at {expected}, found a chunk at {found}")]
    Gap {
        /// The offset that must come next.
        expected: u64,
        /// The offset that came.
        found: u64,
    },
    /// More bytes than were announced.
    #[error("{announced} bytes were announced, a chunk ends at {end}")]
    Overrun {
        /// The announced size.
        announced: u64,
        /// Where the chunk ends.
        end: u64,
    },
    /// The agent ended the upload before the last byte.
    #[error("{announced} bytes were announced, {received} were received at the end")]
    Short {
        /// The announced size.
        announced: u64,
        /// What had arrived.
        received: u64,
    },
    /// The bytes are not those that the agent read.
    #[error("the agent sent {sent}, the server received {received}")]
    Damaged {
        /// The digest of what the agent read.
        sent: Digest,
        /// The digest of what arrived.
        received: Digest,
    },
}

impl Receiver {
    /// Expects a file of `announced` bytes from its start.
    pub fn new(announced: u64) -> Self {
        Self { announced, received: 0, hasher: Hasher::default() }
    }

    /// Goes on after the bytes received so far, now expecting `announced` bytes in all.
    ///
    /// # Errors
    /// More than that is already here.
    pub fn expect(&mut self, announced: u64) -> Result<(), ReceiveError> {
        if announced < self.received {
            return Err(ReceiveError::Overrun { announced, end: self.received });
        }
        self.announced = announced;
        Ok(())
    }

    /// Accepts the next chunk, or says why it cannot be the next one.
    ///
    /// # Errors
    /// It leaves a gap, repeats bytes, or runs past the announced end. Nothing was taken.
    pub fn chunk(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ReceiveError> {
        if offset != self.received {
            return Err(ReceiveError::Gap { expected: self.received, found: offset });
        }
        let end = offset.saturating_add(bytes.len() as u64);
        if self.announced < end {
            return Err(ReceiveError::Overrun { announced: self.announced, end });
        }
        self.hasher.update(bytes);
        self.received = end;
        Ok(())
    }

    /// How many bytes have been received.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// How many bytes there will be in all.
    pub fn announced(&self) -> u64 {
        self.announced
    }

    /// What has been received, as proof for the agent.
    pub fn prefix(&self) -> Prefix {
        Prefix { len: self.received, digest: self.hasher.digest() }
    }

    /// Judges the whole: every announced byte is here, and is the byte that the agent read.
    ///
    /// # Errors
    /// Bytes are missing or damaged. The partial must not be published.
    pub fn finish(&self, total_size: u64, sent: Digest) -> Result<Verified, ReceiveError> {
        let Self { announced, received, ref hasher } = *self;
        if received != announced || total_size != announced {
            return Err(ReceiveError::Short { announced, received });
        }
        let digest = hasher.digest();
        if digest != sent {
            return Err(ReceiveError::Damaged { sent, received: digest });
        }
        Ok(Verified { size: received, digest })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A file and the places where it is cut into chunks.
    fn cut_file() -> impl Strategy<Value = (Vec<u8>, Vec<(usize, usize)>)> {
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
        receiver.finish(file.len() as u64, Digest::of(file))
    }

    proptest! {
        #[test]
        fn any_cut_of_a_file_is_accepted((file, chunks) in cut_file()) {
            let verified = feed(&file, &chunks).unwrap();
            prop_assert_eq!(verified.digest(), Digest::of(&file));
        }

        #[test]
        fn any_lost_chunk_is_refused((file, mut chunks) in cut_file(), pick: prop::sample::Index) {
            chunks.remove(pick.index(chunks.len()));
            prop_assert!(feed(&file, &chunks).is_err());
        }

        #[test]
        fn any_doubled_chunk_is_refused((file, mut chunks) in cut_file(), pick: prop::sample::Index) {
            let chunk_idx = pick.index(chunks.len());
            chunks.insert(chunk_idx, chunks[chunk_idx]);
            prop_assert!(feed(&file, &chunks).is_err());
        }

        #[test]
        fn any_swapped_pair_is_refused(
            (file, mut chunks) in cut_file().prop_filter("no pair", |(_, chunks)| 2 <= chunks.len()),
            pick: prop::sample::Index,
        ) {
            let chunk_idx = pick.index(chunks.len() - 1);
            chunks.swap(chunk_idx, chunk_idx + 1);
            prop_assert!(feed(&file, &chunks).is_err());
        }

        #[test]
        fn any_flipped_bit_is_refused((file, chunks) in cut_file(), pick: prop::sample::Index) {
            let sent = Digest::of(&file);
            let mut file = file;
            let byte_idx = pick.index(file.len());
            file[byte_idx] ^= 1;
            let mut receiver = Receiver::new(file.len() as u64);
            for (start, end) in chunks {
                receiver.chunk(start as u64, &file[start..end]).unwrap();
            }
            let judged = receiver.finish(file.len() as u64, sent);
            prop_assert!(matches!(judged, Err(ReceiveError::Damaged { .. })), "{:?}", judged);
        }
    }

    #[test]
    fn an_empty_file_is_whole_without_a_chunk() {
        let verified = feed(b"", &[]).unwrap();
        assert_eq!((verified.size(), verified.digest()), (0, Digest::of(b"")));
    }

    #[test]
    fn a_chunk_at_the_end_of_the_number_line_is_refused() {
        let mut receiver = Receiver { received: u64::MAX, ..Receiver::new(u64::MAX) };
        receiver.announced = 5;
        assert!(receiver.chunk(u64::MAX, b"x").is_err());
    }
}

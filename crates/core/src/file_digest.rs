//! The digests of a file: BLAKE3, which both ends compare, and SHA-256, which people compare.

use std::fmt;

use serde::{Serialize, Serializer};

use crate::digest::{Digest, Hasher, parse_hex};

/// A BLAKE3 digest, shown as 64 lower-case hexadecimal digits, as `b3sum` prints it.
///
/// Both ends compute it for the whole file, for a prefix and for the second reading: it takes a third
/// of the CPU time of SHA-256. Source: the BLAKE3 paper, <https://github.com/BLAKE3-team/BLAKE3-specs>.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Blake3([u8; 32]);

/// Computes a [`Blake3`] from bytes in their order in the file.
#[derive(Clone, Default)]
pub struct Blake3Hasher(Box<blake3::Hasher>);

/// Both digests of the same bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileDigests {
    /// What the agent and the server have compared.
    pub blake3: Blake3,
    /// What `sha256sum` prints. Only the server computes it, from the bytes that [`blake3`](Self::blake3) proves.
    pub sha256: Digest,
}

/// Computes both digests.
#[derive(Clone, Debug, Default)]
pub struct FileHasher {
    blake3: Blake3Hasher,
    sha256: Hasher,
}

impl Blake3 {
    /// Computes the BLAKE3 digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(blake3::hash(bytes).into())
    }

    /// Parses the 64 hexadecimal digits that [`Display`](fmt::Display) writes.
    pub fn parse(text: &str) -> Option<Self> {
        parse_hex(text).map(Self)
    }

    /// Returns the digest as 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl TryFrom<&[u8]> for Blake3 {
    type Error = std::array::TryFromSliceError;

    fn try_from(bytes: &[u8]) -> Result<Self, Self::Error> {
        bytes.try_into().map(Self)
    }
}

impl fmt::Display for Blake3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Blake3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Blake3 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Blake3Hasher {
    /// Adds the next bytes to the digest.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Returns the digest of all bytes so far. More bytes may follow.
    pub fn digest(&self) -> Blake3 {
        Blake3(self.0.finalize().into())
    }
}

impl fmt::Debug for Blake3Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blake3Hasher({})", self.digest())
    }
}

impl FileDigests {
    /// Computes both digests of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self { blake3: Blake3::of(bytes), sha256: Digest::of(bytes) }
    }
}

impl FileHasher {
    /// Adds the next bytes to both digests.
    pub fn update(&mut self, bytes: &[u8]) {
        self.blake3.update(bytes);
        self.sha256.update(bytes);
    }

    /// Returns the digests of all bytes so far. More bytes may follow.
    pub fn digests(&self) -> FileDigests {
        FileDigests { blake3: self.blake3.digest(), sha256: self.sha256.digest() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_is_what_b3sum_prints() {
        let abc = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
        assert_eq!(Blake3::of(b"abc").to_string(), abc);
        assert_eq!(Blake3::parse(abc), Some(Blake3::of(b"abc")));
        assert_eq!(Blake3::parse(&abc[1..]), None);
    }

    #[test]
    fn parts_have_the_digests_of_the_whole() {
        let mut hasher = FileHasher::default();
        hasher.update(b"a");
        hasher.update(b"bc");
        assert_eq!(hasher.digests(), FileDigests::of(b"abc"));
    }
}

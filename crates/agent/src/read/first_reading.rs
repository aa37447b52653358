//! What the first reading of a file found, to compare with the second reading.

use std::ops::Range;

use filepull_core::extent;
use filepull_core::file_digest::{Blake3, Blake3Hasher};
use filepull_core::source::{SourceRead, Stat};

use super::parts::Part;

/// The digest of the parts so far, in their order from the start of the file.
#[derive(Clone, Debug)]
pub(crate) struct FirstReading {
    source: SourceRead,
    /// Only for a file with holes.
    stored: Option<StoredDigest>,
    len: u64,
}

/// The digest of what the disk stores: the bytes, and where the holes are. Equal digests prove equal
/// bytes, and take no time for holes. Other digests prove nothing: a file system may store zeros.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoredDigest {
    bytes: Blake3Hasher,
    holes: Blake3Hasher,
    /// The last hole, which the next part may continue.
    hole: Range<u64>,
    len: u64,
}

impl FirstReading {
    /// Starts with the metadata of the file when it was opened.
    pub(crate) fn new(before: Stat, has_holes: bool) -> Self {
        let stored = has_holes.then(StoredDigest::default);
        Self { source: SourceRead::new(before), stored, len: 0 }
    }

    pub(crate) fn update(&mut self, part: &Part) {
        match part {
            Part::Bytes(bytes) => self.source.update(bytes),
            Part::Zeros(len) => extent::zeros(*len).for_each(|zeros| self.source.update(zeros)),
        }
        if let Some(stored) = &mut self.stored {
            stored.update(part);
        }
        self.len += part.n_bytes();
    }

    /// Returns the digest of the bytes so far.
    pub(crate) fn digest(&self) -> Blake3 {
        self.source.digest()
    }

    /// Returns the number of bytes so far.
    pub(crate) fn n_bytes(&self) -> u64 {
        self.len
    }

    pub(crate) fn source(&self) -> &SourceRead {
        &self.source
    }

    pub(crate) fn stored(&self) -> Option<&StoredDigest> {
        self.stored.as_ref()
    }
}

impl StoredDigest {
    pub(crate) fn update(&mut self, part: &Part) {
        let start = self.len;
        self.len += part.n_bytes();
        match part {
            Part::Bytes(bytes) => self.bytes.update(bytes),
            Part::Zeros(_) if self.hole.end == start => self.hole.end = self.len,
            Part::Zeros(_) => {
                self.end_hole();
                self.hole = start..self.len;
            }
        }
    }

    /// Returns whether both readings found the same bytes and holes.
    pub(crate) fn equals(&self, other: &Self) -> bool {
        self.digests() == other.digests()
    }

    fn digests(&self) -> (Blake3, Blake3, u64) {
        let mut ended = self.clone();
        ended.end_hole();
        (ended.bytes.digest(), ended.holes.digest(), ended.len)
    }

    fn end_hole(&mut self) {
        if !self.hole.is_empty() {
            self.holes.update(&self.hole.start.to_le_bytes());
            self.holes.update(&self.hole.end.to_le_bytes());
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn digest(parts: &[Part]) -> StoredDigest {
        let mut digest = StoredDigest::default();
        parts.iter().for_each(|part| digest.update(part));
        digest
    }

    fn bytes(bytes: &'static [u8]) -> Part {
        Part::Bytes(Bytes::from_static(bytes))
    }

    #[test]
    fn parts_may_be_cut_anywhere() {
        let whole = digest(&[Part::Zeros(10), bytes(b"abcd"), Part::Zeros(5)]);
        let cut = [Part::Zeros(3), Part::Zeros(7), bytes(b"ab"), bytes(b"cd"), Part::Zeros(5)];
        assert!(whole.equals(&digest(&cut)));
    }

    #[test]
    fn other_bytes_or_holes_have_another_digest() {
        let whole = digest(&[Part::Zeros(10), bytes(b"abcd"), Part::Zeros(5), bytes(b"e")]);
        for other in [
            [Part::Zeros(10), bytes(b"abce"), Part::Zeros(5), bytes(b"e")],
            [Part::Zeros(11), bytes(b"abcd"), Part::Zeros(4), bytes(b"e")],
            [Part::Zeros(10), bytes(b"abc"), Part::Zeros(6), bytes(b"e")],
            [Part::Zeros(10), bytes(b"abcd"), Part::Zeros(6), bytes(b"")],
            [Part::Zeros(10), bytes(b"ab"), Part::Zeros(5), bytes(b"cde")],
            [Part::Zeros(10), bytes(b"abcd"), bytes(b"\0\0\0\0\0"), bytes(b"e")],
        ] {
            assert!(!whole.equals(&digest(&other)), "{other:?}");
        }
    }

    #[test]
    fn zeros_are_hashed_like_the_bytes_that_they_stand_for() {
        let stat = Stat { size: 0, modified_ns: 0, changed_ns: 0 };
        for len in [0, 1, 64 * 1024, 200_000] {
            let mut reading = FirstReading::new(stat, true);
            reading.update(&Part::Zeros(len));
            reading.update(&bytes(b"end"));
            let len = usize::try_from(len).unwrap();
            let expected = [&vec![0; len][..], b"end"].concat();
            assert_eq!(reading.digest(), Blake3::of(&expected));
            assert_eq!(reading.n_bytes(), expected.len() as u64);
        }
    }
}

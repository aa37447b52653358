//! The file on the client: what it was when it was opened, and whether it held still.

use chrono::{DateTime, Utc};
use xxhash_rust::xxh3::Xxh3;

use crate::digest::{Digest, Hasher};

/// A source as the agent saw it when it opened it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The last part of its path, for people and for the download's extension.
    pub name: String,
    /// How many bytes will be sent. Fixed at open: a file that grows is sent up to here.
    pub size: u64,
    /// Last change of its content, in nanoseconds since 1970. A time before 1677 or after 2262 does
    /// not fit and is [`i64::MIN`] or [`i64::MAX`].
    pub modified_ns: i64,
}

impl Source {
    /// When its content was last changed, if that time fits into [`modified_ns`](Self::modified_ns).
    pub fn modified_at(&self) -> Option<DateTime<Utc>> {
        let fits = !matches!(self.modified_ns, i64::MIN | i64::MAX);
        fits.then(|| DateTime::from_timestamp_nanos(self.modified_ns))
    }
}

/// A time of a file system in nanoseconds since 1970; [`i64::MIN`] or [`i64::MAX`] if it is too early
/// or too late for that.
pub fn unix_ns(seconds: i64, nanoseconds: i64) -> i64 {
    let ns = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    i64::try_from(ns).unwrap_or(if ns < 0 { i64::MIN } else { i64::MAX })
}

/// What the file system says of an open file: read before the first byte and after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Length in bytes.
    pub size: u64,
    /// Last change of the content, in nanoseconds since 1970. A program can set it back.
    pub modified_ns: i64,
    /// Last change of the content or the inode, in nanoseconds since 1970. No program can set it.
    pub changed_ns: i64,
}

/// How hard the agent looks for a file that changes while it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Compare size and times before and after, then read the file again and compare.
    ///
    /// Needed because times alone miss writes: a store through `mmap` leaves them as they are.
    DoubleRead,
    /// Compare size and times only: a file that grows counts as changed.
    Stat,
}

/// The file changed while it was read, so its bytes belong to no single version of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the file changed while it was read")]
pub struct SourceChanged;

/// The first reading of a source: its digest, and a fingerprint to hold the second one against.
#[derive(Clone, Debug)]
pub struct SourceRead {
    before: Stat,
    digest: Hasher,
    fingerprint: Fingerprint,
}

impl SourceRead {
    /// Starts to read a file that looked like `before` when it was opened.
    pub fn new(before: Stat) -> Self {
        Self { before, digest: Hasher::default(), fingerprint: Fingerprint::default() }
    }

    /// Takes the next bytes of the first reading.
    pub fn update(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        self.fingerprint.update(bytes);
    }

    /// The SHA-256 of all bytes so far.
    pub fn digest(&self) -> Digest {
        self.digest.digest()
    }

    /// Judges the file by what it looks like `after` the last byte was read.
    ///
    /// If the file is read twice, growth alone is accepted: the requested bytes are those that
    /// existed at open, and the second reading proves that they stayed. A new owner, mode or name,
    /// as a backup sets them, is accepted too. Without a second reading any change is rejected: a
    /// file that is rewritten in place by a longer one has grown as well.
    ///
    /// # Errors
    /// The file shrank, or was written to without growing; with [`Consistency::Stat`], anything changed.
    pub fn check_stat(&self, after: Stat, how: Consistency) -> Result<(), SourceChanged> {
        let unchanged = match how {
            Consistency::Stat => after == self.before,
            Consistency::DoubleRead => {
                let grew = self.before.size < after.size;
                grew || after == Stat { changed_ns: after.changed_ns, ..self.before }
            }
        };
        if unchanged { Ok(()) } else { Err(SourceChanged) }
    }

    /// Judges the file by a second reading of the same bytes.
    ///
    /// If both agree, the bytes are the file as it stood at one instant between the two readings
    /// (barring a byte that changed and changed back).
    ///
    /// # Errors
    /// The second reading found other bytes.
    pub fn check_again(&self, second: &Fingerprint) -> Result<(), SourceChanged> {
        if self.fingerprint.agrees_with(second) { Ok(()) } else { Err(SourceChanged) }
    }
}

/// A cheap fingerprint (XXH3, 128 bits) of bytes read in order: it finds accidents, not forgeries.
#[derive(Clone, Default)]
pub struct Fingerprint(Box<Xxh3>);

impl Fingerprint {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Whether both were fed the same bytes.
    pub fn agrees_with(&self, other: &Self) -> bool {
        self.value() == other.value()
    }

    fn value(&self) -> u128 {
        self.0.digest128()
    }
}

impl std::fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fingerprint({:032x})", self.value())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: Stat = Stat { size: 10, modified_ns: 5, changed_ns: 6 };

    #[test]
    fn a_time_that_does_not_fit_is_absent_and_never_another() {
        let check = |seconds, nanoseconds, expected: Option<&str>| {
            let modified_ns = unix_ns(seconds, nanoseconds);
            let source = Source { name: "a".to_owned(), size: 0, modified_ns };
            let found = source.modified_at().map(|at| at.to_rfc3339());
            assert_eq!(found.as_deref(), expected, "{seconds} {nanoseconds}");
        };
        check(-1, 0, Some("1969-12-31T23:59:59+00:00"));
        check(-1_788_000_000, 0, Some("1913-05-05T13:20:00+00:00"));
        check(9_223_372_036, 0, Some("2262-04-11T23:47:16+00:00"));
        check(-9_223_372_037, 999_999_999, Some("1677-09-21T00:12:43.999999999+00:00"));
        check(9_223_372_037, 0, None);
        check(1 << 40, 5, None);
        check(-(1 << 40), 5, None);
        check(i64::MIN, 999_999_999, None);
    }

    #[test]
    fn growth_alone_is_fine_where_a_second_reading_follows_and_nothing_else_is() {
        for (how, grown) in
            [(Consistency::Stat, Err(SourceChanged)), (Consistency::DoubleRead, Ok(()))]
        {
            let check = |after, expected| {
                assert_eq!(SourceRead::new(BEFORE).check_stat(after, how), expected)
            };
            check(BEFORE, Ok(()));
            check(Stat { size: 11, modified_ns: 9, changed_ns: 9 }, grown);
            check(Stat { size: 9, ..BEFORE }, Err(SourceChanged));
            check(Stat { modified_ns: 7, ..BEFORE }, Err(SourceChanged));
        }
    }

    #[test]
    fn a_change_of_the_inode_alone_counts_only_if_nobody_reads_again() {
        let linked = Stat { changed_ns: 7, ..BEFORE };
        let check = |how| SourceRead::new(BEFORE).check_stat(linked, how);
        assert_eq!(check(Consistency::Stat), Err(SourceChanged));
        assert_eq!(check(Consistency::DoubleRead), Ok(()));
    }

    #[test]
    fn a_second_reading_that_differs_is_a_change() {
        let mut first = SourceRead::new(BEFORE);
        first.update(b"0123456789");
        let mut same = Fingerprint::default();
        same.update(b"01234");
        same.update(b"56789");
        assert_eq!(first.check_again(&same), Ok(()));
        let mut other = Fingerprint::default();
        other.update(b"0123456780");
        assert_eq!(first.check_again(&other), Err(SourceChanged));
    }
}

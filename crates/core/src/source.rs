//! The file on the client: its metadata when it was opened, and whether it stayed unchanged.

use chrono::{DateTime, Utc};

use crate::file_digest::{Blake3, Blake3Hasher};

/// The metadata of a source when the agent opened it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The last part of its path. The download gets its extension.
    pub name: String,
    /// The number of bytes to send. If the file grows, the new bytes are not sent.
    pub size: u64,
    /// Last change of the content, in nanoseconds since 1970. A time before 1677 or after 2262 does
    /// not fit: it becomes [`i64::MIN`] or [`i64::MAX`].
    pub modified_ns: i64,
}

impl Source {
    /// Returns when the content was last changed, if the time fits into
    /// [`modified_ns`](Self::modified_ns).
    pub fn modified_at(&self) -> Option<DateTime<Utc>> {
        let fits = !matches!(self.modified_ns, i64::MIN | i64::MAX);
        fits.then(|| DateTime::from_timestamp_nanos(self.modified_ns))
    }
}

/// Converts a time of a file system to nanoseconds since 1970; [`i64::MIN`] or [`i64::MAX`] if it
/// does not fit.
pub fn unix_ns(seconds: i64, nanoseconds: i64) -> i64 {
    let ns = i128::from(seconds) * 1_000_000_000 + i128::from(nanoseconds);
    i64::try_from(ns).unwrap_or(if ns < 0 { i64::MIN } else { i64::MAX })
}

/// The metadata of an open file. The agent compares it before the first and after the last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The length of the file in bytes.
    pub size: u64,
    /// Last change of the content, in nanoseconds since 1970. A program can set it back.
    pub modified_ns: i64,
    /// Last change of the content or the inode, in nanoseconds since 1970. No program can set it.
    pub changed_ns: i64,
}

/// How the agent detects that a file changes while it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consistency {
    /// Compare size and times before and after, then read the file again and compare.
    ///
    /// Times alone do not show all writes: a write through `mmap` may leave them unchanged.
    DoubleRead,
    /// Compare size and times only: a file that grows counts as changed.
    Stat,
}

/// The file changed while it was read, so its bytes belong to no single version of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the file changed while it was read")]
pub struct SourceChange;

/// The first reading of a source, to compare with the second reading.
#[derive(Clone, Debug)]
pub struct SourceRead {
    before: Stat,
    hasher: Blake3Hasher,
}

impl SourceRead {
    /// Starts with the metadata of the file when it was opened.
    pub fn new(before: Stat) -> Self {
        Self { before, hasher: Blake3Hasher::default() }
    }

    /// Adds the next bytes of the first reading.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// Returns the digest of all bytes so far.
    pub fn digest(&self) -> Blake3 {
        self.hasher.digest()
    }

    /// Compares the metadata `after` the last byte was read with the metadata at open.
    ///
    /// If the file is read twice, growth alone is accepted: only the bytes that existed at open are
    /// sent, and the second reading shows that they stayed unchanged. A new owner, mode or name, as
    /// a backup sets them, is accepted too. Without a second reading every change is rejected,
    /// because a file that was rewritten in place has grown, too.
    ///
    /// # Errors
    /// The file shrank, or was written to without growing; with [`Consistency::Stat`], any change.
    pub fn check_stat(&self, after: Stat, how: Consistency) -> Result<(), SourceChange> {
        let unchanged = match how {
            Consistency::Stat => after == self.before,
            Consistency::DoubleRead => {
                let grew = self.before.size < after.size;
                grew || after == Stat { changed_ns: after.changed_ns, ..self.before }
            }
        };
        if unchanged { Ok(()) } else { Err(SourceChange) }
    }

    /// Compares the first reading with a second reading of the same bytes.
    ///
    /// If they are equal, the bytes are the content of the file at one instant between the two
    /// readings, unless a byte changed and changed back.
    ///
    /// # Errors
    /// The second reading returned other bytes.
    pub fn check_again(&self, second: Blake3) -> Result<(), SourceChange> {
        if self.digest() == second { Ok(()) } else { Err(SourceChange) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEFORE: Stat = Stat { size: 10, modified_ns: 5, changed_ns: 6 };

    #[test]
    fn a_time_that_does_not_fit_is_absent() {
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
    fn only_growth_is_accepted_and_only_before_a_second_reading() {
        for (how, grown) in
            [(Consistency::Stat, Err(SourceChange)), (Consistency::DoubleRead, Ok(()))]
        {
            let check = |after, expected| {
                assert_eq!(SourceRead::new(BEFORE).check_stat(after, how), expected);
            };
            check(BEFORE, Ok(()));
            check(Stat { size: 11, modified_ns: 9, changed_ns: 9 }, grown);
            check(Stat { size: 9, ..BEFORE }, Err(SourceChange));
            check(Stat { modified_ns: 7, ..BEFORE }, Err(SourceChange));
        }
    }

    #[test]
    fn a_change_of_the_inode_alone_counts_only_without_a_second_reading() {
        let linked = Stat { changed_ns: 7, ..BEFORE };
        let check = |how| SourceRead::new(BEFORE).check_stat(linked, how);
        assert_eq!(check(Consistency::Stat), Err(SourceChange));
        assert_eq!(check(Consistency::DoubleRead), Ok(()));
    }

    #[test]
    fn a_second_reading_that_differs_is_a_change() {
        let mut first = SourceRead::new(BEFORE);
        first.update(b"0123456789");
        let mut same = Blake3Hasher::default();
        same.update(b"01234");
        same.update(b"56789");
        assert_eq!(first.check_again(same.digest()), Ok(()));
        assert_eq!(first.check_again(Blake3::of(b"0123456780")), Err(SourceChange));
    }
}

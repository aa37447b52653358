//! The holes of a sparse file: parts that its disk does not store, and that read as zeros.
//!
//! The file system is queried each time, and its answer is never kept: between the query and the end of
//! the upload a program may write into a hole. The second reading finds that, as it finds any change.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::MetadataExt as _;

use filepull_core::CHUNK_LEN;
use rustix::fs::{SeekFrom, seek};
use rustix::io::Errno;

/// Minimum length of a hole, in bytes. Shorter ones are read like stored bytes: they save less than
/// their messages and their holes on the server cost.
const MIN_HOLE_LEN: u64 = CHUNK_LEN as u64;

/// Maximum number of stretches of a file that are counted when it is opened, which takes about 0.3 s. A
/// file with more is sent without holes.
const MAX_STRETCHES: usize = 1 << 17;

/// The unit of the number of blocks in the metadata of a file (POSIX leaves it open, Linux has 512).
const STAT_BLOCK_LEN: u64 = 512;

/// Consecutive bytes of a file, up to this offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stretch {
    Stored { end: u64 },
    Hole { end: u64 },
}

/// Returns the number of the first `size` bytes of `file` that are not in its holes. It equals `size` if
/// the file has no hole that pays.
pub(crate) fn stored_len(file: &File, size: u64) -> u64 {
    let n_blocks = file.metadata().map_or(u64::MAX, |metadata| metadata.blocks());
    if size <= n_blocks.saturating_mul(STAT_BLOCK_LEN) {
        return size;
    }
    let mut stored = 0;
    let mut offset = 0;
    for _ in 0..MAX_STRETCHES {
        if offset == size {
            return stored;
        }
        offset = match next_stretch(file, offset..size) {
            Stretch::Hole { end } => end,
            Stretch::Stored { end } => {
                stored += end - offset;
                end
            }
        };
    }
    size
}

/// Returns the stretch at the start of `range`, which must not be empty. It ends within the range.
pub(crate) fn next_stretch(file: &File, range: Range<u64>) -> Stretch {
    let end = next_data(file, &range);
    if MIN_HOLE_LEN <= end - range.start {
        return Stretch::Hole { end };
    }
    let mut stored_end = end;
    while stored_end < range.end {
        let hole = next_hole(file, &(stored_end..range.end));
        let data = if hole < range.end { next_data(file, &(hole..range.end)) } else { hole };
        if MIN_HOLE_LEN <= data - hole {
            return Stretch::Stored { end: hole };
        }
        stored_end = data;
    }
    Stretch::Stored { end: stored_end }
}

/// Returns the offset of the first stored byte of `range`, or its end.
fn next_data(file: &File, range: &Range<u64>) -> u64 {
    match seek(file, SeekFrom::Data(range.start)) {
        Ok(offset) => offset.clamp(range.start, range.end),
        // No byte is stored from here to the end of the file, or the file was truncated, which its
        // metadata shows later.
        Err(Errno::NXIO) => range.end,
        Err(_not_supported) => range.start,
    }
}

/// Returns the offset of the first hole of `range`, or its end.
fn next_hole(file: &File, range: &Range<u64>) -> u64 {
    match seek(file, SeekFrom::Hole(range.start)) {
        // A hole at the start would mean that the file changes now: its bytes are read.
        Ok(offset) if range.start < offset => offset.min(range.end),
        Ok(_) | Err(_) => range.end,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    const KIB: u64 = 1024;

    /// Creates a file of `size` bytes that stores only the given ranges.
    fn sparse_file(size: u64, stored: &[Range<u64>]) -> File {
        let file = tempfile::tempfile().unwrap();
        file.set_len(size).unwrap();
        for range in stored {
            let len = usize::try_from(range.end - range.start).unwrap();
            file.write_all_at(&vec![7; len], range.start).unwrap();
        }
        file
    }

    fn whole_file(size: u64) -> File {
        let whole = 0..size;
        sparse_file(size, std::slice::from_ref(&whole))
    }

    fn stretches(file: &File, size: u64) -> Vec<Stretch> {
        let mut found = Vec::new();
        let mut offset = 0;
        while offset < size {
            let stretch = next_stretch(file, offset..size);
            let (Stretch::Stored { end } | Stretch::Hole { end }) = stretch;
            assert!(offset < end && end <= size, "{stretch:?} at {offset}");
            found.push(stretch);
            offset = end;
        }
        found
    }

    #[test]
    fn a_file_is_divided_into_stored_bytes_and_holes() {
        let size = 1024 * KIB + 5;
        let file = sparse_file(size, &[128 * KIB..256 * KIB, 512 * KIB..516 * KIB]);
        let expected = [
            Stretch::Hole { end: 128 * KIB },
            Stretch::Stored { end: 256 * KIB },
            Stretch::Hole { end: 512 * KIB },
            Stretch::Stored { end: 516 * KIB },
            Stretch::Hole { end: size },
        ];
        assert_eq!(stretches(&file, size), expected);
        assert_eq!(stored_len(&file, size), 132 * KIB);
    }

    #[test]
    fn a_short_hole_counts_as_stored() {
        let size = 256 * KIB;
        let file = sparse_file(size, &[0..64 * KIB, 96 * KIB..200 * KIB]);
        assert_eq!(stretches(&file, size), [Stretch::Stored { end: size }]);
        assert_eq!(stored_len(&file, size), size);
    }

    #[test]
    fn a_file_without_holes_is_stored_whole() {
        for size in [0, 1, 100 * KIB] {
            let file = whole_file(size);
            assert_eq!(stored_len(&file, size), size);
        }
        let size = 100 * KIB;
        let all = whole_file(size);
        assert_eq!(stretches(&all, size), [Stretch::Stored { end: size }]);
        let none = sparse_file(size, &[]);
        assert_eq!(stretches(&none, size), [Stretch::Hole { end: size }]);
        assert_eq!(stored_len(&none, size), 0);
    }

    #[test]
    fn every_stretch_of_a_truncated_file_ends_within_the_range() {
        let size = 256 * KIB;
        let file = whole_file(size);
        file.set_len(4 * KIB).unwrap();
        stretches(&file, size);
    }
}

//! Clones (reflinks): a partial shares whole blocks with its base, on a file system that can do that
//! (XFS, Btrfs). They need no space and no write.

use std::fs::File;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

/// Minimum length of a clone in bytes. A shorter copy is written, because each clone changes the
/// metadata of two files.
const MIN_CLONE_LEN: usize = 64 * 1024;

/// How the bytes of a base get into a partial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CopyMode {
    /// Whole blocks are shared with the base.
    Cloned,
    /// All bytes are written.
    Written,
}

impl CopyMode {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Cloned => "cloned",
            Self::Written => "written",
        }
    }

    /// Returns a phrase for people.
    pub(crate) fn as_text(self) -> &'static str {
        match self {
            Self::Cloned => "cloned: a file shares the blocks that it has from its last download",
            Self::Written => "written: files share no blocks on this disk",
        }
    }
}

/// Whether the disk clones.
#[derive(Debug, Default)]
pub(crate) struct Clones {
    /// The length of its blocks in bytes. 0 if it does not clone.
    block_len: AtomicU64,
}

impl Clones {
    pub(crate) fn mode(&self) -> CopyMode {
        match self.block_len.load(Ordering::Relaxed) {
            0 => CopyMode::Written,
            _ => CopyMode::Cloned,
        }
    }

    /// Clones `file` to a new file with this name, and remembers whether that worked.
    pub(crate) fn probe(&self, folder: &OwnedFd, name: &str, file: &File) {
        let block_len = probe(folder, name, file).unwrap_or(0);
        self.block_len.store(block_len, Ordering::Relaxed);
    }

    /// Returns which bytes of a copy are whole blocks of both files; none if a clone does not pay.
    pub(crate) fn blocks_of(&self, to: u64, from: u64, len: usize) -> Option<Range<usize>> {
        let block_len = usize::try_from(self.block_len.load(Ordering::Relaxed)).ok()?;
        blocks(to, from, len, block_len).filter(|blocks| MIN_CLONE_LEN <= blocks.len())
    }
}

/// Returns the length of a block of a file system that clones.
fn probe(folder: &OwnedFd, name: &str, file: &File) -> Result<u64, Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let clone = rustix::fs::openat(folder, name, flags, Mode::RUSR | Mode::WUSR)?;
    // Not `copy_file_range`, which copies the bytes if it cannot clone them.
    rustix::fs::ioctl_ficlone(&clone, file)?;
    Ok(rustix::fs::fstatvfs(folder)?.f_bsize)
}

fn blocks(to: u64, from: u64, len: usize, block_len: usize) -> Option<Range<usize>> {
    let to_start = usize::try_from(to.checked_rem(block_len as u64)?).ok()?;
    let from_start = usize::try_from(from.checked_rem(block_len as u64)?).ok()?;
    let start = to_start.next_multiple_of(block_len) - to_start;
    let n_bytes = len.checked_sub(start)?;
    (to_start == from_start).then_some(start..start + (n_bytes - n_bytes % block_len))
}

/// Clones bytes of `base` at `from` to `file` at `to`. The file system copies them if it cannot clone
/// them. Returns how many bytes `file` has then: fewer than `len` if `base` ends before.
pub(crate) fn clone_blocks(
    base: &File,
    from: u64,
    file: &File,
    to: u64,
    len: usize,
) -> Result<usize, Errno> {
    let mut from = from;
    let mut to = to;
    let mut n_left = len;
    while 0 < n_left {
        match rustix::fs::copy_file_range(base, Some(&mut from), file, Some(&mut to), n_left) {
            Ok(0) => break,
            Ok(n_cloned) => n_left -= n_cloned,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(len - n_left)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_blocks_at_equal_distances_are_cloned() {
        let check = |to, from, len, expected: Option<Range<usize>>| {
            assert_eq!(blocks(to, from, len, 4096), expected, "{to} {from} {len}");
        };
        check(0, 0, 4096, Some(0..4096));
        check(8192, 4096, 10_000, Some(0..8192));
        check(4000, 8096, 10_000, Some(96..8288));
        check(4000, 8096, 96, Some(96..96));
        check(4000, 8096, 95, None);
        check(4000, 8097, 10_000, None);
        assert_eq!(blocks(0, 0, 4096, 0), None, "the disk does not clone");
    }
}

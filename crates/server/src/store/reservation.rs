//! The disk space that a partial has before its bytes.

use std::fs::File;
use std::io;
use std::ops::Range;

use rustix::fs::FallocateFlags;
use rustix::io::Errno;

/// The space that is reserved for the bytes of a file that are appended next.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Reservation {
    /// The end of the space, as an offset in the file. 0: nothing is reserved.
    end: u64,
}

impl Reservation {
    /// Reserves `n_bytes` more at this offset. The length of the file stays.
    pub(crate) fn extend(&mut self, file: &File, offset: u64, n_bytes: u64) -> io::Result<()> {
        if n_bytes == 0 {
            return Ok(());
        }
        match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, offset, n_bytes) {
            Ok(()) => self.end = self.end.max(offset + n_bytes),
            // Some file systems cannot reserve space. Then an append fails on a full disk.
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
            Err(errno) => return Err(errno.into()),
        }
        Ok(())
    }

    /// Moves the space under zeros that were just appended behind them: the file stays sparse, and as much
    /// is reserved for its next bytes as before.
    pub(crate) fn move_behind(&mut self, file: &File, zeros: Range<u64>) -> io::Result<()> {
        let n_bytes = self.end.saturating_sub(zeros.start).min(zeros.end - zeros.start);
        if n_bytes == 0 {
            return Ok(());
        }
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        // A file system that cannot release the space stores the zeros in it.
        match rustix::fs::fallocate(file, flags, zeros.start, n_bytes) {
            Ok(()) => self.extend(file, self.end.max(zeros.end), n_bytes),
            Err(_) => Ok(()),
        }
    }

    /// Returns whether space behind a file of `len` bytes is reserved.
    pub(crate) fn reaches_behind(&self, len: u64) -> bool {
        len < self.end
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt as _;

    use super::*;

    #[test]
    fn the_space_under_zeros_moves_behind_them() {
        let mib = 1_u64 << 20;
        let file = tempfile::tempfile().unwrap();
        let allocated = || file.metadata().unwrap().blocks() * 512;
        let mut reservation = Reservation::default();
        reservation.extend(&file, 0, 2 * mib).unwrap();
        if allocated() == 0 {
            println!("skipped: this file system reserves no space");
            return;
        }
        for (start, end) in [(0, mib), (mib, 10 * mib), (10 * mib, 11 * mib)] {
            file.set_len(end).unwrap();
            reservation.move_behind(&file, start..end).unwrap();
            assert_eq!(allocated(), 2 * mib, "after the zeros up to {end}");
            assert!(reservation.reaches_behind(end + 2 * mib - 1));
            assert!(!reservation.reaches_behind(end + 2 * mib));
        }
    }
}

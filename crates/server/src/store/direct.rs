//! Direct writes (`O_DIRECT`): the bytes of a large partial go to the disk from buffers of this
//! process. That saves the processor time of the page cache, and leaves its pages to other programs.
//!
//! A direct write needs an aligned offset, length and address. So whole blocks go directly, and the
//! bytes before the first and after the last whole block of an append go through the page cache. Both
//! kinds of bytes are in the file when an append returns, so a sync is the same for both, nothing waits
//! in memory, and no byte is written past the end. A block is at least 4 KiB. Where a page of the cache
//! is larger and has bytes of both kinds, the kernel writes it back before a direct write beside them.
//!
//! The file descriptor is in direct mode only during one call. Everything else (a sync beside the
//! appends, buffered reads) finds it as if there were no direct writes.

use std::fs::File;
use std::io::{self, IoSlice, Seek as _, SeekFrom};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{AtFlags, OFlags, StatxFlags};
use rustix::io::Errno;
use tracing::warn;

use super::buffers::{BufferPool, MAX_ALIGN, PooledBuffer};
use super::read_back::read_all;

/// Minimum length in bytes of a partial that is written directly. A smaller one is written to the
/// disk once, by the sync at its end, and is read back from the page cache.
pub(crate) const DIRECT_FROM: u64 = 1024 * 1024;

/// Minimum alignment, also of a file system that does not report one. If that needs more, it refuses.
const MIN_ALIGN: usize = 4096;

/// How the large partials of a disk are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WriteMode {
    /// From buffers of this process to the disk.
    Direct,
    /// Through the page cache of the system, as small partials always are.
    Buffered,
}

impl WriteMode {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Buffered => "buffered",
        }
    }

    /// Returns a phrase for people.
    pub(crate) fn as_text(self) -> &'static str {
        match self {
            Self::Direct => "direct: large files bypass the page cache",
            Self::Buffered => "buffered: this disk refuses direct writes",
        }
    }
}

/// What the direct writes to one disk share.
#[derive(Debug, Default)]
pub(crate) struct DirectWrites {
    /// The file system has refused once. It is not tried again.
    refused: AtomicBool,
    buffers: BufferPool,
}

impl DirectWrites {
    pub(crate) fn mode(&self) -> WriteMode {
        if self.refused.load(Ordering::Relaxed) { WriteMode::Buffered } else { WriteMode::Direct }
    }

    /// Writes a block to an empty file, and remembers if the file system refuses that. Another
    /// failure, as on a full disk, shows nothing.
    pub(crate) fn probe(self: &Arc<Self>, file: &File) {
        let Some(direct) = DirectFile::new(self, file) else {
            return self.refused.store(true, Ordering::Relaxed);
        };
        let buffer = self.buffers.take();
        if direct.write(file, &buffer[..direct.align], 0).is_err_and(|error| is_refusal(&error)) {
            self.refused.store(true, Ordering::Relaxed);
        }
    }

    /// Returns how a partial of `len` bytes is written directly; none if it is not.
    pub(crate) fn of_partial(self: &Arc<Self>, file: &File, len: u64) -> Option<DirectFile> {
        if len < DIRECT_FROM || self.mode() == WriteMode::Buffered {
            return None;
        }
        DirectFile::new(self, file)
    }

    /// Remembers that the file system refuses, and logs it once.
    fn refuse(&self, error: &io::Error) {
        if !self.refused.swap(true, Ordering::Relaxed) {
            warn!(
                event = "direct_writes.refused",
                %error, "the disk refuses direct writes; large files use the page cache from now on"
            );
        }
    }
}

/// A file that is written directly.
#[derive(Clone, Debug)]
pub(crate) struct DirectFile {
    disk: Arc<DirectWrites>,
    /// Offsets and lengths are multiples of this number of bytes.
    align: usize,
}

impl DirectFile {
    fn new(disk: &Arc<DirectWrites>, file: &File) -> Option<Self> {
        alignment(file).map(|align| Self { disk: Arc::clone(disk), align })
    }

    /// Appends chunks to a file of `end` bytes.
    pub(crate) fn append<B: AsRef<[u8]>>(
        &self,
        file: &File,
        end: u64,
        chunks: &[B],
    ) -> io::Result<()> {
        let mut gather = Gather::new(self, file, end);
        chunks.iter().try_for_each(|chunk| gather.push(chunk.as_ref()))?;
        gather.flush()
    }

    /// Reads the whole file from the disk, in order.
    pub(crate) fn read_back(
        &self,
        mut file: &File,
        take: &mut impl FnMut(&[u8]),
    ) -> io::Result<()> {
        let offset = self.read_blocks(file, take)?;
        // The rest after a refusal. Otherwise only the end of the file is found.
        file.seek(SeekFrom::Start(offset))?;
        read_all(file, take)
    }

    /// Reads from the start until the end of the file or a refusal. Returns the number of bytes.
    fn read_blocks(&self, file: &File, take: &mut impl FnMut(&[u8])) -> io::Result<u64> {
        let mut buffer = self.disk.buffers.take();
        let mut offset = 0;
        while self.disk.mode() == WriteMode::Direct {
            let read = in_direct_mode(file, || rustix::io::pread(file, &mut *buffer, offset));
            match read {
                Ok(0) => break,
                Ok(len) => {
                    take(&buffer[..len]);
                    offset += len as u64;
                    if !len.is_multiple_of(self.align) {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_refusal(&error) => self.disk.refuse(&error),
                Err(error) => return Err(error),
            }
        }
        Ok(offset)
    }

    /// Writes whole blocks at an aligned offset. After a refusal, and from then on, they go through
    /// the page cache.
    fn write_blocks(&self, file: &File, blocks: &[u8], offset: u64) -> io::Result<()> {
        let mut left = blocks;
        let mut end = offset;
        while !left.is_empty() && self.disk.mode() == WriteMode::Direct {
            match self.write(file, left, end) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(len) => {
                    left = &left[len..];
                    end += len as u64;
                    if !len.is_multiple_of(self.align) {
                        break;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if is_refusal(&error) => self.disk.refuse(&error),
                Err(error) => return Err(error),
            }
        }
        write_all(file, &mut [IoSlice::new(left)], end)
    }

    /// Makes one direct write. Returns the number of bytes written.
    fn write(&self, file: &File, blocks: &[u8], offset: u64) -> io::Result<usize> {
        in_direct_mode(file, || rustix::io::pwrite(file, blocks, offset))
    }
}

/// Gathers the chunks of one append into blocks.
struct Gather<'a> {
    direct: &'a DirectFile,
    file: &'a File,
    /// Number of bytes in the file.
    written: u64,
    buffer: PooledBuffer<'a>,
    /// Where the gathered bytes begin in the buffer. An offset in the buffer has the same distance to
    /// the next block as the offset in the file.
    start: usize,
    end: usize,
}

impl<'a> Gather<'a> {
    fn new(direct: &'a DirectFile, file: &'a File, written: u64) -> Self {
        // The remainder is below `align`, so it fits.
        let start = usize::try_from(written % direct.align as u64).unwrap_or(0);
        Self { direct, file, written, buffer: direct.disk.buffers.take(), start, end: start }
    }

    fn push(&mut self, chunk: &[u8]) -> io::Result<()> {
        let mut left = chunk;
        while !left.is_empty() {
            if self.end == self.buffer.len() {
                self.flush()?;
            }
            let len = left.len().min(self.buffer.len() - self.end);
            let (now, later) = left.split_at(len);
            self.buffer[self.end..][..len].copy_from_slice(now);
            self.end += len;
            left = later;
        }
        Ok(())
    }

    /// Writes what is gathered: whole blocks directly, the bytes before and after them buffered.
    fn flush(&mut self) -> io::Result<()> {
        let align = self.direct.align;
        let first_block = self.start.next_multiple_of(align).min(self.end);
        let last_block = (self.end - self.end % align).max(first_block);
        self.write_buffered(self.start..first_block)?;
        let blocks = &self.buffer[first_block..last_block];
        self.direct.write_blocks(self.file, blocks, self.written)?;
        self.written += blocks.len() as u64;
        self.write_buffered(last_block..self.end)?;
        // A full buffer ends with a block. Only the last flush may not.
        (self.start, self.end) = (0, 0);
        Ok(())
    }

    fn write_buffered(&mut self, range: Range<usize>) -> io::Result<()> {
        let bytes = &self.buffer[range];
        write_all(self.file, &mut [IoSlice::new(bytes)], self.written)?;
        self.written += bytes.len() as u64;
        Ok(())
    }
}

/// Writes slices at this offset of the file.
pub(crate) fn write_all(
    file: &File,
    mut slices: &mut [IoSlice<'_>],
    mut offset: u64,
) -> io::Result<()> {
    while slices.iter().any(|slice| !slice.is_empty()) {
        match rustix::io::pwritev(file, slices, offset) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                offset += written as u64;
                IoSlice::advance_slices(&mut slices, written);
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Makes one call with the file descriptor in direct mode.
fn in_direct_mode<T>(file: &File, call: impl FnOnce() -> Result<T, Errno>) -> io::Result<T> {
    // This sets the flags that may be changed, of which a partial has no other.
    rustix::fs::fcntl_setfl(file, OFlags::DIRECT)?;
    let result = call();
    // If this fails, the call may have succeeded: it must not look like a refusal.
    rustix::fs::fcntl_setfl(file, OFlags::empty()).map_err(io::Error::other)?;
    Ok(result?)
}

/// Returns whether the file system refuses direct mode, or a call in it. It then did nothing.
fn is_refusal(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::INVAL | Errno::OPNOTSUPP))
}

/// Returns the alignment that direct writes to this file need, at least [`MIN_ALIGN`]; none if the
/// file system reports that it supports none, or needs more than the buffers have.
fn alignment(file: &File) -> Option<usize> {
    let flags = StatxFlags::DIOALIGN;
    let needed = match rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, flags) {
        Ok(stat) if stat.stx_mask & flags.bits() != 0 => {
            // A file system that refuses reports an alignment of zero.
            let offset = Some(stat.stx_dio_offset_align).filter(|&align| 0 < align)?;
            usize::try_from(offset.max(stat.stx_dio_mem_align)).ok()?
        }
        // Kernels before 6.1 and some file systems do not report it.
        _ => MIN_ALIGN,
    };
    let align = needed.max(MIN_ALIGN);
    (align.is_power_of_two() && align <= MAX_ALIGN).then_some(align)
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    fn direct_file(align: usize) -> DirectFile {
        DirectFile { disk: Arc::default(), align }
    }

    #[test]
    fn after_a_refusal_midway_the_page_cache_is_used() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("partial");
        let file = OpenOptions::new().read(true).write(true).create_new(true).open(&path).unwrap();
        // The system refuses what is aligned to one byte only.
        let direct = direct_file(1);
        let blocks = vec![1; MIN_ALIGN];
        direct.append(&file, 0, &[&blocks]).unwrap();
        direct.append(&file, MIN_ALIGN as u64, &[[2; 1000]]).unwrap();
        let stat = rustix::fs::statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN).unwrap();
        let is_strict = 1 < stat.stx_dio_offset_align;
        assert_eq!(direct.disk.mode() == WriteMode::Buffered, is_strict);
        direct.append(&file, MIN_ALIGN as u64 + 1000, &[[3; 10]]).unwrap();
        let expected = [blocks, vec![2; 1000], vec![3; 10]].concat();
        assert!(std::fs::read(&path).unwrap() == expected);
        let mut found = Vec::new();
        direct.read_back(&file, &mut |bytes: &[u8]| found.extend_from_slice(bytes)).unwrap();
        assert!(found == expected, "read back after the refusal");
        let next = direct.disk.of_partial(&file, DIRECT_FROM);
        assert_eq!(next.is_none(), is_strict, "the next partial tries again");
    }

    #[test]
    fn a_failed_write_is_no_refusal() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("partial");
        std::fs::write(&path, "").unwrap();
        let read_only = File::open(&path).unwrap();
        let direct = direct_file(MIN_ALIGN);
        let error = direct.append(&read_only, 0, &[vec![1; BLOCKS_LEN]]).unwrap_err();
        assert_eq!(Errno::from_io_error(&error), Some(Errno::BADF));
        assert_eq!(direct.disk.mode(), WriteMode::Direct);
        let in_direct_mode = rustix::fs::fcntl_getfl(&read_only).unwrap().contains(OFlags::DIRECT);
        assert!(!in_direct_mode, "the file descriptor stays in direct mode");
    }

    const BLOCKS_LEN: usize = 4 * MIN_ALIGN;

    #[test]
    fn only_a_large_partial_is_written_directly() {
        let file = tempfile::tempfile().unwrap();
        let disk: Arc<DirectWrites> = Arc::default();
        assert!(disk.of_partial(&file, DIRECT_FROM - 1).is_none());
        let direct = disk.of_partial(&file, DIRECT_FROM);
        assert_eq!(direct.map(|direct| direct.align), alignment(&file));
    }
}

//! Reads files: whole, or a part.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::num::NonZeroU64;

use filepull_core::file_digest::{Blake3, Blake3Hasher};
use rustix::fs::Advice;
use rustix::io::Errno;

/// Reads an open file from its start and returns its length in bytes and its digest.
pub(crate) fn digest_of(mut file: &File) -> io::Result<(u64, Blake3)> {
    let mut hasher = Blake3Hasher::default();
    let mut len = 0;
    file.seek(SeekFrom::Start(0))?;
    read_all(file, &mut |bytes: &[u8]| {
        hasher.update(bytes);
        len += bytes.len() as u64;
    })?;
    Ok((len, hasher.digest()))
}

/// Reads a file from its current position to its end.
pub(crate) fn read_all(mut file: &File, take: &mut impl FnMut(&[u8])) -> io::Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(len) => take(&buffer[..len]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads bytes at this offset, and drops them from the page cache. Returns the number of bytes: fewer than
/// `buffer` has only at the end of the file.
pub(crate) fn read_uncached(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut len = 0;
    while len < buffer.len() {
        match rustix::io::pread(file, &mut buffer[len..], offset + len as u64) {
            Ok(0) => break,
            Ok(n_read) => len += n_read,
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    if let Some(n_read) = NonZeroU64::new(len as u64) {
        // Without this hint only the page cache is larger.
        let _ = rustix::fs::fadvise(file, offset, Some(n_read), Advice::DontNeed);
    }
    Ok(len)
}

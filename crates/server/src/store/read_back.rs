//! Reads files from their start to their end.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};

use filepull_core::digest::{Digest, Hasher};

/// The digest and the length of a whole open file, read from its start.
///
/// # Errors
/// The disk failed.
pub(crate) fn digest_of(mut file: &File) -> io::Result<(u64, Digest)> {
    let mut hasher = Hasher::default();
    let mut len = 0;
    file.seek(SeekFrom::Start(0))?;
    read_all(file, &mut |bytes: &[u8]| {
        hasher.update(bytes);
        len += bytes.len() as u64;
    })?;
    Ok((len, hasher.digest()))
}

/// Hands out everything that follows in a file.
///
/// # Errors
/// The disk failed.
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

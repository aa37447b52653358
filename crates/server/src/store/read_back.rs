//! Reads whole files.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};

use filepull_core::file_digest::{Blake3, Blake3Hasher};

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

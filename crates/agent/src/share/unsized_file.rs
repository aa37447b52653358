//! Files whose size the system does not know before they are read: `/proc` and some FUSE file
//! systems report 0, `/sys` reports 4096.
//!
//! Such a file is read into memory when it is opened, and that content is sent. A file that needs
//! several reads is read twice and compared, because the system generates its content on each read,
//! and its times are meaningless.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use bytes::Bytes;
use filepull_core::source::{Stat, unix_ns};

use super::error::OpenError;

/// Maximum length of a file of unknown size, in bytes: it is kept in memory.
const MAX_LEN: usize = 1024 * 1024;

/// Returns the metadata of `file`, and its content if the metadata is unreliable.
pub(crate) fn inspect(file: &File) -> Result<(Stat, Option<Bytes>), OpenError> {
    let before = stat(file).map_err(OpenError::System)?;
    let has_blocks = file.metadata().map_err(OpenError::System)?.blocks() > 0;
    // A file with data but no block is sparse, stored in its inode, or generated.
    if before.size > 0 && (has_blocks || before.size > MAX_LEN as u64) {
        return Ok((before, None));
    }
    let (content, n_reads) = read(file)?;
    let after = stat(file).map_err(OpenError::System)?;
    if content.len() as u64 == after.size || before.size != after.size {
        return Ok((after, None));
    }
    if content.len() > MAX_LEN {
        return Err(OpenError::TooLong { limit_bytes: MAX_LEN });
    }
    if n_reads > 1 && read(file)?.0 != content {
        return Err(OpenError::Changed);
    }
    Ok((after, Some(content.into())))
}

/// Reads to the end, or just past the limit. Returns the content and the number of reads that
/// returned bytes.
fn read(file: &File) -> Result<(Vec<u8>, usize), OpenError> {
    let mut content = Vec::new();
    let mut buffer = vec![0; MAX_LEN / 8];
    let mut n_reads = 0;
    while content.len() <= MAX_LEN {
        match file.read_at(&mut buffer, content.len() as u64) {
            Ok(0) => break,
            Ok(len) => content.extend_from_slice(&buffer[..len]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(OpenError::System(error)),
        }
        n_reads += 1;
    }
    Ok((content, n_reads))
}

/// Returns the metadata of an open file.
pub(crate) fn stat(file: &File) -> io::Result<Stat> {
    let metadata = file.metadata()?;
    Ok(Stat {
        size: metadata.len(),
        modified_ns: unix_ns(metadata.mtime(), metadata.mtime_nsec()),
        changed_ns: unix_ns(metadata.ctime(), metadata.ctime_nsec()),
    })
}

//! A complete file: what the records and the disk compare with each other.

use crate::file_digest::FileDigests;
use crate::name::DownloadName;
use crate::source::Source;

/// A complete, verified file, with or without its final name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Download {
    /// The source that was copied.
    pub source: Source,
    /// The name in the client's folder.
    pub name: DownloadName,
    /// The size in bytes.
    pub size: u64,
    /// The digests of all bytes.
    pub digests: FileDigests,
    /// The inode. It distinguishes this file from another file with the same name or bytes.
    pub inode: u64,
}

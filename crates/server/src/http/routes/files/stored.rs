//! Finds a download on the disk and decides whether it is still the file on record.

use std::error::Error as _;
use std::fs::{File, Metadata};
use std::io::{self, Seek as _, SeekFrom};
use std::ops::RangeInclusive;
use std::os::unix::fs::MetadataExt as _;

use axum::body::Body;
use filepull_core::transfer::{Download, Transfer};
use rustix::io::Errno;
use tokio::io::AsyncReadExt as _;
use tokio_util::io::ReaderStream;

use crate::store::{Store, StoreError, digest_of};

/// Bytes read from the disk and sent to the caller at once.
const CHUNK_LEN: usize = 64 * 1024;

/// What is stored under the name of a download.
#[derive(Debug)]
pub(crate) enum StoredFile {
    /// The file on record.
    Stored(File),
    /// Another file, or the file with other bytes.
    Other,
    /// Nothing.
    Nothing,
}

/// Opens a download without following links, and compares it with its record. Blocks.
///
/// # Errors
/// The disk failed.
pub(crate) fn find(
    store: &Store,
    transfer: &Transfer,
    download: &Download,
) -> io::Result<StoredFile> {
    let opened = match store.find_download(&transfer.client, &download.name) {
        Ok(opened) => opened,
        Err(error) if is_link(&error) => return Ok(StoredFile::Other),
        Err(error) => return Err(io::Error::other(error)),
    };
    let Some(file) = opened else { return Ok(StoredFile::Nothing) };
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() != download.size {
        return Ok(StoredFile::Other);
    }
    // A restored backup has another inode, a new owner sets another time, and the disk of another
    // machine has another clock: only the digest knows whether the bytes are the same.
    let is_stored = is_untouched(&metadata, transfer, download)
        || digest_of(&file)? == (download.size, download.digest);
    Ok(if is_stored { StoredFile::Stored(file) } else { StoredFile::Other })
}

fn is_link(error: &StoreError) -> bool {
    let system = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    system.and_then(io::Error::raw_os_error) == Some(Errno::LOOP.raw_os_error())
}

/// Returns whether it is the published file, unchanged since. Any write updates the ctime of the
/// inode, which no program can set back.
fn is_untouched(metadata: &Metadata, transfer: &Transfer, download: &Download) -> bool {
    let changed_ms = metadata.ctime().saturating_mul(1000) + metadata.ctime_nsec() / 1_000_000;
    let finished = transfer.finished_at;
    metadata.ino() == download.inode
        && finished.is_some_and(|at| changed_ms <= at.timestamp_millis())
}

/// The bytes of an open file as a body.
///
/// # Errors
/// The file cannot be sought in.
pub(crate) fn body(mut file: File, bytes: &RangeInclusive<u64>) -> io::Result<Body> {
    file.seek(SeekFrom::Start(*bytes.start()))?;
    let len = bytes.end() - bytes.start() + 1;
    let reader = tokio::fs::File::from_std(file).take(len);
    Ok(Body::from_stream(ReaderStream::with_capacity(reader, CHUNK_LEN)))
}

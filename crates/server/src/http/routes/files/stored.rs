//! Finds a download on the disk, and checks whether it is still the recorded file.

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

use crate::records::DownloadState;
use crate::store::{Store, StoreError, digest_of};

/// How many bytes are read from the disk at once.
const CHUNK_LEN: usize = 64 * 1024;

/// What is on the disk under the name of a download.
#[derive(Debug)]
pub(crate) enum StoredFile {
    Unchanged(File),
    /// Another file, a link, or the recorded file with other bytes.
    Other,
    Missing,
}

/// Opens a download without following links, and compares it with its record. Blocking. A file that
/// is marked as damaged looks untouched if the disk changed it, so its bytes decide.
///
/// # Errors
/// Reading the disk failed.
pub(crate) fn find(
    store: &Store,
    transfer: &Transfer,
    download: &Download,
    mark: DownloadState,
) -> io::Result<StoredFile> {
    let opened = match store.find_download(&transfer.client, &download.name) {
        Ok(opened) => opened,
        Err(error) if is_link(&error) => return Ok(StoredFile::Other),
        Err(error) => return Err(io::Error::other(error)),
    };
    let Some(file) = opened else { return Ok(StoredFile::Missing) };
    let metadata = file.metadata()?;
    if !metadata.is_file() || metadata.len() != download.size {
        return Ok(StoredFile::Other);
    }
    // A restored backup has another inode, a change of the owner sets another time, and the disk of
    // another machine has another clock. In these cases only the digest proves that the bytes are
    // the same.
    let is_trusted = mark != DownloadState::Damaged && is_untouched(&metadata, transfer, download);
    let is_unchanged = is_trusted || digest_of(&file)? == (download.size, download.digests.blake3);
    Ok(if is_unchanged { StoredFile::Unchanged(file) } else { StoredFile::Other })
}

fn is_link(error: &StoreError) -> bool {
    let system = error.source().and_then(|source| source.downcast_ref::<io::Error>());
    system.and_then(io::Error::raw_os_error) == Some(Errno::LOOP.raw_os_error())
}

/// Returns whether it is the published file, unmodified. Every write updates the ctime of the inode,
/// and no program can set it back.
fn is_untouched(metadata: &Metadata, transfer: &Transfer, download: &Download) -> bool {
    let changed_ms = metadata.ctime().saturating_mul(1000) + metadata.ctime_nsec() / 1_000_000;
    let finished = transfer.finished_at;
    metadata.ino() == download.inode
        && finished.is_some_and(|at| changed_ms <= at.timestamp_millis())
}

/// Returns the bytes of an open file as a body.
///
/// # Errors
/// Seeking to the first byte failed.
pub(crate) fn body(mut file: File, range: &RangeInclusive<u64>) -> io::Result<Body> {
    file.seek(SeekFrom::Start(*range.start()))?;
    let len = range.end() - range.start() + 1;
    let reader = tokio::fs::File::from_std(file).take(len);
    Ok(Body::from_stream(ReaderStream::with_capacity(reader, CHUNK_LEN)))
}

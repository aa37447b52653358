//! What lies in a data folder.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use filepull_core::digest::Digest;

/// A client and a name in its folder.
pub(super) type Place = (String, String);

/// What a file was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ObservedFile {
    pub(super) inode: u64,
    pub(super) len: u64,
    pub(super) digest: String,
    /// Put there by the trial, not by the server.
    pub(super) stranger: bool,
    /// Its disk has lost power since it was read.
    pub(super) doubtful: bool,
}

/// Where a download lies.
pub(super) fn path(data_dir: &Path, (client, name): &Place) -> PathBuf {
    data_dir.join(client).join(name)
}

/// Reads a file.
pub(super) fn see(path: &Path) -> anyhow::Result<(Vec<u8>, ObservedFile)> {
    let inode = fs::metadata(path).with_context(|| path.display().to_string())?.ino();
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    let digest = Digest::of(&bytes).to_string();
    let len = bytes.len() as u64;
    Ok((bytes, ObservedFile { inode, len, digest, stranger: false, doubtful: false }))
}

/// Every file in every client's folder.
pub(super) fn places(data_dir: &Path) -> anyhow::Result<Vec<Place>> {
    let mut places = Vec::new();
    let read = || data_dir.display().to_string();
    for folder in fs::read_dir(data_dir).with_context(read)? {
        let folder = folder.with_context(read)?;
        let client = folder.file_name().to_string_lossy().into_owned();
        // The records, and what mkfs makes.
        if client.starts_with('.') || client == "lost+found" || !folder.file_type()?.is_dir() {
            continue;
        }
        for file in fs::read_dir(folder.path())? {
            places.push((client.clone(), file?.file_name().to_string_lossy().into_owned()));
        }
    }
    places.sort();
    Ok(places)
}

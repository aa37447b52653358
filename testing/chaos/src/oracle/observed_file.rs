//! The files in a data folder.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use filepull_core::file_digest::FileDigests;

/// The client, and the file name in its folder.
pub(super) type DownloadKey = (String, String);

/// A file at the time when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ObservedFile {
    pub(super) inode: u64,
    pub(super) len: u64,
    pub(super) digests: FileDigests,
    /// The version of its content; 0 for a foreign file.
    pub(super) version: u32,
    /// Created by the trial, not by the server.
    pub(super) foreign: bool,
    /// Its disk lost power after the file was read.
    pub(super) unchecked: bool,
}

pub(super) fn path(data_dir: &Path, (client, name): &DownloadKey) -> PathBuf {
    data_dir.join(client).join(name)
}

pub(super) fn read(path: &Path) -> anyhow::Result<(Vec<u8>, ObservedFile)> {
    let inode = fs::metadata(path).with_context(|| path.display().to_string())?.ino();
    let bytes = fs::read(path).with_context(|| path.display().to_string())?;
    let digests = FileDigests::of(&bytes);
    let len = bytes.len() as u64;
    Ok((bytes, ObservedFile { inode, len, digests, version: 0, foreign: false, unchecked: false }))
}

/// Lists the files in the folders of all clients.
pub(super) fn list(data_dir: &Path) -> anyhow::Result<Vec<DownloadKey>> {
    let mut keys = Vec::new();
    let describe = || data_dir.display().to_string();
    for entry in fs::read_dir(data_dir).with_context(describe)? {
        let folder = entry.with_context(describe)?;
        let client = folder.file_name().to_string_lossy().into_owned();
        // The folders of the records and of mkfs.
        if client.starts_with('.') || client == "lost+found" || !folder.file_type()?.is_dir() {
            continue;
        }
        for file in fs::read_dir(folder.path())? {
            keys.push((client.clone(), file?.file_name().to_string_lossy().into_owned()));
        }
    }
    keys.sort();
    Ok(keys)
}

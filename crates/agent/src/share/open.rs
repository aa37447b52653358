//! Opens one regular file beneath a root.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt as _};
use filepull_core::extent::ExtentKinds;
use filepull_core::source::{Source, Stat};
use filepull_proto::v1;
use rustix::fs::OFlags;

use super::error::OpenError;
use super::root::ShareRoot;
use super::unsized_file;
use crate::holes;

/// An open file, and its metadata when it was opened.
#[derive(Debug)]
pub(crate) struct OpenFile {
    pub(crate) file: File,
    pub(crate) source: Source,
    pub(crate) stat: Stat,
    /// The number of its bytes that are not in holes, when it was opened.
    pub(crate) stored: u64,
    /// Its whole content, if its size was unknown before it was read.
    pub(crate) content: Option<Bytes>,
}

impl OpenFile {
    /// Returns the metadata for a server that accepts these extents.
    pub(crate) fn source_info(&self, extents: ExtentKinds) -> v1::SourceInfo {
        let stored = if extents.hole { self.stored } else { self.source.size };
        v1::SourceInfo { stored, ..v1::SourceInfo::from(&self.source) }
    }
}

/// Where to search for a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SharePlace<'a> {
    pub(crate) root: &'a ShareRoot,
    /// The folder beneath the root that must hold the file; may be empty.
    pub(crate) folder: &'a Path,
    pub(crate) file: &'a Path,
}

impl SharePlace<'_> {
    pub(crate) fn path(&self) -> PathBuf {
        self.root.path().join(self.folder).join(self.file)
    }

    /// Opens the folder that must hold the file.
    pub(crate) fn open_folder(&self) -> Result<Dir, OpenError> {
        let root = self.root.open()?;
        if self.folder == Path::new("") {
            return Ok(root);
        }
        root.open_dir(self.folder).map_err(OpenError::from_open)
    }

    /// Opens the regular file at this place.
    ///
    /// On Linux this is one `openat2` with `RESOLVE_BENEATH` (checked with strace), so no link
    /// leads outside the root, even if it changes meanwhile. On kernels older than 5.6 cap-std
    /// walks the path itself.
    pub(crate) fn open(&self) -> Result<OpenFile, OpenError> {
        let result = self.open_beneath();
        let Err(OpenError::System(error)) = &result else { return result };
        // Checked only then: a folder that was replaced and can be read needs no restart.
        if error.kind() == io::ErrorKind::PermissionDenied && self.root.was_replaced() {
            return Err(OpenError::Replaced(self.root.path().to_owned()));
        }
        result
    }

    fn open_beneath(&self) -> Result<OpenFile, OpenError> {
        let folder = self.open_folder()?;
        // O_NONBLOCK and O_NOCTTY: do not block on a pipe without a writer, and do not take a
        // terminal.
        let flags = OFlags::NONBLOCK | OFlags::NOCTTY;
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(flags.bits().cast_signed());
        let file = folder.open_with(self.file, &options).map_err(OpenError::from_open)?.into_std();
        let metadata = file.metadata().map_err(OpenError::System)?;
        // Only an open file is certain: a check before the open could have seen another file.
        if let Some(kind) = irregular(metadata.file_type()) {
            return Err(OpenError::NotAFile(kind));
        }
        let (stat, content) = unsized_file::inspect(&file)?;
        let size = content.as_ref().map_or(stat.size, |content| content.len() as u64);
        let name = self.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let source = Source { name, size, modified_ns: stat.modified_ns };
        let stored = if content.is_some() { size } else { holes::stored_len(&file, size) };
        Ok(OpenFile { file, source, stat, stored, content })
    }
}

fn irregular(kind: std::fs::FileType) -> Option<&'static str> {
    match kind {
        kind if kind.is_file() => None,
        kind if kind.is_dir() => Some("a directory"),
        kind if kind.is_fifo() => Some("a pipe (FIFO)"),
        kind if kind.is_socket() => Some("a socket"),
        _ => Some("a device"),
    }
}

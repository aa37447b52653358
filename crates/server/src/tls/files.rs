//! Files that survive a crash whole or not at all, and private keys that only their owner reads.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Mode of a private key.
pub(crate) const PRIVATE: u32 = 0o600;

/// Mode of a file that every user may read.
pub(crate) const PUBLIC: u32 = 0o644;

/// A file operation failed. The error has the step and the file.
#[derive(Debug, thiserror::Error)]
#[error("{step} {}", path.display())]
pub(crate) struct FileError {
    step: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Returns a closure that names the step and the file of an error.
pub(crate) fn failed(step: &'static str, path: &Path) -> impl FnOnce(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError { step, path, source }
}

/// Writes a file that does not exist, and fsyncs it. The caller fsyncs its folder.
pub(crate) fn create(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(failed("create", path))
}

/// Replaces a file. After a crash it has the old or the new content.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FileError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    remove_file(&new)?;
    create(&new, bytes, mode)?;
    rename(&new, path)
}

/// Renames a file or a folder within its folder, durably.
pub(crate) fn rename(from: &Path, to: &Path) -> Result<(), FileError> {
    std::fs::rename(from, to).map_err(failed("rename", from))?;
    sync_folder(to.parent().unwrap_or(to))
}

/// Fsyncs a folder, so that the names in it survive a crash.
pub(crate) fn sync_folder(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(failed("sync", path))
}

/// Reads a text file. None if it does not exist.
pub(crate) fn read(path: &Path) -> Result<Option<String>, FileError> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// Removes a file, if it exists.
pub(crate) fn remove_file(path: &Path) -> Result<(), FileError> {
    ignore_missing(std::fs::remove_file(path)).map_err(failed("remove", path))
}

/// Removes a folder with its files, if it exists.
pub(crate) fn remove_folder(path: &Path) -> Result<(), FileError> {
    ignore_missing(std::fs::remove_dir_all(path)).map_err(failed("remove", path))
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Returns whether other users of this machine may read the file.
pub(crate) fn is_readable_by_all(path: &Path) -> bool {
    const READ_BY_OTHERS: u32 = 0o004;
    let mode = |path| std::fs::metadata(path).map(|metadata| metadata.permissions().mode());
    mode(path).is_ok_and(|mode| mode & READ_BY_OTHERS != 0)
}

/// Returns certificates as PEM (RFC 7468).
pub(crate) fn pem<'a>(certificates: impl IntoIterator<Item = &'a [u8]>) -> String {
    const LINE_LEN: usize = 64;
    let mut text = String::new();
    for der in certificates {
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let encoded = STANDARD.encode(der);
        let mut rest = encoded.as_str();
        while !rest.is_empty() {
            let (line, next) = rest.split_at(rest.len().min(LINE_LEN));
            text.push_str(line);
            text.push('\n');
            rest = next;
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_file_is_replaced_whole_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        // A killed process may have left this file.
        std::fs::write(folder.path().join("key.pem.new"), "half").unwrap();
        replace(&path, b"first", PRIVATE).unwrap();
        replace(&path, b"second", PRIVATE).unwrap();
        assert_eq!(read(&path).unwrap().as_deref(), Some("second"));
        assert!(!is_readable_by_all(&path));
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert_eq!(read(&folder.path().join("none")).unwrap(), None);
    }
}

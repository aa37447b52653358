//! The base of an upload: a download whose bytes the next download of the same file may copy.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use filepull_core::id::ClientId;
use filepull_core::transfer::Download;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::read_back::read_uncached;
use super::{Store, StoreError};

/// An open download. It can be read until the last clone is dropped, also after it was removed. Another
/// program may change its bytes, or cut it.
#[derive(Clone, Debug)]
pub(crate) struct Base {
    file: Arc<File>,
    path: Arc<PathBuf>,
    len: u64,
}

impl Store {
    /// Opens a download as the base of an upload. Returns none if its name is missing, or belongs to
    /// another file or a file of another size. The bytes are not checked.
    pub(crate) fn open_base(
        &self,
        client: &ClientId,
        download: &Download,
    ) -> Result<Option<Base>, StoreError> {
        let Some(folder) = self.open_folder(client)? else { return Ok(None) };
        let path = self.download_path(client, &download.name);
        // `NONBLOCK`, because opening a pipe with this name would wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file: File =
            match rustix::fs::openat(&folder, download.name.to_string(), flags, Mode::empty()) {
                Ok(file) => file.into(),
                // Missing, a link, or a socket.
                Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Ok(None),
                Err(errno) => return Err(StoreError { step: "open", path, source: errno.into() }),
            };
        let found = match file.metadata() {
            Ok(found) => found,
            Err(source) => return Err(StoreError { step: "stat", path, source }),
        };
        let len = download.size;
        let is_its_file = found.is_file() && found.ino() == download.inode && found.len() == len;
        Ok(is_its_file.then(|| Base { file: Arc::new(file), path: Arc::new(path), len }))
    }
}

impl Base {
    /// Returns the length in bytes when the base was opened.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// Reads bytes at this offset, and drops them from the page cache. Returns the number of bytes: fewer
    /// than `buffer` has only at the end of the file.
    pub(crate) fn read_at(&self, buffer: &mut [u8], offset: u64) -> Result<usize, StoreError> {
        read_uncached(&self.file, buffer, offset).map_err(|error| self.failed("read", error))
    }

    /// Returns the open file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    fn failed(&self, step: &'static str, source: io::Error) -> StoreError {
        StoreError { step, path: self.path.to_path_buf(), source }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use filepull_core::file_digest::FileDigests;
    use filepull_core::name::DownloadName;
    use filepull_core::source::Source;

    use super::*;

    const BYTES: &[u8] = b"the last good download";

    fn open(folder: &Path, download: &Download) -> Option<Base> {
        let store = Store::open(folder).unwrap();
        store.open_base(&ClientId::parse("client4").unwrap(), download).unwrap()
    }

    /// Returns the data folder, the path of a download in it, and its record.
    fn download() -> (tempfile::TempDir, PathBuf, Download) {
        let folder = tempfile::tempdir().unwrap();
        let name = DownloadName::new(chrono::DateTime::UNIX_EPOCH, "data.txt");
        let path = folder.path().join("client4").join(name.to_string());
        fs::create_dir(folder.path().join("client4")).unwrap();
        fs::write(&path, BYTES).unwrap();
        let size = BYTES.len() as u64;
        let source = Source { name: "data.txt".to_owned(), size, modified_ns: 0 };
        let inode = fs::metadata(&path).unwrap().ino();
        let digests = FileDigests::of(BYTES);
        (folder, path, Download { source, name, size, digests, inode })
    }

    #[test]
    fn a_base_is_read_at_any_offset_also_after_its_removal() {
        let (folder, path, download) = download();
        let base = open(folder.path(), &download).unwrap();
        fs::remove_file(path).unwrap();
        assert_eq!(base.len(), BYTES.len() as u64);
        let mut buffer = [0; 9];
        assert_eq!(base.read_at(&mut buffer, 4).unwrap(), 9);
        assert_eq!(&buffer, b"last good");
        assert_eq!(base.read_at(&mut buffer, BYTES.len() as u64 - 2).unwrap(), 2);
        assert_eq!(base.read_at(&mut buffer, BYTES.len() as u64 + 1).unwrap(), 0);
        assert!(open(folder.path(), &download).is_none(), "the name is missing");
    }

    #[test]
    fn only_the_file_on_record_is_a_base() {
        let (folder, path, download) = download();
        let other_size = Download { size: download.size + 1, ..download.clone() };
        assert!(open(folder.path(), &other_size).is_none(), "another size");
        let other_inode = Download { inode: download.inode + 1, ..download.clone() };
        assert!(open(folder.path(), &other_inode).is_none(), "another file");
        let moved = folder.path().join("moved");
        fs::rename(&path, &moved).unwrap();
        symlink(&moved, &path).unwrap();
        assert!(open(folder.path(), &download).is_none(), "a link");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(open(folder.path(), &download).is_none(), "a folder");
    }
}

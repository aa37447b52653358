//! The disk of the server: each client's folder, partials in it, and downloads.
//!
//! Every method blocks and is called from the blocking pool. Nothing here decides anything: [`Store`]
//! implements the port `core::disk`, and which step follows which is the rule of `core::transfer`.
//!
//! All access is relative to open folders, and links are never followed, so that nobody who may
//! write into a client's folder can lead the server out of it.

mod capability;
mod entries;
mod partial;
mod port;
mod read_back;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use filepull_core::disk::PartialKey;
use filepull_core::id::ClientId;
use filepull_core::name::DownloadName;
use rustix::fs::{AtFlags, Dir, Mode, OFlags};
use rustix::io::Errno;

use crate::data_folder::{RECORDS_FOLDER, absolute};
pub(crate) use capability::DataFolderError;
pub(crate) use entries::not_a_folder;
pub(crate) use partial::{LastChange, Partial};
pub(crate) use partial::{partial_name, transfer_of};
pub(crate) use read_back::digest_of;
pub(crate) use read_back::read_all;

/// A disk operation that failed: the step, the file and the system's reason.
#[derive(Debug, thiserror::Error)]
#[error("{step} {}", absolute(path).display())]
pub struct StoreError {
    step: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl StoreError {
    /// There was no room: for the bytes, or for one more file.
    pub fn is_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self.source.kind(), StorageFull | QuotaExceeded)
    }

    /// There was no inode for one more file, although bytes may be free.
    pub fn is_out_of_inodes(&self) -> bool {
        self.source.get_ref().is_some_and(|inner| inner.is::<NoInodes>())
    }

    /// This process, or the whole system, has too many files open. The disk is well.
    pub fn is_out_of_descriptors(&self) -> bool {
        matches!(Errno::from_io_error(&self.source), Some(Errno::MFILE | Errno::NFILE))
    }
}

/// Whether a file system that has "no space" may have bytes and no inodes.
fn lacks_inodes(folder: &OwnedFd) -> bool {
    rustix::fs::fstatvfs(folder).is_ok_and(|stat| 0 < stat.f_files && stat.f_favail == 0)
}

/// The system reports used-up inodes as used-up space.
fn no_inodes() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, NoInodes)
}

/// No file can be created, although bytes may be free.
#[derive(Debug, thiserror::Error)]
#[error("the disk has no inodes left: it can hold no more files")]
struct NoInodes;

/// What a process may still use of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FreeSpace {
    /// Bytes.
    pub bytes: u64,
    /// Files, where their number is fixed.
    pub inodes: Option<u64>,
}

/// The data folder.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    root: Arc<DataRoot>,
}

#[derive(Debug)]
struct DataRoot {
    path: PathBuf,
    folder: OwnedFd,
    /// The partials begun since the start, which no sweep removes; none once the sweep is over.
    begun: Mutex<Option<BTreeSet<PartialKey>>>,
}

const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Store {
    /// Opens the data folder, and makes it if it is missing.
    ///
    /// # Errors
    /// It cannot be made or opened.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |step| move |source| StoreError { step, path: path.to_owned(), source };
        std::fs::create_dir_all(path).map_err(failed("make"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| failed("open")(errno.into()))?;
        // Its own entry may be new, and an earlier process may have died between the making of a
        // client's folder and its sync.
        rustix::fs::fsync(&folder).map_err(|errno| failed("sync")(errno.into()))?;
        if let Ok(parent) = rustix::fs::openat(&folder, "..", flags, Mode::empty()) {
            // Where the parent cannot be opened, somebody else made this folder.
            rustix::fs::fsync(&parent).map_err(|errno| failed("sync")(errno.into()))?;
        }
        let begun = Mutex::new(Some(BTreeSet::new()));
        Ok(Self { root: Arc::new(DataRoot { path: path.to_owned(), folder, begun }) })
    }

    /// The data folder, as it was given.
    pub(crate) fn root(&self) -> &Path {
        &self.root.path
    }

    /// Returns what this process may still use of the file system.
    ///
    /// # Errors
    /// The file system does not report it.
    pub(crate) fn free_space(&self) -> io::Result<FreeSpace> {
        let stat = rustix::fs::fstatvfs(&self.root.folder)?;
        let bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
        // A file system without a fixed number of inodes reports none at all.
        let inodes = (0 < stat.f_files).then_some(stat.f_favail);
        Ok(FreeSpace { bytes, inodes })
    }

    /// Creates, syncs and removes a small file beside the clients' folders and one beside the
    /// records, to see whether that works: they may lie on different disks.
    ///
    /// # Errors
    /// It does not.
    pub(crate) fn check_writable(&self) -> io::Result<()> {
        [".", RECORDS_FOLDER].into_iter().try_for_each(|folder| self.probe(folder))
    }

    fn probe(&self, folder: &str) -> io::Result<()> {
        // No client id starts with a dot. One name, so that a killed process leaves one file at
        // most, until the next probe: probes never run at the same time.
        let name = format!("{folder}/.probe");
        match rustix::fs::unlinkat(&self.root.folder, &name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno.into()),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.root.folder, &name, flags, Mode::RUSR | Mode::WUSR)?;
        let synced = rustix::fs::fsync(&file);
        rustix::fs::unlinkat(&self.root.folder, &name, AtFlags::empty())?;
        Ok(synced?)
    }

    /// Where a download lies, as a path for people and for the file service.
    pub(crate) fn download_path(&self, client: &ClientId, name: &DownloadName) -> PathBuf {
        self.root.path.join(client.as_str()).join(name.to_string())
    }

    /// Brings the entries of the client's folder to the disk.
    ///
    /// # Errors
    /// The disk failed.
    fn sync_folder(&self, client: &ClientId) -> Result<(), StoreError> {
        let Some(folder) = self.open_folder(client)? else { return Ok(()) };
        rustix::fs::fsync(&folder).map_err(|errno| self.folder_failed("sync", client, errno))
    }

    /// Opens a download by its name.
    ///
    /// # Errors
    /// The disk failed.
    pub(crate) fn find_download(
        &self,
        client: &ClientId,
        name: &DownloadName,
    ) -> Result<Option<File>, StoreError> {
        let Some(folder) = self.open_folder(client)? else { return Ok(None) };
        // A pipe in its place must not keep us waiting for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match rustix::fs::openat(&folder, name.to_string(), flags, Mode::empty()) {
            Ok(file) => Ok(Some(file.into())),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => {
                let path = self.download_path(client, name);
                Err(StoreError { step: "open", path, source: errno.into() })
            }
        }
    }

    /// The partials in the folder of a client, or in what is in its place.
    ///
    /// # Errors
    /// The disk failed.
    pub(crate) fn partials(&self, client: &ClientId) -> Result<Vec<PartialKey>, StoreError> {
        let Some(folder) = self.open_folder(client)? else { return Ok(Vec::new()) };
        let failed = |errno| self.folder_failed("read", client, errno);
        let mut partials = Vec::new();
        for entry in Dir::read_from(&folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let name = entry.file_name().to_str().ok();
            partials.extend(name.and_then(|name| partial::key_of(client, name)));
        }
        Ok(partials)
    }

    /// Removes a partial, unless it was begun since the start; returns whether it did.
    ///
    /// # Errors
    /// It cannot be removed, or is something else.
    pub(crate) fn remove_leftover(&self, key: &PartialKey) -> Result<bool, StoreError> {
        // Held meanwhile: a partial that is about to begin waits, and then finds no leftover.
        let begun = self.root.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if begun.as_ref().is_none_or(|begun| begun.contains(key)) {
            return Ok(false);
        }
        self.remove_partial(key).map(|()| true)
    }

    /// Notes that a partial is about to begin.
    fn note_begun(&self, key: &PartialKey) {
        let mut begun = self.root.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(begun) = begun.as_mut() {
            begun.insert(key.clone());
        }
    }

    /// Ends the sweep: from now on it is not noted what begins, and no leftover is removed.
    pub(crate) fn end_sweep(&self) {
        *self.root.begun.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    fn open_folder(&self, client: &ClientId) -> Result<Option<OwnedFd>, StoreError> {
        match rustix::fs::openat(&self.root.folder, client.as_str(), FOLDER, Mode::empty()) {
            Ok(folder) => Ok(Some(folder)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(self.folder_failed("open", client, errno)),
        }
    }

    fn make_folder(&self, client: &ClientId) -> Result<OwnedFd, StoreError> {
        if let Some(folder) = self.open_folder(client)? {
            return Ok(folder);
        }
        let failed = |errno| self.folder_failed("make", client, errno);
        let mode = Mode::RWXU | Mode::RGRP | Mode::XGRP;
        match rustix::fs::mkdirat(&self.root.folder, client.as_str(), mode) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(Errno::NOSPC) if lacks_inodes(&self.root.folder) => {
                let path = self.root.path.join(client.as_str());
                return Err(StoreError { step: "make", path, source: no_inodes() });
            }
            Err(errno) => return Err(failed(errno)),
        }
        // The folder's own entry: without it a power cut takes the folder and all that is in it.
        rustix::fs::fsync(&self.root.folder).map_err(failed)?;
        rustix::fs::openat(&self.root.folder, client.as_str(), FOLDER, Mode::empty())
            .map_err(|errno| self.folder_failed("open", client, errno))
    }

    fn folder_failed(&self, step: &'static str, client: &ClientId, errno: Errno) -> StoreError {
        let path = self.root.path.join(client.as_str());
        let source = match (errno, not_a_folder(&path)) {
            (Errno::NOTDIR | Errno::LOOP, Some(what)) => {
                io::Error::new(io::ErrorKind::NotADirectory, format!("it is {what}"))
            }
            _ => errno.into(),
        };
        StoreError { step, path, source }
    }
}

#[cfg(test)]
mod tests;

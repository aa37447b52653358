//! The disk of the server: each client's folder, with its partials and downloads.
//!
//! Every method blocks and is called from the blocking pool. [`Store`] implements the port
//! `core::disk`; the rules about the order of its calls are in `core::transfer`.
//!
//! All access is relative to open folders, and links are never followed. So a program that may write
//! into a client's folder cannot lead the server out of it.

mod base;
mod buffers;
mod capability;
mod clones;
mod direct;
mod entries;
mod names;
mod partial;
mod partial_name;
mod port;
mod read_back;
mod reservation;

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use filepull_core::disk::PartialKey;
use filepull_core::id::ClientId;
use filepull_core::name::DownloadName;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::data_folder::{RECORDS_FOLDER, absolute};
pub(crate) use base::Base;
use buffers::BufferPool;
pub(crate) use capability::DataFolderError;
use clones::Clones;
pub(crate) use clones::CopyMode;
use direct::DirectWrites;
pub(crate) use direct::WriteMode;
pub(crate) use entries::not_a_folder;
use names::remove_if_exists;
pub(crate) use partial::{LastChange, Partial};
pub(crate) use partial_name::{partial_name, transfer_of};
pub(crate) use read_back::digest_of;

/// A disk operation failed. The error has the step, the file and the system's reason.
#[derive(Debug, thiserror::Error)]
#[error("{step} {}", absolute(path).display())]
pub struct StoreError {
    step: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl StoreError {
    /// Returns whether the disk was full: for the bytes, or for one more file.
    pub(crate) fn is_full(&self) -> bool {
        use io::ErrorKind::{QuotaExceeded, StorageFull};
        matches!(self.source.kind(), StorageFull | QuotaExceeded)
    }

    /// Returns whether the disk had no inode for one more file. Bytes may be free.
    pub(crate) fn is_out_of_inodes(&self) -> bool {
        self.source.get_ref().is_some_and(|inner| inner.is::<NoInodes>())
    }

    /// Returns whether this process or the system had too many open files. The disk did not fail.
    pub(crate) fn is_out_of_descriptors(&self) -> bool {
        matches!(Errno::from_io_error(&self.source), Some(Errno::MFILE | Errno::NFILE))
    }
}

/// Returns whether the file system has no inodes left. Bytes may be free.
fn lacks_inodes(folder: &OwnedFd) -> bool {
    rustix::fs::fstatvfs(folder).is_ok_and(|stat| 0 < stat.f_files && stat.f_favail == 0)
}

/// Returns the error of a full disk whose inodes are used up. The system reports no difference.
fn no_inodes() -> io::Error {
    io::Error::new(io::ErrorKind::StorageFull, NoInodes)
}

/// The disk can hold no more files. Bytes may be free.
#[derive(Debug, thiserror::Error)]
#[error("the disk has no inodes left: it can hold no more files")]
struct NoInodes;

/// The free space of a file system, as far as this process may use it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FreeSpace {
    pub bytes: u64,
    /// Number of files. None if the file system has no fixed number.
    pub inodes: Option<u64>,
}

/// A handle on the data folder; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Store {
    root: Arc<DataRoot>,
}

#[derive(Debug)]
struct DataRoot {
    path: PathBuf,
    folder: OwnedFd,
    direct: Arc<DirectWrites>,
    /// Memory for copies from a base. Not the buffers of direct writes: a job that holds one of these
    /// waits for one of those.
    copies: BufferPool,
    clones: Clones,
    /// The partials begun since the start, which the sweep does not remove. None after the sweep.
    begun: Mutex<Option<BTreeSet<PartialKey>>>,
}

const FOLDER: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

impl Store {
    /// Opens the data folder. Creates it, durably, if it is missing.
    pub(crate) fn open(path: &Path) -> Result<Self, StoreError> {
        let failed = |step| move |source| StoreError { step, path: path.to_owned(), source };
        std::fs::create_dir_all(path).map_err(failed("create"))?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| failed("open")(errno.into()))?;
        // The folder may be new, and an earlier process may have failed between creating a client's
        // folder and syncing it.
        rustix::fs::fsync(&folder).map_err(|errno| failed("sync")(errno.into()))?;
        if let Ok(parent) = rustix::fs::openat(&folder, "..", flags, Mode::empty()) {
            // If the parent cannot be opened, this process did not create the folder.
            rustix::fs::fsync(&parent).map_err(|errno| failed("sync")(errno.into()))?;
        }
        let begun = Mutex::new(Some(BTreeSet::new()));
        let path = path.to_owned();
        let direct = Arc::default();
        let copies = BufferPool::default();
        let clones = Clones::default();
        Ok(Self { root: Arc::new(DataRoot { path, folder, direct, copies, clones, begun }) })
    }

    /// Returns the path of the data folder, as it was given.
    pub(crate) fn root(&self) -> &Path {
        &self.root.path
    }

    /// Returns how large partials are written.
    pub(crate) fn write_mode(&self) -> WriteMode {
        self.root.direct.mode()
    }

    /// Returns how copies from a base get into a partial.
    pub(crate) fn copy_mode(&self) -> CopyMode {
        self.root.clones.mode()
    }

    /// Returns the free space of the file system.
    pub(crate) fn free_space(&self) -> io::Result<FreeSpace> {
        let stat = rustix::fs::fstatvfs(&self.root.folder)?;
        let bytes = stat.f_bavail.saturating_mul(stat.f_frsize);
        // A file system without a fixed number of inodes reports 0 files in total.
        let inodes = (0 < stat.f_files).then_some(stat.f_favail);
        Ok(FreeSpace { bytes, inodes })
    }

    /// Checks that files can be written: creates, syncs and removes a small file beside the clients'
    /// folders and one beside the records. The two may be on different disks.
    pub(crate) fn check_writable(&self) -> io::Result<()> {
        [".", RECORDS_FOLDER].into_iter().try_for_each(|folder| self.probe(folder))
    }

    fn probe(&self, folder: &str) -> io::Result<()> {
        // No client id starts with a dot. The name is constant, so that a killed process leaves at
        // most one file, which the next probe removes. Probes never run at the same time.
        let name = format!("{folder}/.probe");
        remove_if_exists(&self.root.folder, &name)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.root.folder, &name, flags, Mode::RUSR | Mode::WUSR)?;
        let synced = rustix::fs::fsync(&file);
        remove_if_exists(&self.root.folder, &name)?;
        Ok(synced?)
    }

    /// Returns the path of a download, for messages and for the file service.
    pub(crate) fn download_path(&self, client: &ClientId, name: &DownloadName) -> PathBuf {
        self.root.path.join(client.as_str()).join(name.to_string())
    }

    /// Makes the names in the client's folder durable.
    fn sync_folder(&self, client: &ClientId) -> Result<(), StoreError> {
        let Some(folder) = self.open_folder(client)? else { return Ok(()) };
        rustix::fs::fsync(&folder).map_err(|errno| self.folder_failed("sync", client, errno))
    }

    /// Opens a download by its name. Returns none if the name does not exist.
    pub(crate) fn find_download(
        &self,
        client: &ClientId,
        name: &DownloadName,
    ) -> Result<Option<File>, StoreError> {
        let Some(folder) = self.open_folder(client)? else { return Ok(None) };
        // `NONBLOCK`, because opening a pipe with this name would wait for a writer.
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

    /// Returns the partials in the folder of a client.
    pub(crate) fn partials(&self, client: &ClientId) -> Result<Vec<PartialKey>, StoreError> {
        let names = self.entries(client)?;
        Ok(names.iter().filter_map(|name| partial_name::key_of(client, name.to_str()?)).collect())
    }

    /// Removes a partial, unless it was begun since the start. Returns whether it was removed.
    pub(crate) fn remove_leftover(&self, key: &PartialKey) -> Result<bool, StoreError> {
        // Locked until the end: a partial that is about to begin waits, then finds no leftover.
        let begun = self.root.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if begun.as_ref().is_none_or(|begun| begun.contains(key)) {
            return Ok(false);
        }
        self.remove_partial(key).map(|()| true)
    }

    /// Protects a partial that is about to begin from the sweep.
    fn note_begun(&self, key: &PartialKey) {
        let mut begun = self.root.begun.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(begun) = begun.as_mut() {
            begun.insert(key.clone());
        }
    }

    /// Ends the sweep: no leftover is removed after this call.
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

    fn create_folder(&self, client: &ClientId) -> Result<OwnedFd, StoreError> {
        if let Some(folder) = self.open_folder(client)? {
            return Ok(folder);
        }
        let failed = |errno| self.folder_failed("create", client, errno);
        let mode = Mode::RWXU | Mode::RGRP | Mode::XGRP;
        match rustix::fs::mkdirat(&self.root.folder, client.as_str(), mode) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(Errno::NOSPC) if lacks_inodes(&self.root.folder) => {
                let path = self.root.path.join(client.as_str());
                return Err(StoreError { step: "create", path, source: no_inodes() });
            }
            Err(errno) => return Err(failed(errno)),
        }
        // Makes the name of the folder durable: otherwise a power cut removes the folder and its
        // files.
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

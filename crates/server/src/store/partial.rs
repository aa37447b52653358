//! A file before its upload is whole: `<transfer>-<generation>.tmp`.

use std::fs::File;
use std::io::{self, IoSlice, Seek as _, SeekFrom, Write as _};
use std::num::NonZeroU64;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use filepull_core::disk::{DiskError, PartialKey};
use filepull_core::id::{ClientId, TransferId};
use rustix::fs::{Advice, AtFlags, FallocateFlags, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::read_back::read_all;
use super::{StoreError, lacks_inodes, no_inodes as no_inodes_left};

/// A file that is being received. Its bytes become durable by [`sync`](Self::sync) only.
///
/// A clone is a second handle, for a sync beside the appends. It takes no file descriptor of its
/// own: none may be left.
#[derive(Clone, Debug)]
pub(crate) struct Partial {
    file: Arc<File>,
    folder: Arc<OwnedFd>,
    place: Arc<PartialPath>,
    /// Bytes appended, and how many of them the system has been asked to bring to the disk.
    appended: u64,
    started: u64,
}

/// Equal for a file that nobody has changed in between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LastChange {
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Nobody but us writes to a partial.
const MODE: Mode = Mode::RUSR.union(Mode::WUSR).union(Mode::RGRP);

/// The system is asked to write after this many bytes, so that little is left for the sync at the
/// end.
const WRITE_BACK_LEN: u64 = 8 * 1024 * 1024;

/// Where a partial lies.
#[derive(Debug)]
pub(super) struct PartialPath {
    pub(super) folder_path: PathBuf,
    pub(super) name: String,
}

impl PartialPath {
    pub(super) fn failed(&self, step: &'static str, source: io::Error) -> StoreError {
        StoreError { step, path: self.folder_path.join(&self.name), source }
    }
}

pub(crate) fn partial_name(transfer: TransferId, generation: u32) -> String {
    format!("{transfer}-{generation}.tmp")
}

/// The partial of a client that has this file name, if [`partial_name`] makes it.
pub(super) fn key_of(client: &ClientId, name: &str) -> Option<PartialKey> {
    let (_, generation) = name.strip_suffix(".tmp")?.rsplit_once('-')?;
    let (transfer, generation) = (transfer_of(name)?, generation.parse().ok()?);
    // A file name in any other form is not a partial of the server.
    let is_ours = partial_name(transfer, generation) == name;
    is_ours.then(|| PartialKey { client: client.clone(), transfer, generation })
}

/// The transfer whose partial has this name.
pub(crate) fn transfer_of(name: &str) -> Option<TransferId> {
    let (transfer, generation) = name.strip_suffix(".tmp")?.rsplit_once('-')?;
    let transfer = TransferId::parse(transfer).ok()?;
    generation.parse::<u32>().is_ok().then_some(transfer)
}

impl Partial {
    /// Creates the partial, and reserves `size` bytes. Leaves no file after an error.
    pub(super) fn create(
        folder: OwnedFd,
        place: PartialPath,
        size: u64,
    ) -> Result<Self, StoreError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&folder, &place.name, flags, MODE);
        let opened = match open() {
            // Left by an earlier process that ended before its record.
            Err(Errno::EXIST) => {
                rustix::fs::unlinkat(&folder, &place.name, AtFlags::empty()).and_then(|()| open())
            }
            opened => opened,
        };
        let file = opened.map_err(|errno| {
            let no_inodes = errno == Errno::NOSPC && lacks_inodes(&folder);
            place.failed("create", if no_inodes { no_inodes_left() } else { errno.into() })
        })?;
        let (file, folder, place) = (Arc::new(file.into()), Arc::new(folder), Arc::new(place));
        let partial = Self { file, folder, place, appended: 0, started: 0 };
        // A disk that cannot hold the file fails now, not after an hour of uploading.
        let begun = partial.reserve(size).and_then(|()| partial.sync_folder());
        match begun {
            Ok(()) => Ok(partial),
            Err(error) => {
                // No record names the file yet; if it stays, a sweep removes it.
                let _ = partial.remove();
                Err(error)
            }
        }
    }

    /// Reserves room for `size` bytes in all; what is reserved already stays.
    ///
    /// # Errors
    /// There is no room, or the disk failed.
    pub(crate) fn reserve(&self, size: u64) -> Result<(), StoreError> {
        if size == 0 {
            return Ok(());
        }
        match rustix::fs::fallocate(&self.file, FallocateFlags::KEEP_SIZE, 0, size) {
            // Some file systems cannot reserve; the bytes then fail when they come.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(errno) => Err(self.place.failed("reserve space for", errno.into())),
        }
    }

    pub(super) fn open(
        folder: OwnedFd,
        place: PartialPath,
        len: u64,
    ) -> Result<Option<Self>, StoreError> {
        let open = |access: OFlags| {
            let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(&folder, &place.name, flags, Mode::empty())
        };
        // An earlier process may have protected it already, and only root may write to it then.
        let opened = open(OFlags::RDONLY).and_then(|readable| {
            rustix::fs::fchmod(&readable, MODE)?;
            open(OFlags::RDWR)
        });
        let file: File = match opened {
            Ok(file) => file.into(),
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(place.failed("open", errno.into())),
        };
        let at = &place;
        let failed = |step| move |error| at.failed(step, error);
        if file.metadata().map_err(failed("stat"))?.len() < len {
            return Ok(None);
        }
        file.set_len(len).map_err(failed("cut"))?;
        (&file).seek(SeekFrom::Start(len)).map_err(failed("seek in"))?;
        let (file, folder, place) = (Arc::new(file), Arc::new(folder), Arc::new(place));
        Ok(Some(Self { file, folder, place, appended: len, started: len }))
    }

    /// Appends chunks, in order.
    ///
    /// # Errors
    /// There is no room, or the disk failed. How much was written is then unknown.
    pub(crate) fn append<B: AsRef<[u8]>>(&mut self, chunks: &[B]) -> Result<(), StoreError> {
        let mut slices: Vec<IoSlice<'_>> =
            chunks.iter().map(|chunk| IoSlice::new(chunk.as_ref())).collect();
        let mut left = slices.as_mut_slice();
        while left.iter().any(|slice| !slice.is_empty()) {
            match (&*self.file).write_vectored(left) {
                Ok(0) => {
                    return Err(self.place.failed("write", io::ErrorKind::WriteZero.into()));
                }
                Ok(written) => IoSlice::advance_slices(&mut left, written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.place.failed("write", error)),
            }
        }
        self.appended += chunks.iter().map(|chunk| chunk.as_ref().len() as u64).sum::<u64>();
        self.start_write_back();
        Ok(())
    }

    /// Starts to bring what was appended to the disk, without waiting for it.
    fn start_write_back(&mut self) {
        let Some(len) = NonZeroU64::new(self.appended - self.started) else { return };
        if len.get() < WRITE_BACK_LEN {
            return;
        }
        // On Linux "not needed" starts the write of dirty pages and drops clean ones. It is a hint:
        // without it the sync takes longer, and nothing else.
        let _ = rustix::fs::fadvise(&self.file, self.started, Some(len), Advice::DontNeed);
        self.started = self.appended;
    }

    /// Reads the whole partial from its start, feeding `hasher`; the next append follows it.
    ///
    /// # Errors
    /// The disk failed.
    pub(crate) fn read_back(&mut self, mut take: impl FnMut(&[u8])) -> Result<(), StoreError> {
        let failed = |error| self.place.failed("read", error);
        (&*self.file).seek(SeekFrom::Start(0)).map_err(failed)?;
        read_all(&self.file, &mut take).map_err(failed)
    }

    /// When it was last changed, by whomever. Two changes within the clock tick of a kernel before 6.13
    /// look like one.
    ///
    /// # Errors
    /// The disk failed.
    pub(crate) fn last_change(&self) -> Result<LastChange, StoreError> {
        let found = self.file.metadata().map_err(|error| self.place.failed("look at", error))?;
        let modified = (found.mtime(), found.mtime_nsec());
        let changed = (found.ctime(), found.ctime_nsec());
        Ok(LastChange { len: found.len(), modified, changed })
    }

    /// Makes the bytes appended so far durable. After an error the partial must not be used any
    /// more: the system reports a lost write only once (Rebello et al., "Can Applications Recover
    /// from fsync Failures?", 2020).
    ///
    /// # Errors
    /// The disk failed, or a delayed write found no space.
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.file.sync_data().map_err(|error| self.place.failed("sync", error))
    }

    /// Brings the entries of its folder to the disk.
    ///
    /// # Errors
    /// The disk failed.
    pub(crate) fn sync_folder(&self) -> Result<(), StoreError> {
        rustix::fs::fsync(&*self.folder)
            .map_err(|errno| self.place.failed("sync the folder of", errno.into()))
    }

    /// Removes it, if it is still there.
    ///
    /// # Errors
    /// The disk failed.
    pub(crate) fn remove(&self) -> Result<(), StoreError> {
        match rustix::fs::unlinkat(&*self.folder, &self.place.name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(self.place.failed("remove", errno.into())),
        }
    }

    /// The number of its inode, which it keeps when it gets its name.
    ///
    /// # Errors
    /// The disk failed.
    pub(crate) fn inode(&self) -> Result<u64, StoreError> {
        let stat = self.file.metadata().map_err(|error| self.place.failed("stat", error))?;
        Ok(stat.ino())
    }

    /// How many bytes of the disk it has taken or reserved.
    pub(crate) fn allocated(&self) -> u64 {
        // The unit of `st_blocks` is 512 bytes, whatever the file system.
        self.file.metadata().map_or(0, |stat| stat.blocks().saturating_mul(512))
    }

    /// Makes it read-only, and brings its bytes and that to the disk: a download is never writable.
    ///
    /// # Errors
    /// As [`sync`](Self::sync).
    pub(crate) fn seal(&self) -> Result<(), StoreError> {
        rustix::fs::fchmod(&self.file, Mode::RUSR | Mode::RGRP)
            .map_err(|errno| self.place.failed("protect", errno.into()))?;
        // Not only the bytes: `fdatasync` promises nothing of the mode.
        self.file.sync_all().map_err(|error| self.place.failed("sync", error))
    }

    /// Names the partial `to` in its folder, unless that name is taken; returns whether the partial
    /// has the name. The name is durable once the folder is synced.
    ///
    /// # Errors
    /// The disk failed.
    pub(super) fn publish(&self, to: &str) -> Result<bool, DiskError<StoreError>> {
        let (folder, from) = (&*self.folder, self.place.name.as_str());
        match rustix::fs::renameat_with(folder, from, folder, to, RenameFlags::NOREPLACE) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            // Never a plain rename, which replaces: a link does not.
            Err(Errno::INVAL | Errno::NOSYS | Errno::NOTSUP) => self.publish_by_link(to),
            Err(errno) => Err(self.not_published(errno)),
        }
    }

    pub(super) fn publish_by_link(&self, to: &str) -> Result<bool, DiskError<StoreError>> {
        let (folder, from) = (&*self.folder, self.place.name.as_str());
        match rustix::fs::linkat(folder, from, folder, to, AtFlags::empty()) {
            Ok(()) => {}
            Err(Errno::EXIST) => return Ok(false),
            Err(errno) => return Err(self.not_published(errno)),
        }
        // The link is the publication. A second name that stays is swept at the next start.
        let _ = rustix::fs::unlinkat(folder, from, AtFlags::empty());
        Ok(true)
    }

    fn not_published(&self, errno: Errno) -> DiskError<StoreError> {
        let error = self.place.failed("publish", errno.into());
        if is_refusal(errno) { DiskError::NotDone(error) } else { DiskError::Unknown(error) }
    }
}

/// Returns whether the system has certainly changed nothing if it returns this error. After other
/// errors (`EIO`, `ESTALE`, a timeout of a network file system) the disk may have changed.
fn is_refusal(errno: Errno) -> bool {
    matches!(
        errno,
        Errno::PERM
            | Errno::ACCESS
            | Errno::INVAL
            | Errno::NOSYS
            | Errno::NOTSUP
            | Errno::NOSPC
            | Errno::DQUOT
            | Errno::ROFS
            | Errno::MLINK
            | Errno::XDEV
            | Errno::NOENT
            | Errno::NAMETOOLONG
            | Errno::LOOP
            | Errno::NOTDIR
    )
}

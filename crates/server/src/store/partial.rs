//! A file before it is published: `<transfer>-<generation>.tmp`.

use std::fs::File;
use std::io::{IoSlice, Seek as _, SeekFrom};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use filepull_core::disk::DiskError;
use filepull_core::human::chain;
use rustix::fs::{Advice, Mode, OFlags};
use rustix::io::Errno;
use tracing::warn;

use super::base::Base;
use super::clones::{Clones, clone_blocks};
use super::direct::{DirectFile, DirectWrites, write_all};
use super::names::{is_refusal, remove_if_exists, rename_new};
use super::partial_name::PartialPath;
use super::read_back::{read_all, read_uncached};
use super::reservation::Reservation;
use super::{StoreError, lacks_inodes, no_inodes as no_inodes_left};

/// A file that is being received. Only [`sync`](Self::sync) and [`seal`](Self::seal) make its bytes
/// durable.
///
/// A clone is a second handle, for a sync during the appends. It shares the file descriptor, because
/// the process may have no other left.
#[derive(Clone, Debug)]
pub(crate) struct Partial {
    file: Arc<File>,
    /// None if all bytes go through the page cache.
    direct: Option<DirectFile>,
    folder: Arc<OwnedFd>,
    place: Arc<PartialPath>,
    /// Number of bytes in the file.
    appended: u64,
    /// Number of bytes whose write-back has been started.
    started: u64,
    reservation: Reservation,
}

/// Size and times of a file. They stay equal as long as the file is unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LastChange {
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// Only the user of the server writes to a partial.
const MODE: Mode = Mode::RUSR.union(Mode::WUSR).union(Mode::RGRP);

/// Write-back starts after this many bytes, so that the sync at the end has little to write.
const WRITE_BACK_LEN: u64 = 8 * 1024 * 1024;

impl Partial {
    /// Creates the partial, durably, and reserves `stored` bytes. Leaves no file after an error.
    pub(crate) fn create(
        folder: OwnedFd,
        place: PartialPath,
        stored: u64,
        direct: &Arc<DirectWrites>,
    ) -> Result<Self, StoreError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let open = || rustix::fs::openat(&folder, &place.name, flags, MODE);
        let opened = match open() {
            // An earlier process created it and ended before it was on record.
            Err(Errno::EXIST) => remove_if_exists(&folder, &place.name).and_then(|()| open()),
            opened => opened,
        };
        let file: File = opened.map(Into::into).map_err(|errno| {
            let no_inodes = errno == Errno::NOSPC && lacks_inodes(&folder);
            place.failed("create", if no_inodes { no_inodes_left() } else { errno.into() })
        })?;
        let direct = direct.of_partial(&file, stored);
        let mut partial = Self::new(file, direct, folder, place, 0);
        // A disk without space for the file fails now, not after an hour of uploading.
        let begun = partial.reserve(stored).and_then(|()| partial.sync_folder());
        match begun {
            Ok(()) => Ok(partial),
            Err(error) => {
                // No record names the file yet. If it stays, a sweep removes it.
                let _ = partial.remove();
                Err(error)
            }
        }
    }

    fn new(
        file: File,
        direct: Option<DirectFile>,
        folder: OwnedFd,
        place: PartialPath,
        len: u64,
    ) -> Self {
        Self {
            file: Arc::new(file),
            direct,
            folder: Arc::new(folder),
            place: Arc::new(place),
            appended: len,
            started: len,
            reservation: Reservation::default(),
        }
    }

    /// Reserves the space that the partial lacks to use `stored` bytes of the disk, for the bytes that
    /// are appended next.
    pub(crate) fn reserve(&mut self, stored: u64) -> Result<(), StoreError> {
        let n_missing = stored.saturating_sub(self.allocated());
        let reserved = self.reservation.extend(&self.file, self.appended, n_missing);
        reserved.map_err(|error| self.place.failed("reserve space for", error))
    }

    /// Opens the partial and cuts it to `len` bytes. Returns none if it is missing or shorter.
    ///
    /// The size of the whole file is not known here. A file of which less than the minimum for direct
    /// writes was received until a checkpoint arrives slowly, and gains nothing from them.
    pub(crate) fn open(
        folder: OwnedFd,
        place: PartialPath,
        len: u64,
        direct: &Arc<DirectWrites>,
    ) -> Result<Option<Self>, StoreError> {
        let open = |access: OFlags| {
            let flags = access | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(&folder, &place.name, flags, Mode::empty())
        };
        // An earlier process may have made it read-only.
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
        let direct = direct.of_partial(&file, len);
        Ok(Some(Self::new(file, direct, folder, place, len)))
    }

    /// Appends chunks, in order. After an error it is unknown how much was written.
    pub(crate) fn append<B: AsRef<[u8]>>(&mut self, chunks: &[B]) -> Result<(), StoreError> {
        let written = match &self.direct {
            Some(direct) => direct.append(&self.file, self.appended, chunks),
            None => {
                let mut slices: Vec<IoSlice<'_>> =
                    chunks.iter().map(|chunk| IoSlice::new(chunk.as_ref())).collect();
                write_all(&self.file, &mut slices, self.appended)
            }
        };
        written.map_err(|error| self.place.failed("write", error))?;
        self.appended += chunks.iter().map(|chunk| chunk.as_ref().len() as u64).sum::<u64>();
        self.start_write_back();
        Ok(())
    }

    /// Appends bytes of a base, and fills `bytes` with what the partial has then. Blocks that the disk can
    /// clone are read back from the partial. Returns how many bytes the base has: if it has fewer than
    /// `bytes`, or cannot be read, nothing is appended.
    pub(crate) fn append_base(
        &mut self,
        base: &Base,
        offset: u64,
        bytes: &mut [u8],
        clones: &Clones,
    ) -> Result<usize, StoreError> {
        let before = self.appended;
        let n_bytes = bytes.len();
        let Range { start, end } =
            clones.blocks_of(before, offset, n_bytes).unwrap_or(n_bytes..n_bytes);
        let mut found = self.append_written(base, offset, &mut bytes[..start])?;
        if found == start {
            found += self.append_cloned(base, offset + start as u64, &mut bytes[start..end])?;
        }
        if found == end {
            found += self.append_written(base, offset + end as u64, &mut bytes[end..])?;
        }
        if found < n_bytes {
            self.cut(before)?;
        }
        Ok(found)
    }

    /// Reads bytes of a base and appends them, if it has all of them.
    fn append_written(
        &mut self,
        base: &Base,
        offset: u64,
        bytes: &mut [u8],
    ) -> Result<usize, StoreError> {
        let found = base.read_at(bytes, offset).unwrap_or_else(|error| {
            warn!(event = "base.read_failed", error = %chain(&error), "the base cannot be read");
            0
        });
        if found == bytes.len() {
            self.append(&[&*bytes])?;
        }
        Ok(found)
    }

    /// Clones blocks of a base, and reads them back.
    fn append_cloned(
        &mut self,
        base: &Base,
        offset: u64,
        blocks: &mut [u8],
    ) -> Result<usize, StoreError> {
        let n_bytes = blocks.len();
        let at = self.appended;
        match clone_blocks(base.file(), offset, &self.file, at, n_bytes) {
            Ok(n_cloned) if n_cloned == n_bytes => {}
            // Reading the base shows what is wrong with it. A disk that does not clone writes.
            Ok(_) | Err(_) => return self.append_written(base, offset, blocks),
        }
        self.appended += n_bytes as u64;
        read_uncached(&self.file, blocks, at).map_err(|error| self.place.failed("read", error))
    }

    /// Cuts the partial, which releases its reserved space.
    fn cut(&mut self, len: u64) -> Result<(), StoreError> {
        self.file.set_len(len).map_err(|error| self.place.failed("cut", error))?;
        self.appended = len;
        self.started = self.started.min(len);
        self.reservation = Reservation::default();
        Ok(())
    }

    /// Appends zeros, without storing them where the file system has sparse files. After an error it is
    /// unknown how many were appended.
    pub(crate) fn append_zeros(&mut self, n_bytes: u64) -> Result<(), StoreError> {
        let end = self.appended + n_bytes;
        self.file.set_len(end).map_err(|error| self.place.failed("extend", error))?;
        let moved = self.reservation.move_behind(&self.file, self.appended..end);
        moved.map_err(|error| self.place.failed("reserve space for", error))?;
        self.appended = end;
        self.start_write_back();
        Ok(())
    }

    /// Starts to write appended bytes to the disk, without waiting for it.
    fn start_write_back(&mut self) {
        let Some(len) = NonZeroU64::new(self.appended - self.started) else { return };
        if len.get() < WRITE_BACK_LEN {
            return;
        }
        // On Linux `DontNeed` starts the write of dirty pages and drops clean pages. Errors are
        // ignored, because without this hint only the sync takes longer.
        let _ = rustix::fs::fadvise(&self.file, self.started, Some(len), Advice::DontNeed);
        self.started = self.appended;
    }

    /// Reads the whole partial from its start. The next append continues at its end. The bytes of
    /// direct writes are read from the disk, other bytes possibly from the page cache.
    pub(crate) fn read_back(&mut self, mut take: impl FnMut(&[u8])) -> Result<(), StoreError> {
        let failed = |error| self.place.failed("read", error);
        if let Some(direct) = &self.direct {
            return direct.read_back(&self.file, &mut take).map_err(failed);
        }
        (&*self.file).seek(SeekFrom::Start(0)).map_err(failed)?;
        read_all(&self.file, &mut take).map_err(failed)
    }

    /// Makes the appended bytes durable and drops them from the page cache, so that they are next read
    /// from the disk. After an error the partial must not be used again, as for [`sync`](Self::sync).
    pub(crate) fn drop_cached(&self) -> Result<(), StoreError> {
        self.sync()?;
        // Fails only on file systems without a page cache.
        let _ = rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed);
        Ok(())
    }

    /// Returns when the partial was last changed, by any program. With a kernel before 6.13, two
    /// changes within one clock tick look like one.
    pub(crate) fn last_change(&self) -> Result<LastChange, StoreError> {
        let found = self.file.metadata().map_err(|error| self.place.failed("stat", error))?;
        let modified = (found.mtime(), found.mtime_nsec());
        let changed = (found.ctime(), found.ctime_nsec());
        Ok(LastChange { len: found.len(), modified, changed })
    }

    /// Makes the bytes appended so far durable. After an error the partial must not be used again,
    /// because the system reports a lost write only once (Rebello et al., "Can Applications Recover
    /// from fsync Failures?", 2020).
    pub(crate) fn sync(&self) -> Result<(), StoreError> {
        self.file.sync_data().map_err(|error| self.place.failed("sync", error))
    }

    /// Makes the names in its folder durable.
    pub(crate) fn sync_folder(&self) -> Result<(), StoreError> {
        rustix::fs::fsync(&*self.folder)
            .map_err(|errno| self.place.failed("sync the folder of", errno.into()))
    }

    /// Removes the partial, if it exists.
    pub(crate) fn remove(&self) -> Result<(), StoreError> {
        remove_if_exists(&*self.folder, &self.place.name)
            .map_err(|errno| self.place.failed("remove", errno.into()))
    }

    /// Returns the number of its inode. Publishing keeps the inode.
    pub(crate) fn inode(&self) -> Result<u64, StoreError> {
        let stat = self.file.metadata().map_err(|error| self.place.failed("stat", error))?;
        Ok(stat.ino())
    }

    /// Returns how many bytes of the disk the partial uses, reserved space included.
    pub(crate) fn allocated(&self) -> u64 {
        // The unit of `st_blocks` is 512 bytes on every file system.
        self.file.metadata().map_or(0, |stat| stat.blocks().saturating_mul(512))
    }

    /// Makes the partial read-only, because a download is never writable, and fsyncs its bytes and
    /// its mode. After an error the partial must not be used again, as for [`sync`](Self::sync).
    pub(crate) fn seal(&self) -> Result<(), StoreError> {
        if self.reservation.reaches_behind(self.appended) {
            // Releases the space behind the end.
            self.file.set_len(self.appended).map_err(|error| self.place.failed("cut", error))?;
        }
        rustix::fs::fchmod(&self.file, Mode::RUSR | Mode::RGRP)
            .map_err(|errno| self.place.failed("protect", errno.into()))?;
        // Not `sync_data`, which does not guarantee that the mode is durable.
        self.file.sync_all().map_err(|error| self.place.failed("sync", error))
    }

    /// Names the partial `to` in its folder, unless that name is taken. Returns whether the partial
    /// has the name. The name is durable once the folder is synced.
    pub(crate) fn publish(&self, to: &str) -> Result<bool, DiskError<StoreError>> {
        rename_new(&*self.folder, &self.place.name, to).map_err(|errno| {
            let error = self.place.failed("publish", errno.into());
            if is_refusal(errno) { DiskError::NotDone(error) } else { DiskError::Unknown(error) }
        })
    }
}

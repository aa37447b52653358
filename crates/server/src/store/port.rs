//! [`Store`] implements the disk port of `core`.

use filepull_core::disk::{CommitResult, Disk, DiskError, Durable, Extent, PartialKey};
use filepull_core::id::ClientId;
use filepull_core::name::DownloadName;
use filepull_core::transfer::Download;
use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use super::names::remove_if_exists;
use super::partial::Partial;
use super::partial_name::PartialPath;
use super::{Base, Store, StoreError, digest_of, partial_name};

type Error = DiskError<StoreError>;

impl Disk for Store {
    type Partial = Partial;
    type Base = Base;
    type Error = StoreError;

    /// Creates the client's folder, durably, if it is missing.
    fn begin(&mut self, key: &PartialKey, stored: u64) -> Result<(Partial, Durable), Error> {
        self.note_begun(key);
        let folder = self.create_folder(&key.client).map_err(DiskError::NotDone)?;
        let created = Partial::create(folder, self.place(key), stored, &self.root.direct);
        let partial = created.map_err(DiskError::Unknown)?;
        Ok((partial, Durable::promise()))
    }

    fn append<B: AsRef<[u8]>>(&mut self, partial: &mut Partial, chunks: &[B]) -> Result<(), Error> {
        partial.append(chunks).map_err(DiskError::Unknown)
    }

    fn append_zeros(&mut self, partial: &mut Partial, n_bytes: u64) -> Result<(), Error> {
        partial.append_zeros(n_bytes).map_err(DiskError::Unknown)
    }

    fn append_base(
        &mut self,
        partial: &mut Partial,
        base: &Base,
        offset: u64,
        n_bytes: u64,
        take: impl FnOnce(&[u8]),
    ) -> Result<u64, Error> {
        let mut buffer = self.root.copies.take();
        let len = usize::try_from(n_bytes).unwrap_or(usize::MAX).min(buffer.len());
        let bytes = &mut buffer[..len];
        let appended = partial.append_base(base, offset, bytes, &self.root.clones);
        let found = appended.map_err(DiskError::Unknown)?;
        if found == len {
            take(bytes);
        }
        Ok(found as u64)
    }

    fn sync(&mut self, partial: &Partial, extent: Extent) -> Result<Durable, Error> {
        let synced = match extent {
            Extent::Prefix => partial.sync(),
            Extent::Whole => partial.seal(),
        };
        synced.map(|()| Durable::promise()).map_err(DiskError::Unknown)
    }

    fn commit(&mut self, partial: &Partial, name: &DownloadName) -> Result<CommitResult, Error> {
        if !partial.publish(&name.to_string())? {
            return Ok(CommitResult::Taken);
        }
        partial.sync_folder().map_err(DiskError::Unknown)?;
        Ok(CommitResult::Named(Durable::promise()))
    }

    /// Uses the open folder of `partial` if there is one, because the process may have no file
    /// descriptors left.
    fn abort(&mut self, key: &PartialKey, partial: Option<&Partial>) -> Result<(), Error> {
        let removed = match partial {
            Some(partial) => partial.remove(),
            None => self.remove_partial(key),
        };
        removed.map_err(DiskError::Unknown)
    }

    fn resume(
        &mut self,
        key: &PartialKey,
        len: u64,
        take: impl FnMut(&[u8]),
    ) -> Result<Option<Partial>, Error> {
        let Some(folder) = self.open_folder(&key.client).map_err(DiskError::NotDone)? else {
            return Ok(None);
        };
        let opened = Partial::open(folder, self.place(key), len, &self.root.direct);
        let Some(mut partial) = opened.map_err(DiskError::Unknown)? else { return Ok(None) };
        partial.read_back(take).map_err(DiskError::Unknown)?;
        Ok(Some(partial))
    }

    fn find(&mut self, client: &ClientId, download: &Download) -> Result<Option<Durable>, Error> {
        let is_there = self.is_there(client, download).map_err(DiskError::Unknown)?;
        if !is_there {
            return Ok(None);
        }
        self.sync_folder(client).map_err(DiskError::Unknown)?;
        Ok(Some(Durable::promise()))
    }
}

impl Store {
    /// Returns whether the download has its name. A link, a folder or another file with this name
    /// does not count and is not opened.
    fn is_there(&self, client: &ClientId, download: &Download) -> Result<bool, StoreError> {
        let Some(folder) = self.open_folder(client)? else { return Ok(false) };
        let name = download.name.to_string();
        let path = self.download_path(client, &download.name);
        let failed = |step| {
            let path = path.clone();
            move |errno: Errno| StoreError { step, path, source: errno.into() }
        };
        let stat = match rustix::fs::statat(&folder, &name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(false),
            stat => stat.map_err(failed("stat"))?,
        };
        let is_file = FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile;
        if !is_file || stat.st_ino != download.inode {
            return Ok(false);
        }
        // `NONBLOCK`, because opening a pipe that has replaced the file would wait for a writer.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&folder, &name, flags, Mode::empty());
        let file = opened.map_err(failed("open"))?.into();
        let found = digest_of(&file).map_err(|source| StoreError {
            step: "read",
            path: path.clone(),
            source,
        })?;
        Ok(found == (download.size, download.digests.blake3))
    }

    /// Removes a partial, if it exists.
    pub(crate) fn remove_partial(&self, key: &PartialKey) -> Result<(), StoreError> {
        let Some(folder) = self.open_folder(&key.client)? else { return Ok(()) };
        let place = self.place(key);
        remove_if_exists(&folder, &place.name).map_err(|errno| place.failed("remove", errno.into()))
    }

    fn place(&self, key: &PartialKey) -> PartialPath {
        let name = partial_name(key.transfer, key.generation);
        PartialPath { folder_path: self.root.path.join(key.client.as_str()), name }
    }
}

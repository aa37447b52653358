//! What survives a server process: the disk, behind the same port as the real one, and the records.

use std::collections::BTreeMap;

use filepull_core::digest::Digest;
use filepull_core::disk::{self, CommitResult, DiskError, Durable, Extent, PartialKey};
use filepull_core::id::{ClientId, TransferId};
use filepull_core::name::DownloadName;
use filepull_core::transfer::{Download, Transfer};

use crate::disk::Disk;

#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    pub(crate) disk: Disk,
    /// Durable at once, as with `synchronous=FULL`.
    pub(crate) records: BTreeMap<TransferId, Transfer>,
    /// What was promised to somebody, for the oracle.
    pub(crate) said: Vec<Said>,
    /// How many more acts the process lives for, if a crash is planned.
    pub(crate) fuse: Option<usize>,
    /// What goes wrong while the process lives on, if that is planned.
    pub(crate) fault: Option<Fault>,
    /// How many server processes there have been.
    pub(crate) n_starts: usize,
    /// Publish by link and unlink, as on file systems without a rename that never replaces.
    pub(crate) links: bool,
}

/// A failure of the disk or of the records.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) what: Fails,
    /// How many of these acts still succeed.
    pub(crate) after: usize,
    /// How many fail then.
    pub(crate) times: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fails {
    /// A record, which may be durable all the same.
    Record { durable: bool },
    /// The sync of a file: what it was to bring to the disk never gets there.
    SyncFile,
    /// The sync of the folder.
    SyncFolder,
    /// A new file, or a write into one.
    Room,
    /// Why a whole file has no name: the disk certainly refused it.
    Name,
}

/// What somebody has been told, or a reason why an earlier promise no longer counts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Said {
    /// 202: the transfer will end, whatever happens.
    Accepted(TransferId),
    /// The bytes up to here will never have to be sent again.
    Durable(TransferId, u64),
    /// What was received is of no use: the source changed, or the bytes were damaged.
    Lapsed(TransferId),
    /// An order went out.
    Ordered(TransferId, u32),
    /// An upload may write.
    Began(TransferId, u32),
    /// A new server process has taken over.
    Restarted,
}

/// Why an act did not succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The server process is gone.
    Crashed,
    /// The server ends this upload.
    Refused,
    /// The disk did not do what it was asked for.
    Failed,
}

impl From<DiskError<Self>> for Stop {
    fn from(error: DiskError<Self>) -> Self {
        error.into_cause()
    }
}

/// `<transfer>-<generation>.tmp`.
pub(crate) fn partial_name(key: &PartialKey) -> String {
    format!("{}-{}.tmp", key.transfer, key.generation)
}

pub(crate) fn is_partial(name: &str) -> bool {
    name.ends_with(".tmp")
}

impl Machine {
    /// Counts one act that a crash may precede.
    pub(crate) fn tick(&mut self) -> Result<(), Stop> {
        match &mut self.fuse {
            None => Ok(()),
            Some(0) => Err(Stop::Crashed),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
        }
    }

    /// Whether the next act of this kind fails.
    fn fails(&mut self, is_planned: impl Fn(Fails) -> bool) -> Option<Fails> {
        let fault = self.fault.as_mut().filter(|fault| is_planned(fault.what))?;
        if 0 < fault.after {
            fault.after -= 1;
            return None;
        }
        let left = fault.times.checked_sub(1)?;
        fault.times = left;
        Some(fault.what)
    }

    /// Is there room for one more write?
    fn room(&mut self) -> Result<(), Stop> {
        match self.fails(|what| what == Fails::Room) {
            Some(_) => Err(Stop::Failed),
            None => Ok(()),
        }
    }

    /// Puts a transfer on record; false if that failed.
    pub(crate) fn save(&mut self, of: &Transfer) -> Result<bool, Stop> {
        self.tick()?;
        let failed = self.fails(|what| matches!(what, Fails::Record { .. }));
        if failed != Some(Fails::Record { durable: false }) {
            self.records.insert(of.id, of.clone());
        }
        Ok(failed.is_none())
    }

    /// Puts a transfer on record. Retries until that works.
    pub(crate) fn record(&mut self, of: &Transfer) -> Result<(), Stop> {
        while !self.save(of)? {}
        Ok(())
    }

    fn sync_folder(&mut self) -> Result<Durable, DiskError<Stop>> {
        self.tick().map_err(DiskError::Unknown)?;
        if self.fails(|what| what == Fails::SyncFolder).is_some() {
            return Err(DiskError::Unknown(Stop::Failed));
        }
        self.disk.sync_folder();
        Ok(Durable::promise())
    }

    fn rename(&mut self, partial: &str, name: &str) -> Result<(), Stop> {
        if self.links {
            self.disk.link(partial, name);
            self.tick()?;
            self.disk.unlink(partial);
        } else {
            self.disk.rename(partial, name);
        }
        Ok(())
    }

    /// Damages a bit of a partial, if there is one that is not also a download.
    pub(crate) fn flip_bit(&mut self, pick: usize) {
        let Self { disk, records, said, .. } = self;
        let is_only_name = |name: &str| {
            disk.names().filter(|other| disk.inode(other) == disk.inode(name)).count() == 1
        };
        let partial = |of: &Transfer| partial_name(&of.partial());
        let damaged = records.values().find(|of| is_only_name(&partial(of)));
        if let Some(of) = damaged {
            disk.flip_bit(&partial(of), pick);
            said.push(Said::Lapsed(of.id));
        }
    }
}

impl disk::Disk for Machine {
    type Partial = PartialKey;
    type Error = Stop;

    fn begin(
        &mut self,
        key: &PartialKey,
        _size: u64,
    ) -> Result<(PartialKey, Durable), DiskError<Stop>> {
        self.tick().map_err(DiskError::NotDone)?;
        self.room().map_err(DiskError::NotDone)?;
        let name = partial_name(key);
        self.disk.unlink(&name);
        self.disk.create(&name);
        match self.sync_folder() {
            Ok(durable) => Ok((key.clone(), durable)),
            Err(error) => {
                if error != DiskError::Unknown(Stop::Crashed) {
                    self.disk.unlink(&name);
                }
                Err(error)
            }
        }
    }

    /// A disk that becomes full writes the first half of a chunk.
    fn append<B: AsRef<[u8]>>(
        &mut self,
        partial: &mut PartialKey,
        chunks: &[B],
    ) -> Result<(), DiskError<Stop>> {
        for chunk in chunks {
            self.tick().map_err(DiskError::Unknown)?;
            let (name, bytes, room) = (partial_name(partial), chunk.as_ref(), self.room());
            let at = self.disk.bytes(&name).map_or(0, <[u8]>::len);
            let len = if room.is_ok() { bytes.len() } else { bytes.len() / 2 };
            self.disk.write(&name, at, &bytes[..len]);
            room.map_err(DiskError::Unknown)?;
        }
        Ok(())
    }

    fn sync(&mut self, partial: &PartialKey, _extent: Extent) -> Result<Durable, DiskError<Stop>> {
        self.tick().map_err(DiskError::Unknown)?;
        let name = partial_name(partial);
        if self.fails(|what| what == Fails::SyncFile).is_some() {
            self.disk.fail_sync(&name);
            return Err(DiskError::Unknown(Stop::Failed));
        }
        self.disk.sync(&name);
        Ok(Durable::promise())
    }

    fn commit(
        &mut self,
        partial: &PartialKey,
        name: &DownloadName,
    ) -> Result<CommitResult, DiskError<Stop>> {
        self.tick().map_err(DiskError::NotDone)?;
        let name = name.to_string();
        if self.fails(|what| what == Fails::Name).is_some() {
            return Err(DiskError::NotDone(Stop::Failed));
        }
        if self.disk.inode(&name).is_some() {
            return Ok(CommitResult::Taken);
        }
        self.rename(&partial_name(partial), &name).map_err(DiskError::Unknown)?;
        self.sync_folder().map(CommitResult::Named)
    }

    fn abort(
        &mut self,
        key: &PartialKey,
        _partial: Option<&PartialKey>,
    ) -> Result<(), DiskError<Stop>> {
        self.tick().map_err(DiskError::NotDone)?;
        self.disk.unlink(&partial_name(key));
        Ok(())
    }

    fn resume(
        &mut self,
        key: &PartialKey,
        len: u64,
        mut take: impl FnMut(&[u8]),
    ) -> Result<Option<PartialKey>, DiskError<Stop>> {
        self.tick().map_err(DiskError::NotDone)?;
        let name = partial_name(key);
        let len = usize::try_from(len).expect("model files are small");
        if self.disk.bytes(&name).is_none_or(|bytes| bytes.len() < len) {
            return Ok(None);
        }
        self.disk.cut(&name, len);
        self.disk.bytes(&name).into_iter().for_each(&mut take);
        Ok(Some(key.clone()))
    }

    fn find(
        &mut self,
        _client: &ClientId,
        download: &Download,
    ) -> Result<Option<Durable>, DiskError<Stop>> {
        self.tick().map_err(DiskError::NotDone)?;
        let name = download.name.to_string();
        let is_ours = self.disk.inode(&name) == Some(download.inode);
        if is_ours && self.disk.bytes(&name).is_some_and(|found| is(download, found)) {
            return self.sync_folder().map(Some);
        }
        Ok(None)
    }
}

/// Do these bytes have the length and the digest of the download?
pub(crate) fn is(download: &Download, bytes: &[u8]) -> bool {
    bytes.len() as u64 == download.size && Digest::of(bytes) == download.digest
}

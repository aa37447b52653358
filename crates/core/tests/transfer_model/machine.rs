//! What survives a server process: the records, and the disk behind the same port as the real one.

use std::collections::BTreeMap;

use filepull_core::disk::{self, CommitResult, DiskError, Durable, Extent, PartialKey};
use filepull_core::file_digest::FileDigests;
use filepull_core::id::{ClientId, TransferId};
use filepull_core::name::DownloadName;
use filepull_core::transfer::{Download, Transfer};

use crate::disk::{Disk, Inode};

#[derive(Clone, Debug, Default)]
pub(crate) struct Machine {
    pub(crate) disk: Disk,
    /// Durable at once, as with `synchronous=FULL`.
    pub(crate) records: BTreeMap<TransferId, Transfer>,
    /// The promises and events since the last check, for the oracle.
    pub(crate) events: Vec<Event>,
    /// How many more disk operations the process runs, if a crash is planned.
    pub(crate) fuse: Option<usize>,
    /// The planned failure, if there is one. The process survives it.
    pub(crate) fault: Option<Fault>,
    /// How many server processes there have been.
    pub(crate) n_starts: usize,
    /// Publish by link and unlink, as on file systems without a rename that never replaces.
    pub(crate) links: bool,
}

/// A failure of the disk or of the records.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) what: Failing,
    /// How many of these operations still succeed.
    pub(crate) after: usize,
    /// How many fail afterwards.
    pub(crate) times: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failing {
    /// A record. It may be durable all the same.
    Record { durable: bool },
    /// The sync of a file: its writes are lost.
    SyncFile,
    /// The sync of the folder.
    SyncFolder,
    /// A new file, or a write into one.
    Space,
    /// The name of a complete file: the disk certainly rejected it.
    Name,
}

/// A promise to a caller or an agent, or a reason why an earlier promise no longer counts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Event {
    /// 202: the transfer will end after any failure.
    Accepted(TransferId),
    /// The agent never sends these bytes again.
    Durable(TransferId, u64),
    /// The received bytes are useless: the source changed, or the bytes were damaged.
    Lapsed(TransferId),
    /// An order was sent.
    Ordered(TransferId, u32),
    /// An upload may write.
    Began(TransferId, u32),
    /// A new server process has taken over.
    Restarted,
}

/// Why an operation failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// The server process has ended.
    Crashed,
    /// The server ends this upload.
    Refused,
    /// The disk failed.
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
    /// Counts one operation. A crash may precede it.
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

    /// Returns whether the next operation of this kind fails.
    fn fails(&mut self, is_planned: impl Fn(Failing) -> bool) -> Option<Failing> {
        let fault = self.fault.as_mut().filter(|fault| is_planned(fault.what))?;
        if 0 < fault.after {
            fault.after -= 1;
            return None;
        }
        let left = fault.times.checked_sub(1)?;
        fault.times = left;
        Some(fault.what)
    }

    /// Checks that there is space for one more write.
    fn check_space(&mut self) -> Result<(), Stop> {
        match self.fails(|what| what == Failing::Space) {
            Some(_) => Err(Stop::Failed),
            None => Ok(()),
        }
    }

    /// Records a transfer. Returns false if that failed.
    pub(crate) fn save(&mut self, of: &Transfer) -> Result<bool, Stop> {
        self.tick()?;
        let failed = self.fails(|what| matches!(what, Failing::Record { .. }));
        if failed != Some(Failing::Record { durable: false }) {
            self.records.insert(of.id, of.clone());
        }
        Ok(failed.is_none())
    }

    /// Records a transfer. Retries until that succeeds.
    pub(crate) fn record(&mut self, of: &Transfer) -> Result<(), Stop> {
        while !self.save(of)? {}
        Ok(())
    }

    fn sync_folder(&mut self) -> Result<Durable, DiskError<Stop>> {
        self.tick().map_err(DiskError::Unknown)?;
        if self.fails(|what| what == Failing::SyncFolder).is_some() {
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
        let Self { disk, records, events, .. } = self;
        let is_only_name = |name: &str| {
            disk.names().filter(|other| disk.inode(other) == disk.inode(name)).count() == 1
        };
        let partial = |of: &Transfer| partial_name(&of.partial());
        let damaged = records.values().find(|of| is_only_name(&partial(of)));
        if let Some(of) = damaged {
            disk.flip_bit(&partial(of), pick);
            events.push(Event::Lapsed(of.id));
        }
    }
}

impl disk::Disk for Machine {
    type Partial = PartialKey;
    type Base = Inode;
    type Error = Stop;

    fn begin(
        &mut self,
        key: &PartialKey,
        _stored: u64,
    ) -> Result<(PartialKey, Durable), DiskError<Stop>> {
        self.tick().map_err(DiskError::NotDone)?;
        self.check_space().map_err(DiskError::NotDone)?;
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

    /// A disk without space writes the first half of a chunk.
    fn append<B: AsRef<[u8]>>(
        &mut self,
        partial: &mut PartialKey,
        chunks: &[B],
    ) -> Result<(), DiskError<Stop>> {
        for chunk in chunks {
            self.tick().map_err(DiskError::Unknown)?;
            let name = partial_name(partial);
            let bytes = chunk.as_ref();
            let space = self.check_space();
            let at = self.disk.bytes(&name).map_or(0, <[u8]>::len);
            let len = if space.is_ok() { bytes.len() } else { bytes.len() / 2 };
            self.disk.write(&name, at, &bytes[..len]);
            space.map_err(DiskError::Unknown)?;
        }
        Ok(())
    }

    fn append_zeros(
        &mut self,
        partial: &mut PartialKey,
        n_bytes: u64,
    ) -> Result<(), DiskError<Stop>> {
        let n_bytes = usize::try_from(n_bytes).expect("model files are small");
        self.append(partial, &[vec![0; n_bytes]])
    }

    fn append_base(
        &mut self,
        partial: &mut PartialKey,
        base: &Inode,
        offset: u64,
        n_bytes: u64,
        take: impl FnOnce(&[u8]),
    ) -> Result<u64, DiskError<Stop>> {
        let small = |n| usize::try_from(n).expect("model files are small");
        let bytes = self.disk.open_bytes(*base).unwrap_or_default();
        let found: Vec<u8> =
            bytes.iter().copied().skip(small(offset)).take(small(n_bytes)).collect();
        if found.len() == small(n_bytes) {
            self.append(partial, &[&found])?;
            take(&found);
        }
        Ok(found.len() as u64)
    }

    fn sync(&mut self, partial: &PartialKey, _extent: Extent) -> Result<Durable, DiskError<Stop>> {
        self.tick().map_err(DiskError::Unknown)?;
        let name = partial_name(partial);
        if self.fails(|what| what == Failing::SyncFile).is_some() {
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
        if self.fails(|what| what == Failing::Name).is_some() {
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

/// Returns whether these bytes have the length and the digests of the download.
pub(crate) fn is(download: &Download, bytes: &[u8]) -> bool {
    bytes.len() as u64 == download.size && FileDigests::of(bytes) == download.digests
}

//! What outlives a server process: the disk and the records; and how an effect reaches them.

use std::collections::BTreeMap;

use filepull_core::digest::Digest;
use filepull_core::id::TransferId;
use filepull_core::receive::Prefix;
use filepull_core::transfer::{Download, Effect, SealedFound, Transfer};

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

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outcome {
    Performed,
    NameTaken,
}

/// `<transfer>-<generation>.tmp`.
pub(crate) fn partial_name(transfer: &Transfer, generation: u32) -> String {
    format!("{}-{generation}.tmp", transfer.id)
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

    /// Appends to a partial; a disk that gets full takes the first half.
    pub(crate) fn append(&mut self, of: &Transfer, at: usize, bytes: &[u8]) -> Result<(), Stop> {
        self.tick()?;
        let room = self.room();
        let len = if room.is_ok() { bytes.len() } else { bytes.len() / 2 };
        self.disk.write(&partial_name(of, of.generation), at, &bytes[..len]);
        room
    }

    pub(crate) fn perform(&mut self, of: &Transfer, effects: &[Effect]) -> Result<Outcome, Stop> {
        let partial = partial_name(of, of.generation);
        let mut outcome = Outcome::Performed;
        for effect in effects {
            self.tick()?;
            match effect {
                // Tried until it works.
                Effect::Record => while !self.save(of)? {},
                Effect::CreatePartial => {
                    self.room()?;
                    self.disk.create(&partial);
                }
                Effect::SyncPartial => self.sync(&partial)?,
                Effect::SyncFolder => {
                    if self.fails(|what| what == Fails::SyncFolder).is_some() {
                        return Err(Stop::Failed);
                    }
                    self.disk.sync_folder();
                }
                Effect::Publish => {
                    outcome = self.publish(of, &partial)?;
                    if outcome == Outcome::NameTaken {
                        break;
                    }
                }
                Effect::RemovePartial(old) => self.disk.unlink(&partial_name(of, *old)),
            }
        }
        Ok(outcome)
    }

    pub(crate) fn sync(&mut self, partial: &str) -> Result<(), Stop> {
        if self.fails(|what| what == Fails::SyncFile).is_some() {
            self.disk.fail_sync(partial);
            return Err(Stop::Failed);
        }
        self.disk.sync(partial);
        Ok(())
    }

    fn publish(&mut self, of: &Transfer, partial: &str) -> Result<Outcome, Stop> {
        let name = sealed(of).name.to_string();
        if self.disk.inode(&name).is_some() {
            return Ok(Outcome::NameTaken);
        }
        if self.links {
            self.disk.link(partial, &name);
            self.tick()?;
            self.disk.unlink(partial);
        } else {
            self.disk.rename(partial, &name);
        }
        Ok(Outcome::Performed)
    }

    /// Cuts the partial to the checkpoint and reads it; none if it does not hold the checkpoint.
    pub(crate) fn read_prefix(
        &mut self,
        of: &Transfer,
        checkpoint: Prefix,
    ) -> Result<Option<Vec<u8>>, Stop> {
        self.tick()?;
        let partial = partial_name(of, of.generation);
        let len = usize::try_from(checkpoint.len).expect("model files are small");
        if self.disk.bytes(&partial).is_none_or(|bytes| bytes.len() < len) {
            return Ok(None);
        }
        self.disk.cut(&partial, len);
        let bytes = self.disk.bytes(&partial).map(<[u8]>::to_vec);
        Ok(bytes.filter(|bytes| Digest::of(bytes) == checkpoint.digest))
    }

    /// Damages a bit of a partial, if there is one that is not also a download.
    pub(crate) fn flip_bit(&mut self, pick: usize) {
        let Self { disk, records, said, .. } = self;
        let is_only_name = |name: &str| {
            disk.names().filter(|other| disk.inode(other) == disk.inode(name)).count() == 1
        };
        let partial = |of: &Transfer| partial_name(of, of.generation);
        let damaged = records.values().find(|of| is_only_name(&partial(of)));
        if let Some(of) = damaged {
            disk.flip_bit(&partial(of), pick);
            said.push(Said::Lapsed(of.id));
        }
    }

    /// Looks for a sealed download under its name, then for its partial.
    pub(crate) fn find_sealed(&self, of: &Transfer, download: &Download) -> SealedFound {
        let holds = |name: &str| self.disk.bytes(name).is_some_and(|found| is(download, found));
        let name = download.name.to_string();
        let is_ours = self.disk.inode(&name) == Some(download.inode);
        if is_ours && holds(&name) {
            SealedFound::Named
        } else if holds(&partial_name(of, of.generation)) {
            SealedFound::Partial
        } else {
            SealedFound::Nowhere
        }
    }
}

/// Do these bytes have the length and the digest of the download?
pub(crate) fn is(download: &Download, bytes: &[u8]) -> bool {
    bytes.len() as u64 == download.size && Digest::of(bytes) == download.digest
}

fn sealed(transfer: &Transfer) -> &Download {
    use filepull_core::transfer::Phase::{Cancelled, Done, Failed, Queued, Receiving, Sealed};
    match &transfer.phase {
        Sealed(download) => download,
        Queued | Receiving { .. } | Done(_) | Failed(_) | Cancelled(_) => {
            panic!("published while not sealed: {transfer:?}")
        }
    }
}

//! What has been received of a transfer, and whether the disk still has it.

use bytes::Bytes;
use filepull_core::disk::{Disk as _, DiskError, Durable, Extent, ResumedPartial};
use filepull_core::receive::Receiver;
use filepull_core::source::Fingerprint;

use super::UploadEnd;
use crate::store::{LastChange, Partial, Store, StoreError};

/// A partial that is no longer is read back as soon as it is whole, while the agent reads its file
/// once more, and nobody waits. A longer one may have to come from the disk, for longer than an
/// upload may be silent: it is read when the agent has said that this was all.
const EARLY_LEN: u64 = 1 << 30;

/// What has been received of a transfer: its partial, and the judge of what may follow.
#[derive(Debug)]
pub(crate) struct ReceivedPartial {
    disk: Store,
    pub(crate) partial: Partial,
    pub(crate) receiver: Receiver,
    /// Of the bytes that were received: what the partial must hold when it gets its name. The
    /// digest does not tell: it is made of the bytes on their way to the disk.
    fingerprint: Fingerprint,
    looked: Option<ReadBack>,
}

/// A partial was read back.
#[derive(Clone, Copy, Debug)]
struct ReadBack {
    /// Before it was read.
    last_change: LastChange,
    intact: bool,
}

impl ReceivedPartial {
    /// Nothing is received yet, of a source of `size` bytes.
    pub(crate) fn new(disk: Store, partial: Partial, size: u64) -> Self {
        let (receiver, fingerprint) = (Receiver::new(size), Fingerprint::default());
        Self::resumed(disk, ResumedPartial { partial, receiver, fingerprint })
    }

    /// Continues with what an earlier process received.
    pub(crate) fn resumed(disk: Store, resumed: ResumedPartial<Partial>) -> Self {
        let ResumedPartial { partial, receiver, fingerprint } = resumed;
        Self { disk, partial, receiver, fingerprint, looked: None }
    }

    /// Takes the chunks that follow each other, up to the first that does not.
    pub(super) fn write(&mut self, batch: Vec<(u64, Bytes)>) -> Result<(), UploadEnd> {
        let mut accepted = Vec::with_capacity(batch.len());
        let mut judged = Ok(());
        for (offset, bytes) in batch {
            // Hashed while the bytes are still in the processor's cache from the line.
            judged = self.receiver.chunk(offset, &bytes);
            if judged.is_err() {
                break;
            }
            if !bytes.is_empty() {
                self.fingerprint.update(&bytes);
                accepted.push(bytes);
            }
        }
        let appended = self.disk.append(&mut self.partial, &accepted);
        appended.map_err(|error| UploadEnd::Disk(error.into_cause()))?;
        judged.map_err(UploadEnd::Bad)?;
        let whole = self.receiver.received() == self.receiver.announced();
        if whole && !accepted.is_empty() && self.receiver.received() <= EARLY_LEN {
            self.look().map_err(UploadEnd::Disk)?;
        }
        Ok(())
    }

    /// Makes what was received durable.
    ///
    /// # Errors
    /// The disk failed: the partial must not be used any more.
    pub(crate) fn sync(&mut self, extent: Extent) -> Result<Durable, DiskError<StoreError>> {
        self.disk.sync(&self.partial, extent)
    }

    /// Makes a whole file durable, and returns the partial's inode; none if the partial is no longer
    /// what was received. It is about to get a name.
    ///
    /// # Errors
    /// The disk failed: the partial must not be used any more.
    pub(crate) fn sync_intact(&mut self) -> Result<Option<(u64, Durable)>, DiskError<StoreError>> {
        let is_intact = match self.is_known_intact() {
            Some(is_intact) => is_intact,
            None => self.look().map_err(DiskError::NotDone)?,
        };
        if !is_intact {
            return Ok(None);
        }
        let inode = self.partial.inode().map_err(DiskError::NotDone)?;
        self.sync(Extent::Whole).map(|synced| Some((inode, synced)))
    }

    /// Whether the partial holds what was received, if it was read back since it last changed.
    fn is_known_intact(&self) -> Option<bool> {
        let looked = self.looked?;
        let last_change = self.partial.last_change().ok()?;
        (last_change == looked.last_change).then_some(looked.intact)
    }

    /// Reads the partial back: whether it holds what was received.
    ///
    /// # Errors
    /// The disk failed.
    fn look(&mut self) -> Result<bool, StoreError> {
        let last_change = self.partial.last_change()?;
        let mut found = Fingerprint::default();
        self.partial.read_back(|bytes| found.update(bytes))?;
        let intact = found.agrees_with(&self.fingerprint);
        self.looked = Some(ReadBack { last_change, intact });
        Ok(intact)
    }
}

//! The received bytes of a transfer, and whether the disk still holds them.

use bytes::Bytes;
use filepull_core::disk::{Disk as _, DiskError, Durable, Extent, ResumedPartial};
use filepull_core::receive::Receiver;
use filepull_core::source::FastHash;

use super::UploadEnd;
use crate::store::{LastChange, Partial, Store, StoreError};

/// A complete partial up to this size is read back at once, while the agent reads its file again. A
/// larger one may no longer be in the page cache, and reading it may take longer than an upload may
/// pause. It is read after the trailer.
const EARLY_LEN: u64 = 1 << 30;

/// The partial of a transfer, and the receiver that checks its next bytes.
#[derive(Debug)]
pub(crate) struct ReceivedPartial {
    disk: Store,
    pub(crate) partial: Partial,
    pub(crate) receiver: Receiver,
    /// The fast hash of the received bytes: the partial must hold them when it is published. The
    /// digest cannot show that, because it is computed before the bytes are written.
    fast_hash: FastHash,
    read_back: Option<ReadBack>,
}

/// The result of reading the partial back.
#[derive(Clone, Copy, Debug)]
struct ReadBack {
    /// The last change before the partial was read.
    last_change: LastChange,
    is_intact: bool,
}

impl ReceivedPartial {
    /// An empty partial for a source of `size` bytes.
    pub(crate) fn new(disk: Store, partial: Partial, size: u64) -> Self {
        let receiver = Receiver::new(size);
        Self { disk, partial, receiver, fast_hash: FastHash::default(), read_back: None }
    }

    /// A partial that an earlier attempt or process received.
    pub(crate) fn resumed(disk: Store, resumed: ResumedPartial<Partial>) -> Self {
        let ResumedPartial { partial, receiver, fast_hash } = resumed;
        Self { disk, partial, receiver, fast_hash, read_back: None }
    }

    /// Writes consecutive chunks, up to the first chunk that does not follow.
    pub(crate) fn write(&mut self, batch: Vec<(u64, Bytes)>) -> Result<(), UploadEnd> {
        let mut accepted = Vec::with_capacity(batch.len());
        let mut checked = Ok(());
        for (offset, bytes) in batch {
            // Hashed here, while the bytes are still in the processor's cache.
            checked = self.receiver.chunk(offset, &bytes);
            if checked.is_err() {
                break;
            }
            if !bytes.is_empty() {
                self.fast_hash.update(&bytes);
                accepted.push(bytes);
            }
        }
        let appended = self.disk.append(&mut self.partial, &accepted);
        appended.map_err(|error| UploadEnd::Disk(error.into_cause()))?;
        checked.map_err(UploadEnd::Bad)?;
        let is_complete = self.receiver.received() == self.receiver.announced();
        if is_complete && !accepted.is_empty() && self.receiver.received() <= EARLY_LEN {
            self.read_back().map_err(UploadEnd::Disk)?;
        }
        Ok(())
    }

    /// Makes a complete file durable, and returns the inode of the partial. Returns none if the
    /// partial does not hold the received bytes. The next step is to publish it.
    ///
    /// # Errors
    /// The disk failed: the partial must not be used any more.
    pub(crate) fn sync_intact(&mut self) -> Result<Option<(u64, Durable)>, DiskError<StoreError>> {
        let is_intact = match self.is_known_intact() {
            Some(is_intact) => is_intact,
            None => self.read_back().map_err(DiskError::NotDone)?,
        };
        if !is_intact {
            return Ok(None);
        }
        let inode = self.partial.inode().map_err(DiskError::NotDone)?;
        let synced = self.disk.sync(&self.partial, Extent::Whole)?;
        Ok(Some((inode, synced)))
    }

    /// Returns whether the partial holds the received bytes; none if it has changed since it was
    /// read back.
    fn is_known_intact(&self) -> Option<bool> {
        let read_back = self.read_back?;
        let last_change = self.partial.last_change().ok()?;
        (last_change == read_back.last_change).then_some(read_back.is_intact)
    }

    /// Reads the partial, and returns whether it holds the received bytes.
    ///
    /// # Errors
    /// The disk failed.
    fn read_back(&mut self) -> Result<bool, StoreError> {
        let last_change = self.partial.last_change()?;
        let mut found = FastHash::default();
        self.partial.read_back(|bytes| found.update(bytes))?;
        let is_intact = found.agrees_with(&self.fast_hash);
        self.read_back = Some(ReadBack { last_change, is_intact });
        Ok(is_intact)
    }
}

//! The received bytes of a transfer, and whether the disk still holds them.

use std::thread;

use bytes::Bytes;
use filepull_core::digest::Hasher;
use filepull_core::disk::{Disk as _, DiskError, Durable, Extent, ResumedPartial};
use filepull_core::file_digest::{Blake3, Blake3Hasher};
use filepull_core::receive::{ReceiveError, Receiver, Verified};

use super::UploadEnd;
use crate::config::ReadBackPolicy;
use crate::store::{LastChange, Partial, Store, StoreError};

/// A complete partial up to this size is read back at once, while the agent reads its file again.
/// Reading a larger one may take longer than an upload may pause. It is read after the trailer.
const EARLY_LEN: u64 = 1 << 30;

/// The SHA-256 of a shorter batch is computed before the next batch, without a thread. Batches are short
/// if the disk keeps up with the connection, or if many uploads share the processor: then a thread gains
/// nothing. Starting one takes about 30 µs, the SHA-256 of 512 KiB about 300 µs.
const BESIDE_LEN: usize = 512 * 1024;

/// The partial of a transfer, and the receiver that checks its next bytes.
#[derive(Debug)]
pub(crate) struct ReceivedPartial {
    disk: Store,
    pub(crate) partial: Partial,
    pub(crate) receiver: Receiver,
    /// Has the bytes of the receiver.
    sha256: Hasher,
    read_back: Option<ReadBack>,
    policy: ReadBackPolicy,
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
        let sha256 = Hasher::default();
        let policy = ReadBackPolicy::Resumed;
        Self { disk, partial, receiver, sha256, read_back: None, policy }
    }

    /// A partial that an earlier attempt or process received.
    pub(crate) fn resumed(disk: Store, resumed: ResumedPartial<Partial>) -> Self {
        let ResumedPartial { partial, receiver, sha256 } = resumed;
        let policy = ReadBackPolicy::Resumed;
        Self { disk, partial, receiver, sha256, read_back: None, policy }
    }

    /// Sets where the complete partial is read back from.
    pub(crate) fn read_back_as(self, policy: ReadBackPolicy) -> Self {
        Self { policy, ..self }
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
                accepted.push(bytes);
            }
        }
        let appended = self.append(&accepted);
        appended.map_err(|error| UploadEnd::Disk(error.into_cause()))?;
        checked.map_err(UploadEnd::Bad)?;
        let is_complete = self.receiver.received() == self.receiver.announced();
        if is_complete && !accepted.is_empty() && self.receiver.received() <= EARLY_LEN {
            self.read_back().map_err(UploadEnd::Disk)?;
        }
        Ok(())
    }

    /// Appends chunks, and computes their SHA-256 beside the write. Both have ended when it returns.
    ///
    /// A thread for each batch is the simplest helper: it borrows the batch, so that nothing is copied or
    /// kept, and it waits for no other job. The blocking pool has a maximum: jobs that wait there for
    /// others can block each other.
    fn append(&mut self, chunks: &[Bytes]) -> Result<(), DiskError<StoreError>> {
        let Self { disk, partial, sha256, .. } = self;
        let len: usize = chunks.iter().map(Bytes::len).sum();
        let mut hash = || chunks.iter().for_each(|chunk| sha256.update(chunk));
        let (appended, is_hashed) = thread::scope(|scope| {
            let is_hashed =
                BESIDE_LEN <= len && thread::Builder::new().spawn_scoped(scope, &mut hash).is_ok();
            (disk.append(partial, chunks), is_hashed)
        });
        // A short batch, or the system has no thread left.
        if !is_hashed {
            hash();
        }
        appended
    }

    /// Compares the received bytes with the trailer of the agent.
    ///
    /// # Errors
    /// Bytes are missing or damaged. The partial must not be published.
    pub(crate) fn verify(&self, total_size: u64, sent: Blake3) -> Result<Verified, ReceiveError> {
        self.receiver.finish(total_size, sent, self.sha256.digest())
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
        if self.policy == ReadBackPolicy::Always {
            self.partial.drop_cached()?;
        }
        let last_change = self.partial.last_change()?;
        let mut found = Blake3Hasher::default();
        self.partial.read_back(|bytes| found.update(bytes))?;
        let is_intact = found.digest() == self.receiver.prefix().digest;
        self.read_back = Some(ReadBack { last_change, is_intact });
        Ok(is_intact)
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use filepull_core::CHUNK_LEN;
    use filepull_core::disk::{self, PartialKey};
    use filepull_core::file_digest::FileDigests;
    use filepull_core::id::{ClientId, TransferId};

    use super::*;

    /// No multiple of a chunk.
    const LEN: usize = 5 * BESIDE_LEN + 7;

    struct PartialFixture {
        _folder: tempfile::TempDir,
        store: Store,
        key: PartialKey,
        file: Bytes,
    }

    impl PartialFixture {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let store = Store::open(folder.path()).unwrap();
            let client = ClientId::parse("client4").unwrap();
            let key = PartialKey { client, transfer: TransferId::generate(), generation: 1 };
            let file = (0..=250).cycle().take(LEN).collect::<Vec<u8>>().into();
            Self { _folder: folder, store, key, file }
        }

        fn begin(&mut self) -> ReceivedPartial {
            let (partial, _begun) = self.store.begin(&self.key, LEN as u64).unwrap();
            ReceivedPartial::new(self.store.clone(), partial, LEN as u64)
        }

        /// Returns a batch with a part of the file, in chunks.
        fn batch(&self, range: Range<usize>) -> Vec<(u64, Bytes)> {
            let end = range.end;
            let starts = range.step_by(CHUNK_LEN);
            let chunk = |at: usize| (at as u64, self.file.slice(at..end.min(at + CHUNK_LEN)));
            starts.map(chunk).collect()
        }

        fn check_whole(&self, partial: &mut ReceivedPartial) {
            let digests = FileDigests::of(&self.file);
            let proof = partial.verify(LEN as u64, digests.blake3).unwrap();
            assert_eq!(proof.digests(), digests);
            assert!(partial.sync_intact().unwrap().is_some(), "the disk holds other bytes");
        }
    }

    #[test]
    fn short_and_long_batches_are_in_both_digests() {
        for end_of_first in [0, 1, BESIDE_LEN - 1, BESIDE_LEN, LEN - 1, LEN] {
            let mut fixture = PartialFixture::new();
            let mut partial = fixture.begin();
            partial.write(fixture.batch(0..end_of_first)).unwrap();
            partial.write(fixture.batch(end_of_first..LEN)).unwrap();
            fixture.check_whole(&mut partial);
        }
    }

    #[test]
    fn both_digests_of_a_resumed_partial_continue() {
        for received in [1, BESIDE_LEN + 1, LEN] {
            let mut fixture = PartialFixture::new();
            let mut partial = fixture.begin();
            partial.write(fixture.batch(0..received)).unwrap();
            let checkpoint = partial.receiver.prefix();
            let resumed = disk::resume(&mut fixture.store, &fixture.key, checkpoint).unwrap();
            let mut partial = ReceivedPartial::resumed(fixture.store.clone(), resumed.unwrap());
            partial.receiver.expect(LEN as u64).unwrap();
            partial.write(fixture.batch(received..LEN)).unwrap();
            fixture.check_whole(&mut partial);
        }
    }

    #[test]
    fn a_chunk_that_does_not_follow_is_in_neither_digest() {
        let mut fixture = PartialFixture::new();
        let mut partial = fixture.begin();
        let mut batch = fixture.batch(0..LEN);
        let rest = batch.remove(1).0;
        assert!(matches!(partial.write(batch), Err(UploadEnd::Bad(_))));
        assert_eq!(partial.receiver.received(), rest);
        partial.write(fixture.batch(CHUNK_LEN..LEN)).unwrap();
        fixture.check_whole(&mut partial);
    }
}

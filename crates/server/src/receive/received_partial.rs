//! The received bytes of a transfer, and whether the disk still holds them.

use std::thread;

use bytes::Bytes;
use filepull_core::digest::Hasher;
use filepull_core::disk::{Disk as _, DiskError, Durable, Extent, ResumedPartial};
use filepull_core::extent::{self, BaseRange, ExtentError, ExtentKinds, ExtentReceiver, Fill};
use filepull_core::file_digest::{Blake3, Blake3Hasher};
use filepull_core::receive::{ReceiveError, Receiver, Verified};

use super::{ReceivedContent, ReceivedExtent, UploadEnd};
use crate::config::ReadBackPolicy;
use crate::store::{Base, LastChange, Partial, Store, StoreError};

/// A complete partial up to this size is read back at once, while the agent reads its file again.
/// Reading a larger one may take longer than an upload may pause. It is read after the trailer.
const EARLY_LEN: u64 = 1 << 30;

/// The SHA-256 of a shorter batch is computed before the next batch, without a thread. Batches are short
/// if the disk keeps up with the connection, or if many uploads share the processor: then a thread gains
/// nothing. Starting one takes about 30 µs, the SHA-256 of 512 KiB about 300 µs.
const BESIDE_LEN: usize = 512 * 1024;

/// Maximum memory of decompressed bytes that wait to be appended at once.
const MAX_DECODED_LEN: usize = 256 * 1024;

/// The partial of a transfer, and the receiver that checks the next extents of its upload.
#[derive(Debug)]
pub(crate) struct ReceivedPartial {
    disk: Store,
    pub(crate) partial: Partial,
    extents: ExtentReceiver,
    /// Has the bytes of the receiver.
    sha256: Hasher,
    /// The kinds of extents that this upload may have.
    kinds: ExtentKinds,
    base: Option<Base>,
    /// How many content bytes the agent has sent in this upload.
    n_sent: u64,
    /// How many bytes were copied from a base.
    n_copied: u64,
    read_back: Option<ReadBack>,
    /// The complete partial is read before it is published. Else its digest is the digest of the bytes
    /// that this process gave to the disk.
    must_read_back: bool,
    policy: ReadBackPolicy,
}

/// The result of reading the partial back.
#[derive(Clone, Copy, Debug)]
struct ReadBack {
    /// The last change before the partial was read.
    last_change: LastChange,
    is_intact: bool,
}

/// Accepted bytes that are appended at once: chunks or zeros.
#[derive(Debug, Default)]
struct PendingBytes {
    chunks: Vec<Bytes>,
    /// Memory of the decompressed chunks, in bytes.
    decoded_len: usize,
    n_zeros: u64,
}

impl ReceivedPartial {
    /// An empty partial for a source of `size` bytes.
    pub(crate) fn new(disk: Store, partial: Partial, size: u64) -> Self {
        Self::with_bytes(disk, partial, Receiver::new(size), Hasher::default())
    }

    /// A partial that an earlier process received, or whose writes failed. It is read back once it is
    /// complete, because not all of its bytes were written through this file descriptor.
    pub(crate) fn resumed(disk: Store, resumed: ResumedPartial<Partial>) -> Self {
        let ResumedPartial { partial, receiver, sha256 } = resumed;
        let received = Self::with_bytes(disk, partial, receiver, sha256);
        Self { must_read_back: true, ..received }
    }

    fn with_bytes(disk: Store, partial: Partial, receiver: Receiver, sha256: Hasher) -> Self {
        Self {
            disk,
            partial,
            extents: ExtentReceiver::new(receiver, 0),
            sha256,
            kinds: ExtentKinds::default(),
            base: None,
            n_sent: 0,
            n_copied: 0,
            read_back: None,
            must_read_back: false,
            policy: ReadBackPolicy::Resumed,
        }
    }

    /// Sets whether the complete partial is read back, and where from.
    pub(crate) fn read_back_as(self, policy: ReadBackPolicy) -> Self {
        let must_read_back = self.must_read_back || policy == ReadBackPolicy::Always;
        Self { must_read_back, policy, ..self }
    }

    /// Begins an upload that continues the partial to a file of `size` bytes. Nothing of an earlier
    /// upload but its bytes is kept. The agent may send extents of these kinds, and copy from `base`.
    ///
    /// # Errors
    /// The partial has more bytes.
    pub(crate) fn begin_upload(
        &mut self,
        size: u64,
        kinds: ExtentKinds,
        base: Option<Base>,
    ) -> Result<(), ReceiveError> {
        let mut receiver = self.receiver().clone();
        receiver.expect(size)?;
        self.extents = ExtentReceiver::new(receiver, base.as_ref().map_or(0, Base::len));
        self.kinds = kinds;
        self.base = base;
        self.n_sent = 0;
        Ok(())
    }

    /// Closes the base, whose disk space may be needed. The next upload has another one.
    pub(crate) fn close_base(&mut self) {
        self.base = None;
    }

    /// Returns the received bytes.
    pub(crate) fn receiver(&self) -> &Receiver {
        self.extents.receiver()
    }

    /// Returns how many bytes of the file are missing.
    pub(crate) fn n_missing(&self) -> u64 {
        self.receiver().announced().saturating_sub(self.receiver().received())
    }

    /// Returns how many content bytes of data and compressed data the agent has sent in this upload.
    pub(crate) fn n_sent(&self) -> u64 {
        self.n_sent
    }

    /// Returns how many bytes of the partial were copied from a base. Bytes that an earlier process has
    /// copied are not counted.
    pub(crate) fn n_copied(&self) -> u64 {
        self.n_copied
    }

    /// Writes consecutive extents, up to the first one that is rejected.
    pub(crate) fn write(&mut self, batch: &[ReceivedExtent]) -> Result<(), UploadEnd> {
        let before = self.receiver().received();
        let mut pending = PendingBytes::default();
        let accepted = batch.iter().try_for_each(|extent| self.accept(extent, &mut pending));
        if matches!(accepted, Err(UploadEnd::Disk(_))) {
            return accepted;
        }
        self.append(pending)?;
        accepted?;
        let received = self.receiver().received();
        let is_complete = self.n_missing() == 0 && before < received;
        if self.must_read_back && is_complete && received <= EARLY_LEN {
            self.read_back().map_err(UploadEnd::Disk)?;
        }
        Ok(())
    }

    /// Accepts the next extent. Its bytes are appended, or join the pending ones.
    fn accept(
        &mut self,
        extent: &ReceivedExtent,
        pending: &mut PendingBytes,
    ) -> Result<(), UploadEnd> {
        self.n_sent += extent.n_sent() as u64;
        let next = extent.borrow();
        if !self.kinds.permit(&next.content) {
            let reason = "an extent of a kind arrived that the two ends did not agree on";
            return Err(UploadEnd::Violation(reason.to_owned()));
        }
        // Data is hashed here, while the bytes are still in the processor's cache.
        match self.extents.next(next)? {
            Fill::Bytes(bytes) => {
                let chunk = match &extent.content {
                    ReceivedContent::Data(chunk) => chunk.clone(),
                    ReceivedContent::Zstd { .. }
                    | ReceivedContent::Hole { .. }
                    | ReceivedContent::Copy { .. } => pending.decoded(bytes),
                };
                if 0 < pending.n_zeros {
                    self.append(std::mem::take(pending))?;
                }
                pending.push(chunk);
                if MAX_DECODED_LEN <= pending.decoded_len {
                    self.append(std::mem::take(pending))?;
                }
            }
            Fill::Zeros(n_bytes) => {
                if !pending.chunks.is_empty() {
                    self.append(std::mem::take(pending))?;
                }
                pending.n_zeros += n_bytes;
            }
            Fill::Base(range) => {
                self.append(std::mem::take(pending))?;
                self.append_base(&range)?;
            }
        }
        Ok(())
    }

    fn append(&mut self, pending: PendingBytes) -> Result<(), UploadEnd> {
        let PendingBytes { chunks, n_zeros, .. } = pending;
        if !chunks.is_empty() {
            let appended = self.append_chunks(&chunks);
            appended.map_err(|error| UploadEnd::Disk(error.into_cause()))?;
        }
        if 0 < n_zeros {
            let appended = self.disk.append_zeros(&mut self.partial, n_zeros);
            appended.map_err(|error| UploadEnd::Disk(error.into_cause()))?;
            extent::zeros(n_zeros).for_each(|zeros| self.sha256.update(zeros));
        }
        Ok(())
    }

    /// Appends bytes of the base. What is hashed are the bytes that the partial has then.
    fn append_base(&mut self, range: &BaseRange) -> Result<(), UploadEnd> {
        let Self { disk, partial, extents, sha256, base, .. } = self;
        let len = range.n_bytes();
        let mut found = 0;
        let mut accepted = Ok(());
        if let Some(base) = base {
            let appended = disk.append_base(partial, base, range.base_offset(), len, |bytes| {
                accepted = extents.base_bytes(range, bytes);
                sha256.update(bytes);
            });
            found = appended.map_err(|error| UploadEnd::Disk(error.into_cause()))?;
        }
        if found != len {
            return Err(ExtentError::BaseChanged { len, found }.into());
        }
        self.n_copied += len;
        Ok(accepted?)
    }

    /// Appends chunks, and computes their SHA-256 beside the write. Both have ended when it returns.
    ///
    /// A thread for each batch is the simplest helper: it borrows the batch, so that nothing is copied or
    /// kept, and it waits for no other job. The blocking pool has a maximum: jobs that wait there for
    /// others can block each other.
    fn append_chunks(&mut self, chunks: &[Bytes]) -> Result<(), DiskError<StoreError>> {
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
        self.receiver().finish(total_size, sent, self.sha256.digest())
    }

    /// Makes a complete file durable, and returns the inode of the partial. Returns none if the
    /// partial does not hold the received bytes. The next step is to publish it.
    ///
    /// # Errors
    /// The disk failed: the partial must not be used any more.
    pub(crate) fn sync_intact(&mut self) -> Result<Option<(u64, Durable)>, DiskError<StoreError>> {
        let is_intact = match self.is_known_intact() {
            Some(is_intact) => is_intact,
            None if !self.must_read_back => true,
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
        let is_intact = found.digest() == self.receiver().prefix().digest;
        self.read_back = Some(ReadBack { last_change, is_intact });
        Ok(is_intact)
    }
}

impl PendingBytes {
    fn push(&mut self, chunk: Bytes) {
        if !chunk.is_empty() {
            self.chunks.push(chunk);
        }
    }

    /// Copies decompressed bytes, because the decoder uses its buffer again.
    fn decoded(&mut self, bytes: &[u8]) -> Bytes {
        self.decoded_len += bytes.len();
        Bytes::copy_from_slice(bytes)
    }
}

impl From<ExtentError> for UploadEnd {
    fn from(error: ExtentError) -> Self {
        match error {
            ExtentError::Received(error) => Self::Bad(error),
            ExtentError::BaseChanged { .. } => Self::BaseChanged(error.to_string()),
            ExtentError::Empty { .. }
            | ExtentError::TooLong { .. }
            | ExtentError::TooMany { .. }
            | ExtentError::OutsideBase { .. }
            | ExtentError::Compression(_) => Self::Violation(error.to_string()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use filepull_core::CHUNK_LEN;
    use filepull_core::compression::Encoder;
    use filepull_core::disk::{self, CommitResult, PartialKey};
    use filepull_core::file_digest::FileDigests;
    use filepull_core::id::{ClientId, TransferId};
    use filepull_core::name::DownloadName;
    use filepull_core::source::Source;
    use filepull_core::transfer::Download;

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
        fn batch(&self, range: Range<usize>) -> Vec<ReceivedExtent> {
            let end = range.end;
            let starts = range.step_by(CHUNK_LEN);
            let chunk = |at: usize| ReceivedExtent {
                offset: at as u64,
                content: ReceivedContent::Data(self.file.slice(at..end.min(at + CHUNK_LEN))),
            };
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
            partial.write(&fixture.batch(0..end_of_first)).unwrap();
            partial.write(&fixture.batch(end_of_first..LEN)).unwrap();
            fixture.check_whole(&mut partial);
        }
    }

    #[test]
    fn both_digests_of_a_resumed_partial_continue() {
        for received in [1, BESIDE_LEN + 1, LEN] {
            let mut fixture = PartialFixture::new();
            let mut partial = fixture.begin();
            partial.write(&fixture.batch(0..received)).unwrap();
            let checkpoint = partial.receiver().prefix();
            let resumed = disk::resume(&mut fixture.store, &fixture.key, checkpoint).unwrap();
            let mut partial = ReceivedPartial::resumed(fixture.store.clone(), resumed.unwrap());
            partial.begin_upload(LEN as u64, ExtentKinds::default(), None).unwrap();
            partial.write(&fixture.batch(received..LEN)).unwrap();
            fixture.check_whole(&mut partial);
        }
    }

    #[test]
    fn a_chunk_that_does_not_follow_is_in_neither_digest() {
        let mut fixture = PartialFixture::new();
        let mut partial = fixture.begin();
        let mut batch = fixture.batch(0..LEN);
        let rest = batch.remove(1).offset;
        assert!(matches!(partial.write(&batch), Err(UploadEnd::Bad(_))));
        assert_eq!(partial.receiver().received(), rest);
        partial.write(&fixture.batch(CHUNK_LEN..LEN)).unwrap();
        fixture.check_whole(&mut partial);
    }

    /// Publishes the file of the fixture, and opens it. Also returns its path.
    fn base_of(fixture: &mut PartialFixture) -> (Base, std::path::PathBuf) {
        let mut partial = fixture.begin();
        partial.write(&fixture.batch(0..LEN)).unwrap();
        let (inode, _synced) = partial.sync_intact().unwrap().unwrap();
        let name = DownloadName::new(chrono::DateTime::UNIX_EPOCH, "data.txt");
        let committed = fixture.store.commit(&partial.partial, &name);
        assert!(matches!(committed, Ok(CommitResult::Named(_))));
        let size = LEN as u64;
        let source = Source { name: "data.txt".to_owned(), size, modified_ns: 0 };
        let digests = FileDigests::of(&fixture.file);
        let path = fixture.store.download_path(&fixture.key.client, &name);
        let download = Download { source, name, size, digests, inode };
        let base = fixture.store.open_base(&fixture.key.client, &download);
        (base.unwrap().unwrap(), path)
    }

    /// Extents of every kind, and the bytes that they make.
    fn extents_of(base: &[u8]) -> (Vec<ReceivedExtent>, Vec<u8>) {
        let mut encoder = Encoder::new().unwrap();
        let mut file = Vec::new();
        let mut extents = Vec::new();
        for n in 0..40_usize {
            let part = &base[n * 30_000..][..CHUNK_LEN - n];
            let len = part.len() as u64;
            let base_offset = n as u64 * 30_000;
            let zeros = vec![0; part.len()];
            let (content, bytes) = match n % 5 {
                0 => (ReceivedContent::Data(Bytes::copy_from_slice(part)), part),
                1 | 2 => {
                    let encoded = Bytes::copy_from_slice(encoder.encode(part).unwrap());
                    (ReceivedContent::Zstd { len: part.len(), encoded }, part)
                }
                3 => (ReceivedContent::Hole { len }, &zeros[..]),
                _ => (ReceivedContent::Copy { base_offset, len }, part),
            };
            extents.push(ReceivedExtent { offset: file.len() as u64, content });
            file.extend_from_slice(bytes);
        }
        (extents, file)
    }

    #[test]
    fn every_kind_of_extent_is_in_the_file_and_in_both_digests() {
        for batch_len in [1, 7, 100] {
            let mut fixture = PartialFixture::new();
            let (base, _) = base_of(&mut fixture);
            let (extents, file) = extents_of(&fixture.file);
            let size = file.len() as u64;
            let (partial, _begun) = fixture.store.begin(&fixture.key, size).unwrap();
            let mut partial = ReceivedPartial::new(fixture.store.clone(), partial, size)
                .read_back_as(ReadBackPolicy::Always);
            partial.begin_upload(size, ExtentKinds::ALL, Some(base)).unwrap();
            for batch in extents.chunks(batch_len) {
                partial.write(batch).unwrap();
            }
            let digests = FileDigests::of(&file);
            assert_eq!(partial.verify(size, digests.blake3).unwrap().digests(), digests);
            assert!(partial.sync_intact().unwrap().is_some(), "the disk holds other bytes");
            let copied = |extent: &ReceivedExtent| {
                if let ReceivedContent::Copy { len, .. } = extent.content { len } else { 0 }
            };
            assert_eq!(partial.n_copied(), extents.iter().map(copied).sum::<u64>());
            assert!(partial.n_sent() < size / 2, "{} bytes of {size} were sent", partial.n_sent());
        }
    }

    #[test]
    fn a_truncated_base_ends_the_upload_and_the_bytes_before_it_stay() {
        let mut fixture = PartialFixture::new();
        let (base, path) = base_of(&mut fixture);
        let (partial, _begun) = fixture.store.begin(&fixture.key, LEN as u64).unwrap();
        let mut partial = ReceivedPartial::new(fixture.store.clone(), partial, LEN as u64)
            .read_back_as(ReadBackPolicy::Always);
        partial.begin_upload(LEN as u64, ExtentKinds::ALL, Some(base)).unwrap();
        let file = std::fs::OpenOptions::new().write(true).open(path);
        file.unwrap().set_len(150_000).unwrap();
        let copy = |offset: u64| ReceivedExtent {
            offset,
            content: ReceivedContent::Copy { base_offset: offset, len: 100_000 },
        };
        let end = partial.write(&[copy(0), copy(100_000)]).unwrap_err();
        assert!(matches!(end, UploadEnd::BaseChanged(_)), "{end:?}");
        assert_eq!((partial.receiver().received(), partial.n_copied()), (100_000, 100_000));
        partial.begin_upload(LEN as u64, ExtentKinds::ALL, None).unwrap();
        let end = partial.write(&[copy(100_000)]).unwrap_err();
        assert!(matches!(end, UploadEnd::Violation(_)), "{end:?}");
        partial.write(&fixture.batch(100_000..LEN)).unwrap();
        fixture.check_whole(&mut partial);
    }
}

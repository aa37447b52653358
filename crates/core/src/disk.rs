//! The disk port: all operations of a transfer on the storage of its bytes.
//!
//! The server implements it for a folder of files, and `tests/transfer_model` for a model of a disk.
//! An object store could implement it too. All methods block. A method that returns [`Durable`] returns it only when its work survives
//! a power cut. A transfer requires one for every change that depends on it, so a record is never
//! ahead of the disk.

use crate::digest::Hasher;
use crate::download::Download;
use crate::id::{ClientId, TransferId};
use crate::name::DownloadName;
use crate::receive::{Prefix, Receiver};

/// Stores partials and downloads.
///
/// After an error of an append or of [`sync`](Self::sync) the partial must not be used any more, because an operating system reports a lost write only once. [`resume`](Self::resume) it.
pub trait Disk {
    /// A partial that can be written to. A clone is a second handle, to sync beside the appends.
    type Partial: Clone;
    /// An open download, which the next download of the same file may copy.
    type Base;
    /// The cause of a failure.
    type Error;

    /// Creates an empty partial, reserves `stored` bytes for it and makes its entry durable. Replaces
    /// a partial with the same key: no record names it yet, so it is left over.
    ///
    /// # Errors
    /// There is no space, or the disk failed. The partial must not be used.
    fn begin(
        &mut self,
        key: &PartialKey,
        stored: u64,
    ) -> Result<(Self::Partial, Durable), DiskError<Self::Error>>;

    /// Appends chunks, in order.
    ///
    /// # Errors
    /// There is no space, or the disk failed. The number of written bytes is unknown.
    fn append<B: AsRef<[u8]>>(
        &mut self,
        partial: &mut Self::Partial,
        chunks: &[B],
    ) -> Result<(), DiskError<Self::Error>>;

    /// Appends zeros. A disk with sparse files stores none.
    ///
    /// # Errors
    /// The disk failed. The number of appended zeros is unknown.
    fn append_zeros(
        &mut self,
        partial: &mut Self::Partial,
        n_bytes: u64,
    ) -> Result<(), DiskError<Self::Error>>;

    /// Appends the bytes of `base` at this offset, at most
    /// [`MAX_SPAN_LEN`](crate::extent::MAX_SPAN_LEN), and passes to `take` what the partial has then.
    /// Returns the number of bytes that the base has there. If it has fewer than `n_bytes`, or cannot
    /// be read, nothing is appended or taken.
    ///
    /// # Errors
    /// There is no space, or the disk of the partial failed. The number of written bytes is unknown.
    fn append_base(
        &mut self,
        partial: &mut Self::Partial,
        base: &Self::Base,
        offset: u64,
        n_bytes: u64,
        take: impl FnOnce(&[u8]),
    ) -> Result<u64, DiskError<Self::Error>>;

    /// Makes the appended bytes durable.
    ///
    /// # Errors
    /// The disk failed, or a delayed write found no space.
    fn sync(
        &mut self,
        partial: &Self::Partial,
        extent: Extent,
    ) -> Result<Durable, DiskError<Self::Error>>;

    /// Publishes a partial that was synced as a [`Whole`](Extent::Whole), and makes its name
    /// durable. Replaces nothing.
    ///
    /// # Errors
    /// [`NotDone`](DiskError::NotDone): the name certainly does not exist.
    /// [`Unknown`](DiskError::Unknown): the name may exist, and may disappear again in a power cut.
    fn commit(
        &mut self,
        partial: &Self::Partial,
        name: &DownloadName,
    ) -> Result<CommitResult, DiskError<Self::Error>>;

    /// Removes a partial, if there is one; `partial` is its handle, where one is open.
    ///
    /// # Errors
    /// The disk failed. A later sweep removes the partial.
    fn abort(
        &mut self,
        key: &PartialKey,
        partial: Option<&Self::Partial>,
    ) -> Result<(), DiskError<Self::Error>>;

    /// Opens an existing partial, cuts it to `len` bytes and passes these bytes to `take`.
    /// The next append follows them. Returns none if the partial is missing or shorter.
    ///
    /// # Errors
    /// The disk failed.
    fn resume(
        &mut self,
        key: &PartialKey,
        len: u64,
        take: impl FnMut(&[u8]),
    ) -> Result<Option<Self::Partial>, DiskError<Self::Error>>;

    /// Checks whether the download has its name: the same file, with the same bytes. If so, makes
    /// the name durable. Another entry with the name is not an error.
    ///
    /// # Errors
    /// The disk failed, so it is unknown whether the name exists.
    fn find(
        &mut self,
        client: &ClientId,
        download: &Download,
    ) -> Result<Option<Durable>, DiskError<Self::Error>>;
}

/// Names a partial. Bytes of two generations never share a partial.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PartialKey {
    /// The client that sends it.
    pub client: ClientId,
    /// The transfer that owns it.
    pub transfer: TransferId,
    /// The number of the partial, counted from 1.
    pub generation: u32,
}

/// How much of its file a partial holds when it is synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// More may follow: only the bytes become durable.
    Prefix,
    /// The whole file: bytes and attributes become durable, and must not change afterwards.
    Whole,
}

/// Proof that something survives a power cut. Only an implementation of [`Disk`] creates it.
#[derive(Debug)]
#[must_use]
pub struct Durable(());

impl Durable {
    /// Creates the proof. A [`Disk`] calls this after its last sync succeeded.
    pub fn promise() -> Self {
        Self(())
    }
}

/// The outcome of a [`commit`](Disk::commit).
#[derive(Debug)]
pub enum CommitResult {
    /// The partial has the name now.
    Named(Durable),
    /// Another entry has the name. Nothing changed.
    Taken,
}

/// An operation of a [`Disk`] that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskError<E> {
    /// Certainly not done: nothing changed.
    NotDone(E),
    /// The outcome is unknown: it may be done, now or after a power cut.
    Unknown(E),
}

impl<E> DiskError<E> {
    /// Returns the cause, for a caller that treats both outcomes alike.
    pub fn into_cause(self) -> E {
        match self {
            Self::NotDone(cause) | Self::Unknown(cause) => cause,
        }
    }
}

/// An existing partial that was opened, with the state of its content.
#[derive(Debug)]
pub struct ResumedPartial<P> {
    /// The handle of the partial.
    pub partial: P,
    /// Has received the bytes of the partial, and expects no more.
    pub receiver: Receiver,
    /// Has the same bytes, for the SHA-256 of the file.
    pub sha256: Hasher,
}

/// The location of a sealed download that is complete and has the correct digest.
#[derive(Debug)]
pub enum SealedLocation<P> {
    /// The download has its name.
    Named(Durable),
    /// The download is still a partial.
    Unnamed(ResumedPartial<P>),
    /// The download is lost: the file must be sent again.
    Lost,
}

/// Resumes a partial that holds exactly `prefix` once it is cut to that length. The size alone
/// never proves how much of the partial is valid.
///
/// # Errors
/// The disk failed.
pub fn resume<D: Disk>(
    disk: &mut D,
    key: &PartialKey,
    prefix: Prefix,
) -> Result<Option<ResumedPartial<D::Partial>>, DiskError<D::Error>> {
    let mut receiver = Receiver::new(prefix.len);
    let mut sha256 = Hasher::default();
    let resumed = disk.resume(key, prefix.len, |bytes| {
        sha256.update(bytes);
        // A disk that returns more than it was cut to gets another digest.
        let _ = receiver.chunk(receiver.received(), bytes);
    })?;
    let partial = resumed.filter(|_| receiver.prefix() == prefix);
    Ok(partial.map(|partial| ResumedPartial { partial, receiver, sha256 }))
}

/// Searches for a sealed download after a crash or an error: under its name, then in its partial.
///
/// # Errors
/// The disk failed, so the location of the download is unknown.
pub fn find_sealed<D: Disk>(
    disk: &mut D,
    key: &PartialKey,
    download: &Download,
) -> Result<SealedLocation<D::Partial>, DiskError<D::Error>> {
    if let Some(durable) = disk.find(&key.client, download)? {
        // A commit by link and unlink may have been interrupted. A leftover partial is swept later.
        let _ = disk.abort(key, None);
        return Ok(SealedLocation::Named(durable));
    }
    let whole = Prefix { len: download.size, digest: download.digests.blake3 };
    Ok(resume(disk, key, whole)?.map_or(SealedLocation::Lost, SealedLocation::Unnamed))
}

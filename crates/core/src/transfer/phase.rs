//! How far a transfer is, and what there is to say of it at that point.

use crate::digest::Digest;
use crate::name::DownloadName;
use crate::problem::Problem;
use crate::receive::Prefix;
use crate::source::Source;

/// How far a transfer is, as it is on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Nothing has been received.
    Queued,
    /// A partial of the current generation exists.
    Receiving {
        /// The source as the current attempt opened it.
        source: Source,
        /// What survives a power cut.
        checkpoint: Prefix,
    },
    /// Whole, verified and synced; the name may or may not be there yet.
    Sealed(Download),
    /// Whole, verified, synced and named.
    Done(Download),
    /// Ended without a download.
    Failed(Failure),
    /// Ended because somebody asked for it.
    Cancelled(Failure),
}

/// Why a transfer ended without a download, and how far it had come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Why.
    pub problem: Problem,
    /// How far.
    pub reached: LastProgress,
}

/// How far a transfer came: for whoever asks afterwards. The bytes themselves are gone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastProgress {
    /// The source as the client last opened it, if it ever did.
    pub source: Option<Source>,
    /// How many of its bytes had come.
    pub received: u64,
}

/// A finished file, or one about to get its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Download {
    /// The source it is a copy of.
    pub source: Source,
    /// Its name in the client's folder.
    pub name: DownloadName,
    /// Its size in bytes.
    pub size: u64,
    /// Its SHA-256.
    pub digest: Digest,
    /// Its inode: tells it from another file that has the same name or the same bytes.
    pub inode: u64,
}

//! The phases of a transfer, and the values that lead from one to the next.
//!
//! [`Receiving`] becomes [`Sealed`], and [`Sealed`] becomes [`Published`]. Each step consumes the
//! previous value and takes the proof that it needs, so another order does not compile.

use std::collections::HashSet;

use super::phase_name::PhaseName;
use crate::disk::Durable;
use crate::download::Download;
use crate::name::DownloadName;
use crate::problem::Problem;
use crate::receive::{Prefix, Verified};
use crate::source::Source;

/// The phase of a transfer, as it is on record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// No byte has been received.
    Queued,
    /// A partial of the current generation exists.
    Receiving(Receiving),
    /// The upload is complete, verified and durable. The final name may not exist yet.
    Sealed(Sealed),
    /// The download is durable under its final name.
    Done(Published),
    /// The file equals an earlier download, so there is no new one.
    Unchanged(UnchangedFile),
    /// The transfer ended without a download.
    Failed(Failure),
    /// The transfer ended because a caller cancelled it.
    Cancelled(Failure),
}

/// Phase: bytes arrive in the partial of the current generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receiving {
    source: Source,
    checkpoint: Prefix,
}

/// Phase: complete, verified and durable. The final name may not exist yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed {
    download: Download,
}

/// Phase: durable under its final name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Published {
    download: Download,
}

impl Phase {
    /// Returns the name of the phase, for the records, the API and error messages.
    pub fn name(&self) -> PhaseName {
        match self {
            Self::Queued => PhaseName::Queued,
            Self::Receiving(_) => PhaseName::Receiving,
            Self::Sealed(_) => PhaseName::Sealed,
            Self::Done(_) => PhaseName::Done,
            Self::Unchanged(_) => PhaseName::Unchanged,
            Self::Failed(_) => PhaseName::Failed,
            Self::Cancelled(_) => PhaseName::Cancelled,
        }
    }

    /// Returns the complete file of a sealed or published transfer.
    pub fn complete_file(&self) -> Option<&Download> {
        match self {
            Self::Sealed(sealed) => Some(&sealed.download),
            Self::Done(published) => Some(&published.download),
            Self::Queued
            | Self::Receiving(_)
            | Self::Unchanged(_)
            | Self::Failed(_)
            | Self::Cancelled(_) => None,
        }
    }

    /// Returns the earlier download that the file equals.
    pub fn unchanged(&self) -> Option<&UnchangedFile> {
        if let Self::Unchanged(unchanged) = self { Some(unchanged) } else { None }
    }

    /// Returns how a failed or cancelled transfer ended.
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Self::Failed(failure) | Self::Cancelled(failure) => Some(failure),
            Self::Queued
            | Self::Receiving(_)
            | Self::Sealed(_)
            | Self::Done(_)
            | Self::Unchanged(_) => None,
        }
    }
}

impl Receiving {
    /// Restores the phase from a record. New transfers use
    /// [`Transfer::receive`](super::Transfer::receive).
    pub fn from_record(source: Source, checkpoint: Prefix) -> Self {
        Self { source, checkpoint }
    }

    /// The source, as the current attempt opened it.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The received bytes that survive a power cut.
    pub fn checkpoint(&self) -> Prefix {
        self.checkpoint
    }

    /// Replaces the source: the current attempt opened it again.
    #[must_use]
    pub fn with_source(self, source: Source) -> Self {
        Self { source, ..self }
    }

    /// Replaces the checkpoint by a longer one, which was synced. Once this is on record, the agent
    /// may learn that the bytes are durable.
    #[must_use]
    pub fn with_checkpoint(self, checkpoint: Prefix, _synced: Durable) -> Self {
        debug_assert!(self.checkpoint.len <= checkpoint.len, "a checkpoint never goes back");
        Self { checkpoint, ..self }
    }

    /// Seals a verified upload under `name`. Its partial was synced as a whole. Once this is on
    /// record, the server can publish the download without the client.
    ///
    /// An error after that record does not fail the transfer, because the name may exist. The
    /// transfer stays sealed, and [`recovery`](super::Transfer::recovery) determines the outcome.
    pub fn seal(self, proof: Verified, name: DownloadName, inode: u64, _synced: Durable) -> Sealed {
        let size = proof.size();
        let digests = proof.digests();
        Sealed { download: Download { source: self.source, name, size, digests, inode } }
    }
}

impl Sealed {
    /// Restores the phase from a record. New transfers use [`Receiving::seal`].
    pub fn from_record(download: Download) -> Self {
        Self { download }
    }

    /// The download, with the name that it gets next.
    pub fn download(&self) -> &Download {
        &self.download
    }

    /// Takes the next name, because another entry has the current one. Put this on record before
    /// the next commit.
    #[must_use]
    pub fn name_taken(self) -> Self {
        let name = self.download.name.next();
        Self { download: Download { name, ..self.download } }
    }

    /// Takes the first name that is not in `taken`, beginning with the current one.
    #[must_use]
    pub fn skip_names(self, taken: &HashSet<DownloadName>) -> Self {
        let mut sealed = self;
        while taken.contains(&sealed.download.name) {
            sealed = sealed.name_taken();
        }
        sealed
    }

    /// The download has its name, and keeps it after a power cut.
    pub fn published(self, _named: Durable) -> Published {
        Published { download: self.download }
    }
}

impl Published {
    /// Restores the phase from a record. New transfers use [`Sealed::published`].
    pub fn from_record(download: Download) -> Self {
        Self { download }
    }

    /// The download under its final name.
    pub fn download(&self) -> &Download {
        &self.download
    }
}

/// Phase: the file on the client equals an earlier download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnchangedFile {
    /// The file, as the client read it.
    pub source: Source,
    /// The earlier download, in the client's folder.
    pub since: DownloadName,
}

/// Why a transfer ended without a download, and how much of the file was received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Why the transfer ended.
    pub problem: Problem,
    /// The progress until the end.
    pub reached: LastProgress,
}

/// The progress of a transfer that ended without a download. The received bytes are removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastProgress {
    /// The source as the client last opened it; none if the client never opened it.
    pub source: Option<Source>,
    /// How many bytes of the source were received.
    pub received: u64,
}

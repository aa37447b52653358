//! The events and findings of a verification.

use std::path::PathBuf;

use filepull_core::id::TransferId;
use serde::Serialize;

/// An event of a running verification.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerifyEvent {
    /// This number of bytes was read since the last event.
    Read(u64),
    /// A download is unchanged since it arrived.
    Same,
    /// A download, a record or a folder differs from what is expected.
    Found(Finding),
}

/// A difference between the disk and the records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The kind of the difference.
    pub kind: FindingKind,
    /// The path, which begins with the data folder as it was given.
    pub path: PathBuf,
    /// The transfer of the download, if it is known.
    pub transfer: Option<TransferId>,
    /// The details as text, such as both digests.
    pub detail: String,
}

/// The kind of a finding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// A download that differs from what arrived.
    Changed,
    /// A download that does not exist.
    Missing,
    /// A download that cannot be read.
    Unreadable,
    /// A record that cannot be read.
    Record,
    /// An entry of a client's folder that is not on record.
    Foreign,
}

impl FindingKind {
    /// Returns the name of the kind, as reports show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Missing => "missing",
            Self::Unreadable => "unreadable",
            Self::Record => "record",
            Self::Foreign => "foreign",
        }
    }

    /// Returns whether a download may be lost. A foreign file is no loss.
    pub fn is_loss(self) -> bool {
        match self {
            Self::Changed | Self::Missing | Self::Unreadable | Self::Record => true,
            Self::Foreign => false,
        }
    }
}

//! What a verification tells.

use std::path::PathBuf;

use filepull_core::id::TransferId;
use serde::Serialize;

/// What is told while a verification runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VerifyEvent {
    /// So many bytes more have been read.
    Read(u64),
    /// A download is as it arrived.
    Same,
    /// Something is not as it should be.
    Found(Finding),
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong.
    pub kind: FindingKind,
    /// Where, as the data folder was given.
    pub path: PathBuf,
    /// The transfer that brought it.
    pub transfer: Option<TransferId>,
    /// What was found, in words.
    pub detail: String,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// A download that is not what arrived.
    Changed,
    /// A download that is not there.
    Missing,
    /// A download that cannot be read.
    Unreadable,
    /// A record that cannot be read.
    Record,
    /// Something in a client's folder that the records do not know.
    Foreign,
}

impl FindingKind {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Missing => "missing",
            Self::Unreadable => "unreadable",
            Self::Record => "record",
            Self::Foreign => "foreign",
        }
    }

    /// A download on record is not certainly what it was. A file that somebody else put there is
    /// only worth a word.
    pub fn is_loss(self) -> bool {
        match self {
            Self::Changed | Self::Missing | Self::Unreadable | Self::Record => true,
            Self::Foreign => false,
        }
    }
}

impl Finding {
    pub(super) fn new(
        kind: FindingKind,
        path: PathBuf,
        transfer: Option<TransferId>,
        detail: String,
    ) -> Self {
        Self { kind, path, transfer, detail }
    }
}

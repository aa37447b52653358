//! The names of the phases, as the records and the API write them.

/// The name of a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PhaseName {
    /// No byte has been received.
    Queued,
    /// A partial of the transfer exists.
    Receiving,
    /// The upload is complete; the name may not exist yet.
    Sealed,
    /// The download has its final name.
    Done,
    /// The file equals an earlier download.
    Unchanged,
    /// The transfer ended without a download.
    Failed,
    /// The transfer was cancelled before it was complete.
    Cancelled,
}

impl PhaseName {
    const ALL: [Self; 7] = [
        Self::Queued,
        Self::Receiving,
        Self::Sealed,
        Self::Done,
        Self::Unchanged,
        Self::Failed,
        Self::Cancelled,
    ];

    /// Returns the name as text: `queued`, `receiving`, `sealed`, `done`, `unchanged`, `failed` or
    /// `cancelled`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Receiving => "receiving",
            Self::Sealed => "sealed",
            Self::Done => "done",
            Self::Unchanged => "unchanged",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
        }
    }

    /// Parses the text of a name.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|name| name.as_str() == text)
    }
}

//! Which clients a caller may see. A client outside the scope does not exist for the caller: not in a
//! list, a count, a hint or an error.

use std::collections::BTreeMap;
use std::sync::Arc;

/// The clients that a caller may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every client.
    Everything,
    /// The clients that have all these labels. A client without labels is not one of them.
    Labels(Arc<BTreeMap<String, String>>),
    /// No client: the scope of a caller who is not signed in.
    Nothing,
}

impl Scope {
    /// Returns the scope of these labels; without a label it is every client.
    pub fn of(labels: BTreeMap<String, String>) -> Self {
        if labels.is_empty() { Self::Everything } else { Self::Labels(Arc::new(labels)) }
    }

    /// Returns whether the caller may see every client, and with it the totals of the server.
    pub fn is_everything(&self) -> bool {
        matches!(self, Self::Everything)
    }

    /// Returns the labels; empty for every client and for none.
    pub fn labels(&self) -> BTreeMap<String, String> {
        match self {
            Self::Labels(labels) => BTreeMap::clone(labels),
            Self::Everything | Self::Nothing => BTreeMap::new(),
        }
    }
}

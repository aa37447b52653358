//! A transfer as lists show it.

use crate::records::DamagedTransfer;
use crate::transfers::View;

/// An item of a list of transfers.
#[derive(Clone, Debug)]
pub(crate) enum TransferListItem {
    /// A transfer.
    View(Box<View>),
    /// A record that cannot be read.
    Damaged(DamagedTransfer),
}

impl TransferListItem {
    pub(super) fn view(view: View) -> Self {
        Self::View(Box::new(view))
    }

    /// The transfer, unless its record is damaged.
    pub(crate) fn as_view(&self) -> Option<&View> {
        match self {
            Self::View(view) => Some(view),
            Self::Damaged(_) => None,
        }
    }
}

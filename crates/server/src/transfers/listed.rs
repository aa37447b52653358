//! A transfer as lists show it.

use crate::records::{Cursor, DamagedTransfer};
use crate::transfers::View;

/// An item of a list of transfers.
#[derive(Clone, Debug)]
pub enum TransferListItem {
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
    pub fn as_view(&self) -> Option<&View> {
        match self {
            Self::View(view) => Some(view),
            Self::Damaged(_) => None,
        }
    }

    /// The position in a list, as far as it is known.
    pub fn cursor(&self) -> Option<Cursor> {
        match self {
            Self::View(view) => Some(Cursor::of(&view.transfer)),
            Self::Damaged(damaged) => damaged.cursor(),
        }
    }
}

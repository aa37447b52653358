//! What the uploads of a transfer have cost, and how they have used its base.

use filepull_core::base_offer::BaseUse;
use filepull_core::transfer::Transfer;

use crate::receive::ReceivedPartial;

/// The traffic of a transfer in all attempts. The next change of the transfer records it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traffic {
    /// The bytes of content that were sent.
    sent: u64,
    /// As `sent`, without the newest upload.
    sent_before: u64,
    base_use: BaseUse,
}

impl Traffic {
    /// Continues with what is on record.
    pub(crate) fn new(transfer: &Transfer) -> Self {
        let Transfer { sent, base_use, .. } = *transfer;
        Self { sent, sent_before: sent, base_use }
    }

    /// Returns `transfer` with this traffic.
    pub(crate) fn of(self, transfer: Transfer) -> Transfer {
        Transfer { sent: self.sent, base_use: self.base_use, ..transfer }
    }

    /// Returns the bytes of content that were sent.
    pub(crate) fn sent(self) -> u64 {
        self.sent
    }

    /// Returns how the base has been used.
    pub(crate) fn base_use(self) -> BaseUse {
        self.base_use
    }

    /// Begins an upload, whose bytes count from 0.
    pub(crate) fn begin_upload(&mut self) {
        self.sent_before = self.sent;
    }

    /// Updates the traffic of the newest upload, which writes into `partial`.
    pub(crate) fn update(&mut self, partial: &ReceivedPartial) {
        self.sent = self.sent_before + partial.n_sent();
        if self.base_use == BaseUse::Unused && 0 < partial.n_copied() {
            self.base_use = BaseUse::Copied;
        }
    }

    /// The base cannot be used: the transfer gets no other one.
    pub(crate) fn base_failed(&mut self) {
        self.base_use = BaseUse::Failed;
    }

    /// The received bytes were dropped, with the copies among them.
    pub(crate) fn started_over(&mut self, transfer: &Transfer) {
        self.base_use = transfer.base_use;
    }
}

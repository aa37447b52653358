//! The base of an attempt: the last good download of the file, which the server offers with the order.

use std::sync::Arc;

use chrono::DateTime;
use filepull_core::base_offer::{BaseOffer, BaseUse};
use filepull_core::file_digest::Blake3Hasher;
use filepull_core::human::chain;
use filepull_core::id::{ClientId, TransferId};
use filepull_core::transfer::{Download, Transfer};
use tracing::warn;

use super::TaskContext;
use super::disk::run;
use crate::records::{DownloadState, RecordedTransfer};
use crate::registry::SessionHandle;
use crate::store::{Base, Store, StoreError};

/// How many bytes of a base are read at once.
pub(crate) const READ_LEN: usize = 256 * 1024;

/// An open download whose bytes an upload may copy, and what the agent gets to know about it.
#[derive(Clone, Debug)]
pub(crate) struct OfferedBase {
    pub(crate) file: Base,
    pub(crate) offer: BaseOffer,
    pub(crate) download: Download,
    client: ClientId,
    /// The transfer of the download.
    transfer: TransferId,
}

impl TaskContext {
    /// Opens the base for the next attempt of a transfer, if both ends can use one. A base that cannot
    /// be opened is not offered: it would only save bytes.
    pub(crate) async fn open_base(
        &self,
        transfer: &Transfer,
        session: &SessionHandle,
    ) -> Option<OfferedBase> {
        let is_wanted = transfer.mode.uses_base() && transfer.base_use != BaseUse::Failed;
        if !is_wanted || !session.extents.copy {
            return None;
        }
        let Transfer { client, path, .. } = transfer.clone();
        let found = self.records.base(&client, path.as_ref()).await;
        let recorded = found.inspect_err(|error| log_not_opened(&chain(error))).ok()??;
        // The damaged record of an earlier transfer is logged when it is read.
        let RecordedTransfer::Readable(earlier) = recorded else { return None };
        let download = earlier.download()?.clone();
        let store = self.store.clone();
        run(move || {
            let opened = store.open_base(&client, &download);
            let file = opened.inspect_err(|error| log_not_opened(&chain(error))).ok()??;
            let offer = BaseOffer::new(file.len(), download.digests.blake3, random_key())?;
            Some(OfferedBase { file, offer, download, client, transfer: earlier.id })
        })
        .await
    }

    /// Logs that a base failed, and lets the scrubber read its download soon.
    pub(crate) fn report_base(self: &Arc<Self>, base: &OfferedBase, reason: &str) {
        let file = base.download.name.to_string();
        warn!(
            event = "base.failed", file, earlier_transfer = %base.transfer, reason,
            "the last download of the file could not be used; all bytes are sent"
        );
        // The longest time ago, so that it is the next one to be read.
        let unread = [(base.transfer, DownloadState::Stored)];
        let records = self.records.clone();
        // Ends with the write. If the records fail, the download is read later.
        self.lifecycle.spawn(async move {
            let _ = records.note_scrubs(&unread, DateTime::UNIX_EPOCH).await;
        });
    }
}

impl OfferedBase {
    /// Checks that the download has its name and its bytes. Blocking: reads the file.
    ///
    /// # Errors
    /// The reason why it is not what arrived.
    pub(crate) fn check(&self, store: &Store) -> Result<(), String> {
        let opened =
            store.open_base(&self.client, &self.download).map_err(|error| chain(&error))?;
        let file = opened.ok_or_else(|| "the file was removed or replaced".to_owned())?;
        let mut found = Blake3Hasher::default();
        let len = read(&file, |bytes| found.update(bytes)).map_err(|error| chain(&error))?;
        let is_intact = (len, found.digest()) == (self.offer.len, self.offer.blake3);
        is_intact.then_some(()).ok_or_else(|| "the file has other bytes".to_owned())
    }
}

/// Reads a base up to its end, and returns the number of bytes.
fn read(file: &Base, mut take: impl FnMut(&[u8])) -> Result<u64, StoreError> {
    let mut buffer = vec![0; READ_LEN];
    let mut len = 0;
    loop {
        let n_read = file.read_at(&mut buffer, len)?;
        take(&buffer[..n_read]);
        len += n_read as u64;
        if n_read < buffer.len() {
            return Ok(len);
        }
    }
}

/// Returns the key of a list of blocks, another one for each order.
fn random_key() -> [u8; 32] {
    let mut key = [0; 32];
    aws_lc_rs::rand::fill(&mut key).expect("the system has random numbers");
    key
}

fn log_not_opened(reason: &str) {
    warn!(event = "base.not_opened", reason, "the last download of the file cannot be opened");
}

//! Finds, lists and counts transfers, within the scope of a caller.

use filepull_core::id::{ClientId, TransferId};
use filepull_core::problem::{Code, Problem};
use tokio::sync::watch;

use super::view::{ActivityFilter, TransferListItem, View};
use super::{Transfers, records_failed};
use crate::records::{RecordedTransfer, RecordsError, Total, TransferFilter};
use crate::scope::Scope;

/// How many transfers are unfinished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TransferCounts {
    /// Ordered, or being received.
    pub running: usize,
    /// Queued, or waiting for their client.
    pub waiting: usize,
}

/// A page of transfers, newest first.
#[derive(Clone, Debug)]
pub(crate) struct TransferListPage {
    /// The transfers on this page.
    pub items: Vec<TransferListItem>,
    /// The cursor of the next page, if there is one.
    pub next_cursor: Option<String>,
    /// The number of transfers on all pages.
    pub total: Total,
}

impl Transfers {
    /// Returns a transfer in scope, unfinished or on record.
    ///
    /// # Errors
    /// The id is unknown, the record is damaged, or the records cannot be read.
    pub(crate) async fn find(&self, id: TransferId, scope: &Scope) -> Result<View, Problem> {
        match self.look_up(id, scope).await? {
            TransferListItem::View(view) => Ok(*view),
            TransferListItem::Damaged(damaged) => Err(damaged.problem()),
        }
    }

    /// Returns a transfer in scope, unfinished or on record, also if its record is damaged.
    ///
    /// # Errors
    /// The id is unknown, or the records cannot be read.
    pub(crate) async fn look_up(
        &self,
        id: TransferId,
        scope: &Scope,
    ) -> Result<TransferListItem, Problem> {
        let failed = |error: RecordsError| records_failed(&error);
        let records = &self.context.records;
        let item = match self.watch(id) {
            Some(view) => Some(TransferListItem::view(view.borrow().clone())),
            None => self.on_record(id).await.map_err(failed)?,
        };
        let unknown = || Problem::new(Code::TransferUnknown, format!("No transfer {id} is known."));
        let item = item.ok_or_else(unknown)?;
        let is_in_scope = match item.client() {
            Some(client) => records.is_in_scope(client, scope).await.map_err(failed)?,
            // The damaged record of an unknown client.
            None => scope.is_everything(),
        };
        if is_in_scope { Ok(item) } else { Err(unknown()) }
    }

    /// Returns a transfer on record with the state of its download.
    async fn on_record(&self, id: TransferId) -> Result<Option<TransferListItem>, RecordsError> {
        let found = self.context.records.transfer(id).await?;
        let mut item = found.map(|item| self.listed(item));
        self.mark(item.as_mut_slice()).await;
        Ok(item)
    }

    /// Sets the states of downloads that are not stored any more. Marks that cannot be read are left
    /// out: the damaged table must not hide the transfers, and `/readyz` names the damage.
    async fn mark(&self, items: &mut [TransferListItem]) {
        let views = items.iter().filter_map(TransferListItem::as_view);
        let with_download = views.filter(|view| view.transfer.download().is_some());
        let ids: Vec<TransferId> = with_download.map(|view| view.transfer.id).collect();
        let marks = self.context.records.download_marks(&ids).await.unwrap_or_default();
        for item in items {
            if let TransferListItem::View(view) = item {
                view.download_state = marks.get(&view.transfer.id).copied().unwrap_or_default();
            }
        }
    }

    /// Returns the number of damaged downloads, up to `max`.
    ///
    /// # Errors
    /// The records cannot be read.
    pub(crate) async fn n_damaged_downloads(&self, max: u32) -> Result<u64, RecordsError> {
        self.context.records.n_damaged_downloads(max).await
    }

    /// Converts a record to a list item. An unfinished transfer is shown as its task shows it.
    pub(crate) fn listed(&self, item: RecordedTransfer) -> TransferListItem {
        let id = match &item {
            RecordedTransfer::Readable(transfer) => Some(transfer.id),
            RecordedTransfer::Damaged(damaged) => damaged.transfer,
        };
        match (id.and_then(|id| self.watch(id)), item) {
            (Some(view), _) => TransferListItem::view(view.borrow().clone()),
            (None, RecordedTransfer::Readable(transfer)) => {
                TransferListItem::view(View::new(*transfer))
            }
            (None, RecordedTransfer::Damaged(damaged)) => TransferListItem::Damaged(damaged),
        }
    }

    /// Returns the view of an unfinished transfer, which follows every change. The caller has checked
    /// that the transfer is in scope.
    pub(crate) fn watch(&self, id: TransferId) -> Option<watch::Receiver<View>> {
        self.context.active.get(id).map(|handle| handle.view)
    }

    /// Returns a page of transfers. Unfinished ones are shown as their tasks show them.
    ///
    /// # Errors
    /// The records cannot be read.
    pub(crate) async fn list(&self, filter: &TransferFilter) -> Result<TransferListPage, Problem> {
        let page = self.context.records.transfers(filter).await.map_err(|e| records_failed(&e))?;
        let mut items: Vec<_> = page.items.into_iter().map(|item| self.listed(item)).collect();
        self.mark(&mut items).await;
        Ok(TransferListPage { items, next_cursor: page.next_cursor, total: page.total })
    }

    /// Returns a page of the waiting or of the running transfers that match the rest of the filter.
    /// For a scope of every client it reads no record.
    ///
    /// # Errors
    /// The records cannot be read.
    pub(crate) async fn list_unfinished(
        &self,
        kind: ActivityFilter,
        filter: &TransferFilter,
    ) -> Result<TransferListPage, Problem> {
        let found = self.context.clients.within(&filter.scope).ids().await;
        let ids = found.map_err(|error| records_failed(&error))?;
        Ok(self.context.active.page(kind, filter, &ids))
    }

    /// Returns the client's running transfer, or else the one that waits longest.
    pub(crate) fn current(&self, client: &ClientId) -> Option<View> {
        self.context.active.current(client)
    }

    /// Returns the position of a transfer that waits for a permit, counted from 1. A caller who may
    /// not see every client gets none: it counts the transfers of other clients.
    pub(crate) fn queue_position(&self, id: TransferId, scope: &Scope) -> Option<usize> {
        scope.is_everything().then(|| self.context.active.queue_position(id)).flatten()
    }

    /// Returns how many transfers in scope are unfinished; none if the records of a limited scope
    /// cannot be read.
    pub(crate) async fn counts(&self, scope: &Scope) -> TransferCounts {
        match self.context.clients.within(scope).ids().await {
            Ok(ids) => self.context.active.counts(&ids),
            Err(_) => TransferCounts::default(),
        }
    }
}

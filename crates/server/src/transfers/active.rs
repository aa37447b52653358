//! The unfinished transfers: who may join which, and how many there may be.
//!
//! A view changes before its index does, in one step ([`ViewSender`]): a transfer that is seen
//! waiting has a position. So the lock of the index may be taken while a view is locked, and no
//! view is ever read under the lock of the index.

mod index;
mod queue;
#[cfg(test)]
mod tests;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};
use filepull_core::id::{ClientId, TransferId};
use filepull_core::path::SharedPath;
use filepull_core::problem::{Code, Problem};
use tokio::sync::{mpsc, watch};

use super::{ActivityFilter, Command, TransferCounts, TransferListItem, TransferListPage, View};
use crate::records::{Total, TransferFilter};
use index::{Index, Standing};

/// A handle on one unfinished transfer.
#[derive(Clone, Debug)]
pub(crate) struct TaskHandle {
    pub(crate) id: TransferId,
    pub(crate) client: ClientId,
    pub(crate) path: Option<SharedPath>,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) view: watch::Receiver<View>,
    pub(crate) commands: mpsc::Sender<Command>,
    /// The first order may have gone out: from then on the source may be open.
    pub(crate) ordered: Arc<AtomicBool>,
}

/// All unfinished transfers; cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct ActiveTransfers {
    index: Arc<Mutex<Index>>,
}

/// Whether a new transfer was needed.
pub(crate) enum JoinResult {
    Other(TaskHandle),
    Inserted(TaskHandle),
}

/// The view of a transfer, as its task changes it.
#[derive(Clone, Debug)]
pub(crate) struct ViewSender {
    id: TransferId,
    view: watch::Sender<View>,
    open: ActiveTransfers,
}

impl ViewSender {
    /// The first view, and what others see of it.
    pub(crate) fn new(open: ActiveTransfers, first: View) -> (Self, watch::Receiver<View>) {
        let id = first.transfer.id;
        let (view, seen) = watch::channel(first);
        (Self { id, view, open }, seen)
    }

    pub(crate) fn borrow(&self) -> watch::Ref<'_, View> {
        self.view.borrow()
    }

    /// Changes the view and the index.
    pub(crate) fn send_modify(&self, change: impl FnOnce(&mut View)) {
        self.view.send_modify(|view| {
            let before = Standing::of(view);
            change(view);
            let standing = Standing::of(view);
            if standing != before {
                self.open.lock().place(self.id, standing);
            }
        });
    }
}

impl ActiveTransfers {
    fn lock(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, id: TransferId) -> Option<TaskHandle> {
        self.lock().get(id).cloned()
    }

    pub(crate) fn insert(&self, handle: TaskHandle) {
        let standing = Standing::of(&handle.view.borrow());
        self.lock().insert(handle, standing);
    }

    pub(crate) fn remove(&self, id: TransferId) {
        self.lock().remove(id);
    }

    /// The transfer that a pull of this file joins.
    pub(crate) fn join(
        &self,
        client: &ClientId,
        path: Option<&SharedPath>,
        fresh: bool,
    ) -> Option<TaskHandle> {
        self.lock().joinable(client, path, fresh).cloned()
    }

    /// Inserts a new transfer unless one has come meanwhile that it can join.
    pub(crate) fn join_or_insert(
        &self,
        handle: TaskHandle,
        fresh: bool,
        max_open: usize,
        max_waiting_per_client: usize,
    ) -> Result<JoinResult, Problem> {
        let standing = Standing::of(&handle.view.borrow());
        let mut index = self.lock();
        if let Some(other) = index.joinable(&handle.client, handle.path.as_ref(), fresh) {
            return Ok(JoinResult::Other(other.clone()));
        }
        if max_open <= index.len() {
            let n_open = index.len();
            let detail = format!("{n_open} transfers are running or waiting; no more may wait.");
            let hint = "Try again later, or raise MAX_WAITING.";
            return Err(Problem::new(Code::ServerBusy, detail).hint(hint));
        }
        let n_waiting = index.n_waiting(&handle.client);
        if max_waiting_per_client <= n_waiting {
            let client = &handle.client;
            let detail =
                format!("{n_waiting} transfers of {client} are waiting; no more of it may wait.");
            let hint = "Wait until some have ended, or raise MAX_WAITING_PER_CLIENT.";
            return Err(Problem::new(Code::ServerBusy, detail).hint(hint));
        }
        index.insert(handle.clone(), standing);
        Ok(JoinResult::Inserted(handle))
    }

    /// Returns the running transfer of a client, or else the one that waits longest.
    pub(crate) fn current(&self, client: &ClientId) -> Option<View> {
        let handle = self.lock().current(client).cloned()?;
        let view = handle.view.borrow().clone();
        (!view.transfer.is_final()).then_some(view)
    }

    /// Returns whether a transfer waits for a permit of the server, or for the permit of this
    /// client.
    pub(crate) fn others_wait(&self, client: &ClientId) -> bool {
        self.lock().others_wait(client)
    }

    /// Its place among those that wait for the same: the server's turn, or their client's.
    pub(crate) fn place_in_line(&self, id: TransferId) -> Option<usize> {
        self.lock().place_in_line(id)
    }

    /// Returns a page of the waiting or of the running transfers, newest first.
    pub(crate) fn page(&self, kind: ActivityFilter, filter: &TransferFilter) -> TransferListPage {
        let (handles, next, total) = {
            let index = self.lock();
            let (handles, next) = index.page(kind, filter);
            let handles: Vec<TaskHandle> = handles.into_iter().cloned().collect();
            (handles, next, index.count(kind, filter))
        };
        let views = handles.iter().map(|handle| handle.view.borrow().clone());
        // Leave out a transfer whose state has changed meanwhile.
        let items =
            views.filter(|view| kind.selects(view.state())).map(TransferListItem::view).collect();
        let total = Total::Exactly(total as u64);
        TransferListPage { items, next_cursor: next.map(|next| next.to_string()), total }
    }

    pub(crate) fn counts(&self) -> TransferCounts {
        self.lock().counts()
    }
}

//! The unfinished transfers: which pull may join which transfer, and how many may wait.
//!
//! [`ViewSender`] changes a view and its index in one step, the view first: a transfer that is shown
//! as waiting has a position. Lock order: the index may be locked while a view is locked. No view is
//! read while the index is locked.

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
use filepull_core::pull_mode::PullMode;
use tokio::sync::{mpsc, watch};

use super::task::TransferTask;
use super::{ActivityFilter, Command, TransferCounts, TransferListItem, TransferListPage, View};
use crate::known_clients::ScopedIds;
use crate::records::{Total, TransferFilter};
use index::{Index, Standing};

/// A handle on one unfinished transfer.
#[derive(Clone, Debug)]
pub(crate) struct TaskHandle {
    pub(crate) id: TransferId,
    pub(crate) client: ClientId,
    pub(crate) path: Option<SharedPath>,
    pub(crate) mode: PullMode,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) view: watch::Receiver<View>,
    pub(crate) commands: mpsc::Sender<Command>,
    /// The first order may have been sent. From then on the source may be open.
    pub(crate) ordered: Arc<AtomicBool>,
}

/// All unfinished transfers. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct ActiveTransfers {
    index: Arc<Mutex<Index>>,
}

/// The transfer that a pull gets.
pub(crate) enum JoinResult {
    /// A transfer that was active already.
    Other(TaskHandle),
    /// The new transfer.
    Inserted(TaskHandle),
}

/// The view of a transfer, as its task changes it.
#[derive(Clone, Debug)]
pub(crate) struct ViewSender {
    id: TransferId,
    view: watch::Sender<View>,
    active: ActiveTransfers,
}

impl ViewSender {
    /// Creates the view of a transfer, and its receiver.
    pub(crate) fn new(active: ActiveTransfers, first: View) -> (Self, watch::Receiver<View>) {
        let id = first.transfer.id;
        let (view, receiver) = watch::channel(first);
        (Self { id, view, active }, receiver)
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
                self.active.lock().place(self.id, standing);
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

    /// Returns the transfer that a pull of this file joins.
    pub(crate) fn join(
        &self,
        client: &ClientId,
        path: Option<&SharedPath>,
        mode: PullMode,
    ) -> Option<TaskHandle> {
        self.lock().joinable(client, path, mode).cloned()
    }

    /// Inserts the transfer of a new task, unless another pull has inserted one meanwhile that the new
    /// one can join. The first transfer of a client that sends nothing gets its permit: a later one
    /// with `fresh` would overtake it, and the next one with `fresh` could join neither.
    pub(crate) fn join_or_insert(
        &self,
        task: &mut TransferTask,
        handle: TaskHandle,
        max_active: usize,
        max_waiting_per_client: usize,
    ) -> Result<JoinResult, Problem> {
        let standing = Standing::of(&handle.view.borrow());
        let mut index = self.lock();
        if let Some(other) = index.joinable(&handle.client, handle.path.as_ref(), handle.mode) {
            return Ok(JoinResult::Other(other.clone()));
        }
        if max_active <= index.len() {
            let n_active = index.len();
            let detail = format!("{n_active} transfers are running or waiting; no more may wait.");
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
        task.try_client_permit();
        Ok(JoinResult::Inserted(handle))
    }

    /// Returns all unfinished transfers of a client.
    pub(crate) fn of_client(&self, client: &ClientId) -> Vec<TaskHandle> {
        self.lock().of_client(client)
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

    /// Returns the position among the transfers that wait for the same permit, counted from 1.
    pub(crate) fn queue_position(&self, id: TransferId) -> Option<usize> {
        self.lock().queue_position(id)
    }

    /// Returns a page of the waiting or of the running transfers of these clients, newest first.
    pub(crate) fn page(
        &self,
        kind: ActivityFilter,
        filter: &TransferFilter,
        ids: &ScopedIds,
    ) -> TransferListPage {
        let (handles, next, total) = {
            let index = self.lock();
            let (handles, next) = index.page(kind, filter, ids);
            let handles: Vec<TaskHandle> = handles.into_iter().cloned().collect();
            (handles, next, index.count(kind, filter, ids))
        };
        let views = handles.iter().map(|handle| handle.view.borrow().clone());
        // Leave out a transfer whose state has changed meanwhile.
        let items =
            views.filter(|view| kind.selects(view.state())).map(TransferListItem::view).collect();
        let total = Total::Exactly(total as u64);
        TransferListPage { items, next_cursor: next.map(|next| next.to_string()), total }
    }

    pub(crate) fn counts(&self, ids: &ScopedIds) -> TransferCounts {
        self.lock().counts(ids)
    }
}

//! The unfinished transfers: who may join which, and how many there may be.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use filepull_core::id::{ClientId, TransferId};
use filepull_core::path::SharedPath;
use filepull_core::problem::{Code, Problem};
use tokio::sync::{mpsc, watch};

use super::{Ask, Counts, Stage, State, View, WaitingFor};

/// A handle on one unfinished transfer.
#[derive(Clone, Debug)]
pub(super) struct Handle {
    pub(super) id: TransferId,
    pub(super) client: ClientId,
    pub(super) path: Option<SharedPath>,
    pub(super) view: watch::Receiver<View>,
    pub(super) asks: mpsc::Sender<Ask>,
    /// The first order may have gone out: from then on the source may be open.
    pub(super) ordered: Arc<AtomicBool>,
}

/// All unfinished transfers, oldest first: ids sort by the time they were made.
#[derive(Debug, Default)]
pub(super) struct Open {
    by_id: Mutex<BTreeMap<TransferId, Handle>>,
}

/// Whether a new transfer was needed.
pub(super) enum Joined {
    Other(Handle),
    Inserted(Handle),
}

impl Open {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<TransferId, Handle>> {
        self.by_id.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, id: TransferId) -> Option<Handle> {
        self.lock().get(&id).cloned()
    }

    pub(super) fn insert(&self, handle: Handle) {
        self.lock().insert(handle.id, handle);
    }

    pub(super) fn remove(&self, id: TransferId) {
        self.lock().remove(&id);
    }

    /// The transfer that a pull of this file joins.
    pub(super) fn join(
        &self,
        client: &ClientId,
        path: Option<&SharedPath>,
        fresh: bool,
    ) -> Option<Handle> {
        joinable(&self.lock(), client, path, fresh)
    }

    /// Inserts a new transfer unless one has come meanwhile that it can join.
    pub(super) fn join_or_insert(
        &self,
        handle: Handle,
        fresh: bool,
        max_open: usize,
    ) -> Result<Joined, Problem> {
        let mut open = self.lock();
        if let Some(other) = joinable(&open, &handle.client, handle.path.as_ref(), fresh) {
            return Ok(Joined::Other(other));
        }
        if max_open <= open.len() {
            let n_open = open.len();
            let detail = format!("{n_open} transfers are running or waiting; no more may wait.");
            return Err(Problem::new(Code::ServerBusy, detail));
        }
        open.insert(handle.id, handle.clone());
        Ok(Joined::Inserted(handle))
    }

    pub(super) fn views_of(&self, client: &ClientId) -> Vec<View> {
        let open = self.lock();
        let of_client = open.values().filter(|handle| handle.client == *client);
        of_client.map(|handle| handle.view.borrow().clone()).filter(is_unfinished).collect()
    }

    /// Its place among those that wait for the same: the server's turn, or their client's.
    pub(super) fn place_in_line(&self, id: TransferId) -> Option<usize> {
        let open = self.lock();
        let waits_for = |handle: &Handle| match handle.view.borrow().stage {
            Stage::Waiting(WaitingFor::Turn) => Some(None),
            Stage::Waiting(WaitingFor::OtherFile) => Some(Some(handle.client.clone())),
            Stage::Waiting(WaitingFor::Client | WaitingFor::Disk)
            | Stage::Recording
            | Stage::Starting
            | Stage::Asked
            | Stage::Running => None,
        };
        let line = waits_for(open.get(&id)?)?;
        let in_line = |handle: &Handle| waits_for(handle).as_ref() == Some(&line);
        Some(open.range(..=id).filter(|(_, handle)| in_line(handle)).count())
    }

    pub(super) fn counts(&self) -> Counts {
        let mut counts = Counts::default();
        for handle in self.lock().values() {
            match handle.view.borrow().state() {
                State::Running => counts.running += 1,
                State::Waiting(_) => counts.waiting += 1,
                State::Done | State::Failed | State::Cancelled => {}
            }
        }
        counts
    }
}

fn is_unfinished(view: &View) -> bool {
    !view.transfer.is_final()
}

/// The newest unfinished transfer of the same file that may be joined. A fresh pull joins only one
/// whose source cannot be open yet: what it gets is then opened after it was asked for. That need not
/// be the one with the highest id: clocks are set back.
fn joinable(
    open: &BTreeMap<TransferId, Handle>,
    client: &ClientId,
    path: Option<&SharedPath>,
    fresh: bool,
) -> Option<Handle> {
    let same = |handle: &&Handle| handle.client == *client && handle.path.as_ref() == path;
    let may_be_joined = |handle: &&Handle| {
        let too_late = fresh && handle.ordered.load(Ordering::SeqCst);
        !too_late && !handle.view.borrow().transfer.is_final()
    };
    open.values().rev().filter(same).find(may_be_joined).cloned()
}

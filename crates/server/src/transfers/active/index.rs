//! The unfinished transfers by id, by client and by activity. No lock, no task.
//!
//! The cost of a query depends on the size of its result, not on the number of waiting transfers:
//! 10,000 transfers may wait while a trigger joins one.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::Ordering;

use filepull_core::id::{ClientId, TransferId};
use filepull_core::path::SharedPath;
use filepull_core::pull_mode::PullMode;

use super::super::{Activity, ActivityFilter, TransferCounts, TransferState, View, WaitingFor};
use super::TaskHandle;
use super::queue::Queue;
use crate::known_clients::ScopedIds;
use crate::records::{Cursor, TransferFilter};

/// What an unfinished transfer does, as far as the index distinguishes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Not on record yet: no caller may learn of it.
    Unrecorded,
    Waiting(WaitingFor),
    /// On record, and about to begin.
    Starting,
    Running,
    /// The transfer has ended, and its task is about to end.
    Final,
}

impl Standing {
    pub(crate) fn of(view: &View) -> Self {
        match (view.state(), view.activity) {
            (
                TransferState::Done
                | TransferState::Unchanged
                | TransferState::Failed
                | TransferState::Cancelled,
                _,
            ) => Self::Final,
            (TransferState::Running, _) => Self::Running,
            (TransferState::Waiting(_), Activity::Recording) => Self::Unrecorded,
            (TransferState::Waiting(_), Activity::Starting) => Self::Starting,
            (
                TransferState::Waiting(waiting_for),
                Activity::Waiting(_) | Activity::Ordered | Activity::Running,
            ) => Self::Waiting(waiting_for),
        }
    }
}

/// The unfinished transfers and their queues.
#[derive(Debug, Default)]
pub(crate) struct Index {
    by_id: HashMap<TransferId, ActiveEntry>,
    by_client: HashMap<ClientId, OfClient>,
    n_unrecorded: usize,
    all: Group,
    /// The transfers that wait for a permit of the server.
    permit_queue: Queue,
}

#[derive(Debug)]
struct ActiveEntry {
    handle: TaskHandle,
    at: Cursor,
    standing: Standing,
}

/// Transfers on record that are not final.
#[derive(Debug, Default)]
struct Group {
    waiting: Queue,
    running: Queue,
}

#[derive(Debug, Default)]
struct OfClient {
    /// All transfers of the client, by file.
    by_path: HashMap<Option<SharedPath>, Queue>,
    group: Group,
    /// The transfers that wait for another transfer of the same client.
    other_file: Queue,
}

impl Index {
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    /// Returns whether the index is empty.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        let Self { by_id, by_client, n_unrecorded, all: Group { waiting, running }, permit_queue } =
            self;
        let queues = [waiting, running, permit_queue];
        by_id.is_empty()
            && by_client.is_empty()
            && *n_unrecorded == 0
            && queues.into_iter().all(Queue::is_empty)
    }

    pub(crate) fn get(&self, id: TransferId) -> Option<&TaskHandle> {
        self.by_id.get(&id).map(|entry| &entry.handle)
    }

    pub(crate) fn insert(&mut self, handle: TaskHandle, standing: Standing) {
        let at = Cursor::new(handle.created_at, handle.id);
        let of_client = self.by_client.entry(handle.client.clone()).or_default();
        of_client.by_path.entry(handle.path.clone()).or_default().insert(at);
        self.join_queues(&handle.client, at, standing);
        self.by_id.insert(handle.id, ActiveEntry { handle, at, standing });
    }

    pub(crate) fn remove(&mut self, id: TransferId) {
        let Some(ActiveEntry { handle, at, standing }) = self.by_id.remove(&id) else { return };
        self.leave_queues(&handle.client, at, standing);
        let Some(of_client) = self.by_client.get_mut(&handle.client) else { return };
        if let Some(queue) = of_client.by_path.get_mut(&handle.path) {
            queue.remove(at);
            if queue.is_empty() {
                of_client.by_path.remove(&handle.path);
            }
        }
        if of_client.by_path.is_empty() {
            self.by_client.remove(&handle.client);
        }
    }

    /// Records the new standing of a transfer.
    pub(crate) fn place(&mut self, id: TransferId, standing: Standing) {
        let Some(entry) = self.by_id.get_mut(&id) else { return };
        let before = std::mem::replace(&mut entry.standing, standing);
        let client = entry.handle.client.clone();
        let at = entry.at;
        self.leave_queues(&client, at, before);
        self.join_queues(&client, at, standing);
    }

    fn join_queues(&mut self, client: &ClientId, at: Cursor, standing: Standing) {
        if standing == Standing::Unrecorded {
            self.n_unrecorded += 1;
        }
        for queue in self.queues(client, standing) {
            queue.insert(at);
        }
    }

    fn leave_queues(&mut self, client: &ClientId, at: Cursor, standing: Standing) {
        if standing == Standing::Unrecorded {
            self.n_unrecorded -= 1;
        }
        for queue in self.queues(client, standing) {
            queue.remove(at);
        }
    }

    /// Returns the queues for this standing.
    fn queues(
        &mut self,
        client: &ClientId,
        standing: Standing,
    ) -> impl Iterator<Item = &mut Queue> {
        let Self { all, permit_queue, by_client, .. } = self;
        let of_client = by_client.entry(client.clone()).or_default();
        let OfClient { group, other_file, .. } = of_client;
        let (common, own, permit) = match standing {
            Standing::Unrecorded | Standing::Final => (None, None, None),
            Standing::Running => (Some(&mut all.running), Some(&mut group.running), None),
            Standing::Starting | Standing::Waiting(WaitingFor::Client | WaitingFor::Disk) => {
                (Some(&mut all.waiting), Some(&mut group.waiting), None)
            }
            Standing::Waiting(WaitingFor::Permit) => {
                (Some(&mut all.waiting), Some(&mut group.waiting), Some(permit_queue))
            }
            Standing::Waiting(WaitingFor::OtherFile) => {
                (Some(&mut all.waiting), Some(&mut group.waiting), Some(other_file))
            }
        };
        [common, own, permit].into_iter().flatten()
    }

    /// Returns the newest unfinished transfer of the same file that a pull of this mode
    /// [may join](PullMode::may_join). That may be an older transfer, because clocks are set back.
    pub(crate) fn joinable(
        &self,
        client: &ClientId,
        path: Option<&SharedPath>,
        mode: PullMode,
    ) -> Option<&TaskHandle> {
        let same = self.by_client.get(client)?.by_path.get(&path.cloned())?;
        let may_be_joined = |entry: &&ActiveEntry| {
            let is_ordered = entry.handle.ordered.load(Ordering::SeqCst);
            mode.may_join(entry.handle.mode, is_ordered) && entry.standing != Standing::Final
        };
        let mut entries = same.newest_first().filter_map(|id| self.by_id.get(&id));
        entries.find(may_be_joined).map(|entry| &entry.handle)
    }

    /// Returns all unfinished transfers of a client, recorded or not.
    pub(crate) fn of_client(&self, client: &ClientId) -> Vec<TaskHandle> {
        let Some(of_client) = self.by_client.get(client) else { return Vec::new() };
        let ids = of_client.by_path.values().flat_map(Queue::newest_first);
        ids.filter_map(|id| self.get(id)).cloned().collect()
    }

    /// Returns the running transfer of a client, or else the one that waits longest.
    pub(crate) fn current(&self, client: &ClientId) -> Option<&TaskHandle> {
        let Group { waiting, running } = &self.by_client.get(client)?.group;
        let oldest = running.oldest().or(waiting.oldest())?;
        self.get(oldest.id())
    }

    /// Returns a page of the waiting or of the running transfers, of one client or of all that are in
    /// scope. None of them has ended, so none has an error.
    pub(crate) fn page(
        &self,
        kind: ActivityFilter,
        filter: &TransferFilter,
        ids: &ScopedIds,
    ) -> (Vec<&TaskHandle>, Option<Cursor>) {
        let (page, next) = match self.scoped_queue(kind, filter, ids) {
            Some(queue) => queue.page(filter),
            None => (Vec::new(), None),
        };
        (page.into_iter().filter_map(|id| self.get(id)).collect(), next)
    }

    /// Returns the number of transfers on all pages.
    pub(crate) fn count(
        &self,
        kind: ActivityFilter,
        filter: &TransferFilter,
        ids: &ScopedIds,
    ) -> usize {
        self.scoped_queue(kind, filter, ids).map_or(0, |queue| queue.count(filter))
    }

    /// Returns the queue without the transfers that are out of scope. Only a limited scope costs a
    /// copy.
    fn scoped_queue(
        &self,
        kind: ActivityFilter,
        filter: &TransferFilter,
        ids: &ScopedIds,
    ) -> Option<Cow<'_, Queue>> {
        let queue = self.queue_of(kind, filter)?;
        Some(match ids {
            ScopedIds::All => Cow::Borrowed(queue),
            ScopedIds::Some(_) => {
                let client = |id| self.get(id).map(|handle| &handle.client);
                let is_in_scope = |id| client(id).is_some_and(|client| ids.contain(client));
                Cow::Owned(queue.only(is_in_scope))
            }
        })
    }

    fn queue_of(&self, kind: ActivityFilter, filter: &TransferFilter) -> Option<&Queue> {
        let group = match &filter.client {
            _ if filter.error.is_some() => return None,
            None => &self.all,
            Some(client) => &self.by_client.get(client)?.group,
        };
        Some(match kind {
            ActivityFilter::Waiting => &group.waiting,
            ActivityFilter::Running => &group.running,
        })
    }

    /// Returns how many transfers of a client wait, or are not on record yet.
    pub(crate) fn n_waiting(&self, client: &ClientId) -> usize {
        let Some(of_client) = self.by_client.get(client) else { return 0 };
        let n_active: usize = of_client.by_path.values().map(Queue::len).sum();
        n_active - of_client.group.running.len()
    }

    /// Returns whether a transfer waits for a permit of the server, or for the permit of this
    /// client.
    pub(crate) fn others_wait(&self, client: &ClientId) -> bool {
        let of_client = self.by_client.get(client);
        !self.permit_queue.is_empty() || of_client.is_some_and(|own| !own.other_file.is_empty())
    }

    /// Returns the position among the transfers that wait for the same permit.
    pub(crate) fn queue_position(&self, id: TransferId) -> Option<usize> {
        let ActiveEntry { handle, at, standing } = self.by_id.get(&id)?;
        match standing {
            Standing::Waiting(WaitingFor::Permit) => self.permit_queue.place(*at),
            Standing::Waiting(WaitingFor::OtherFile) => {
                self.by_client.get(&handle.client)?.other_file.place(*at)
            }
            Standing::Waiting(WaitingFor::Client | WaitingFor::Disk)
            | Standing::Unrecorded
            | Standing::Starting
            | Standing::Running
            | Standing::Final => None,
        }
    }

    pub(crate) fn counts(&self, ids: &ScopedIds) -> TransferCounts {
        if let ScopedIds::All = ids {
            let Group { waiting, running } = &self.all;
            let waiting = waiting.len() + self.n_unrecorded;
            return TransferCounts { running: running.len(), waiting };
        }
        let in_scope = self.by_client.iter().filter(|(client, _)| ids.contain(client));
        in_scope.fold(TransferCounts::default(), |counts, (client, own)| TransferCounts {
            running: counts.running + own.group.running.len(),
            waiting: counts.waiting + self.n_waiting(client),
        })
    }
}

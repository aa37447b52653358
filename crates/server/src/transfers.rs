//! Makes, joins, orders and ends transfers: the only writer of their state.
//!
//! Each unfinished transfer is one task (`life`) that owns it; others see its [`View`] and send
//! it asks. The registry, the records and the store meet here and nowhere else.

mod active;
mod admit;
mod attempt;
mod checkpoint;
mod disk;
mod failed;
mod finish;
mod idempotency;
mod judge;
mod listed;
mod messages;
mod min_rate;
mod permits;
mod progress;
mod publish;
mod pull;
mod recover;
mod space;
mod stall_timer;
mod sweep;
mod task;
#[cfg(test)]
pub(crate) mod tests;
mod upload;
mod view;
mod wait;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{DateTime, SubsecRound as _, Utc};
use filepull_core::id::{ClientId, TransferId};
use filepull_core::problem::{Code, Problem};
use filepull_process::Lifecycle;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};

use crate::disk_sampler::DiskSampler;
use crate::known_clients::KnownClients;
use crate::records::{self, RecordedTransfer, Records, Total, TransferFilter};
use crate::registry::Registry;
use crate::store::Store;
use active::ActiveTransfers;
use failed::{records_failed, store_failed};
pub(crate) use listed::TransferListItem;
pub(crate) use messages::{Answer, Reply, Upload};
use messages::{Command, refuse};
pub(crate) use pull::{Pull, PullResult};
pub(crate) use space::shortage;
use task::TransferTask;
pub(crate) use view::{Activity, TransferState, View, WaitingFor};

/// The bounds that transfers keep to.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Transfers at once.
    pub max_running: usize,
    /// Transfers in line.
    pub max_waiting: usize,
    /// Transfers of one client that wait.
    pub max_waiting_per_client: usize,
    /// The largest file, in bytes.
    pub max_file_size: u64,
    /// Bytes that stay free on the server's disk.
    pub min_free: u64,
    /// An upload that brings no byte for this long has stalled.
    pub stall_timeout: Duration,
    /// An upload that is slower, in bytes per second, gives its turn to others; 0 is off.
    pub min_rate: u64,
    /// The time over which the rate is measured.
    pub min_rate_window: Duration,
    /// How long a client may be away before its transfer fails.
    pub resume_within: Duration,
    /// Bytes are made durable this often while they come.
    pub checkpoint_every: Duration,
}

/// A handle on all transfers.
#[derive(Clone, Debug)]
pub(crate) struct Transfers {
    shared: Arc<TaskContext>,
}

#[derive(Debug)]
struct TaskContext {
    records: Records,
    registry: Registry,
    clients: KnownClients,
    store: Store,
    lifecycle: Lifecycle,
    limits: Limits,
    open: ActiveTransfers,
    /// A permit is taken before the order is sent: it bounds what may be under way at once.
    turns: Arc<Semaphore>,
    disk: DiskSampler,
    /// How many transfers wait until our own disk or records work again.
    n_waits: Arc<AtomicUsize>,
    /// When this server began to take up transfers.
    started_at: DateTime<Utc>,
    /// The records failed when they were last written to.
    records_fail: AtomicBool,
}

/// How many transfers are unfinished.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TransferCounts {
    /// Asked for, or being received.
    pub running: usize,
    /// In line, or waiting for their client.
    pub waiting: usize,
}

/// What an unfinished transfer does, as lists distinguish it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ActivityFilter {
    /// Queued, or waiting for something else.
    Waiting,
    /// Requested from the agent, or being received.
    Running,
}

impl ActivityFilter {
    fn is_of(self, state: TransferState) -> bool {
        match state {
            TransferState::Waiting(_) => self == Self::Waiting,
            TransferState::Running => self == Self::Running,
            TransferState::Done | TransferState::Failed | TransferState::Cancelled => false,
        }
    }
}

/// A page of transfers, newest first.
#[derive(Clone, Debug)]
pub(crate) struct TransferListPage {
    /// The transfers.
    pub items: Vec<TransferListItem>,
    /// Where the next page begins, if there is one.
    pub next_cursor: Option<String>,
    /// How many there are on all pages.
    pub total: Total,
}

/// A cancel is answered within this time, even if it must wait for a disk that hangs.
const CANCEL_LIMIT: Duration = Duration::from_secs(5);

/// Asks are few and small; one that finds the queue full is dropped, as a lost message would be.
const ASKS_LEN: usize = 16;

impl Transfers {
    /// Takes up the transfers that an earlier process left unfinished, and starts to sweep partials
    /// that belong to none of them.
    ///
    /// # Errors
    /// The records cannot be read.
    pub(crate) async fn start(
        records: Records,
        registry: Registry,
        store: Store,
        disk: DiskSampler,
        lifecycle: Lifecycle,
        limits: Limits,
    ) -> anyhow::Result<Self> {
        let records::UnfinishedRecords { transfers: unfinished, damaged } =
            records.unfinished().await?;
        records.end_damaged(&damaged, now()).await?;
        let turns = Arc::new(Semaphore::new(limits.max_running));
        let open = ActiveTransfers::default();
        let (n_waits, records_fail) = Default::default();
        let clients = KnownClients::new(registry.clone(), records.clone());
        let shared = TaskContext {
            records,
            registry,
            clients,
            store,
            lifecycle,
            limits,
            open,
            turns,
            disk,
            n_waits,
            started_at: now(),
            records_fail,
        };
        let transfers = Self { shared: Arc::new(shared) };
        let mut cancels: HashMap<TransferId, String> =
            transfers.shared.records.cancels().await?.into_iter().collect();
        for transfer in unfinished {
            let cancel = cancels.remove(&transfer.id);
            let cancel = cancel.map(|detail| Problem::new(Code::Cancelled, detail));
            let (life, handle) = TransferTask::resume(&transfers.shared, transfer, cancel);
            transfers.shared.open.insert(handle);
            transfers.shared.lifecycle.spawn(life.run());
        }
        for id in cancels.into_keys() {
            let _ = transfers.shared.records.forget_cancel(id).await; // it ended before its cancel
        }
        transfers.shared.lifecycle.spawn(sweep::sweep(Arc::clone(&transfers.shared)));
        Ok(transfers)
    }

    /// One transfer, unfinished or on record.
    ///
    /// # Errors
    /// There is none with this id, its record is damaged, or the records cannot be read.
    pub(crate) async fn find(&self, id: TransferId) -> Result<View, Problem> {
        match self.look_up(id).await? {
            TransferListItem::View(view) => Ok(*view),
            TransferListItem::Damaged(damaged) => Err(damaged.problem()),
        }
    }

    /// One transfer, unfinished or on record, also if its record is damaged.
    ///
    /// # Errors
    /// There is none with this id, or the records cannot be read.
    pub(crate) async fn look_up(&self, id: TransferId) -> Result<TransferListItem, Problem> {
        if let Some(view) = self.watch(id) {
            return Ok(TransferListItem::view(view.borrow().clone()));
        }
        let found = self.shared.records.transfer(id).await.map_err(|e| records_failed(&e))?;
        let unknown = || Problem::new(Code::TransferUnknown, format!("No transfer {id} is known."));
        found.map(|item| self.listed(item)).ok_or_else(unknown)
    }

    /// A row of the records; a transfer that is unfinished as it is right now.
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

    /// Shows an unfinished transfer, and every change of it.
    pub(crate) fn watch(&self, id: TransferId) -> Option<watch::Receiver<View>> {
        self.shared.open.get(id).map(|handle| handle.view)
    }

    /// A page of transfers; those that are unfinished as they are right now.
    ///
    /// # Errors
    /// The records cannot be read.
    pub(crate) async fn list(&self, filter: &TransferFilter) -> Result<TransferListPage, Problem> {
        let page = self.shared.records.transfers(filter).await.map_err(|e| records_failed(&e))?;
        let items = page.items.into_iter().map(|item| self.listed(item)).collect();
        Ok(TransferListPage { items, next_cursor: page.next_cursor, total: page.total })
    }

    /// Returns a page of the waiting or of the running transfers that match the rest of the filter.
    /// Reads no record.
    pub(crate) fn list_unfinished(
        &self,
        kind: ActivityFilter,
        filter: &TransferFilter,
    ) -> TransferListPage {
        self.shared.open.page(kind, filter)
    }

    /// Cancels a transfer. A final transfer stays unchanged. The returned view is not final if the
    /// end takes longer than a caller should wait: then the cancel is on record, and takes effect
    /// unless the download has its name already.
    ///
    /// # Errors
    /// As [`find`](Self::find), or the cancel was not accepted.
    pub(crate) async fn cancel(&self, id: TransferId, by: &str) -> Result<View, Problem> {
        let Some(mut handle) = self.shared.open.get(id) else { return self.find(id).await };
        let at = Utc::now().format("%Y-%m-%d %H:%M:%S UTC");
        let detail = format!("Cancelled by {by} at {at}.");
        let ask = Command::Cancel(Problem::new(Code::Cancelled, detail.clone()));
        // A closed queue means that the transfer ended meanwhile.
        let Ok(_) = timeout(CANCEL_LIMIT, handle.asks.send(ask)).await else {
            let detail = "The transfer takes no cancel: the server's disk does not answer.";
            return Err(Problem::new(Code::ServerBusy, detail));
        };
        let limit = Instant::now() + CANCEL_LIMIT;
        let ended = handle.view.wait_for(|view| view.transfer.is_final());
        let _ = timeout_at(limit, ended).await;
        if !handle.view.borrow().transfer.is_final() {
            self.keep_cancel(id, &detail).await?;
        }
        let view = handle.view.borrow().clone();
        Ok(view)
    }

    async fn keep_cancel(&self, id: TransferId, detail: &str) -> Result<(), Problem> {
        match timeout(CANCEL_LIMIT, self.shared.records.keep_cancel(id, detail)).await {
            Ok(kept) => kept.map_err(|error| records_failed(&error)),
            Err(_) => {
                let detail = "The cancel may not be on record: the server's disk does not answer.";
                Err(Problem::new(Code::StorageFailed, detail))
            }
        }
    }

    /// The client's unfinished transfer; of several the one that runs.
    pub(crate) fn current(&self, client: &ClientId) -> Option<View> {
        self.shared.open.current(client)
    }

    /// Where a transfer that waits for its turn stands, from 1.
    pub(crate) fn place_in_line(&self, id: TransferId) -> Option<usize> {
        self.shared.open.place_in_line(id)
    }

    /// How many transfers are unfinished.
    pub(crate) fn counts(&self) -> TransferCounts {
        self.shared.open.counts()
    }

    /// How many transfers wait until this server's own disk or records work again.
    pub(crate) fn n_waiting_for_us(&self) -> usize {
        self.shared.n_waits.load(Ordering::SeqCst)
    }

    /// The server takes no new transfers: it is about to end.
    pub(crate) fn is_stopping(&self) -> bool {
        self.shared.lifecycle.drain().is_cancelled()
    }

    /// The measurements of the disk.
    pub(crate) fn disk(&self) -> &DiskSampler {
        &self.shared.disk
    }

    /// The bounds that transfers keep to.
    pub(crate) fn limits(&self) -> Limits {
        self.shared.limits
    }

    /// Takes what the agent of `client` said about an order; news of a finished transfer, or of
    /// another client's, is ignored.
    pub(crate) fn answer(&self, client: &ClientId, id: TransferId, attempt: u32, answer: Answer) {
        let handle = self.shared.open.get(id).filter(|handle| handle.client == *client);
        if let Some(handle) = handle {
            let _ = handle.asks.try_send(Command::Answer { attempt, answer });
        }
    }

    /// Hands an upload to the transfer it is for. One that is for none is told so.
    pub(crate) fn upload(&self, id: TransferId, upload: Upload) {
        let replies = upload.replies.clone();
        let handle = self.shared.open.get(id);
        let handed = handle
            .is_some_and(|handle| handle.asks.try_send(Command::Upload(Box::new(upload))).is_ok());
        if !handed {
            refuse(
                &replies,
                Problem::new(Code::TransferUnknown, format!("no transfer {id}")),
                None,
            );
        }
    }
}

/// Times as the records keep them: to the millisecond.
fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(3)
}

//! Creates, joins, orders and ends transfers: the only writer of their state.
//!
//! Each unfinished transfer is owned by one [task](task). Others see its [`View`] and send it
//! commands. The registry, the records and the store are used together only here.

mod active;
mod attempt;
mod base;
mod checkpoint;
mod commit;
mod disk;
mod idempotency;
mod lookup;
mod messages;
mod min_rate;
mod outcome;
mod progress;
mod pull;
mod resource_wait;
mod retry;
mod space;
mod sweep;
mod task;
#[cfg(test)]
pub(crate) mod tests;
mod traffic;
mod upload;
mod view;
mod wait;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use chrono::{DateTime, SubsecRound as _, Utc};
use filepull_core::audit::AuditAction;
use filepull_core::id::{ClientId, TransferId};
use filepull_core::problem::{Code, Problem};
use filepull_process::Lifecycle;
use futures::future::join_all;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout, timeout_at};

use crate::config::ReadBackPolicy;
use crate::disk_sampler::DiskSampler;
use crate::known_clients::KnownClients;
use crate::records::{Actor, AuditEntry, Records, UnfinishedRecords};
use crate::registry::Registry;
use crate::scope::Scope;
use crate::store::Store;
use active::ActiveTransfers;
pub(crate) use lookup::{TransferCounts, TransferListPage};
pub(crate) use messages::{Answer, Reply, Upload};
use messages::{Command, refuse};
use outcome::records_failed;
pub(crate) use pull::{Pull, PullResult};
use resource_wait::ResourceWaits;
pub(crate) use space::shortage;
use task::TransferTask;
pub(crate) use upload::BlockListPart;
pub(crate) use view::{
    Activity, ActivityFilter, TransferListItem, TransferState, View, WaitingFor,
};

/// The limits of all transfers, and how they are received.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Maximum number of running transfers.
    pub max_running: usize,
    /// Maximum number of waiting transfers.
    pub max_waiting: usize,
    /// Maximum number of waiting transfers of one client.
    pub max_waiting_per_client: usize,
    /// Maximum size of a file in bytes.
    pub max_file_size: u64,
    /// Bytes that stay free on the server's disk.
    pub min_free: u64,
    /// An upload that receives no byte for this long has stalled.
    pub stall_timeout: Duration,
    /// Minimum bytes per second of an upload while others wait; 0 means no minimum.
    pub min_rate: u64,
    /// The time over which the rate is measured.
    pub min_rate_window: Duration,
    /// How long a client may be disconnected before its transfer fails.
    pub resume_within: Duration,
    /// How often received bytes are made durable.
    pub checkpoint_every: Duration,
    /// Which complete files are read back before they get their name.
    pub read_back: ReadBackPolicy,
}

/// A handle on all transfers.
#[derive(Clone, Debug)]
pub(crate) struct Transfers {
    context: Arc<TaskContext>,
}

/// What all tasks share.
#[derive(Debug)]
struct TaskContext {
    records: Records,
    registry: Registry,
    clients: KnownClients,
    store: Store,
    lifecycle: Lifecycle,
    limits: Limits,
    active: ActiveTransfers,
    /// A task takes a permit before it sends the order, so the permits limit the running transfers.
    permits: Arc<Semaphore>,
    disk: DiskSampler,
    resource_waits: ResourceWaits,
    /// When this server began to resume transfers.
    started_at: DateTime<Utc>,
    /// The last write to the records failed.
    records_fail: AtomicBool,
}

/// A cancel is answered within this time, even if it waits for an unresponsive disk.
const CANCEL_LIMIT: Duration = Duration::from_secs(5);

/// Commands are few and small. If the queue is full, an answer is dropped as if the network had lost
/// it, and an upload is rejected.
const COMMANDS_LEN: usize = 16;

impl Transfers {
    /// Resumes the transfers that an earlier process left unfinished, and starts to remove partials
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
        let UnfinishedRecords { transfers: unfinished, damaged } = records.unfinished().await?;
        records.end_damaged(&damaged, now()).await?;
        let clients = KnownClients::new(registry.clone(), records.clone());
        let context = Arc::new(TaskContext {
            records,
            registry,
            clients,
            store,
            lifecycle,
            limits,
            active: ActiveTransfers::default(),
            permits: Arc::new(Semaphore::new(limits.max_running)),
            disk,
            resource_waits: ResourceWaits::default(),
            started_at: now(),
            records_fail: AtomicBool::new(false),
        });
        let mut cancels: HashMap<TransferId, String> =
            context.records.cancels().await?.into_iter().collect();
        for transfer in unfinished {
            let detail = cancels.remove(&transfer.id);
            let cancel = detail.map(|detail| Problem::new(Code::Cancelled, detail));
            let (task, handle) = TransferTask::resume(&context, transfer, cancel);
            context.active.insert(handle);
            task.spawn();
        }
        for id in cancels.into_keys() {
            let _ = context.records.forget_cancel(id).await; // the transfer is final
        }
        context.lifecycle.spawn(sweep::sweep(Arc::clone(&context)));
        Ok(Self { context })
    }

    /// Cancels a transfer, after the audit record of the cancel is durable. A final transfer stays
    /// unchanged, and needs no audit record. If the returned view is not final, the end takes longer
    /// than a caller should wait. Then the cancel is on record, and takes effect
    /// unless the download already has its name.
    ///
    /// # Errors
    /// The errors of [`find`](Self::find), or the cancel was not accepted.
    pub(crate) async fn cancel(
        &self,
        id: TransferId,
        by: &Actor,
        scope: &Scope,
    ) -> Result<View, Problem> {
        let found = self.find(id, scope).await?;
        let Some(mut handle) = self.context.active.get(id) else { return Ok(found) };
        let entry = by.did(AuditAction::TransferCancelled, handle.client.as_str());
        match timeout(CANCEL_LIMIT, self.audit(entry.with("transfer", id.to_string()))).await {
            Ok(recorded) => recorded?,
            Err(_) => {
                let detail = "The cancel is not on record: the server's disk does not answer.";
                return Err(Problem::new(Code::RecordsFailed, detail));
            }
        }
        let at = Utc::now().format("%Y-%m-%d %H:%M:%S UTC");
        let detail = format!("Cancelled by {} at {at}.", by.name);
        let command = Command::Cancel(Problem::new(Code::Cancelled, detail.clone()));
        // A closed queue means that the transfer ended meanwhile.
        let Ok(_) = timeout(CANCEL_LIMIT, handle.commands.send(command)).await else {
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
        match timeout(CANCEL_LIMIT, self.context.records.keep_cancel(id, detail)).await {
            Ok(kept) => kept.map_err(|error| records_failed(&error)),
            Err(_) => {
                let detail = "The cancel may not be on record: the server's disk does not answer.";
                Err(Problem::new(Code::StorageFailed, detail))
            }
        }
    }

    /// Appends a record to the audit. An act whose record fails must not be answered as done.
    ///
    /// # Errors
    /// The records cannot be written.
    pub(crate) async fn audit(&self, entry: AuditEntry) -> Result<(), Problem> {
        self.context.records.audit(entry).await.map_err(|error| records_failed(&error))
    }

    /// Cancels the unfinished transfers of a client that was removed. Their cancels are on record already,
    /// with `detail`. Waits until they are final, or as long as a caller of a cancel waits.
    pub(crate) async fn end_all_of(&self, client: &ClientId, detail: &str) {
        let end = |mut handle: active::TaskHandle| async move {
            let command = Command::Cancel(Problem::new(Code::Cancelled, detail));
            // A closed queue means that the transfer ended meanwhile, and so does a closed view.
            drop(handle.commands.send(command).await);
            drop(handle.view.wait_for(|view| view.transfer.is_final()).await);
        };
        let ends = self.context.active.of_client(client).into_iter().map(end);
        let _ = timeout(CANCEL_LIMIT, join_all(ends)).await;
    }

    /// Returns the client of an unfinished transfer.
    pub(crate) fn client_of(&self, id: TransferId) -> Option<ClientId> {
        self.context.active.get(id).map(|handle| handle.client)
    }

    /// Returns whether the server drains, so that it accepts no new transfers.
    pub(crate) fn is_stopping(&self) -> bool {
        self.context.lifecycle.drain().is_cancelled()
    }

    /// The measurements of the disk.
    pub(crate) fn disk(&self) -> &DiskSampler {
        &self.context.disk
    }

    /// Returns the limits of all transfers.
    pub(crate) fn limits(&self) -> Limits {
        self.context.limits
    }

    /// Passes an agent's answer to the transfer. Ignores the answer if the transfer is final, or
    /// belongs to another client.
    pub(crate) fn answer(&self, client: &ClientId, id: TransferId, attempt: u32, answer: Answer) {
        let handle = self.context.active.get(id).filter(|handle| handle.client == *client);
        if let Some(handle) = handle {
            let _ = handle.commands.try_send(Command::Answer { attempt, answer });
        }
    }

    /// Passes an upload to its transfer. Rejects the upload if there is none.
    pub(crate) fn upload(&self, id: TransferId, upload: Upload) {
        let replies = upload.replies.clone();
        let command = Command::Upload(Box::new(upload));
        let handle = self.context.active.get(id);
        if handle.is_none_or(|handle| handle.commands.try_send(command).is_err()) {
            let problem = Problem::new(Code::TransferUnknown, format!("no transfer {id}"));
            refuse(&replies, problem, None);
        }
    }
}

/// Returns the current time, to the millisecond as in the records.
fn now() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(3)
}

//! Makes what has come survive a power cut, beside the upload that goes on.
//!
//! The upload does not wait for the disk: meanwhile its bytes would pile up in memory, a whole
//! flow-control window of them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use filepull_core::disk::{Disk as _, Extent};
use filepull_core::receive::Prefix;
use filepull_core::transfer::{Phase, Transfer};
use tokio::time::{Duration, Instant};

use super::disk::run;
use super::failed::Failed;
use super::task::TransferTask;
use super::{TaskContext, store_failed};
use crate::store::Partial;

/// The checkpoints of one upload, at most one of them in the making.
pub(super) struct Checkpoints {
    making: Option<Making>,
    every: Duration,
    due: Instant,
}

/// What a checkpoint came to: the transfer as it is on record then; nothing if the records failed,
/// for then the last checkpoint still holds; an error if the disk did.
type Made = Result<Option<Transfer>, Failed>;
type Making = Pin<Box<dyn Future<Output = Made> + Send>>;

impl Checkpoints {
    pub(super) fn new(every: Duration) -> Self {
        Self { making: None, every, due: Instant::now() + every }
    }

    /// Starts to make what `life` holds durable, if that is due.
    pub(super) fn start_if_due(&mut self, life: &TransferTask) {
        let Some(held) = &life.held else { return };
        if self.making.is_some() || Instant::now() < self.due {
            return;
        }
        let (shared, noted) = (Arc::clone(&life.shared), life.transfer.clone());
        let (partial, prefix) = (held.partial.clone(), held.receiver.prefix());
        self.making = Some(Box::pin(make(shared, noted, partial, prefix)));
    }

    /// Resolves when the one in the making is durable; without one, never. Dropping the future
    /// loses nothing.
    pub(super) async fn made(&mut self) -> Made {
        let Some(making) = &mut self.making else { return std::future::pending().await };
        let made = making.await;
        self.making = None;
        self.due = Instant::now() + self.every;
        made
    }

    /// Waits for the one in the making, if there is one.
    pub(super) async fn settle(&mut self) -> Option<Made> {
        self.making.as_ref()?;
        Some(self.made().await)
    }
}

/// Syncs the prefix, then puts it on record.
async fn make(
    shared: Arc<TaskContext>,
    mut noted: Transfer,
    partial: Partial,
    prefix: Prefix,
) -> Made {
    let mut store = shared.store.clone();
    let synced = run(move || store.sync(&partial, Extent::Prefix)).await;
    let synced = synced.map_err(|error| store_failed(&error.into_cause()))?;
    let Ok(receiving) = noted.receiving() else { return Ok(None) };
    noted.phase = Phase::Receiving(receiving.with_checkpoint(prefix, synced));
    // If the records fail, or the rest of the transfer has changed meanwhile, the next one will do.
    Ok(shared.save_checkpoint(&noted).await.is_ok().then_some(noted))
}

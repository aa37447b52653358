//! Makes the received bytes durable during the upload.
//!
//! The upload does not wait for the disk. Otherwise its bytes would use a complete flow-control
//! window of memory meanwhile.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use filepull_core::disk::{Disk as _, Extent};
use filepull_core::receive::Prefix;
use filepull_core::transfer::{Phase, Receiving, Transfer};
use tokio::time::{Duration, Instant};

use super::TaskContext;
use super::disk::run;
use super::outcome::{Outcome, classify};
use crate::receive::ReceivedPartial;
use crate::store::Partial;

/// The checkpoints of one upload. At most one of them runs.
pub(crate) struct Checkpoints {
    job: Option<CheckpointJob>,
    every: Duration,
    due: Instant,
}

/// The phase that is on record now; none if the records failed, because then the last checkpoint is
/// still valid. An error if the disk failed.
type CheckpointResult = Result<Option<Receiving>, Outcome>;

type CheckpointJob = Pin<Box<dyn Future<Output = CheckpointResult> + Send>>;

impl Checkpoints {
    pub(crate) fn new(every: Duration) -> Self {
        Self { job: None, every, due: Instant::now() + every }
    }

    /// Starts a checkpoint of `partial` if one is due. `transfer` returns the transfer as it is on
    /// record, but with the source and the sent bytes of this upload.
    pub(crate) fn start_if_due(
        &mut self,
        context: &Arc<TaskContext>,
        partial: &ReceivedPartial,
        transfer: impl FnOnce() -> Transfer,
    ) {
        if self.job.is_some() || Instant::now() < self.due {
            return;
        }
        let prefix = partial.receiver().prefix();
        let job = checkpoint(Arc::clone(context), transfer(), partial.partial.clone(), prefix);
        self.job = Some(Box::pin(job));
    }

    /// Waits for the running checkpoint; forever without one. Dropping the future loses nothing.
    pub(crate) async fn finished(&mut self) -> CheckpointResult {
        let Some(job) = &mut self.job else { return std::future::pending().await };
        let result = job.await;
        self.job = None;
        self.due = Instant::now() + self.every;
        result
    }

    /// Waits for the running checkpoint. Without one, returns none at once.
    pub(crate) async fn settle(&mut self) -> CheckpointResult {
        match self.job {
            Some(_) => self.finished().await,
            None => Ok(None),
        }
    }
}

/// Syncs the prefix, and then records it.
async fn checkpoint(
    context: Arc<TaskContext>,
    transfer: Transfer,
    partial: Partial,
    prefix: Prefix,
) -> CheckpointResult {
    let mut store = context.store.clone();
    let result = run(move || store.sync(&partial, Extent::Prefix)).await;
    let synced = result.map_err(|error| classify(&error.into_cause()))?;
    let receiving = transfer.receiving()?.with_checkpoint(prefix, synced);
    let next = Transfer { phase: Phase::Receiving(receiving.clone()), ..transfer };
    // If the records fail, or the rest of the transfer has changed meanwhile, the next checkpoint
    // replaces this one.
    Ok(context.save_checkpoint(&next).await.is_ok().then_some(receiving))
}

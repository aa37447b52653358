//! The effects of a transfer on its record and, through the port `core::disk`, on the disk. Each
//! effect is finished before the next one begins.

use std::collections::HashSet;
use std::sync::atomic::Ordering;

use filepull_core::disk::{self, Disk as _, DiskError, Extent};
use filepull_core::human::chain;
use filepull_core::name::DownloadName;
use filepull_core::problem::Problem;
use filepull_core::source::Source;
use filepull_core::transfer::{Phase, Receiving, Recovery, Transfer};
use tokio::task::spawn_blocking;
use tokio::time::{Duration, Instant, sleep, sleep_until};
use tracing::{error, info};

use super::outcome::{Outcome, classify, log_lost, records_failed, records_problem, store_failed};
use super::resource_wait::RecordsWait;
use super::retry::{next_pause, retry_backoff};
use super::task::TransferTask;
use super::{Command, TaskContext};
use crate::receive::ReceivedPartial;
use crate::records::SaveError;
use crate::store::{Store, StoreError};

impl TransferTask {
    /// Returns a copy of the transfer to change. [`finish_change`](Self::finish_change) records it.
    pub(crate) fn start_change(&self) -> Transfer {
        let setbacks = self.retry.setbacks();
        self.traffic.of(Transfer { setbacks, ..self.transfer.clone() })
    }

    /// Records a changed copy, and then replaces the transfer by it. Retries until the copy is on
    /// record: a database error does not fail the transfer. A cancel and the drain end the retries,
    /// and then the transfer stays unchanged.
    pub(crate) async fn finish_change(&mut self, mut next: Transfer) -> Result<(), Outcome> {
        let mut backoff = retry_backoff();
        let mut wait = None;
        loop {
            let problem = match self.save_change(&next).await {
                Ok(()) => return Ok(()),
                Err(Outcome::Stopped) => return Err(Outcome::Stopped),
                Err(outcome) => outcome.into_record_problem(),
            };
            wait.get_or_insert_with(|| self.wait_for_records(&problem));
            let pause = next_pause(&mut backoff, fastrand::f64());
            self.pause_change(&mut next, pause).await?;
        }
    }

    /// Records a changed copy, and then replaces the transfer by it. Does not retry.
    pub(crate) async fn save_change(&mut self, next: &Transfer) -> Result<(), Outcome> {
        let receipt = self.receipt.as_deref().filter(|_| matches!(next.phase, Phase::Sealed(_)));
        let saved = match receipt {
            Some(receipt) => self.context.save_sealed(next, receipt).await,
            None => self.context.save(next).await,
        };
        if let Err(Outcome::Stopped) = saved {
            log_lost(next.attempt);
        }
        saved?;
        self.may_be_named = matches!(next.phase, Phase::Sealed(_));
        self.transfer = next.clone();
        Ok(())
    }

    /// Pauses before the next try to record `next`. A later deadline becomes part of it. If it is
    /// final, a cancel comes too late.
    async fn pause_change(&mut self, next: &mut Transfer, pause: Duration) -> Result<(), Outcome> {
        let end = Instant::now() + pause;
        let drain = self.context.lifecycle.drain().clone();
        loop {
            let command = tokio::select! {
                () = sleep_until(end) => return Ok(()),
                () = drain.cancelled() => return Err(Outcome::Stopped),
                Some(command) = self.commands.recv() => command,
            };
            match command {
                Command::Extend { until, done } => self.extend(next, until, done).await,
                Command::Cancel(_) if next.is_final() => {}
                Command::Cancel(_) | Command::Answer { .. } | Command::Upload(_) => {
                    self.handle_between_attempts(command).await?;
                }
            }
        }
    }

    /// Records a new transfer, together with the key of its request and its audit record.
    pub(crate) async fn record_first(&mut self) -> Result<(), Outcome> {
        let key = self.key.take();
        let audit = self.audit.take();
        let records = &self.context.records;
        let result = match (&key, audit) {
            (Some(key), audit) => records.save_keyed(&self.transfer, key, audit).await,
            (None, Some(audit)) => records.save_audited(&self.transfer, audit).await,
            (None, None) => records.save(&self.transfer).await,
        };
        let saved = self.context.classify_save(result);
        match saved {
            // The key leads to another transfer, so this one is discarded without a record.
            Err(Outcome::Stopped) if key.is_some() => Err(Outcome::Stopped),
            Err(Outcome::Stopped) => {
                log_lost(self.transfer.attempt);
                Err(Outcome::Stopped)
            }
            Err(Outcome::Deferred(problem)) => Err(Outcome::Failed(problem)),
            saved => saved,
        }
    }

    /// Returns the names on record for other downloads of the client, with the time of `name`. The
    /// URL and the digest of another record would lead to this file once the other file is removed.
    /// Retries until the records can be read.
    pub(crate) async fn names_on_record(
        &mut self,
        name: &DownloadName,
    ) -> Result<HashSet<DownloadName>, Outcome> {
        let mut backoff = retry_backoff();
        let mut wait = None;
        loop {
            // Reads all names of that second at once: one query per name would cost quadratic time
            // in a burst of pulls.
            let problem = match self.context.records.names_beside(&self.transfer, name).await {
                Ok(taken) => return Ok(taken),
                Err(error) => records_failed(&error),
            };
            wait.get_or_insert_with(|| self.wait_for_records(&problem));
            let pause = next_pause(&mut backoff, fastrand::f64());
            self.or_cancelled(sleep(pause)).await?;
        }
    }

    /// Shows that the transfer waits for the records, until the result is dropped.
    fn wait_for_records(&self, problem: &Problem) -> RecordsWait {
        RecordsWait::begin(&self.context.resource_waits, &self.view, problem)
    }

    /// Runs one disk operation on the blocking pool.
    pub(crate) async fn on_disk<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Store) -> Result<T, DiskError<StoreError>> + Send + 'static,
    ) -> Result<T, DiskError<StoreError>> {
        let mut store = self.context.store.clone();
        run(move || job(&mut store)).await
    }

    /// Creates the partial that receives `source`, with space for `stored` bytes, and records the phase.
    pub(crate) async fn begin_partial(
        &mut self,
        source: Source,
        stored: u64,
    ) -> Result<(Receiving, ReceivedPartial), Outcome> {
        let key = self.transfer.next_partial();
        let size = source.size;
        let result = self.on_disk(move |store| store.begin(&key, stored)).await;
        let (partial, begun) = result.map_err(|error| classify(&error.into_cause()))?;
        let policy = self.context.limits.read_back;
        let partial =
            ReceivedPartial::new(self.context.store.clone(), partial, size).read_back_as(policy);
        let mut next = self.start_change();
        next.receive(source, begun)?;
        let receiving = next.receiving()?;
        match self.finish_change(next).await {
            Ok(()) => Ok((receiving, partial)),
            Err(outcome) => {
                // The end of the transfer removes it.
                self.partial = Some(partial);
                Err(outcome)
            }
        }
    }

    /// After a restart, or after a failed write: reads the partial back and cuts it to its
    /// checkpoint. If the partial does not hold the checkpoint, the transfer starts over.
    pub(crate) async fn recover_prefix(&mut self) -> Result<(), Outcome> {
        let Recovery::ReadPrefix(checkpoint) = self.transfer.recovery() else { return Ok(()) };
        if self.partial.is_some() {
            return Ok(());
        }
        let key = self.transfer.partial();
        let found = self.on_disk(move |store| disk::resume(store, &key, checkpoint)).await;
        match found.map_err(|error| classify(&error.into_cause()))? {
            Some(resumed) => {
                let store = self.context.store.clone();
                let policy = self.context.limits.read_back;
                let partial = ReceivedPartial::resumed(store, resumed).read_back_as(policy);
                self.partial = Some(partial);
                Ok(())
            }
            None => self.start_over().await,
        }
    }

    /// Makes the received bytes durable, and records the checkpoint.
    pub(crate) async fn checkpoint(
        &mut self,
        receiving: Receiving,
        partial: &ReceivedPartial,
    ) -> Result<(), Outcome> {
        let handle = partial.partial.clone();
        let prefix = partial.receiver().prefix();
        let result = self.on_disk(move |store| store.sync(&handle, Extent::Prefix)).await;
        let synced = result.map_err(|error| classify(&error.into_cause()))?;
        let mut next = self.start_change();
        next.phase = Phase::Receiving(receiving.with_checkpoint(prefix, synced));
        self.finish_change(next).await
    }

    /// Drops the received bytes, first on record and then on the disk.
    pub(crate) async fn start_over(&mut self) -> Result<(), Outcome> {
        let mut next = self.start_change();
        next.start_over()?;
        self.traffic.started_over(&next);
        self.view.send_modify(|view| view.bytes_done = 0);
        self.finish_change(next).await?;
        self.abort().await;
        Ok(())
    }

    /// Removes the partial. A partial that remains does no harm: no other generation has its name,
    /// and the next start of the server removes it.
    pub(crate) async fn abort(&mut self) {
        let key = self.transfer.partial();
        let partial = self.partial.take();
        let job = move |store: &mut Store| {
            store.abort(&key, partial.as_ref().map(|partial| &partial.partial))
        };
        if let Err(error) = self.on_disk(job).await {
            let _logged = store_failed(&error.into_cause());
        }
    }
}

impl TaskContext {
    /// Records a transfer.
    ///
    /// # Errors
    /// [`Outcome::Stopped`] if the record belongs to another task, [`Outcome::Deferred`] if the
    /// records failed.
    pub(crate) async fn save(&self, transfer: &Transfer) -> Result<(), Outcome> {
        self.classify_save(self.records.save(transfer).await)
    }

    /// Records a sealed transfer with its receipt.
    async fn save_sealed(&self, transfer: &Transfer, receipt: &str) -> Result<(), Outcome> {
        self.classify_save(self.records.save_sealed(transfer, receipt).await)
    }

    /// Records the checkpoint of a transfer.
    pub(crate) async fn save_checkpoint(&self, transfer: &Transfer) -> Result<(), Outcome> {
        self.classify_save(self.records.save_checkpoint(transfer).await)
    }

    /// Logs once when the records begin to fail, and once when they work again, not for each
    /// transfer.
    fn classify_save(&self, saved: Result<(), SaveError>) -> Result<(), Outcome> {
        match saved {
            Ok(()) | Err(SaveError::Lost) => {
                if self.records_fail.swap(false, Ordering::Relaxed) {
                    info!(event = "records.recovered", "the records work again");
                }
                saved.map_err(|_| Outcome::Stopped)
            }
            Err(SaveError::Records(error)) => {
                if !self.records_fail.swap(true, Ordering::Relaxed) {
                    error!(event = "records.failed", error = %chain(&error), "the records failed");
                }
                Err(Outcome::Deferred(records_problem(&error)))
            }
        }
    }
}

/// Reserves space for `stored` bytes in all: an earlier process released it when it cut the partial to
/// its checkpoint.
pub(crate) async fn reserve(
    partial: ReceivedPartial,
    stored: u64,
) -> Result<ReceivedPartial, Outcome> {
    let mut partial = partial;
    let reserve = move || partial.partial.reserve(stored).map(|()| partial);
    run(reserve).await.map_err(|error| classify(&error))
}

/// Runs a job on the blocking pool. A panic in the job continues in the caller.
pub(crate) async fn run<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> T {
    spawn_blocking(job).await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

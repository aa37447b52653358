//! What a transfer does to the records and, through the port `core::disk`, to the disk. Each step is
//! finished before the next begins.

use std::time::Duration;

use filepull_core::backoff::RetryCause;
use filepull_core::disk::{Disk as _, DiskError};
use filepull_core::source::Source;
use filepull_core::transfer::Phase;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::failed::{NotSaved, Waits};
use super::task::{Ending, TransferTask, retry_backoff};
use super::{records_failed, store_failed};
use crate::receive::ReceivedPartial;
use crate::store::{Store, StoreError};

impl TransferTask {
    /// Puts the transfer on record in its current state, and retries until it is there: a failure
    /// of the records does not fail the transfer. A cancel and the end of the process stop the
    /// retries.
    pub(super) async fn record(&mut self) -> Result<(), Ending> {
        let mut backoff = retry_backoff();
        let mut waits = None;
        while let Err(not_saved) = self.shared.save(&self.transfer).await {
            if let NotSaved::Lost = not_saved {
                return Err(Ending::Lost);
            }
            waits.get_or_insert_with(|| Waits::begin(&self.shared));
            let pause = backoff.next(RetryCause::Lost { lived: Duration::ZERO }, fastrand::f64());
            self.or_cancelled(sleep(pause)).await?;
        }
        self.may_be_named = matches!(self.transfer.phase, Phase::Sealed(_));
        Ok(())
    }

    /// Puts a sealed transfer on record, under the first name from its own on that is not on record for
    /// another transfer of the client: the URL and the digest of that one would lead to this file once
    /// the other is removed.
    pub(super) async fn record_sealed(&mut self) -> Result<(), Ending> {
        let mut backoff = retry_backoff();
        let mut waits = None;
        while let Phase::Sealed(sealed) = &self.transfer.phase {
            // Reads all names of that second at once: one query per name would cost quadratic time
            // in a burst of pulls.
            let taken =
                self.shared.records.names_beside(&self.transfer, &sealed.download().name).await;
            match taken.map_err(|error| records_failed(&error)) {
                Ok(taken) => {
                    self.transfer.phase = Phase::Sealed(sealed.clone().skip_names(&taken));
                    break;
                }
                Err(_) => {
                    waits.get_or_insert_with(|| Waits::begin(&self.shared));
                    let pause =
                        backoff.next(RetryCause::Lost { lived: Duration::ZERO }, fastrand::f64());
                    self.or_cancelled(sleep(pause)).await?;
                }
            }
        }
        self.record().await
    }

    /// Runs one disk operation on the blocking pool.
    pub(super) async fn on_disk<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Store) -> Result<T, DiskError<StoreError>> + Send + 'static,
    ) -> Result<T, DiskError<StoreError>> {
        let mut store = self.shared.store.clone();
        run(move || job(&mut store)).await
    }

    /// Returns the effect on the transfer of a failed disk operation.
    pub(super) fn disk_failed(&self, error: DiskError<StoreError>) -> Ending {
        self.classify(store_failed(&error.into_cause()))
    }

    /// Begins the partial that receives `source`, and puts that on record.
    pub(super) async fn begin_partial(&mut self, source: Source) -> Result<(), Ending> {
        let (key, size) = (self.transfer.next_partial(), source.size);
        let begun = self.on_disk(move |store| store.begin(&key, size)).await;
        let (partial, begun) = begun.map_err(|error| self.disk_failed(error))?;
        self.transfer.receive(source, begun)?;
        self.held = Some(ReceivedPartial::new(self.shared.store.clone(), partial, size));
        self.record().await
    }

    /// Runs one disk operation on the partial. After an error the partial is no longer held: a
    /// partial whose sync failed must not be used. Returns none if nothing is held.
    pub(super) async fn with_held<T: Send + 'static>(
        &mut self,
        job: impl FnOnce(&mut ReceivedPartial) -> Result<T, DiskError<StoreError>> + Send + 'static,
    ) -> Result<Option<T>, Ending> {
        let Some(mut held) = self.held.take() else { return Ok(None) };
        let (held, done) = run(move || {
            let done = job(&mut held);
            (held, done)
        })
        .await;
        let done = done.map_err(|error| self.disk_failed(error))?;
        self.held = Some(held);
        Ok(Some(done))
    }

    /// Drops the received bytes, first on record and then on the disk.
    pub(super) async fn start_over(&mut self) -> Result<(), Ending> {
        self.transfer.start_over()?;
        self.view.send_modify(|view| view.bytes_done = 0);
        self.record().await?;
        self.abort().await;
        Ok(())
    }

    /// Removes the partial. A partial that stays does no harm: no other generation has its name,
    /// and the next start sweeps it.
    pub(super) async fn abort(&mut self) {
        let (key, held) = (self.transfer.partial(), self.held.take());
        let job =
            move |store: &mut Store| store.abort(&key, held.as_ref().map(|held| &held.partial));
        if let Err(error) = self.on_disk(job).await {
            let _logged = store_failed(&error.into_cause());
        }
    }
}

/// Runs a job on the blocking pool. A panic in the job is returned as an internal error.
pub(super) async fn run<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> T {
    spawn_blocking(job).await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

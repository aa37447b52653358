//! What a transfer does to the records and, through the port `core::disk`, to the disk. Each step is
//! finished before the next begins.

use std::time::Duration;

use filepull_core::backoff::Ended;
use filepull_core::disk::{Disk as _, DiskError};
use filepull_core::source::Source;
use filepull_core::transfer::Phase;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use super::failed::{NotSaved, Waits};
use super::life::{Ending, Life, again};
use super::{records_failed, store_failed};
use crate::receive::Held;
use crate::store::{Store, StoreError};

impl Life {
    /// Puts the transfer on record as it now stands, and tries until it is there: records that fail
    /// are no fault of the transfer. A cancel and the end of the process are heeded.
    pub(super) async fn record(&mut self) -> Result<(), Ending> {
        let mut backoff = again();
        let mut waits = None;
        while let Err(not_saved) = self.shared.save(&self.transfer).await {
            if let NotSaved::Lost = not_saved {
                return Err(Ending::Lost);
            }
            waits.get_or_insert_with(|| Waits::begin(&self.shared));
            let pause = backoff.next(Ended::Lost { lived: Duration::ZERO }, fastrand::f64());
            self.unless_ended(sleep(pause)).await?;
        }
        self.may_be_named = matches!(self.transfer.phase, Phase::Sealed(_));
        Ok(())
    }

    /// Puts a sealed transfer on record, under the first name from its own on that is not on record for
    /// another transfer of the client: the URL and the digest of that one would lead to this file once
    /// the other is removed.
    pub(super) async fn record_sealed(&mut self) -> Result<(), Ending> {
        let mut backoff = again();
        let mut waits = None;
        while let Phase::Sealed(download) = &self.transfer.phase {
            // All of that second in one read: asking for each name costs a burst of pulls its square.
            let taken = self.shared.records.names_beside(&self.transfer, &download.name).await;
            match taken.map_err(|error| records_failed(&error)) {
                Ok(taken) => {
                    self.transfer.skip_names(&taken);
                    break;
                }
                Err(_) => {
                    waits.get_or_insert_with(|| Waits::begin(&self.shared));
                    let pause =
                        backoff.next(Ended::Lost { lived: Duration::ZERO }, fastrand::f64());
                    self.unless_ended(sleep(pause)).await?;
                }
            }
        }
        self.record().await
    }

    /// Does one thing to the disk, on the blocking pool.
    pub(super) async fn on_disk<T: Send + 'static>(
        &self,
        job: impl FnOnce(&mut Store) -> Result<T, DiskError<StoreError>> + Send + 'static,
    ) -> Result<T, DiskError<StoreError>> {
        let mut store = self.shared.store.clone();
        run(move || job(&mut store)).await
    }

    /// What it means for the transfer that the disk did not do something for it.
    pub(super) fn disk_failed(&self, error: DiskError<StoreError>) -> Ending {
        self.meaning(store_failed(&error.into_cause()))
    }

    /// Begins the partial that receives `source`, and puts that on record.
    pub(super) async fn begin_partial(&mut self, source: Source) -> Result<(), Ending> {
        let (key, size) = (self.transfer.next_partial(), source.size);
        let begun = self.on_disk(move |store| store.begin(&key, size)).await;
        let (partial, begun) = begun.map_err(|error| self.disk_failed(error))?;
        self.transfer.receive(source, begun);
        self.held = Some(Held::new(self.shared.store.clone(), partial, size));
        self.record().await
    }

    /// Does one thing to what was received. After an error that is not held any more: nobody may
    /// build on a partial whose sync failed. None if nothing is held.
    pub(super) async fn with_held<T: Send + 'static>(
        &mut self,
        job: impl FnOnce(&mut Held) -> Result<T, DiskError<StoreError>> + Send + 'static,
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

    /// Drops what was received, first on record and then on the disk.
    pub(super) async fn start_over(&mut self) -> Result<(), Ending> {
        self.transfer.start_over();
        self.view.send_modify(|view| view.bytes_done = 0);
        self.record().await?;
        self.abort().await;
        Ok(())
    }

    /// Removes the partial. One that stays is in nobody's way: no other generation has its name, and
    /// the next start sweeps it.
    pub(super) async fn abort(&mut self) {
        let (key, held) = (self.transfer.partial(), self.held.take());
        let job =
            move |store: &mut Store| store.abort(&key, held.as_ref().map(|held| &held.partial));
        if let Err(error) = self.on_disk(job).await {
            let _logged = store_failed(&error.into_cause());
        }
    }
}

/// Runs a job on the blocking pool. A panic in it is ours too.
pub(super) async fn run<T: Send + 'static>(job: impl FnOnce() -> T + Send + 'static) -> T {
    spawn_blocking(job).await.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))
}

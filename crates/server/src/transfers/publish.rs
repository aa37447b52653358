//! From the record that seals a transfer to the download.

use std::time::Duration;

use filepull_core::backoff::RetryCause;
use filepull_core::disk::{
    self, CommitResult, Disk as _, DiskError, Durable, Extent, SealedLocation,
};
use filepull_core::problem::{Code, Problem};
use filepull_core::transfer::{Phase, Recovery};
use tokio::time::sleep;
use tracing::error;

use super::failed::{Failed, Waits};
use super::task::{Ending, TransferTask, retry_backoff};
use super::view::{Activity, WaitingFor};
use super::{now, store_failed};
use crate::store::{Partial, StoreError};

/// Why a sealed file has no name yet.
enum Unnamed {
    /// The disk certainly did not name the file, for this reason.
    Refused(Problem),
    /// The disk failed: the file may have its name.
    Unknown(Problem),
    /// The cause is not the disk.
    Ended(Ending),
}

impl From<DiskError<StoreError>> for Unnamed {
    fn from(error: DiskError<StoreError>) -> Self {
        let is_refusal = matches!(error, DiskError::NotDone(_));
        let (Failed::Disk(problem) | Failed::NotNow(problem)) = store_failed(&error.into_cause());
        if is_refusal { Self::Refused(problem) } else { Self::Unknown(problem) }
    }
}

impl TransferTask {
    /// Names the file that was just sealed. Returns false if the disk did not name it: call
    /// [`publish`](Self::publish) then.
    pub(super) async fn name_at_once(&mut self) -> Result<bool, Ending> {
        let Some(held) = self.held.take() else { return Ok(false) };
        match self.name(held.partial).await {
            Ok(Some(named)) => self.named(named).await.map(|()| true),
            Ok(None) => Ok(false),
            Err(Unnamed::Ended(ending)) => Err(ending),
            Err(Unnamed::Refused(_) | Unnamed::Unknown(_)) => Ok(false),
        }
    }

    /// Publishes the sealed file. Begins by searching the disk, as after a restart, and holds no
    /// permit. While the disk refuses the name or fails, the transfer keeps its bytes and waits. A
    /// cancel or the deadline ends the wait only if the disk has certainly not named the file.
    ///
    /// False if nothing is left of the file: it must be sent again.
    pub(super) async fn publish(&mut self) -> Result<bool, Ending> {
        let since = now();
        let (mut backoff, mut waits) = (retry_backoff(), None);
        loop {
            self.may_be_named = true;
            let problem = match self.publish_found().await {
                Ok(Some(named)) => return self.named(named).await.map(|()| true),
                Ok(None) => {
                    self.may_be_named = false;
                    self.end_if_cancelled()?;
                    self.start_over().await?;
                    return Ok(false);
                }
                Err(Unnamed::Ended(ending)) => return Err(ending),
                Err(Unnamed::Refused(problem)) => {
                    self.may_be_named = false;
                    self.end_if_cancelled()?;
                    if self.away_until(since) <= now() {
                        let detail =
                            format!("The file arrived and has no name: {}", problem.detail);
                        return Err(Problem::new(Code::StorageFailed, detail).into());
                    }
                    problem
                }
                Err(Unnamed::Unknown(problem)) => problem,
            };
            if waits.is_none() {
                waits = Some(Waits::begin(&self.shared));
                let (transfer, client) = (self.transfer.id, &self.transfer.client);
                error!(
                    event = "transfer.publish_delayed", %transfer, %client,
                    reason = problem.detail, "the disk has not named the download yet; retrying"
                );
            }
            let deadline = (!self.may_be_named).then(|| self.away_until(since));
            self.show_until(Activity::Waiting(WaitingFor::Disk), deadline, Some(problem.detail));
            let pause = backoff.next(RetryCause::Lost { lived: Duration::ZERO }, fastrand::f64());
            self.or_cancelled(sleep(pause)).await?;
        }
    }

    /// Records that the download has its name.
    async fn named(&mut self, named: Durable) -> Result<(), Ending> {
        let Recovery::FindSealed(sealed) = self.transfer.recovery() else { return Ok(()) };
        self.transfer.publish(sealed.published(named), now())?;
        self.record().await?;
        self.show_done();
        Ok(())
    }

    fn end_if_cancelled(&mut self) -> Result<(), Ending> {
        self.cancel.take().map_or(Ok(()), |cancel| Err(cancel.into()))
    }

    /// Searches for the sealed file, and names it; none if it is nowhere. Does not need the agent.
    /// Opens new file descriptors: the system reports a lost write only once.
    async fn publish_found(&mut self) -> Result<Option<Durable>, Unnamed> {
        let Recovery::FindSealed(sealed) = self.transfer.recovery() else { return Ok(None) };
        let key = self.transfer.partial();
        let job = self.on_disk(move |store| {
            let found = disk::find_sealed(store, &key, sealed.download())?;
            if let SealedLocation::Unnamed(resumed) = &found {
                let _synced = store.sync(&resumed.partial, Extent::Whole)?;
            }
            Ok(found)
        });
        match job.await? {
            SealedLocation::Named(named) => Ok(Some(named)),
            SealedLocation::Unnamed(resumed) => {
                self.may_be_named = false;
                while let Ok(ask) = self.asks.try_recv() {
                    self.handle_between_attempts(ask).await.map_err(Unnamed::Ended)?;
                }
                self.end_if_cancelled().map_err(Unnamed::Ended)?;
                self.name(resumed.partial).await
            }
            SealedLocation::Lost => Ok(None),
        }
    }

    /// Names a partial: the first name that is free.
    async fn name(&mut self, partial: Partial) -> Result<Option<Durable>, Unnamed> {
        loop {
            let Phase::Sealed(sealed) = self.transfer.phase.clone() else { return Ok(None) };
            let (partial, name) = (partial.clone(), sealed.download().name.clone());
            self.may_be_named = true;
            match self.on_disk(move |store| store.commit(&partial, &name)).await? {
                CommitResult::Named(named) => return Ok(Some(named)),
                CommitResult::Taken => self.transfer.phase = Phase::Sealed(sealed.name_taken()),
            }
            self.record_sealed().await.map_err(Unnamed::Ended)?;
            self.end_if_cancelled().map_err(Unnamed::Ended)?;
        }
    }
}
